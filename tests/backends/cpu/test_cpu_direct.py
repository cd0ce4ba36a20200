"""Convolutions of channels-last images as compiled loops, with what follows. See opyard_cpu.direct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.kernels import Kernel, Work
from opyard.operation import Call
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.direct import convolution, source
from opyard_cpu.direct.means import means
from opyard_cpu.geometry import Geometry, conv_geometry
from opyard_cpu.jit import machine
from opyard_cpu.onednn import addresses, library
from opyard_cpu.onednn.layouts import Packed

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]

CASES: dict[str, Callable[..., Any]] = {
    "direct_conv_relu": lambda x, w, b, **how: oy.relu(oy.conv(x, w, b, **how)),
    "direct_conv_relu6": lambda x, w, b, **how: oy.relu6(oy.conv(x, w, b, **how)),
    "direct_conv_silu": lambda x, w, b, **how: oy.silu(oy.conv(x, w, b, **how)),
    "direct_conv_add": lambda x, w, b, r, **how: oy.conv(x, w, b, **how) + r,
    "direct_conv_add_relu": lambda x, w, b, r, **how: oy.relu(oy.conv(x, w, b, **how) + r),
    "direct_conv_scale_relu": lambda x, w, b, f, o, **how: oy.relu(oy.conv(x, w, b, **how) * f + o),
    "direct_conv_scale_add": lambda x, w, b, f, o, r, **how: oy.conv(x, w, b, **how) * f + o + r,
}


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def images(array: Array) -> Array:
    """A plain image as kernels make them: channels last, in a memory of its own."""
    moved = np.moveaxis(array, 1, -1)
    made = addresses.images_maker(moved.shape)()
    made[...] = moved
    return made


def plain(x: Array, weight: Array, bias: Array | None = None, **how: Any) -> tuple[Kernel, Call]:
    """The kernel of a convolution alone, and its call."""
    call = oy.conv.op.call(*(None if a is None else TensorSpec.of(a) for a in (x, weight, bias)), **how)
    return next(k for k in oy.default_registry().kernels("conv") if k.name == "direct_nhwc"), call


def computed(x: Array, weight: Array, bias: Array | None = None, **how: Any) -> Array:
    kernel, call = plain(x, weight, bias, **how)
    assert kernel.refusal(call, device()) is None
    found: Array = kernel.bind(call, device())(images(x), Packed(weight), bias)
    return np.moveaxis(found, -1, 1)


def expected(x: Array, weight: Array, bias: Array | None = None, **how: Any) -> Any:
    wide = (None if array is None else array.astype(np.float64) for array in (x, weight, bias))
    return oy.conv.op.reference(*wide, **how)


def matched(name: str, arrays: list[Array], **how: Any) -> tuple[Kernel, Work]:
    kernel = next(k for k in oy.default_registry().patterns if k.name == name)
    graph = oy.trace(lambda *given: CASES[name](*given, **how), *map(TensorSpec.of, arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match.work


def arrays_of(name: str, groups: int) -> list[Array]:
    """Plain arrays, in the order in which the pattern takes them: 20 channels of 5x9, or as many of the result."""
    found = [drawn(2, 20, 5, 9), drawn(20, 20 // groups, 3, 3), drawn(20)]
    if "scale" in name:
        found += [drawn(20, 1, 1), drawn(1, 20, 1, 1)]
    return [*found, drawn(2, 20, 5, 9)] if "add" in name else found


def result_of(kernel: Kernel, work: Work, arrays: list[Array]) -> Array:
    x, weight, bias, *others = arrays
    given = [images(a) if a.shape[0] == x.shape[0] else a for a in others]
    return np.moveaxis(kernel.bind(work, device())(images(x), Packed(weight), bias, *given), -1, 1)


@pytest.mark.parametrize("groups", [1, 20])
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_reference(name: str, groups: int) -> None:
    arrays = arrays_of(name, groups)
    kernel, work = matched(name, arrays, groups=groups, padding=1)
    assert kernel.refusal(work, device()) is None
    (wanted,) = work.reference(*(array.astype(np.float64) for array in arrays))
    found = result_of(kernel, work, arrays)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert 0 < convolution.cost(work, device()) < 1e-3


@settings(max_examples=25, deadline=None)
@given(
    is_depthwise=st.booleans(),
    channels=st.sampled_from([1, 3, 16, 17, 40]),
    outputs=st.sampled_from([1, 16, 33]),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    bias=st.booleans(),
)
def test_any_sizes(
    is_depthwise: bool,
    channels: int,
    outputs: int,
    sizes: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: list[int],
    bias: bool,
) -> None:
    groups, outputs = (channels, channels) if is_depthwise else (1, outputs)
    pads = tuple(padding)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    whole = [size + pads[axis] + pads[axis + 2] for axis, size in enumerate(sizes)]
    if any(r > w for r, w in zip(reach, whole, strict=True)):
        return
    x, weight = drawn(2, channels, *sizes), drawn(outputs, channels // groups, *kernel)
    b = drawn(outputs) if bias else None
    pairs = ((pads[0], pads[2]), (pads[1], pads[3]))
    how = {"groups": groups, "strides": strides, "dilations": dilations, "padding": pairs}
    np.testing.assert_allclose(
        computed(x, weight, b, **how), expected(x, weight, b, **how), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("size", [(9, 30), (30,)])
def test_plain_images(size: tuple[int, ...]) -> None:
    """The first convolution takes images as they come, and gives channels-last ones."""
    x, weight, b = drawn(2, 3, *size), drawn(20, 3, *[3] * len(size)), drawn(20)
    how = {"padding": 1, "strides": 2}
    _, call = plain(x, weight, b, **how)
    assert convolution.accepts_plain(call, device()) is None
    found = convolution.prepare_plain(call, device())(x, Packed(weight), b)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected(x, weight, b, **how), rtol=1e-4, atol=1e-4)


def test_a_network_begins_with_plain_images() -> None:
    weight, b = drawn(32, 3, 3, 3), drawn(32)

    def network(x: Any) -> Any:
        return oy.global_average_pool(oy.relu6(oy.conv(x, weight, b, strides=2, padding=1)))

    x = drawn(1, 3, 64, 64)
    graph, registry = oy.trace(network, TensorSpec.of(x)), oy.default_registry()
    placement = oy.place(graph, [registry.device("cpu:0")], registry, oy.costs.Roofline())
    first, second = (decision.chosen.kernel.id for decision in placement.decisions)
    assert (first, second) == ("cpu/direct_plain_conv_relu6", "cpu/nhwc")
    wanted = np.clip(expected(x, weight, b, strides=2, padding=1), 0, 6).mean((2, 3), keepdims=True)
    np.testing.assert_allclose(oy.compile(network)(x), wanted, rtol=1e-4, atol=1e-4)


def test_one_axis() -> None:
    x, weight = drawn(2, 24, 30), drawn(24, 1, 5)
    how = {"groups": 24, "padding": 2, "strides": 2}
    np.testing.assert_allclose(computed(x, weight, **how), expected(x, weight, **how), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 32])
def test_threads_change_nothing(groups: int) -> None:
    """Each result is one sum, whoever computes it; long calls do not hold the interpreter's lock."""
    x, weight = drawn(2, 32, 60, 60), drawn(32, 32 // groups, 3, 3)
    how = {"groups": groups, "padding": 1}
    _, call = plain(x, weight, **how)
    found = convolution._described(call, 2)
    assert not isinstance(found, str)
    several = computed(x, weight, **how)
    with oy.settings.limit_threads(1):
        np.testing.assert_array_equal(computed(x, weight, **how), several)
    np.testing.assert_allclose(several, expected(x, weight, **how), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 20])
