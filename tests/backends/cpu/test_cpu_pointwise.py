"""1x1 convolutions of channels-last images as compiled products, with what follows. See opyard_cpu.gemm.pointwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.kernels import Kernel, Work
from opyard.operation import Call
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.gemm import pointwise
from opyard_cpu.jit import machine
from opyard_cpu.onednn import addresses, library
from opyard_cpu.onednn.layouts import Packed

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
C, OUT = 24, 40

CASES: dict[str, Callable[..., Any]] = {
    "gemm_conv_relu": lambda x, w, b: oy.relu(oy.conv(x, w, b)),
    "gemm_conv_relu6": lambda x, w, b: oy.relu6(oy.conv(x, w, b)),
    "gemm_conv_silu": lambda x, w, b: oy.silu(oy.conv(x, w, b)),
    "gemm_conv_gelu": lambda x, w, b: oy.gelu(oy.conv(x, w, b)),
    "gemm_conv_add": lambda x, w, b, r: oy.conv(x, w, b) + r,
    "gemm_conv_add_relu": lambda x, w, b, r: oy.relu(oy.conv(x, w, b) + r),
    "gemm_conv_scale_relu": lambda x, w, b, f, o: oy.relu(oy.conv(x, w, b) * f + o),
    "gemm_conv_scale_add": lambda x, w, b, f, o, r: oy.conv(x, w, b) * f + o + r,
}


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def arrays_of(name: str, batch: int = 2, spatial: tuple[int, ...] = (3, 5)) -> list[Array]:
    """Plain arrays, in the order in which the pattern takes them."""
    ones = (1,) * len(spatial)
    found = [drawn(batch, C, *spatial), drawn(OUT, C, *ones), drawn(OUT)]
    if "scale" in name:
        found += [drawn(OUT, *ones), drawn(1, OUT, *ones)]
    return [*found, drawn(batch, OUT, *spatial)] if "add" in name else found


def matched(name: str, network: Callable[..., Any], arrays: list[Array]) -> tuple[Kernel, Work]:
    kernel = next(k for k in oy.default_registry().patterns if k.name == name)
    graph = oy.trace(network, *(TensorSpec.of(array) for array in arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match.work


def images(array: Array) -> Array:
    """A plain image as kernels make them: channels last, in a memory of its own."""
    moved = np.moveaxis(array, 1, -1)
    made = addresses.images_maker(moved.shape)()
    made[...] = moved
    return made


def computed(kernel: Kernel, work: Work, arrays: list[Array]) -> Array:
    x, weight, bias, *others = arrays
    given = [images(a) if a.shape[0] == x.shape[0] else a for a in others]
    found: Array = kernel.bind(work, device())(images(x), Packed(weight), bias, *given)
    return found


@pytest.mark.parametrize("spatial", [(7,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_reference(name: str, spatial: tuple[int, ...]) -> None:
    arrays = arrays_of(name, 2, spatial)
    kernel, work = matched(name, CASES[name], arrays)
    assert kernel.refusal(work, device()) is None
    (expected,) = work.reference(*(array.astype(np.float64) for array in arrays))
    found = np.moveaxis(computed(kernel, work, arrays), -1, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert 0 < pointwise.cost(work, device()) < 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_alone(bias: bool) -> None:
    x, weight, b = arrays_of("")
    given = (x, weight, b if bias else None)
    call = oy.conv.op.call(*(None if a is None else TensorSpec.of(a) for a in given))
    kernel = next(k for k in oy.default_registry().kernels("conv") if k.name == "gemm_nhwc")
    assert kernel.refusal(call, device()) is None
    found = np.moveaxis(kernel.bind(call, device())(images(x), Packed(weight), given[2]), -1, 1)
    np.testing.assert_allclose(found, oy.conv.op.reference(*given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemm_conv_relu", "gemm_conv_relu6", "gemm_conv_add_relu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays(name: str, value: float) -> None:
    arrays = arrays_of(name)
    arrays[0][1, 3, 2, 1] = value
    kernel, work = matched(name, CASES[name], arrays)
    with np.errstate(all="ignore"):
        (expected,) = work.reference(*arrays)
    found = np.moveaxis(computed(kernel, work, arrays), -1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_norms_of_results_are_known_where_those_of_images_are(name: str) -> None:
    """As far as what follows makes nothing larger: later layers need no look at these images."""
    arrays = arrays_of(name, 2, (28, 30))
    kernel, work = matched(name, CASES[name], arrays)
    x, weight, bias, *others = arrays
    given = [images(a) if a.shape[0] == x.shape[0] else a for a in (x, *others)]
    for array in given:
        if array.ndim == 4 and array.base is not None:
            addresses.measured_square(array)
    found = kernel.bind(work, device())(given[0], Packed(weight), bias, *given[1:])
    known = addresses.known_square(found)
    assert (known < np.inf) == (name != "gemm_conv_gelu")
    assert addresses.square(found) <= known


def test_other_convolutions_are_refused() -> None:
    def refusal(x: Array, weight: Array, **attributes: Any) -> str | None:
        call: Call = oy.conv.op.call(TensorSpec.of(x), TensorSpec.of(weight), None, **attributes)
        return pointwise.accepts(call, device())

    x, weight, _ = arrays_of("")
    reason = "takes 1x1 convolutions in one group, with strides of 1 and no padding"
    assert refusal(x, weight) is None
    assert refusal(x, weight, strides=2) == reason
    assert refusal(x, drawn(OUT, C, 3, 3)) == reason
    assert refusal(x, drawn(OUT, C // 2, 1, 1), groups=2) == reason
    assert refusal(x, weight, padding=1) == reason
    assert refusal(x[:1, :, :1, :3], weight) == "takes 4 pixels or more, not 3"
    assert refusal(x[:0], weight) == "an empty tensor is nothing for oneDNN"


@pytest.mark.parametrize(
    ("name", "place", "shape", "what"),
    [("gemm_conv_add", 3, (1, OUT, 1, 1), "residual"), ("gemm_conv_scale_relu", 3, (OUT, 3, 1), "factor")],
)
def test_operands_of_other_shapes_are_refused(
    name: str, place: int, shape: tuple[int, ...], what: str
) -> None:
    arrays = arrays_of(name)
    arrays[place] = drawn(*shape)
    kernel, work = matched(name, CASES[name], arrays)
    wanted = f"{what} is neither as large as the result, nor a number for each channel"
    assert kernel.refusal(work, device()) == wanted
