"""Chains of elementwise ops as one step give what the single kernels give, to the bit, on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.placement.regions import find_regions
from opyard.registry import Registry
from opyard.settings import num_threads
from opyard.spec import TensorSpec
from opyard_cpu import fusion, plugin, threads

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")
COMPILER = next(kernel for kernel in REGISTRY.region_compilers if kernel.name == "blocks")

SHAPE = (3, 11000)  # more than one block, and no whole number of them
SPEC = TensorSpec(SHAPE)

STEPS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: a + b,
    lambda a, b: a * 0.3 - b,
    lambda a, b: oy.relu(a),
    lambda a, b: oy.where(a > b, a, b),
    lambda a, b: oy.where(a > 0, b, 0.0),
    lambda a, b: oy.where(a > 0, 2.0, b),
    lambda a, b: oy.sqrt(oy.abs(a)) / (b * b + 1.0),
    lambda a, b: oy.silu(a) + oy.exp(oy.minimum(b, 1.0)),
    lambda a, b: oy.leaky_relu(a, alpha=0.1),
)

programs = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=7
)


def build(program: list[tuple[int, int, int]]) -> oy.Graph:
    """Two inputs, a number, and what each step makes of two values; the last two values are outputs."""
    with oy.Graph() as graph:
        number = graph.input("n", TensorSpec(()))
        values = [graph.input("x", SPEC), graph.input("y", SPEC)]
        for step, left, right in program:
            values.append(STEPS[step](values[left % len(values)], values[right % len(values)] * number))
        graph.output("first", values[-1])
        graph.output("second", values[-2])
    return oy.simplify(graph)


def one_by_one(graph: oy.Graph, feeds: dict[str, Any]) -> dict[Any, Any]:
    """What the single kernels give."""
    known: dict[Any, Any] = {graph.inputs[name]: array for name, array in feeds.items()} | graph.constants
    for node in graph.nodes:
        (kernel,) = (k for k in REGISTRY.kernels(node.op.name) if k.id == "cpu/numpy")
        with np.errstate(all="ignore"):
            known[node.outputs[0]] = kernel.bind(node.call, DEVICE)(*(known[v] for v in node.inputs))
    return known


def feeds_of(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    feeds = {key: generator.standard_normal(SHAPE).astype(np.float32) for key in ("x", "y")}
    feeds["x"].flat[:5] = (np.nan, np.inf, -np.inf, 0.0, -0.0)
    return {**feeds, "n": np.float32(1.25)}


@pytest.mark.parametrize("count", ["1", "2"])
@settings(max_examples=30, deadline=None)
@given(program=programs, seed=st.integers(0, 9))
def test_a_chain_is_its_parts(count: str, program: list[tuple[int, int, int]], seed: int) -> None:
    graph, feeds = build(program), feeds_of(seed)
    known = one_by_one(graph, feeds)
    matches, _ = find_regions(COMPILER, graph, DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPYARD_NUM_THREADS", count)
        for match in matches:
            if COMPILER.refusal(match.work, DEVICE) is not None:
                continue
            run = COMPILER.bind(match.work, DEVICE)
            with np.errstate(all="ignore"):
                found = run(*(known[value] for value in match.inputs))
            for value, array in zip(match.outputs, found if match.work.is_tuple else (found,), strict=True):
                assert array.dtype == value.dtype
                np.testing.assert_array_equal(array, known[value])


def largest(function: Callable[..., Any], *specs: TensorSpec) -> Any:
    """The region of a whole function."""
    graph = oy.trace(function, *specs)
    matches, reasons = find_regions(COMPILER, graph, DEVICE)
    assert not reasons
    return max(matches, key=lambda match: len(match.nodes)).work


def test_an_output_may_be_given_in_any_layout() -> None:
    run = COMPILER.bind(largest(lambda x: oy.relu(x) * 2.0, SPEC), DEVICE)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for out in (np.empty(SHAPE, np.float32), np.empty(SHAPE[::-1], np.float32).T):
        assert run(np.asfortranarray(x), out=out) is out
        np.testing.assert_array_equal(out, np.maximum(x, 0) * 2)


def test_memory_is_used_again_within_a_chain() -> None:
    def chain(x: Any) -> Any:
        for _ in range(20):
            x = oy.negative(x) + 1.0
        return x

    assert len(fusion._Registers(largest(chain, SPEC)).dtypes) <= 2


@pytest.mark.parametrize(
    ("function", "specs", "reason"),
    [
        (lambda x: oy.sum(x, axis=0), (SPEC,), "sum is not among the elementwise ops that are fused here"),
        (lambda x: oy.exp(x), (TensorSpec(()),), "a single number is no array"),
        (lambda x, b: x + b, (SPEC, TensorSpec((11000,))), "an input is broadcast along some axes"),
        (lambda x: oy.silu(x), (SPEC.with_dtype("float16"),), "silu is fused for float32 and float64"),
        (lambda x: oy.relu(x), (SPEC.with_dtype("bfloat16"),), "relu is fused for numbers that NumPy knows"),
        (
            lambda x: oy.where(x > 0, x, oy.cast(x, dtype="float64")),
            (SPEC,),
            "where is fused for two inputs of one dtype",
        ),
    ],
)
def test_what_is_not_fused_is_told(function: Any, specs: Any, reason: str) -> None:
    node = oy.trace(function, *specs).nodes[-1]
    refusal = COMPILER.claim_refusal(node.call, DEVICE)
    assert refusal is not None and refusal.startswith(reason)


def test_small_arrays_are_not_worth_it() -> None:
    with oy.using(block="cpu/jit"):
        compiled = oy.compile(lambda x: oy.relu(x) * 2.0 + x, devices=["cpu:0"])
        for size, kernels in ((8, {"cpu/numpy"}), (1 << 20, {"cpu/blocks"})):
            found = compiled.explain(np.zeros(size, np.float32)).decisions
            assert {decision.chosen.kernel.id for decision in found} == kernels


def test_a_training_step_uses_it() -> None:
    w = oy.Variable(np.ones(1 << 20, np.float32))
    optimizer = oy.optimizers.adam()

    def step(x: Any) -> Any:
        loss = oy.sum((w - x) ** 2)
        optimizer.minimize(loss, [w])
        return loss

    with oy.using(block="cpu/jit"):
        placement = oy.compile(step, devices=["cpu:0"]).explain(np.zeros(1 << 20, np.float32))
    assert "cpu/blocks" in {decision.chosen.kernel.id for decision in placement.decisions}


# Threads -------------------------------------------------------------------------------------------------------------


def test_parts_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_threads", lambda: 3)
    seen = np.zeros(10, np.int64)

    def count(first: int, last: int) -> None:
        seen[first:last] += 1

    threads.in_parts(count, 10, threads.LEAST_WORK)
    assert seen.tolist() == [1] * 10


def test_kernels_within_parts_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    found: list[int] = []
    threads.in_parts(lambda first, last: found.append(num_threads()), 2, threads.LEAST_WORK)
    assert found == [1, 1]


def test_little_work_stays_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    parts: list[tuple[int, int]] = []
    threads.in_parts(lambda *ends: parts.append(ends), 10, threads.LEAST_WORK - 1)
    assert parts == [(0, 10)]


@pytest.mark.parametrize("failing", [0, 5])
def test_an_error_in_any_part_is_raised_and_blas_gets_its_threads_back(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    before = [library.get_num_threads() for library in threads._libraries()]

    def part(first: int, last: int) -> None:
        assert {library.get_num_threads() for library in threads._libraries()} <= {1}
        if first == failing:
            raise ValueError("a part fails")

    with pytest.raises(ValueError, match="a part fails"):
        threads.in_parts(part, 10, threads.LEAST_WORK)
    assert [library.get_num_threads() for library in threads._libraries()] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_with_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    threads.in_parts(lambda first, last: None, 10, threads.LEAST_WORK)
    child = os.fork()
    if not child:
        threads.in_parts(lambda first, last: None, 10, threads.LEAST_WORK)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_what_is_spread_over_arrays_of_several_shapes_is_in_no_chain_with_them() -> None:
    """A single number that two arrays of other shapes are multiplied by: one loop cannot be over both."""

    def scaled(x: Any, y: Any, n: Any) -> Any:
        factor = oy.sqrt(n)
        return x * factor, y * factor

    specs = (SPEC, TensorSpec((3, 5)), TensorSpec((1,)))
    graph = oy.trace(scaled, *specs)
    matches, reasons = find_regions(COMPILER, graph, DEVICE)
    assert list(reasons.values()) == ["a single number is no array"]
    assert matches
    assert all(len({value.shape for value in match.work.graph.outputs.values()}) == 1 for match in matches)
    feeds = {
        key: np.random.default_rng(0).random(spec.shape, np.float32)
        for key, spec in zip("xyn", specs, strict=True)
    }
    found = oy.Session(graph, devices=["cpu:0"]).run(tuple(graph.outputs), feeds)
    for array, key in zip(found, "xy", strict=True):
        np.testing.assert_array_equal(array, feeds[key] * np.sqrt(feeds["n"]))
