"""Regions are convex, connected and few; region compilers compete with kernels and patterns by cost, and brute force agrees."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusing
import opyard as oy
from covering import covers
from hosts import add_host
from opyard.errors import PlacementError, RegistryError
from opyard.graph import Node
from opyard.kernels import Kernel
from opyard.placement import CostStore, MeasuredCosts, drawing
from opyard.placement.candidates import Collector
from opyard.placement.disjoint import DisjointSets
from opyard.placement.identity import describe_work
from opyard.placement.match import Match
from opyard.placement.regions import FEW, SIZES, Regions, find_regions
from opyard.placement.wholes import expand
from opyard.region import MOST_NAMED, Region
from opyard.selection import Candidate, Policy
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend, prepare_null

SPEC = oy.TensorSpec((2, 3), "float32")
OPS = ("exp", "negative", "abs", "sin", "add", "multiply", "matmul", "relu", "top_k")
MOST_REGIONS = 10
"""Regions that contain one node, for one compiler."""

Function = Callable[..., Any]


def all_but(*names: str) -> Callable[[Node], str | None]:
    return lambda node: f"{node.op.name} is not taken" if node.op.name in names else None


def names(match: Match) -> list[str]:
    return [node.name for node in match.nodes]


def found(function: Function, *unclaimed: str, specs: Sequence[oy.TensorSpec] = ()) -> list[list[str]]:
    """The nodes of all regions of a traced function, if these ops are not claimed."""
    graph = oy.trace(function, *(specs or (SPEC,) * function.__code__.co_argcount))
    matches, _ = Regions(graph).find(all_but(*unclaimed))
    return [names(match) for match in matches]


# Which regions there are -----------------------------------------------------------------------------------------


def test_the_largest_regions_end_where_a_node_is_not_claimed() -> None:
    def function(x: Any) -> Any:
        return oy.exp(oy.abs(oy.sin(oy.exp(oy.negative(x)))))

    assert found(function, "sin") == [["negative", "exp"], ["abs", "exp_5"], *([n] for n in ("negative", "exp", "abs", "exp_5"))]  # fmt: skip
    assert found(function, "sin", "negative", "exp", "abs") == []


def test_a_region_never_encloses_what_is_not_claimed() -> None:
    def function(x: Any) -> Any:
        a = oy.exp(x)
        return oy.add(a, oy.sin(a))

    assert found(function, "sin") == [["exp"], ["add"]]
    assert found(function)[0] == ["exp", "sin", "add"]


def test_borders_are_counted_from_both_ends() -> None:
    def function(x: Any, y: Any) -> Any:
        late = oy.negative(y)
        return oy.add(oy.abs(oy.sin(oy.exp(x))), late)

    regions = found(function, "sin")
    assert ["negative"] in regions and ["abs", "add"] in regions, "counted from the inputs"
    assert ["negative", "abs", "add"] in regions, "counted from the outputs"


def test_a_number_that_several_need_does_not_always_join_them() -> None:
    number = oy.TensorSpec((), "float32")

    def function(x: oy.Value, y: oy.Value, n: oy.Value) -> tuple[oy.Value, ...]:
        rate = oy.exp(n)
        first, second = oy.multiply(x, rate), oy.matmul(y, y) + rate
        return first, oy.abs(first), second, oy.negative(second)

    square = oy.TensorSpec((3, 3), "float32")
    regions = found(function, "matmul", specs=(SPEC, square, number))
    assert any({"exp", "abs", "negative"} <= set(region) for region in regions)
    assert ["multiply", "abs"] in regions and ["add", "negative"] in regions


def test_a_cone_has_one_output() -> None:
    def function(x: Any) -> Any:
        shared = oy.exp(oy.negative(x))
        return oy.abs(oy.add(oy.relu(shared), oy.sin(shared))), oy.multiply(shared, 2.0)

    graph = oy.trace(function, SPEC)
    matches, _ = Regions(graph).find(all_but())
    assert [names(m) for m in matches if len(m.nodes) > 1] == [
        ["negative", "exp", "relu", "sin", "add", "abs", "multiply"],
        ["negative", "exp"],
        ["relu", "sin", "add", "abs"],
    ]
    assert [len(m.outputs) for m in matches if len(m.nodes) > 1] == [2, 1, 1]


def test_long_regions_are_cut_where_few_tensors_are_alive() -> None:
    def function(x: Any) -> Any:
        for _ in range(50):
            x = oy.add(oy.exp(x), oy.negative(x))
        return x

    graph = oy.trace(function, SPEC)
    matches, _ = Regions(graph).find(all_but())
    pieces = [m for m in matches if 1 < len(m.nodes) < 150]
    assert sorted({len(m.nodes) for m in pieces}) == [6, 9, 63, 87]
    assert all(len(m.inputs) == len(m.outputs) == 1 for m in pieces), "never in the middle of a diamond"
    assert all(len(m.nodes) <= max(SIZES) * 3 // 2 for m in pieces)


def test_what_patterns_may_take_is_left_out_of_some_regions() -> None:
    def function(x: Any, w: Any, b: Any) -> Any:
        return oy.sin(oy.exp(oy.relu(oy.add(oy.matmul(x, w), b))))

    graph = oy.trace(function, *(oy.TensorSpec(shape) for shape in ((4, 3), (3, 5), (5,))))
    matmul, add, relu, exp, _ = graph.nodes
    crossing = Match(
        (matmul, add), (), add.outputs, Region.of([matmul, add], graph.inputs.values(), add.outputs)
    )
    inner = Match((relu, exp), (), exp.outputs, Region.of([relu, exp], relu.inputs, exp.outputs))
    matches, _ = Regions(graph, rivals=[crossing, inner]).find(all_but("matmul"))
    several = [names(m) for m in matches if len(m.nodes) > 1]
    assert several == [["add", "relu", "exp", "sin"], ["relu", "exp", "sin"]]
    assert ["add"] in [names(m) for m in matches] and ["sin"] in [names(m) for m in matches]
    matches, _ = Regions(graph).find(all_but())
    assert ["add", "relu", "exp", "sin"] in [names(m) for m in matches], "without what is not elementwise"


def test_nothing_is_made_of_nodes_that_nobody_needs() -> None:
    graph = oy.Graph()
    x = graph.input("x", SPEC)
    oy.exp(oy.negative(x))
    graph.output("y", oy.abs(x))
    matches, _ = Regions(graph).find(all_but())
    assert [names(m) for m in matches] == [["abs"], ["negative"]]


def test_outputs_are_what_others_need() -> None:
    def function(x: Any) -> Any:
        top, where = oy.top_k(oy.exp(x), k=2)
        return oy.abs(top), oy.negative(top), oy.cast(where, dtype="float32")

    graph = oy.trace(function, SPEC)
    (largest, *_), _ = Regions(graph).find(all_but("cast"))
    made = [node.outputs for node in graph.nodes]
    assert [id(value) for value in largest.outputs] == [id(made[n][i]) for n, i in ((1, 1), (2, 0), (3, 0))]


def test_weights_are_inputs_and_small_constants_are_inside() -> None:
    weights, few = np.ones((2, FEW), np.float32), np.arange(FEW, dtype=np.float32)

    def function(x: Any) -> Any:
        return oy.add(oy.multiply(oy.multiply(oy.multiply(x, weights), few), 2.0), weights)

    graph = oy.trace(function, oy.TensorSpec((2, FEW)))
    (largest, *_), _ = Regions(graph).find(all_but())
    assert isinstance(largest.work, Region)
    assert [v.name for v in largest.inputs if v is not None] == ["x", "constant"]
    assert sorted(array.size for array in largest.work.graph.constants.values()) == [1, FEW]
    x = np.full((2, FEW), 3, np.float32)
    np.testing.assert_array_equal(largest.work.reference(x, weights)[0], x * few * 2 + 1)


def test_equal_regions_are_one_object() -> None:
    def block(x: Any, number: float) -> Any:
        return oy.matmul(oy.exp(oy.add(oy.negative(x), number)), np.ones((3, 3), np.float32))

    graph = oy.trace(lambda x: block(block(block(x, 1.0), 1.0), 2.0), SPEC)
    matches, _ = Regions(graph).find(all_but("matmul"))
    one, two, three = (m.work for m in matches if len(m.nodes) == 3)
    assert one is two and three is not one, "numbers count, names do not"
    assert str(one) != str(three)
    swapped = oy.trace(lambda a, b: (oy.exp(a - b), oy.exp(b - a), oy.exp(a - a)), SPEC, SPEC)
    matches, _ = Regions(swapped).find(all_but())
    first, second, third = (m for m in matches if len(m.nodes) == 2)
    assert first.work is second.work, "inputs stand in the order of their use"
    assert [v.name for v in second.inputs if v is not None] == ["b", "a"] and third.work is not first.work


def test_a_composite_is_claimed_whole_or_in_parts() -> None:
    graph, wholes = expand(oy.trace(lambda x: oy.exp(oy.softmax(oy.negative(x))), SPEC))
    (largest, *_), reasons = Regions(graph, wholes).find(all_but())
    assert isinstance(largest.work, Region)
    assert [node.op.name for node in largest.work.graph.nodes] == ["negative", "softmax", "exp"]
    assert largest.nodes == tuple(graph.nodes) and not reasons
    (_, largest, *_), reasons = Regions(graph, wholes).find(all_but("softmax", "max"))
    assert [node.op.name for node in largest.nodes] == ["subtract", "exp", "sum", "divide", "exp"]
    assert [node.op.name for node in reasons] == ["max"], "a composite that is not claimed is its parts"
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    shifted = -x - np.max(-x, axis=-1, keepdims=True)
    expected = np.exp(np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True))
    assert isinstance(largest.work, Region)
    np.testing.assert_allclose(
        largest.work.reference(-x, np.max(-x, -1, keepdims=True))[0], expected, rtol=1e-6
    )


def test_composites_within_composites_are_claimed_from_the_outside_in() -> None:
    specs = [oy.TensorSpec(shape) for shape in ((1, 2, 4, 8),) * 3]
    graph, wholes = expand(oy.trace(oy.scaled_dot_product_attention, *specs))
    assert {"softmax", "scaled_dot_product_attention"} <= {whole.call.op.name for whole in wholes}
    (outer, *_), _ = Regions(graph, wholes).find(all_but())
    assert isinstance(outer.work, Region)
    assert [node.op.name for node in outer.work.graph.nodes] == ["scaled_dot_product_attention"]
    (inner, *_), _ = Regions(graph, wholes).find(all_but("scaled_dot_product_attention"))
    assert isinstance(inner.work, Region)
    assert "softmax" in [node.op.name for node in inner.work.graph.nodes]
    assert inner.nodes == outer.nodes == tuple(graph.nodes)


def test_authors_can_look_at_the_regions_of_a_compiler() -> None:
    kernel = Kernel("", "cpu", "fuse", prepare=fusing.prepare, claims=fusing.claims, dtypes=("float32",))
    graph = oy.trace(lambda x: oy.exp(oy.top_k(oy.abs(x), k=1)[0]), SPEC)
    matches, reasons = find_regions(kernel, graph, NullDevice("cpu:0"))
    assert [names(m) for m in matches] == [["abs"], ["exp"]]
    assert {node.name: reason for node, reason in reasons.items()} == {"top_k": "top_k is no ufunc"}


def test_disjoint_sets() -> None:
    sets = DisjointSets[int]()
    for one, other in ((1, 2), (3, 4), (2, 4), (4, 1)):
        sets.join(one, other)
    assert {sets.of(number) for number in (1, 2, 3, 4)} == {1} and sets.of(5) == 5


# Laws of regions on random graphs --------------------------------------------------------------------------------


@st.composite
def graphs(draw: Any, most: int = 30, ops: Sequence[str] = OPS[:6]) -> oy.Graph:
    """A graph of ops on square matrices, of which all that nothing uses and some more is fetched."""
    graph = oy.Graph()
    square = oy.TensorSpec((2, 2), "float32")
    values: list[Any] = [graph.input("x", square), graph.input("y", square)]
    for _ in range(draw(st.integers(1, most))):
        op = draw(st.sampled_from(ops))
        arity = 2 if op in ("add", "multiply", "maximum", "matmul") else 1
        values.append(getattr(oy, op)(*(draw(st.sampled_from(values[-6:])) for _ in range(arity))))
    used = {value for node in graph.nodes for value in node.inputs}
    extra = draw(st.sets(st.sampled_from(values), max_size=3))
    for number, value in enumerate(values):
        if value not in used or value in extra:
            graph.output(f"out_{number}", value)
    return graph


def reaches(graph: oy.Graph) -> dict[Node, set[Node]]:
    """For each node all that it depends on."""
    known: dict[Node, set[Node]] = {}
    for node in graph.nodes:
        makers = {v.node for v in node.inputs if v is not None and v.node is not None}
        known[node] = makers.union(*(known[maker] for maker in makers))
    return known


def is_connected(nodes: Sequence[Node]) -> bool:
    sets = DisjointSets[Node]()
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.node in nodes:
                sets.join(value.node, node)
    return len({sets.of(node) for node in nodes}) == 1


@settings(max_examples=80, deadline=None)
@given(graphs(), st.sets(st.sampled_from(OPS[:6]), max_size=3), st.integers(0, 2**32))
def test_regions_are_convex_connected_and_few(graph: oy.Graph, unclaimed: set[str], seed: int) -> None:
    above = reaches(graph)
    random = np.random.default_rng(seed)
    rivals = []
    for node in graph.nodes:
        maker = next((v.node for v in node.inputs if v is not None and v.node is not None), None)
        if maker is not None and random.random() < 0.3:
            rivals.append(Match((maker, node), (), node.outputs, node.call))
    matches, reasons = Regions(graph, rivals=rivals).find(all_but(*unclaimed))
    claimed = [node for node in graph.nodes if node.op.name not in unclaimed]
    assert set(reasons) == set(graph.nodes) - set(claimed)
    assert len({match.nodes for match in matches}) == len(matches)
    arrays = {v: random.random((2, 2), np.float32) for v in graph.inputs.values()}
    known: dict[Any, Any] = dict(arrays)
    for node in graph.nodes:
        known.update(zip(node.outputs, node.call.reference(*(known[v] for v in node.inputs)), strict=True))
    for node in claimed:
        assert 1 <= sum(node in match.nodes for match in matches) <= MOST_REGIONS
    for match in matches:
        inside = set(match.nodes)
        assert list(match.nodes) == [node for node in graph.nodes if node in inside]
        assert inside <= set(claimed) and is_connected(match.nodes)
        for node in set(graph.nodes) - inside:
            below = any(node in above[member] for member in inside)
            assert not (below and above[node] & inside), "a path leaves the region and comes back"
        needed = {v for node in graph.nodes if node not in inside for v in node.inputs}
        needed |= set(graph.outputs.values())
        assert set(match.outputs) == {v for node in inside for v in node.outputs if v in needed}
        assert isinstance(match.work, Region)
        match.work.graph.check()
        results = match.work.reference(*(known[v] for v in match.inputs))
        for value, result in zip(match.outputs, results, strict=True):
            np.testing.assert_array_equal(result, known[value])


def test_candidates_grow_with_the_graph_and_no_faster() -> None:
    counts = []
    for length in (300, 3000):
        graph = oy.Graph()
        value = graph.input("x", SPEC)
        for number in range(length):
            value = (oy.exp, oy.negative, oy.abs)[number % 3](value)
        graph.output("y", value)
        matches, _ = Regions(graph).find(all_but())
        counts.append(sum(len(match.nodes) for match in matches))
    assert counts[1] <= 10.5 * counts[0] and counts[1] <= MOST_REGIONS * 3000


# Registration ----------------------------------------------------------------------------------------------------


def register(registry: oy.Registry, **facts: Any) -> None:
    defaults: dict[str, Any] = {
        "backend": "null",
        "name": "regions",
        "claims": lambda call, device: None,
        "prepare": prepare_null,
    }
    registry.region_compiler(**{**defaults, **facts})


def test_region_compilers_are_kernels_like_others() -> None:
    registry = oy.standard_registry()
    for name in ("b", "a"):
        with registry.transaction(oy.kernels.Origin(name, f"opyard-{name}", "1.0")):
            register(registry, claims="m:f", prepare="m:g", version=3)
    (winner,) = registry.region_compilers
    assert winner.origin.plugin == "a" and winner.id == "null/regions" and winner.version == 3
    assert repr(winner) == "<Kernel regions null/regions from opyard-a 1.0>"
    assert registry.conflicts[0].startswith(
        "region compiler null/regions: opyard-a 1.0 replaces opyard-b 1.0"
    )
    assert list(registry.all_kernels()) == [winner] and registry.orphans() == ()
    assert [k.origin.plugin for k in registry.claims()] == ["a", "b"]
    with pytest.raises(
        RegistryError, match=r"region compiler null/regions is already registered by opyard-a 1\.0; give"
    ):
        register(registry)
    register(registry, override=True)
    assert registry.region_compilers[0].origin == oy.kernels.PROGRAM
    register(registry, version=2)
    assert registry.region_compilers[0].version == 2, "a cell of a notebook runs again"
    with pytest.raises(ValueError, match="stop"), registry.transaction(oy.kernels.Origin("c")):
        register(registry, name="other")
        raise ValueError("stop")
    assert len(registry.region_compilers) == 1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"claims": "no colon"}, "claims is a function or 'package.module:function'; found 'no colon'"),
        ({"dtypes": {"x": ("float32",)}}, "dtypes is a tuple of names, which all inputs of all its nodes must have"),
        ({"dtypes": ("float33",)}, "there is no dtype called 'float33'"),
        ({"layouts": {"output": "blocked"}}, "has no layouts: what it compiles differs from graph to graph; let claims"),
        ({"ranks": (1, 2)}, "has no ranks: what it compiles differs from graph to graph"),
        ({"pattern": lambda x: oy.exp(x)}, "has no pattern: what it compiles differs"),
        ({"load": np.exp}, "needs either load=... .* or prepare=..."),
        ({"efficiency": 0}, "efficiency is a positive fraction"),
    ],
)  # fmt: skip
def test_facts_that_cannot_be_meant(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=f"^region compiler null/regions:? {message}"):
        register(oy.standard_registry(), **facts)


# Placement -------------------------------------------------------------------------------------------------------


def null_registry(**facts: Any) -> oy.Registry:
    made = oy.standard_registry()
    add_null_backend(made, ops=OPS)
    register(made, **facts)
    return made


def place(function: Function, made: oy.Registry, prices: dict[str, float], **more: Any) -> oy.Placement:
    graph = oy.trace(function, *(SPEC,) * function.__code__.co_argcount)
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 1.0, **prices})
    options: dict[str, Any] = {"home": made.device("null:0"), "policy": Policy(), **more}
    return oy.place(graph, made.devices(), made, costs, **options)


def kernels(placement: oy.Placement) -> list[str]:
    return [decision.chosen.kernel.id for decision in placement.decisions]


def chain(x: Any) -> Any:
    return oy.abs(oy.sin(oy.exp(oy.negative(x))))


def test_a_cheaper_region_replaces_its_ops_and_a_dearer_does_not() -> None:
    made = null_registry()
    title = "negative + exp + sin + abs null/regions"
    placement = place(chain, made, {"null/regions": 1.0, title: 3e-6})
    assert kernels(placement) == ["null/regions"] and placement.is_optimal
    assert placement.seconds == pytest.approx(3e-6)
    (others,) = {
        a.extra_seconds for a in placement.decisions[0].alternatives if a.candidate.kernel.id == "null/null"
    }
    assert others == pytest.approx(1e-6)
    placement = place(chain, made, {"null/regions": 1.0, title: 5e-6})
    assert kernels(placement) == ["null/null"] * 4
    (extra,) = {a.extra_seconds for a in placement.decisions[0].alternatives if len(a.match.nodes) == 4}
    assert extra == pytest.approx(1e-6)


def test_a_better_pattern_takes_its_part_and_the_region_the_rest() -> None:
    made = null_registry()
    made.pattern(lambda x: oy.exp(oy.negative(x)), backend="null", name="fused", prepare=prepare_null)
    prices = {"null/regions": 2e-6, "sin + abs null/regions": 1e-6, "null/fused": 5e-7}
    placement = place(chain, made, prices)
    assert kernels(placement) == ["null/fused", "null/regions"]
    assert [d.match.title for d in placement.decisions] == ["negative + exp", "sin + abs"]
    assert kernels(place(chain, made, {**prices, "null/fused": 1.5e-6})) == ["null/regions"]


def test_a_better_kernel_in_the_middle_splits_the_region() -> None:
    def function(x: Any) -> Any:
        return oy.abs(oy.sin(oy.matmul(oy.exp(oy.negative(x)), np.ones((3, 3), np.float32))))

    made = null_registry()
    prices = {"null/regions": 5e-6, "negative + exp null/regions": 1e-6, "sin + abs null/regions": 1e-6}
    placement = place(function, made, {**prices, "matmul null/null": 1e-6})
    assert [d.match.title for d in placement.decisions] == ["negative + exp", "matmul", "sin + abs"]
    assert kernels(placement) == ["null/regions", "null/null", "null/regions"]
    assert kernels(place(function, made, {**prices, "matmul null/null": 9e-6})) == ["null/regions"]


def test_every_refusal_has_its_sentence() -> None:
    made = null_registry(
        claims=lambda call, device: "it bends nothing" if call.op.name == "sin" else None,
        accepts=lambda region, device: f"{len(region.graph.nodes)} are too many" if len(region.graph.nodes) > 1 else None,
        dtypes=("float32",),
    )  # fmt: skip
    placement = place(chain, made, {"null/regions": 5e-7})
    assert kernels(placement) == ["null/regions", "null/regions", "null/null", "null/regions"]
    texts = str(placement).splitlines()
    assert "    null/regions on null:0: refused: null/regions does not claim it: it bends nothing" in texts
    assert "    null/regions on null:0 for negative + exp: refused: 2 are too many" in texts
    halves = place(lambda x: oy.abs(oy.cast(x, dtype="float16")), made, {"null/regions": 1e-9})
    assert kernels(halves) == ["null/regions", "null/null"]
    assert "null/regions does not claim it: takes x of float32, not float16" in str(halves)


def test_claims_that_fail_or_say_nothing_are_refusals() -> None:
    def raising(call: oy.Call, device: oy.Device) -> str | None:
        raise RuntimeError("no luck")

    for claims, reason in (
        (raising, "its claims function failed: RuntimeError: no luck"),
        (lambda call, device: False, "its claims function returned False; it must return None or the reason"),
        (lambda call, device: "", "its claims function returned ''; it must return None"),
    ):
        placement = place(oy.exp, null_registry(claims=claims), {})
        (row,) = [
            a.refusal or ""
            for a in placement.decisions[0].alternatives
            if a.candidate.kernel.name == "regions"
        ]
        assert row.startswith(f"null/regions does not claim it: {reason}")
    placement = place(oy.exp, null_registry(requires=("fp64",)), {})
    assert "null/regions does not claim it: null:0 lacks fp64" in str(placement)


def test_claims_and_accepts_are_asked_once_for_equal_work() -> None:
    asked: list[str] = []

    def claims(call: oy.Call, device: oy.Device) -> str | None:
        asked.append(f"{call.op.name} on {device.name}")
        return None if call.op.name != "matmul" else "too heavy"

    def accepts(region: Region, device: oy.Device) -> str | None:
        asked.append(f"{region.title} on {device.name}")
        return None

    def function(x: Any) -> Any:
        for _ in range(20):
            x = oy.matmul(oy.exp(oy.negative(x)), np.ones((3, 3), np.float32))
        return x

    place(function, null_registry(claims=claims, accepts=accepts), {})
    assert sorted(asked) == sorted(
        f"{what} on null:0"
        for what in (
            "exp",
            "exp",
            "matmul",
            "negative",
            "negative",
            "negative + exp",
        )  # claimed, and accepted alone
    )


def test_a_node_that_only_a_compiler_takes() -> None:
    made = oy.standard_registry()
    null = add_null_backend(made)[0]
    register(made, claims=lambda call, device: None if call.op.name == "exp" else "only exp")
    graph = oy.trace(oy.exp, SPEC)
    placement = oy.place(graph, [null], made, ScriptedCosts(), policy=Policy())
    assert kernels(placement) == ["null/regions"]
    with pytest.raises(
        PlacementError,
        match=r"no kernel can run sin.*null/regions on null:0: null/regions does not claim it: only exp",
    ):
        oy.place(oy.trace(oy.sin, SPEC), [null], made, ScriptedCosts(), policy=Policy())


def test_policies_hold_for_region_compilers() -> None:
    made = null_registry()
    cheap = {"null/regions": 1e-9}
    for chosen, expected in (
        (Policy(), ["null/regions"]),
        (Policy(block=("null/regions",)), ["null/null"] * 4),
        (Policy(pins=(("exp", "null/null"),)), ["null/regions", "null/null", "null/regions"]),
    ):
        assert kernels(place(chain, made, cheap, policy=chosen)) == expected
    blocked = place(chain, made, cheap, policy=Policy(block=("null/regions",)))
    assert "null/regions on null:0: refused: blocked: null/regions" in str(blocked)
    failed = place(chain, made, cheap, unavailable=[("regions", "null/regions")])
    assert "null/regions on null:0: refused: it failed in this run" in str(failed)
    dear = {"null/regions": 1e-3}
    assert kernels(place(chain, made, dear)) == ["null/null"] * 4
    pinned = Policy(pins=(("exp", "null/regions"),))
    assert kernels(place(chain, made, dear, policy=pinned)) == ["null/regions"]
    single = {**dear, **{f"{op} null/regions": 2e-6 for op in ("negative", "exp", "sin", "abs")}}
    assert kernels(place(chain, made, single)) == ["null/null"] * 4
    assert (
        kernels(place(chain, made, single, policy=Policy(prefer=("null/regions",)))) == ["null/regions"] * 4
    )
    assert pinned.unknown_names(made) == []
    assert "block names 'null/region', which is no backend or kernel. Did you mean null/regions" in str(
        Policy(block=("null/region",)).unknown_names(made)
    )


def test_a_pinned_composite_and_a_pinned_part_of_one_stay_out_of_regions() -> None:
    made = null_registry()
    for op in ("max", "subtract", "sum", "divide"):
        made.kernel(op, backend="null", name="null", prepare=prepare_null)
    cheap = {"null/regions": 1e-9}

    def function(x: Any) -> Any:
        return oy.abs(oy.softmax(oy.negative(x)))

    assert [d.match.title for d in place(function, made, cheap).decisions] == ["negative + softmax + abs"]
    part = place(function, made, cheap, policy=Policy(pins=(("sum", "null/null"),)))
    assert [d.match.title for d in part.decisions if d.chosen.kernel.name == "null"] == ["sum"]
    assert "sum is pinned to null/null" in str(part)
    made.kernel("softmax", backend="null", name="null", prepare=prepare_null)
    whole = place(function, made, cheap, policy=Policy(pins=(("softmax", "null/null"),)))
    assert [d.match.title for d in whole.decisions] == ["negative", "softmax", "abs"]
    assert kernels(whole) == ["null/regions", "null/null", "null/regions"]


def test_scopes_cut_regions() -> None:
    made = oy.standard_registry()
    add_null_backend(
        made, NullDevice("null:0", memory="shared"), NullDevice("null:1", memory="shared"), ops=OPS
    )
    register(made)

    def scoped(soft: bool) -> Function:
        def function(x: Any) -> Any:
            for device in ("null:0", "null:1", "null:0"):
                with oy.device(device, soft=soft):
                    x = oy.exp(oy.negative(x))
            return x

        return function

    for soft, sentence in ((False, "exp is pinned to null:1"), (True, "exp is wanted on null:1 (soft pin)")):
        placement = place(scoped(soft), made, {"null/regions": 1e-9})
        assert [d.match.title for d in placement.decisions] == ["negative + exp"] * 3
        assert [d.chosen.device.name for d in placement.decisions] == ["null:0", "null:1", "null:0"]
        assert kernels(placement) == ["null/regions"] * 3 and sentence in str(placement)
    made = null_registry()  # where the wanted device takes nothing, the pin gives way
    add_null_backend(made, NullDevice("other:0"))

    def unanswered(x: Any) -> Any:
        with oy.device("other:0", soft=True):
            return oy.exp(oy.negative(x))

    assert kernels(place(unanswered, made, {"null/regions": 1e-9})) == ["null/regions"]


# Running ---------------------------------------------------------------------------------------------------------


def test_sessions_run_regions_of_several_outputs_and_with_weights() -> None:
    made, weights = null_registry(), np.full((2, 3), 7, np.float32)

    def function(x: Any, y: Any) -> Any:
        a = oy.add(oy.exp(x), weights)
        return oy.multiply(a, y), oy.sin(a), oy.top_k(a, k=2)[1]

    costs = ScriptedCosts({"null/regions": 1e-9, "null/null": 1e-3, "reference/reference": 1.0})
    compiled = oy.compile(function, registry=made, devices="null:0", costs=costs)
    x, y = np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    placement = compiled.explain(x, y)
    assert kernels(placement) == ["null/regions"] and len(placement.decisions[0].match.outputs) == 3
    a = np.exp(x) + weights
    for result, expected in zip(compiled(x, y), (a * y, np.sin(a), np.array([[0, 1]] * 2)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def long_chain(x: Any) -> Any:
    for _ in range(10):
        x = oy.abs(oy.sin(oy.exp(oy.negative(x))))
    return x


@pytest.mark.parametrize("at", ["prepare", "run"])
def test_a_compiler_that_fails_is_put_aside_whole_and_once(at: str) -> None:
    compiled: list[str] = []

    def prepare(region: Region, device: oy.Device) -> Function:
        compiled.append(region.title)
        if at == "prepare":
            raise RuntimeError("out of registers")

        def run(*arrays: Any) -> Any:
            raise RuntimeError("out of registers")

        return run

    made = null_registry(prepare=prepare)
    costs = ScriptedCosts({"null/regions": 1e-9, "null/null": 1e-6, "reference/reference": 1.0})
    function = oy.compile(long_chain, registry=made, devices="null:0", costs=costs)
    x = np.ones((2, 3), np.float32)
    with pytest.warns(
        oy.KernelWarning,
        match=r"kernel null/regions of region of 40 ops: negative \+ exp \+ ... \+ abs raised RuntimeError: out of registers on region of 40 ops: .*sha256",
    ) as warned:
        result = function(x)
    expected = x
    for _ in range(10):
        expected = np.abs(np.sin(np.exp(-expected)))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert len(warned) == 1 and list(dict.fromkeys(compiled)) == [
        "region of 40 ops: negative + exp + ... + abs"
    ]
    assert list(made.failures) == ["regions null/regions"]
    placement = function.explain(x)
    assert kernels(placement) == ["null/null"] * 40
    assert "null/regions on null:0: refused: raised RuntimeError: out of registers on region of 40" in str(
        placement
    )
    register(made, prepare=prepare_null)  # mended
    assert made.failures == {}
    assert kernels(function.explain(x)) == ["null/regions"]


def test_many_ops_have_a_short_name_everywhere() -> None:
    placement = place(long_chain, null_registry(), {"null/regions": 1e-9})
    title = "region of 40 ops: negative + exp + ... + abs"
    (decision,) = placement.decisions
    assert decision.match.title == title
    assert f"\n{title} ({decision.node.name}): null/regions on null:0, 1 ns: " in str(placement)
    assert f'"{title}<br/>null/regions on null:0' in drawing.mermaid(placement)
    assert f'"{title}\\nnull/regions on null:0' in drawing.dot(placement)
    data = json.loads(json.dumps(placement.to_json()))
    assert data["nodes"][0]["op"] == title and len(data["nodes"][0]["nodes"]) == 40
    (step,) = [s for s in oy.make_plan(placement).to_json() if s["step"] == "run"]
    assert step["work"].startswith(f"{title} (sha256 ")
    assert describe_work(decision.match.work) == f"{step['work']} (versions negative 1, exp 1, sin 1, abs 1)"
    assert max(map(len, str(placement).splitlines())) < 200


def test_titles_and_texts_of_regions() -> None:
    def of(*specs: oy.TensorSpec, length: int = MOST_NAMED + 1) -> Region:
        def function(x: Any) -> Any:
            for _ in range(length):
                x = oy.exp(x)
            return x

        return Region(oy.trace(function, *specs))

    assert of(SPEC, length=2).title == "exp + exp" and str(of(SPEC, length=2)).startswith(
        "region(v0: float32[2, 3])"
    )
    long, same, other = of(SPEC), of(SPEC), of(oy.TensorSpec((3, 2)))
    assert long.title == other.title == "region of 7 ops: exp + exp + ... + exp"
    assert str(long) == str(same) != str(other)


# A real compiler: elementwise regions over NumPy -----------------------------------------------------------------


def host_registry(**facts: Any) -> oy.Registry:
    made = oy.standard_registry()
    add_host(made, "host", oy.Capabilities(flops=1e11, bandwidth=2e10, launch_seconds=5e-7))
    for op, ufunc in fusing.UFUNCS.items():
        made.kernel(op, backend="host", name="numpy", load=ufunc, dtypes=("float32",))
    made.region_compiler(
        backend="host",
        name="fused",
        claims=fusing.claims,
        prepare=fusing.prepare,
        accepts=fusing.accepts,
        dtypes=("float32",),
        **facts,
    )
    return made


def gelu_by_tanh(x: Any) -> Any:
    inner = oy.multiply(oy.add(x, oy.multiply(oy.multiply(oy.square(x), x), 0.044715)), 0.7978845608)
    return oy.multiply(oy.multiply(oy.add(oy.tanh(inner), 1.0), x), 0.5)


def test_a_generated_function_reuses_its_buffers() -> None:
    (largest, *_), _ = Regions(oy.trace(gelu_by_tanh, SPEC)).find(all_but())
    assert isinstance(largest.work, Region)
    source, buffers = fusing.source_of(largest.work)
    assert buffers == 1 and source.splitlines()[0] == "def block(x0, y0, b0):"
    assert source.splitlines()[1:3] == ["    square(x0, out=b0)", "    multiply(b0, x0, out=b0)"]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, fusing.BLOCK), (0, 4), (2, 3, 5)])
def test_the_compiled_region_equals_the_reference(shape: tuple[int, ...]) -> None:
    made = host_registry()
    function = oy.compile(gelu_by_tanh, registry=made, devices="host:0")
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    assert kernels(function.explain(x)) == ["host/fused"]
    expected = 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)))
    np.testing.assert_allclose(function(x), expected, rtol=1e-5, atol=1e-6)


def test_the_roofline_prefers_a_region_whose_values_stay_inside() -> None:
    """Nine passes over memory become one: the estimate counts what enters and leaves."""
    made, x = host_registry(), np.ones(1 << 20, np.float32)
    graph = oy.trace(gelu_by_tanh, oy.TensorSpec.of(x))
    devices = [made.device("host:0")]
    together = oy.place(graph, devices, made, oy.Roofline(), policy=Policy())
    apart = oy.place(graph, devices, made, oy.Roofline(), policy=Policy(block=("host/fused",)))
    assert kernels(together) == ["host/fused"] and len(apart.decisions) == 8 + 1
    assert together.seconds == pytest.approx(8 * 2**20 / 2e10 + 5e-7, abs=1e-9)
    assert apart.seconds > 6 * together.seconds


def test_the_compiler_is_not_used_where_a_kernel_covers_a_part_better() -> None:
    def function(x: Any, y: Any) -> Any:
        return oy.sqrt(oy.abs(oy.multiply(oy.add(oy.exp(x), y), 2.0)))

    made = host_registry(efficiency=0.5)
    made.pattern(
        lambda x, y: oy.add(oy.exp(x), y), backend="host", name="exp_add", prepare=lambda r, d: lambda x, y: np.exp(x) + y,
        efficiency=10.0,
    )  # fmt: skip
    compiled = oy.compile(function, registry=made, devices="host:0", costs=oy.Roofline())
    x, y = (np.random.default_rng(i).standard_normal((300, 400), np.float32) for i in range(2))
    assert kernels(compiled.explain(x, y)) == ["host/exp_add", "host/fused"]
    np.testing.assert_allclose(compiled(x, y), np.sqrt(np.abs((np.exp(x) + y) * 2)), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(graphs(most=25, ops=("tanh", "negative", "abs", "sin", "maximum", "multiply", "matmul")))
def test_random_graphs_compute_the_same_with_regions(graph: oy.Graph) -> None:
    made = host_registry()
    made.kernel("matmul", backend="host", name="numpy", load=np.matmul)
    rng = np.random.default_rng(1)
    feeds = {name: rng.uniform(-0.5, 0.5, (2, 2)).astype(np.float32) for name in graph.inputs}
    fetches = list(graph.outputs)
    with oy.Session(graph, devices="host:0", registry=made, costs=oy.Roofline()) as session:
        results = session.run(fetches, feeds)
        assert session.placement(fetches, feeds).is_optimal
    plain = oy.standard_registry()
    with oy.Session(graph, registry=plain) as session, np.errstate(all="ignore"):
        for result, expected in zip(results, session.run(fetches, feeds), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


# Tuning ----------------------------------------------------------------------------------------------------------


def tuned(made: oy.Registry, function: Function, spec: oy.TensorSpec, folder: Path) -> tuple[Any, oy.Session]:
    costs = MeasuredCosts(CostStore(folder / "costs.sqlite"))
    graph = oy.trace(function, spec)
    session = oy.Session(graph, devices="host:0", registry=made, costs=costs)
    feeds = {name: value.spec for name, value in graph.inputs.items()}
    return session.tune(graph.result, feeds, calibrate=False, budget_seconds=20.0), session


def test_tuning_measures_regions(tmp_path: Path) -> None:
    def heavy(x: Any) -> Any:
        for _ in range(4):
            x = gelu_by_tanh(x)
        return x

    made = host_registry(efficiency=0.01)  # a lie, that hides the region
    for op, ufunc in fusing.UFUNCS.items():  # made slow, so that the truth is far from it
        made.kernel(op, backend="host", name="numpy", load=_slowed(ufunc), dtypes=("float32",))
    report, session = tuned(made, heavy, oy.TensorSpec((64, 64)), tmp_path)
    assert report.stable and not report.wrong and not report.failed
    assert "host/fused" not in kernels(report.before) and set(kernels(report.after)) == {"host/fused"}
    assert "the region of 36 ops: square + multiply + ... + multiply" in {row.work for row in report.measured}
    assert kernels(session.placement(session.graph.result, {"x": oy.TensorSpec((64, 64))})) == ["host/fused"]


def _slowed(ufunc: np.ufunc) -> Function:
    def run(*arrays: Any) -> Any:
        for _ in range(200):
            result = ufunc(*arrays)
        return result

    return run


def test_tuning_refuses_a_region_that_computes_something_else(tmp_path: Path) -> None:
    made = oy.standard_registry()
    add_host(made, "host")
    for op, ufunc in fusing.UFUNCS.items():
        made.kernel(op, backend="host", name="numpy", load=ufunc)
    made.region_compiler(
        backend="host",
        name="bad",
        claims=fusing.claims,
        prepare=lambda region, device: lambda x: x,
        accepts=lambda region, device: None if len(region.graph.nodes) > 6 else "too few",
    )
    report, _ = tuned(made, gelu_by_tanh, oy.TensorSpec((8, 8)), tmp_path)
    (sentence,) = report.wrong
    assert sentence.startswith(
        "host/bad on host:0 is wrong on the region of 9 ops: square + multiply + ... + multiply: "
    )
    assert set(kernels(report.after)) == {"host/numpy"}
    assert "wrong on this machine" in str(report.after)


# Brute force -----------------------------------------------------------------------------------------------------

MEMORIES = ("host", "null:0", "other:0")


class DrawnCosts:
    """Seconds drawn at random for each kernel, work and device, whole microseconds; fewer for several nodes than for their parts."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.known: dict[Any, float] = {}
        pairs = itertools.permutations(MEMORIES, 2)
        self.between = {pair: int(self.random.integers(1, 9)) * 1e-6 for pair in pairs}

    def kernel_seconds(self, kernel: Kernel, work: Any, device: oy.Device) -> oy.Estimate:
        key = kernel.id, str(work), device.name
        if key not in self.known:
            count = len(work.graph.nodes) if isinstance(work, Region) else 1
            self.known[key] = int(self.random.integers(1, 8 + 4 * count)) * 1e-6
        return oy.Estimate(self.known[key], "drawn")

    def transfer_seconds(self, source: oy.Device, target: oy.Device, nbytes: float) -> float:
        return self.between.get((source.memory, target.memory), 0.0)