@pytest.mark.parametrize("name", ["direct_conv_relu", "direct_conv_relu6", "direct_conv_add_relu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays(name: str, value: float, groups: int) -> None:
    arrays = arrays_of(name, groups)
    arrays[0][1, 3, 2, 1] = value
    kernel, work = matched(name, arrays, groups=groups, padding=1)
    with np.errstate(all="ignore"):
        (wanted,) = work.reference(*arrays)
    np.testing.assert_allclose(result_of(kernel, work, arrays), wanted, rtol=1e-4, atol=1e-4)


def test_norms_of_large_results_are_known_where_those_of_images_are() -> None:
    arrays = [drawn(1, 16, 80, 80), drawn(16, 1, 3, 3), drawn(16)]
    kernel, work = matched("direct_conv_relu", arrays, groups=16, padding=1)
    x = images(arrays[0])
    addresses.measured_square(x)
    found = kernel.bind(work, device())(x, Packed(arrays[1]), arrays[2])
    assert addresses.square(found) <= addresses.known_square(found) < np.inf


def test_few_units_are_divided_by_channels() -> None:
    g = conv_geometry(plain(drawn(1, 96, 7, 7), drawn(96, 1, 3, 3), groups=96, padding=1)[1])
    target = machine.Processor("", "", 64, True)
    alone, shared = source.loops(g, target, 1), source.loops(g, target, 2)
    assert alone is not None and shared is not None
    assert (alone.units, shared.units) == (7, 14)


def test_a_processor_with_few_registers() -> None:
    g = conv_geometry(plain(drawn(1, 32, 40, 40), drawn(32, 32, 3, 3))[1])
    small = machine.Processor("", "", 32, True)

    def columns(g: Geometry) -> int | None:
        cut = source.loops(g, small, 1)
        return cut and cut.columns

    assert columns(g) == 4
    assert columns(replace(g, kernel=(3, 7))) is None


def test_what_is_refused() -> None:
    def refusal(x: Array, weight: Array, **how: Any) -> str | None:
        return convolution.accepts(plain(x, weight, **how)[1], device())

    x = drawn(1, 24, 6, 6)
    assert refusal(x, drawn(24, 24, 3, 3)) is None
    assert refusal(x, drawn(24, 1, 3, 3), groups=24) is None
    assert refusal(x, drawn(24, 24, 1, 1)) is None
    several = "takes one group, or as many as there are channels of x and of the result"
    assert refusal(x, drawn(24, 12, 3, 3), groups=2) == several
    assert refusal(x, drawn(48, 1, 3, 3), groups=24) == several
    assert refusal(drawn(1, 200, 6, 6), drawn(8, 200, 3, 3)) == (
        "takes 1024 products for a result at most, not 1800"
    )
    assert refusal(drawn(1, 72, 6, 6), drawn(64, 72, 1, 1)) is None
    assert refusal(drawn(1, 72, 6, 6), drawn(80, 72, 1, 1)) == (
        "takes 64 channels of x or of the result at most where the kernel has one element, not 72 and 80"
    )
    assert refusal(drawn(1, 8, 4, 4, 4), drawn(8, 8, 3, 3, 3)) == "takes images of one or two axes, not 3"
    assert (
        refusal(drawn(1, 2, 4, 40), drawn(2, 2, 1, 31)) == "has too few registers for a kernel of 31 columns"
    )
    assert convolution.accepts_plain(plain(x, drawn(8, 24, 3, 3))[1], device()) == (
        "takes images of 4 channels at most, as they come into a network, not 24"
    )
    few = plain(drawn(1, 4, 6, 6), drawn(4, 1, 3, 3), groups=4)[1]
    assert convolution.accepts_plain(few, device()) == "takes one group"
    assert refusal(x[:0], drawn(24, 1, 3, 3), groups=24) == "an empty tensor is nothing for oneDNN"


@pytest.mark.parametrize(
    ("batch", "pixels", "channels"), [(1, 1, 1), (3, 7, 16), (2, 64, 70), (1, 9, 100), (1, 5000, 256)]
)
def test_means_of_pixels(batch: int, pixels: int, channels: int) -> None:
    x = drawn(batch, pixels, channels)
    out = np.empty((batch, channels, 1), np.float32)
    found = means(batch, pixels, channels)(x, out)
    assert found is out
    np.testing.assert_allclose(out[..., 0], x.mean(axis=1, dtype=np.float64), rtol=1e-5, atol=1e-6)
    with oy.settings.limit_threads(1):
        alone = means(batch, pixels, channels)(x[:, ::-1], np.empty_like(out))
    np.testing.assert_allclose(alone, out, rtol=1e-5, atol=1e-6)
