"""Loops over the parts of a row, as the cell of an LSTM has them. See opyard_cpu.jit.parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.region import Region
from opyard.spec import TensorSpec
from opyard_cpu.jit import launch, machine, parts

pytestmark = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
DEVICE = oy.default_registry().device("cpu:0")
ONE = np.float32(1)


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def region_of(function: Callable[..., Any], *arrays: Array) -> Region:
    return Region(oy.trace(function, *map(TensorSpec.of, arrays)))


def cell(given: Any, inner: Any, state: Any) -> Any:
    gates = oy.reshape(given, shape=(1, 20)) + inner
    entry, forget, content, exit_ = oy.split(gates, sections=4, axis=-1)
    state = oy.sigmoid(forget) * state + oy.sigmoid(entry) * oy.tanh(content)
    return state, oy.sigmoid(exit_) * oy.tanh(state)


def expected(given: Array, inner: Array, state: Array) -> tuple[Array, Array]:
    entry, forget, content, exit_ = np.split(given.reshape(1, 20) + inner, 4, axis=-1)
    state = state / (1 + np.exp(-forget)) + np.tanh(content) / (1 + np.exp(-entry))
    return state, np.tanh(state) / (1 + np.exp(-exit_))


CELL = drawn(1, 1, 20), drawn(1, 20), drawn(1, 5)


@pytest.mark.parametrize("way", ["dense", "strided", "other objects"])
def test_the_cell_of_an_lstm(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    region, arrays = region_of(cell, *CELL), CELL
    assert all(parts.claims(node.call, DEVICE) is None for node in region.graph.nodes)
    assert parts.accepts(region, DEVICE) is None
    assert 0 < parts.cost(region, DEVICE) < 1e-4
    if way == "strided":
        arrays = tuple(np.repeat(array, 2, axis=-1)[..., ::2] for array in CELL)  # type: ignore[assignment]
    if way == "other objects":
        monkeypatch.setattr(launch, "_layout_is_known", lambda: False)
    launch._entry.cache_clear()
    run = parts.prepare(region, DEVICE)
    monkeypatch.undo()
    launch._entry.cache_clear()
    for _ in range(2):
        for found, wanted in zip(run(*arrays), expected(*arrays), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_placement_finds_it() -> None:
    weight = drawn(5, 20)

    def step(given: Any, hidden: Any, state: Any) -> Any:
        return cell(given, oy.matmul(hidden, weight), state)

    hidden, arrays = drawn(1, 5), (CELL[0], CELL[2])
    graph = oy.trace(step, TensorSpec.of(arrays[0]), TensorSpec.of(hidden), TensorSpec.of(arrays[1]))
    matches, reasons = oy.placement.regions.find_regions(
        next(k for k in oy.default_registry().region_compilers if k.name == "jit_parts"), graph, DEVICE
    )
    largest = max(matches, key=lambda match: len(match.nodes))
    assert len(largest.nodes) == len(graph.nodes) - 1
    assert [node.op.name for node in reasons] == ["matmul"]
    run = parts.prepare(largest.work, DEVICE)  # type: ignore[arg-type]
    given = {"given": CELL[0], "state": CELL[2], "matmul": hidden @ weight}
    named = [given[next(name for name in given if value.name.startswith(name))] for value in largest.inputs]
    found = dict(zip((value.name for value in largest.outputs), run(*named), strict=True))
    for array, wanted in zip(found.values(), expected(CELL[0], hidden @ weight, CELL[2]), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6)])
def test_one_result_constants_numbers_and_parts_of_parts(shape: tuple[int, ...]) -> None:
    bias = np.arange(6, dtype=np.float32)

    def function(x: Any, factor: Any) -> Any:
        first, second = oy.split((x + bias) * factor, sections=2, axis=-1)
        _, middle, last = oy.split(oy.tanh(first) - second, sections=3, axis=-1)
        return middle * last

    x, factor = drawn(*shape), drawn(1)
    region = region_of(function, x, factor)
    assert parts.accepts(region, DEVICE) is None
    first, second = np.split((x + bias) * factor, 2, axis=-1)
    _, middle, last = np.split(np.tanh(first) - second, 3, axis=-1)
    found = parts.prepare(region, DEVICE)(x, factor)
    assert found.shape == (*shape[:-1], 1)
    np.testing.assert_allclose(found, middle * last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda x: oy.tanh(x) * 2.0, (1, 6), "nothing is split, so cpu/jit does the same"),
        (lambda x: oy.split(x, sections=2, axis=-1)[1], (1, 6), "nothing is to be computed"),
        (
            lambda x: oy.tanh(oy.split(oy.reshape(x, shape=(1, 8)), sections=4, axis=-1)[0]),
            (2, 4),
            "what is split is not a single row",
        ),
        (
            lambda x: oy.tanh(oy.split(oy.reshape(x, shape=(1, 8)), sections=4, axis=-1)[0]),
            (8, 1),
            "it changes the shape",
        ),
    ],
)
def test_regions_that_are_refused(function: Any, shape: tuple[int, ...], reason: str) -> None:
    assert parts.accepts(region_of(function, drawn(*shape)), DEVICE) == reason


def test_an_output_that_is_given_twice_is_refused() -> None:
    graph = oy.trace(lambda x: oy.tanh(oy.split(x, sections=2, axis=-1)[0]), TensorSpec((1, 6)))
    graph.output("again", next(iter(graph.outputs.values())))
    assert parts.accepts(Region(graph), DEVICE) == "an output is given twice"


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda x: oy.split(x, sections=2, axis=0), (2, 6), "only a single row is split here"),
        (lambda x: oy.split(x, sections=2, axis=1), (2, 6), "only a single row is split here"),
        (lambda x: oy.split(x, sections=(2, 4), axis=1), (1, 6), "only up to 16 equal parts are made here"),
        (lambda x: oy.split(x, sections=17, axis=1), (1, 17), "only up to 16 equal parts are made here"),
        (lambda x: oy.softmax(x, axis=1), (1, 6), "softmax is neither elementwise nor splits a row"),
    ],
)
def test_calls_that_are_not_claimed(function: Any, shape: tuple[int, ...], reason: str) -> None:
    (node,) = oy.trace(function, TensorSpec(shape)).nodes
    assert parts.claims(node.call, DEVICE) == reason
