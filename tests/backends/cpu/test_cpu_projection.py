"""Squeeze and excitation with the 1x1 convolution behind it as one kernel. See opyard_cpu.gemm.projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.kernels import Kernel, Work
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.gemm import projection
from opyard_cpu.jit import machine
from opyard_cpu.onednn import library
from opyard_cpu.onednn.layouts import Packed

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
WITHIN, OUT = 5, 20


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def drawn(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def network_of(activation: str, *, added: bool, **attributes: Any) -> Callable[..., Any]:
    def network(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any, *residual: Any) -> Any:
        squeezed = getattr(oy, activation)(oy.conv(oy.global_average_pool(x), w1, b1))
        y = oy.conv(x * oy.sigmoid(oy.conv(squeezed, w2, b2)), w3, b3, **attributes)
        return y + residual[0] if added else y

    return network


def arrays_of(batch: int, channels: int, *spatial: int) -> list[Array]:
    """The images, and weights and biases in the order of their use."""
    ones = (1,) * len(spatial)
    return [
        *(drawn(batch, channels, *spatial), drawn(WITHIN, channels, *ones), drawn(WITHIN)),
        *(drawn(channels, WITHIN, *ones), drawn(channels), drawn(OUT, channels, *ones), drawn(OUT)),
    ]


def matched(activation: str, network: Callable[..., Any], arrays: list[Array]) -> tuple[Kernel, Work]:
    name = f"gemm_squeeze_{activation}_conv{'_add' * (len(arrays) > 7)}"
    kernel = next(k for k in oy.default_registry().patterns if k.name == name)
    graph = oy.trace(network, *(TensorSpec.of(array) for array in arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match.work


def computed(kernel: Kernel, work: Work, arrays: list[Array]) -> Array:
    given = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) if n in (0, 7) else a for n, a in enumerate(arrays)]
    packed = [Packed(a) if n in (1, 3, 5) else a for n, a in enumerate(given)]
    return np.moveaxis(kernel.bind(work, device())(*packed), -1, 1)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize(
    ("batch", "channels", "spatial"),
    [(1, 16, (7, 5)), (3, 100, (2, 3)), (2, 7, (9,)), (2, 4, (2, 2, 3)), (2, 1030, (2, 2))],
)
def test_results_are_those_of_the_reference(
    batch: int, channels: int, spatial: tuple[int, ...], activation: str, added: bool
) -> None:
    arrays = arrays_of(batch, channels, *spatial)
    if added:
        arrays.append(drawn(batch, OUT, *spatial))
    kernel, work = matched(activation, network_of(activation, added=added), arrays)
    assert kernel.refusal(work, device()) is None
    (expected,) = work.reference(*(array.astype(np.float64) for array in arrays))
    found = computed(kernel, work, arrays)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_biases_may_be_left_out() -> None:
    x, w1, _, w2, _, w3, _ = arrays_of(2, 16, 4, 4)

    def network(x: Any) -> Any:
        squeezed = oy.relu(oy.conv(oy.global_average_pool(x), w1))
        return oy.conv(x * oy.sigmoid(oy.conv(squeezed, w2)), w3)

    kernel, work = matched("relu", network, [x])
    assert kernel.refusal(work, device()) is None
    run = kernel.bind(work, device())
    image = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    found = run(image, Packed(w1), None, Packed(w2), None, Packed(w3), None)
    (expected,) = work.reference(x, w1, None, w2, None, w3, None)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, rtol=1e-3, atol=1e-4)


def test_what_is_computed_otherwise_is_refused() -> None:
    def refusal(arrays: list[Array], **attributes: Any) -> str | None:
        network = network_of("silu", added=len(arrays) > 7, **attributes)
        kernel, work = matched("silu", network, arrays)
        return kernel.refusal(work, device())

    arrays = arrays_of(2, 16, 4, 4)
    wanted = "takes 1x1 convolutions in one group, with strides of 1 and no padding"
    assert refusal(arrays, strides=2) == wanted
    assert refusal([*arrays[:5], drawn(OUT, 16, 3, 3), arrays[6]]) == wanted
    assert refusal(arrays_of(1, 16, 1, 3)) == "takes 4 pixels or more, not 3"
    assert refusal([*arrays, drawn(1, OUT, 1, 1)]) == "takes a residual as large as the result"


def test_many_pixels_pay_and_few_do_not() -> None:
    """Each image is a product of its own."""

    def seconds_of_pixel(side: int) -> float:
        arrays = arrays_of(16, 240, side, side)
        _, work = matched("silu", network_of("silu", added=False), arrays)
        return projection.cost(work, device()) / (16 * side * side)

    assert seconds_of_pixel(4) > 2 * seconds_of_pixel(28)
