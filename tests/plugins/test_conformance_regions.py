"""Kernels of patterns, regions and layouts before ``opyard conformance``: which graphs they get, and what is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusing
import opyard as oy
from hosts import add_host
from opyard import Registry, TensorSpec, trace
from opyard.region import Region
from opyard.testing import add_null_backend, prepare_null
from opyard_conformance import Report, run_conformance
from opyard_conformance.oracle import expect
from opyard_conformance.regions import region_trials

# Layouts ---------------------------------------------------------------------------------------------------------


def backwards(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.flip(array.reshape(-1)).reshape(array.shape)


def with_layouts(function: Callable[..., Any], *conversions: str, **layouts: str) -> Registry:
    registry = oy.standard_registry()
    add_host(registry, "mine")
    registry.kernel("exp", backend="mine", name="k", load=function, dtypes=("float32",), layouts=layouts)
    for name in conversions:
        side = {"turn": "output", "back": "x"}[name]
        registry.kernel("identity", backend="mine", name=name, load=backwards, layouts={side: "backwards"})
    return registry


def test_kernels_with_layouts_are_checked_through_the_conversions_of_their_backend() -> None:
    both = {"x": "backwards", "output": "backwards"}
    right = run_conformance("mine", registry=with_layouts(np.exp, "turn", "back", **both))
    assert not right.failures
    assert right.counts["passed"] > 50
    wrong = run_conformance("mine", registry=with_layouts(np.exp, "turn", "back", x="backwards"), ops=["exp"])
    assert any("differ" in failure.detail for failure in wrong.failures)
    (errors,) = (o for o in right.outcomes if o.op == "exp" and o.case.endswith("@errors"))
    assert (errors.status, errors.detail) == (
        "unjudged",
        "programs do not call kernels with layouts of their own",
    )
    assert not any("@threads" in o.case and o.status == "unsupported" for o in right.outcomes)


def test_a_layout_without_a_conversion_is_unsupported() -> None:
    report = run_conformance("mine", registry=with_layouts(np.exp, output="backwards"), ops=["exp"])
    assert not report.counts["passed"]
    reasons = report.summaries()[0].reasons
    assert any(
        "brings float32[3, 4] from layout 'backwards' to ''; its backend has to register one" in r
        for r in reasons
    )


# Judging regions -------------------------------------------------------------------------------------------------


def test_a_composite_of_a_region_may_round_in_its_parts() -> None:
    """gelu subtracts numbers near 1 there: units of x / 2 are many of the result."""
    one = np.ones((1, 1), np.float32)
    region = Region(trace(lambda x, w: oy.gelu(x @ w), TensorSpec.of(one), TensorSpec.of(one)))
    x = np.full((1, 1), -2.86, np.float32)
    expected = expect(region, (x, one))
    assert not expected.problem
    (right,), unit = expected.outputs, 2.86 / 2 * np.finfo(np.float32).eps
    assert expected.violation(0, right + np.float32(2 * unit)) is None
    assert "differ" in str(expected.violation(0, right + np.float32(100 * unit)))


# Patterns --------------------------------------------------------------------------------------------------------


def pattern_report(
    function: Callable[..., Any], change: Callable[[Any], Any] = lambda x: x, **facts: Any
) -> Report:
    registry = oy.standard_registry()
    add_host(registry, "mine")

    def prepare(region: Region, device: Any) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            results = tuple(change(array) for array in region.reference(*arrays))
            return results if region.is_tuple else results[0]

        return run

    registry.pattern(function, backend="mine", name="p", prepare=prepare, **facts)
    return run_conformance("mine", registry=registry)


PATTERNS: list[tuple[Callable[..., Any], str]] = [
    (lambda x, w, b: oy.relu(oy.add(oy.matmul(x, w), b)), "matmul+add+relu:float32[3,4]-float32[4,5]-"),
    (lambda x, w, b: oy.relu(oy.add(oy.conv(x, w), b)), "conv+add+relu:"),
    (lambda x: oy.multiply(oy.exp(x), 0.5), "exp+multiply:float32[3,4]"),
    (lambda x, y: (oy.exp(x), oy.sin(oy.add(oy.exp(x), y))), "exp+exp+add+sin:"),
    (lambda x: oy.exp(oy.top_k(x, k=2)[0]), "top_k+exp:"),
]


@pytest.mark.parametrize(("function", "begins"), PATTERNS)
def test_pattern_kernels_run_on_graphs_that_their_pattern_matches(
    function: Callable[..., Any], begins: str
) -> None:
    report = pattern_report(function)
    assert [(o.case, o.detail) for o in report.failures] == []
    assert report.counts["passed"] >= 10
    assert report.outcomes[0].op == "patterns"
    assert any(outcome.case.startswith(begins) for outcome in report.outcomes), [
        o.case for o in report.outcomes
    ]
    wrong = pattern_report(function, lambda x: x * x.dtype.type(1 + 1e-4) if x.dtype.kind == "f" else x)
    assert any("ulp, allowed" in failure.detail for failure in wrong.failures)


def test_a_failure_of_a_pattern_has_a_command() -> None:
    failure = pattern_report(PATTERNS[2][0], np.zeros_like).failures[0]
    assert failure.command == (
        "opyard conformance --backend mine:0 --op patterns --kernel mine/p --case 'exp+multiply:float32[3,4]'"
    )


def test_a_pattern_for_which_no_graph_is_found_is_no_success() -> None:
    report = pattern_report(lambda x, y: oy.conv(oy.flatten(x), y))  # of rank 2, which conv never takes
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.detail) == ("unsupported", "no graph was found that it takes")


def test_what_a_pattern_kernel_refuses_is_unsupported() -> None:
    report = pattern_report(PATTERNS[0][0], accepts=lambda region, device: "not on Sundays")
    assert set(report.counts) == {"unsupported"}
    assert report.summaries()[0].reasons == ("not on Sundays",)


# Region compilers ------------------------------------------------------------------------------------------------


def region_report(prepare: Callable[..., Any], seed: int = 0, level: str = "core") -> Report:
    registry = oy.standard_registry()
    add_host(registry, "mine")
    facts: Any = {"claims": fusing.claims, "accepts": fusing.accepts}
    registry.region_compiler(backend="mine", name="fuse", prepare=prepare, dtypes=("float32",), **facts)
    return run_conformance("mine", registry=registry, seed=seed, level=level)


@pytest.mark.parametrize("seed", range(3))
def test_region_compilers_run_on_random_regions(seed: int) -> None:
    report = region_report(fusing.prepare, seed)
    assert [(o.case, o.detail) for o in report.failures] == []
    assert report.counts["passed"] >= 25
    assert {outcome.op for outcome in report.outcomes} == {"regions"}


def test_a_wrong_region_compiler_is_found() -> None:
    def prepare(region: Region, device: Any) -> Callable[..., Any]:
        run = fusing.prepare(region, device)

        def wrong(*arrays: Any) -> Any:
            result = run(*arrays)
            for one in result if region.is_tuple else (result,):
                one.reshape(-1)[-1:] *= 1 + 1e-3
            return result

        return wrong

    failures = region_report(prepare).failures
    assert len(failures) > 20
    assert failures[0].command.startswith(
        "opyard conformance --backend mine:0 --op regions --kernel mine/fuse --case 'region-0:float32["
    )


def test_random_regions_are_claimed_connected_and_the_same_each_time() -> None:
    registry = oy.standard_registry()
    device = add_host(registry, "mine")
    registry.region_compiler(
        backend="mine", name="fuse", prepare=fusing.prepare, claims=fusing.claims, dtypes=("float32",)
    )
    (kernel,) = registry.region_compilers
    found = list(region_trials(registry, kernel, device, "core"))
    again = list(region_trials(registry, kernel, device, "core"))
    assert [trial.id for trial in found] == [trial.id for trial in again]
    assert [str(t.region.graph) for t in found if t.region] == [
        str(t.region.graph) for t in again if t.region
    ]
    sizes = set()
    for trial in found:
        assert trial.region is not None
        nodes = trial.region.graph.nodes
        sizes.add(len(nodes))
        made: dict[Any, None] = {}
        for number, node in enumerate(nodes):
            assert kernel.claim_refusal(node.call, device) is None
            assert number == 0 or any(value in made for value in node.inputs if value is not None)
            made.update(dict.fromkeys(node.outputs))
    assert min(sizes) >= 2 and max(sizes) >= 8


def test_two_of_three_regions_are_such_as_a_compiler_accepts() -> None:
    """One that takes a single product, which few random graphs have: shapes must fit, and a second one spoils it."""

    def accepts(region: Region, device: Any) -> str | None:
        products = [node for node in region.graph.nodes if node.op.name == "matmul"]
        return None if len(products) == 1 else f"it has {len(products)} products"

    def claims(call: Any, device: Any) -> str | None:
        return None if call.op.name in ("matmul", "exp", "abs", "add", "tanh", "relu") else "not mine"

    registry = oy.standard_registry()
    device = add_host(registry, "mine")
    facts: Any = {"claims": claims, "accepts": accepts, "dtypes": ("float32", "float64")}
    registry.region_compiler(backend="mine", name="fuse", prepare=fusing.prepare, **facts)
    (kernel,) = registry.region_compilers
    found = {trial.name: trial.region for trial in region_trials(registry, kernel, device, "core")}
    assert len(found) == 30
    refused = [region for region in found.values() if region and kernel.refusal(region, device)]
    assert 1 <= len(refused) <= 10
    assert any(len(region.graph.nodes) > 4 for region in found.values() if region and region not in refused)


def test_a_compiler_that_claims_nothing_has_no_case() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry)
    registry.region_compiler(
        backend="null", name="idle", prepare=prepare_null, claims=lambda call, device: "nothing today"
    )
    (outcome,) = run_conformance("null", registry=registry).outcomes
    assert (outcome.status, outcome.detail) == ("unsupported", "no graph was found that it takes")
