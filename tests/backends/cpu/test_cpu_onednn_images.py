"""What stays channels-last between convolutions. See opyard_cpu.onednn.images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.operation import Call
from opyard.placement.matching import find_matches
from opyard.placement.measuring import convert, make_inputs
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.onednn import images, layouts, library
from opyard_cpu.onednn.addresses import images_maker, known_square, measured_square, square
from opyard_cpu.onednn.layouts import Packed

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def call_of(op: Any, *arrays: Array, **attributes: Any) -> Call:
    return op.op.call(*map(TensorSpec.of, arrays), **attributes)


def run(op: Any, name: str, *arrays: Array, **attributes: Any) -> Array:
    """What the kernel of this name gives, brought back into the plain layout."""
    registry = oy.default_registry()
    device, call = registry.device("cpu:0"), call_of(op, *arrays, **attributes)
    kernel = next(k for k in registry.kernels(op.op.name) if k.id == f"cpu/{name}")
    assert kernel.refusal(call, device) is None
    found = kernel.bind(call, device)(*make_inputs(kernel, call, device, arrays, registry))
    plain: Array = convert(found, call.output, kernel.output_layout(0), "", device, registry)
    np.testing.assert_allclose(plain, call.reference(*arrays)[0], rtol=1e-4, atol=1e-5)
    return plain


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 5, 9, 7), (1, 3, 5, 6, 4)])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel": 2},
        {"kernel": 3, "strides": 2, "padding": 1},
        {"kernel": 3, "strides": 2, "ceil_mode": True},
        {"kernel": 2, "strides": 1, "padding": "same_upper"},
    ],
)
@pytest.mark.parametrize("op", [oy.max_pool, oy.average_pool])
def test_poolings(op: Any, attributes: dict[str, Any], shape: tuple[int, ...]) -> None:
    run(op, "nhwc", drawn(*shape), **attributes)


def test_dilated_poolings() -> None:
    x, attributes = drawn(2, 5, 9, 7), {"kernel": 2, "strides": 1, "dilations": 2}
    run(oy.max_pool, "nhwc", x, **attributes)
    refusal = images.accepts_average_pool(
        call_of(oy.average_pool, x, **attributes), oy.default_registry().device("cpu:0")
    )
    assert refusal is not None
    assert refusal.startswith("oneDNN has only its slow reference implementation (ref")


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("channels", [3, 16, 70])
def test_maxima_of_nan_are_nan(channels: int, compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiles:
        monkeypatch.setattr(images, "missing_compiler", lambda: "llvmlite is not installed")
    x = drawn(1, channels, 4, 4)
    x[0, 1, 2, 2] = np.nan
    x[0, 2] = -np.inf
    found = run(oy.max_pool, "nhwc", x, kernel=2)
    assert np.isnan(found).sum() == 1
    assert (found[0, 2] == -np.inf).all()


def test_maxima_of_many_numbers_and_of_windows_in_the_padding() -> None:
    run(oy.max_pool, "nhwc", drawn(2, 70, 40, 40), kernel=3, strides=1, padding=1, dilations=2)
    empty = {"kernel": (2, 1), "strides": 1, "dilations": (3, 1), "padding": ((2, 2), (0, 0))}
    assert (run(oy.max_pool, "nhwc", drawn(1, 5, 1, 6), **empty) == -np.inf).all()


def test_images_of_one_channel_or_one_pixel_are_only_seen_otherwise() -> None:
    for shape in ((3, 1, 4, 5), (3, 7, 1, 1)):
        x = drawn(*shape)
        moved = layouts.to_channels_last(shape)(x)
        back = layouts.from_channels_last(shape)
        assert np.shares_memory(moved, x)
        np.testing.assert_array_equal(moved, np.moveaxis(x, 1, -1))
        assert np.shares_memory(back(moved), x)
        out = np.empty(shape, np.float32)
        assert back(moved, out=out) is out
        np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_maxima_of_strange_numbers(value: float) -> None:
    x = drawn(1, 3, 4, 4)
    x[0, 1] = value
    np.testing.assert_array_equal(run(oy.max_pool, "nhwc", x, kernel=2)[0, 1], np.float32(value))


def test_a_window_of_padding_alone_has_no_maximum() -> None:
    x, wide = drawn(1, 2, 1, 1), {"kernel": 2, "strides": 1, "padding": 1, "dilations": 2}
    assert np.isneginf(run(oy.max_pool, "nhwc", x, **wide)).all()


def test_what_is_known_of_images_goes_on() -> None:
    """The norms of maxima and of joined images are bounded by those of what they are made of."""
    device = oy.default_registry().device("cpu:0")
    x = images_maker((1, 6, 6, 4))()
    x[...] = np.arange(x.size).reshape(x.shape)
    pool = images.prepare_max_pool(call_of(oy.max_pool, np.zeros((1, 4, 6, 6), np.float32), kernel=3), device)
    assert known_square(pool(x)) == np.inf, "nothing is known of x yet"
    assert measured_square(x) == known_square(x) == square(x)
    pooled = pool(x)
    assert square(pooled) <= known_square(pooled) <= 9 * square(x)
    wide = call_of(
        oy.max_pool, np.zeros((1, 4, 6, 6), np.float32), kernel=2, strides=1, padding=5, dilations=8
    )
    beside = images.prepare_max_pool(wide, device)(x)
    assert np.isneginf(beside).any()
    assert known_square(beside) == np.inf
    plain = np.zeros((1, 4, 6, 6), np.float32)
    join = images.prepare_concat(call_of(oy.concat, plain, plain, axis=1), device)
    assert known_square(join(x, x)) == 2 * square(x)
    unknown = images_maker((1, 6, 6, 4))()
    unknown[...] = 1
    assert known_square(join(x, unknown)) == np.inf


def test_means_that_count_padding_differently_are_refused() -> None:
    x, device = drawn(1, 3, 6, 6), oy.default_registry().device("cpu:0")
    kept = {"kernel": 3, "strides": 2, "padding": 1, "count_include_pad": True}
    run(oy.average_pool, "nhwc", x, **kept)
    beyond = call_of(oy.average_pool, x, **kept, ceil_mode=True)
    reason = "oneDNN counts what windows reach beyond the padding as padding, too"
    assert images.accepts_average_pool(beyond, device) == reason
    empty = call_of(oy.average_pool, x[:0], **kept)
    assert images.accepts_average_pool(empty, device) == "an empty tensor has no need of layouts"


def test_global_means_are_plain() -> None:
    run(oy.global_average_pool, "nhwc", drawn(3, 5, 4, 6))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_factor_for_each_channel(batch: int) -> None:
    x = drawn(3, 5, 4, 6)
    run(oy.multiply, "nhwc_factors", x, drawn(batch, 5, 1, 1))
    device = oy.default_registry().device("cpu:0")
    odd = call_of(oy.multiply, x, drawn(4, 6))
    reason = "takes one number for each channel, [n or 1, 5, 1, ...], not [4, 6]"
    assert images.accepts_channel_factors(odd, device) == reason
    assert images.accepts_alike(odd, device) == "takes tensors of one shape, not [3, 5, 4, 6] and [4, 6]"


def excite(activation: str, batch: int = 2, spatial: tuple[int, ...] = (5, 6), size: int = 1) -> Any:
    """Squeeze and excitation of x ``[n, 24, *spatial]``, and x."""
    ones = (size,) * len(spatial)
    w1, b1, w2, b2 = drawn(6, 24, *ones), drawn(6), drawn(24, 6, *(1,) * len(spatial)), drawn(24)

    def network(x: Any) -> Any:
        squeezed = oy.conv(oy.global_average_pool(x), w1, b1, padding=size // 2)
        return x * oy.sigmoid(oy.conv(getattr(oy, activation)(squeezed), w2, b2))

    return network, drawn(batch, 24, *spatial)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("spatial", [(5, 6), (7,), (3, 2, 4)])
def test_squeeze_and_excitation(activation: str, batch: int, spatial: tuple[int, ...]) -> None:
    network, x = excite(activation, batch, spatial)
    work, kernel = squeezed(network, x)
    device = oy.default_registry().device("cpu:0")
    assert kernel.name == f"onednn_squeeze_{activation}" and kernel.refusal(work, device) is None
    channels_last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    constants = [Packed(array) if array.ndim > 1 else array for array in constants_of(network, x)]
    found = kernel.bind(work, device)(channels_last, *constants)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), reference(network, x), rtol=1e-4, atol=1e-5)


def constants_of(network: Callable[..., Any], x: Array) -> list[Array]:
    """Weights and biases, in the order of their use."""
    graph = oy.trace(network, TensorSpec.of(x))
    return [
        graph.constants[v] for n in graph.nodes if n.op.name == "conv" for v in n.inputs[1:] if v is not None
    ]


def squeezed(network: Callable[..., Any], x: Array) -> tuple[Any, Any]:
    """The region of the pattern in a network, and its kernel."""
    graph = oy.trace(network, TensorSpec.of(x))
    kernels = [k for k in oy.default_registry().patterns if k.name.startswith("onednn_squeeze")]
    found = [(match.work, kernel) for kernel in kernels for match in find_matches(Pattern.of(kernel), graph)]
    (only,) = found
    return only


def test_squeezing_by_other_windows_is_refused() -> None:
    work, kernel = squeezed(*excite("silu", size=3))
    device = oy.default_registry().device("cpu:0")
    reason = kernel.refusal(work, device)
    assert reason == "takes 1x1 convolutions of one pixel, not one with weights [6, 24, 3, 3]"


@pytest.mark.parametrize("channels, factors", [(1, 24), (24, 1)])
def test_factors_that_broadcast_are_refused(channels: int, factors: int) -> None:
    w1, w2 = drawn(6, channels, 1, 1), drawn(factors, 6, 1, 1)

    def network(x: Any) -> Any:
        return x * oy.sigmoid(oy.conv(oy.silu(oy.conv(oy.global_average_pool(x), w1)), w2))

    work, kernel = squeezed(network, drawn(2, channels, 4, 4))
    reason = f"takes as many weights as x has channels, {channels}"
    assert kernel.refusal(work, oy.default_registry().device("cpu:0")) == reason


@pytest.mark.parametrize("compiles", [True, False])
def test_channels_are_joined(compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiles:
        monkeypatch.setattr(images, "missing_compiler", lambda: "llvmlite is not installed")
    x, y = drawn(2, 3, 4, 5), drawn(2, 6, 4, 5)
    run(oy.concat, "nhwc", x, y, x, axis=1)
    run(oy.concat, "nhwc", drawn(2, 1, 3), axis=1)
    large = drawn(2, 20, 33, 65)
    run(oy.concat, "nhwc", large, large[:, :7], axis=1)


def test_images_that_are_not_dense_are_joined() -> None:
    x = drawn(2, 4, 5, 3)
    call = call_of(oy.concat, x.transpose(0, 3, 1, 2), x.transpose(0, 3, 1, 2), axis=1)
    join = images.prepare_concat(call, oy.default_registry().device("cpu:0"))
    wide = np.repeat(x, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(join(wide, x), np.concatenate([x, x], axis=-1))


def test_joining_other_axes_is_refused() -> None:
    x = drawn(2, 3, 4, 5)
    device = oy.default_registry().device("cpu:0")
    other = call_of(oy.concat, x, x, axis=2)
    assert images.accepts_concat(other, device) == "joins channels, axis 1, not axis 2"
    empty = call_of(oy.concat, x, x[:, :0], axis=-3)
    assert images.accepts_concat(empty, device) == "an empty tensor has no need of layouts"


def test_a_network_with_everything_between_convolutions_is_converted_at_its_ends_only() -> None:
    w1, w2, w3, b = drawn(8, 8, 3, 3) / 9, drawn(8, 16, 1, 1) / 4, drawn(8, 8, 1, 1) / 3, drawn(8)

    def network(x: Any) -> Any:
        y = oy.silu(oy.conv(x, w1, b, padding=1))
        squeezed = oy.sigmoid(oy.conv(oy.global_average_pool(y), w3, b))
        z = oy.max_pool(y * squeezed, kernel=2)
        z = oy.conv(oy.concat(z, oy.average_pool(y, kernel=2), axis=1), w2, b)
        return oy.conv(oy.relu(z), w3, b)

    x = drawn(2, 8, 48, 48)
    registry = oy.default_registry()
    graph = oy.trace(network, TensorSpec.of(x))
    with oy.using(block=("opencl", "cpu/im2col")):
        placement = oy.place(graph, [registry.device("cpu:0")], registry, oy.costs.Roofline())
        chosen = [decision.chosen.kernel for decision in placement.decisions]
        found = oy.compile(network)(x)
    images_only = [kernel for kernel in chosen if kernel.layouts.get("x") == "nhwc" or "nhwc" in kernel.name]
    assert len(images_only) >= len(chosen) - 1
    expected = reference(network, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def reference(function: Callable[..., Any], x: Array) -> Array:
    graph = oy.trace(function, TensorSpec.of(x))
    with oy.Session(graph, registry=oy.standard_registry()) as session:
        found: Array = session.run(graph.result, {next(iter(graph.inputs)): x})
    return found
