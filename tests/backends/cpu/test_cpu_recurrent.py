"""Steps of recurrent layers as one compiled product, alone and in plans. See opyard_cpu.gemm.recurrent."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.region import Region
from opyard.spec import TensorSpec
from opyard_cpu.gemm import products, recurrent, source, tail
from opyard_cpu.jit import machine
from opyard_cpu.jit.launch import KERNEL
from opyard_cpu.onednn import library
from opyard_cpu.onednn.addresses import address
from opyard_cpu.onednn.layouts import Packed

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def lstm(order: str) -> Callable[..., Any]:
    """One step as a model writes it: with a bias where there are five inputs."""

    def step(hidden: Any, weight: Any, *others: Any) -> Any:
        *bias, entered, memory = others
        total = entered + (oy.linear(hidden, weight, *bias) if bias else oy.matmul(hidden, weight))
        gates = oy.split(total, sections=4, axis=-1)
        entry, forget, content, leave = (gates[place] for place in recurrent.ORDERS[order])
        memory = oy.sigmoid(forget) * memory + oy.sigmoid(entry) * oy.tanh(content)
        return oy.sigmoid(leave) * oy.tanh(memory), memory

    return step


def arrays_for(rows: int, depth: int, size: int, bias: bool) -> list[Array]:
    biases = [drawn(4 * size)] if bias else []
    return [drawn(rows, depth), drawn(depth, 4 * size) / 4, *biases, drawn(rows, 4 * size), drawn(rows, size)]


def expected(order: str, arrays: list[Array]) -> tuple[Array, Array]:
    hidden, weight, *bias, entered, memory = (array.astype(np.float64) for array in arrays)
    gates = np.split(hidden @ weight + entered + (bias[0] if bias else 0.0), 4, -1)
    entry, forget, content, leave = (gates[place] for place in recurrent.ORDERS[order])

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))  # type: ignore[no-any-return]

    memory = sigmoid(forget) * memory + sigmoid(entry) * np.tanh(content)
    return sigmoid(leave) * np.tanh(memory), memory


def matched(order: str, arrays: list[Array]) -> tuple[Any, Any]:
    name = f"cpu/gemm_lstm_{'bias_' if len(arrays) == 5 else ''}{order}"
    kernel = next(k for k in oy.default_registry().patterns if k.id == name)
    (match,) = find_matches(Pattern.of(kernel), oy.trace(lstm(order), *map(TensorSpec.of, arrays)))
    return kernel, match.work


@settings(max_examples=20, deadline=None)
@given(
    order=st.sampled_from(sorted(recurrent.ORDERS)),
    rows=st.integers(1, 20),
    depth=st.integers(1, 40),
    size=st.integers(1, 70),
    bias=st.booleans(),
)
def test_a_step_of_any_size_is_that_of_the_reference(
    order: str, rows: int, depth: int, size: int, bias: bool
) -> None:
    arrays = arrays_for(rows, depth, size, bias)
    kernel, work = matched(order, arrays)
    assert kernel.refusal(work, device()) is None
    hidden, weight, *others = arrays
    found = kernel.bind(work, device())(hidden, Packed(weight), *others)
    for result, wanted in zip(found, expected(order, arrays), strict=True):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("features", ["+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx2", "+avx2,+fma", "+sse2"])
@pytest.mark.parametrize(("rows", "depth", "size"), [(7, 1100, 20), (16, 64, 32), (1, 5, 3)])
def test_tiles_of_other_processors_and_panels_in_any_order(
    features: str, rows: int, depth: int, size: int
) -> None:
    """Sums between parts of the depth, and what is beyond the last column of a section, too."""
    arrays = arrays_for(rows, depth, size, bias=True)
    arrays[1] /= 8
    _, work = matched("ifco", arrays)
    found = tail.tail_of(work)
    assert isinstance(found, tail.Tail)
    target = machine.processor("x", features, "x86_64-linux")
    cut = source.blocking(rows, depth, 4 * size, target, 2, found.sections)
    assert cut.width == 4 * cut.step and cut.panels * cut.step >= size
    assert cut.height * cut.vectors + cut.vectors < (32 if target.vector_bytes == 64 else 16)
    module = machine.compiler().function(source.Source(cut, found).text())
    packed, scratch = products.panels(arrays[1], cut), np.empty(max(1, cut.scratch_bytes), np.uint8)
    others = [arrays[place] for _, _, place in found.operands]
    for bounds in ([(0, cut.units)], [(n, n + 1) for n in reversed(range(cut.units))]):
        results = [np.full((rows, size), np.nan, np.float32) for _ in range(2)]
        given = (arrays[0], packed, *others, *results, scratch)
        words = (ctypes.c_void_p * len(given))(*map(address, given))
        for begin, end in bounds:
            KERNEL(module.address)(words, None, begin, end)
        for result, wanted in zip(results, expected("ifco", arrays), strict=True):
            np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)


def test_what_is_not_finite_stays() -> None:
    arrays = arrays_for(2, 8, 40, bias=False)
    arrays[2][0, :6] = arrays[2][1, 80:86] = [np.inf, -np.inf, np.nan, 3e38, -3e38, -0.0]
    arrays[3][1, :3] = [np.inf, -np.inf, np.nan]
    kernel, work = matched("ifco", arrays)
    found = kernel.bind(work, device())(arrays[0], Packed(arrays[1]), *arrays[2:])
    with np.errstate(all="ignore"):
        for result, wanted in zip(found, expected("ifco", arrays), strict=True):
            np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)


def test_other_shapes_and_other_splits_say_why() -> None:
    specs = TensorSpec((4, 6)), TensorSpec((6, 12)), TensorSpec((4, 12))

    def why(function: Callable[..., Any]) -> Any:
        graph = oy.trace(function, *specs)
        return tail.tail_of(Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values()))

    def of(sections: Any, axis: int = -1) -> Callable[..., Any]:
        return lambda x, w, r: oy.tanh(oy.split(oy.matmul(x, w) + r, sections=sections, axis=axis)[0])

    assert isinstance(why(of(3)), tail.Tail)
    assert isinstance(why(of((4, 4, 4))), tail.Tail)
    assert why(of(6)) == "splits a product into 4 parts at most, not 6"
    unequal = "splits the columns of a product into equal parts, and nothing else"
    assert why(of((4, 8))) == why(of(2, axis=0)) == unequal
    assert (
        why(
            lambda x, w, r: oy.split(
                oy.split(oy.matmul(x, w) + r, sections=2, axis=-1)[1], sections=2, axis=-1
            )[0]
        )
        == "splits a product once"
    )

    def both(x: Any, w: Any, r: Any) -> Any:
        total = oy.matmul(x, w) + r
        return oy.tanh(oy.split(total, sections=2, axis=-1)[1]), total

    assert why(both) == "a result is needed that is split"
    arrays = arrays_for(4, 6, 5, bias=False)
    arrays[3] = drawn(1, 5)
    _, work = matched("ifco", arrays)
    assert products.accepts_packed(work, device()) == (
        "[1, 5] is neither a number, nor [20], nor as large as the result"
    )


@pytest.mark.parametrize("batch", [1, 16])
def test_plans_of_unrolled_layers_use_them(batch: int) -> None:
    """Every step but the first, whose hidden state is zero, so that its product is folded away."""
    weight, zeros = drawn(64, 256) / 8, np.zeros((batch, 64), np.float32)
    step = lstm("ifco")

    def layer(x: Any) -> Any:
        hidden, memory = zeros, zeros
        for entered in oy.unstack(x, axis=0):
            hidden, memory = step(hidden, weight, entered, memory)
        return hidden

    x = drawn(4, batch, 256)
    placement = oy.place(
        oy.trace(layer, TensorSpec.of(x)), [device()], oy.default_registry(), oy.costs.Roofline()
    )
    chosen = [decision.chosen.kernel.id for decision in placement.decisions]
    assert chosen.count("cpu/gemm_lstm_ifco") >= 3, chosen
    hidden, memory = zeros.astype(np.float64), zeros.astype(np.float64)
    for entered in x:
        hidden, memory = expected("ifco", [hidden, weight, entered, memory])
    with oy.using(block=("opencl",)):
        np.testing.assert_allclose(np.asarray(oy.compile(layer)(x)), hidden, rtol=1e-4, atol=1e-5)