def can_run(cover: list[tuple[Match, Candidate]]) -> bool:
    waiting, made = [match for match, _ in cover], set()
    while waiting:
        ready = [m for m in waiting if all(v is None or v.node is None or v in made for v in m.inputs)]
        if not ready:
            return False
        made.update(value for match in ready for value in match.outputs)
        waiting = [match for match in waiting if match not in ready]
    return True


def seconds_of(graph: oy.Graph, cover: list[tuple[Match, Candidate]], costs: DrawnCosts) -> float:
    """Kernels, and each tensor once for each memory that needs it, by way of another where that is cheaper."""
    total = sum(candidate.seconds for _, candidate in cover)
    made = {value: candidate.device.memory for match, candidate in cover for value in match.outputs}
    needed: dict[Any, set[str]] = {value: {"host"} for value in graph.outputs.values()}
    for match, candidate in cover:
        for value in match.inputs:
            if value not in graph.constants:
                needed.setdefault(value, set()).add(candidate.device.memory)
    for value, targets in needed.items():
        total += delivery(made.get(value, "host"), frozenset(targets), costs.between)
    return total


def delivery(source: str, targets: frozenset[str], between: dict[tuple[str, str], float]) -> float:
    """The cheapest tree from one memory to others, by trying every order in which memories can be reached."""
    best = 0.0 if targets <= {source} else float("inf")
    others = [memory for memory in MEMORIES if memory != source]
    for count in range(1, len(others) + 1):
        for order in itertools.permutations(others, count):
            if targets <= {source, *order}:
                reached = [source]
                total = 0.0
                for memory in order:
                    total += min(between[known, memory] for known in reached)
                    reached.append(memory)
                best = min(best, total)
    return best


@settings(max_examples=60, deadline=None)
@given(graphs(most=5), st.integers(0, 2**32), st.sets(st.sampled_from(OPS[:6]), max_size=2))
def test_the_optimum_and_every_price_agree_with_brute_force(
    graph: oy.Graph, seed: int, unclaimed: set[str]
) -> None:
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), ops=OPS[:6])
    add_null_backend(made, NullDevice("other:0"), ops=OPS[:3])
    register(made)
    register(made, backend="other", claims=lambda c, d: "no" if c.op.name in unclaimed else None)
    made.pattern(lambda x: oy.exp(oy.abs(x)), backend="null", name="exp_abs", prepare=prepare_null)
    made.pattern(
        lambda x, y: oy.negative(oy.add(x, y)), backend="other", name="negative_add", prepare=prepare_null
    )
    costs, devices = DrawnCosts(seed), made.devices()
    placement = oy.place(graph, devices, made, costs, home=made.device("reference"), policy=Policy())
    usable, _ = Collector(devices, made, Policy(), costs).ways(graph, [])
    least: dict[Any, float] = {}
    for cover in filter(can_run, covers(graph, usable)):
        total = seconds_of(graph, cover, costs)
        for match, candidate in cover:
            key = match.nodes, candidate.kernel.id, candidate.device.name
            least[key] = min(total, least.get(key, total))
    chosen = [(decision.match, decision.chosen) for decision in placement.decisions]
    assert can_run(chosen)
    assert seconds_of(graph, chosen, costs) == pytest.approx(placement.seconds, abs=1e-12)
    assert placement.is_optimal and placement.seconds == pytest.approx(min(least.values()), abs=1e-12)
    for decision in placement.decisions:
        for other in decision.alternatives:
            key = other.match.nodes, other.candidate.kernel.id, other.candidate.device.name
            if other.extra_seconds is not None:
                assert other.extra_seconds <= least[key] - placement.seconds + 1e-12
