"""ONNX Runtime and OpenVINO as region compilers: what they claim, what they compute, and how arrays reach them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.kernels import Kernel
from opyard.placement import CostStore, MeasuredCosts
from opyard.placement.regions import find_regions
from opyard.region import Region
from opyard.testing import ScriptedCosts
from opyard_bench.models.suite import NAMES, build
from opyard_engines import regions
from opyard_engines.plugin import ENGINES, opyard_register

X = oy.TensorSpec((2, 3, 8, 8), "float32")
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3), np.float32)


def made_registry() -> oy.Registry:
    """The CPU backend, with and beside its kernels the engines."""
    from opyard_cpu.plugin import opyard_register as register_cpu

    registry = oy.standard_registry()
    register_cpu(registry)
    opyard_register(registry)
    return registry


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_ENGINES", "1")


@pytest.fixture(scope="module")
def registry() -> oy.Registry:
    return made_registry()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, registry: oy.Registry) -> Kernel:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return next(k for k in registry.region_compilers if k.name == request.param)


def block(x: Any) -> Any:
    y = oy.relu(oy.conv(x, WEIGHT, padding=1))
    return oy.flatten(oy.global_average_pool(y), axis=1), oy.sigmoid(y)


def largest(engine: Kernel, registry: oy.Registry, graph: oy.Graph) -> Any:
    matches, _ = find_regions(engine, graph, registry.device("cpu:0"))
    return max(matches, key=lambda match: len(match.nodes))


def only(engine: Kernel, graph: oy.Graph, registry: oy.Registry) -> oy.Session:
    """A session for which everything else is dear."""
    prices = {kernel.id: 1.0 for kernel in registry.all_kernels()} | {engine.id: 1e-6}
    return oy.Session(graph, devices="cpu:0", registry=registry, costs=ScriptedCosts(prices))


@pytest.mark.parametrize("name", NAMES)
def test_engines_agree_with_the_references_on_whole_models(
    name: str, engine: Kernel, registry: oy.Registry
) -> None:
    model = build(name, 2, "tiny")
    names = list(model.graph.outputs)
    expected = oy.Session(model.graph, devices="reference", registry=registry).run(names, model.feeds)
    session = only(engine, model.graph, registry)
    used = {d.chosen.kernel.id for d in session.placement(names, model.feeds).decisions}
    assert engine.id in used
    call = session.callable(names, list(model.feeds))
    for _ in range(2):
        for one, other in zip(call(*model.feeds.values()), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 * float(np.abs(other).max()))


def test_several_outputs_views_and_given_buffers(engine: Kernel, registry: oy.Registry) -> None:
    device = registry.device("cpu:0")
    match = largest(engine, registry, oy.trace(block, X))
    run = engine.bind(match.work, device)
    wide = np.random.default_rng(1).standard_normal((2, 3, 8, 16), np.float32)
    for x in (wide[..., :8], np.ascontiguousarray(wide[..., 8:]), wide[..., ::-2]):
        arrays = [x if spec.shape == X.shape else WEIGHT for spec in match.work.inputs]
        for found, expected in zip(run(*arrays), match.work.reference(*arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    one = largest(engine, registry, oy.trace(lambda x: oy.relu(x * 2.0 + 1.0), X))
    run = engine.bind(one.work, device)
    expected = one.work.reference(wide[..., :8])[0]
    for buffer in (np.empty(X.shape, np.float32), np.empty((2, 3, 8, 16), np.float32)[..., ::2]):
        assert run(wide[..., :8], out=buffer) is buffer
        np.testing.assert_allclose(buffer, expected, rtol=1e-6)
    np.testing.assert_allclose(run(wide[..., :8]), expected, rtol=1e-6)


def test_weights_become_constants(engine: Kernel, registry: oy.Registry) -> None:
    graph = oy.trace(lambda x: oy.relu(oy.conv(x, WEIGHT) * 2.0), X)
    match = largest(engine, registry, graph)
    made, left = regions.with_constants(
        match.work, [None if s.shape == X.shape else WEIGHT for s in match.work.inputs]
    )
    assert [made.inputs[name].shape for name in made.inputs] == [X.shape]
    assert len(left) == 1
    assert any(array is WEIGHT for array in made.constants.values())


@pytest.mark.parametrize(
    "function, dtype, reason",
    [
        (lambda x: oy.argmax(x, axis=1), "float32", "is asked for float32 alone, and the output is int64"),
        (lambda x: oy.relu(x), "float64", "is asked for float32 alone, and the output is float64"),
        (lambda x: oy.cast(x, dtype="float32"), "float16", "alone, and an input is float16"),
        (lambda x: oy.cast(oy.signbit(x), dtype="float32"), "float32", "alone, and an input is bool"),
    ],
)
def test_what_engines_refuse(
    function: Callable[..., Any], dtype: str, reason: str, engine: Kernel, registry: oy.Registry
) -> None:
    graph = oy.trace(function, oy.TensorSpec((2, 3), dtype))
    _, reasons = find_regions(engine, graph, registry.device("cpu:0"))
    assert any(reason in sentence for sentence in reasons.values()), reasons


def test_empty_arrays_and_ops_without_a_form_are_refused(engine: Kernel, registry: oy.Registry) -> None:
    device = registry.device("cpu:0")
    empty = oy.relu.op.call(oy.TensorSpec((0, 3)))
    assert "is given no empty arrays" in str(engine.claim_refusal(empty, device))
    own = oy.op("acme.own", infer=lambda x: x)(_own)
    assert "does not take it: " in str(engine.claim_refusal(own.op.call(oy.TensorSpec((2, 3))), device))


def _own(x: Any) -> Any:
    """An op that no engine knows."""
    return x


def test_small_and_huge_regions_are_refused(engine: Kernel, registry: oy.Registry) -> None:
    device = registry.device("cpu:0")
    two = oy.trace(lambda x: oy.relu(oy.exp(x)), X)
    assert engine.refusal(Region(two), device) == "engines take 3 ops or more at once, this region has 2"
    wide = oy.TensorSpec((2**15, 2**15))
    three = oy.trace(lambda x: oy.relu(oy.exp(oy.tanh(x))), wide)
    assert "and an ONNX model ends at 2 GB" in str(engine.refusal(Region(three), device))


def test_an_engine_that_is_not_installed_says_what_to_type(registry: oy.Registry) -> None:
    call = oy.relu.op.call(X)
    assert (
        regions.refusal(call, "Some Engine", "no_such_module", str)
        == "Some Engine is not installed. Type: pip install no_such_module"
    )


def test_tuning_measures_engines_beside_kernels(
    engine: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # about the price of the kernels together, so that only measuring can tell
    for name, price in ("EFFICIENCY", 100.0), ("CALL_SECONDS", 2e-6), ("NODE_SECONDS", 1e-9):
        monkeypatch.setattr(regions, name, price)
    costs = MeasuredCosts(CostStore(tmp_path / "costs.sqlite"))
    model = build("mlp", 64, "tiny")
    session = oy.Session(model.graph, devices="cpu:0", registry=made_registry(), costs=costs)
    report = session.tune("probabilities", model.feeds, budget_seconds=10.0, calibrate=False)
    assert not report.wrong and not report.failed
    assert any(row.kernel == engine.id for row in report.measured)


def test_nothing_is_given_to_an_engine_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_ENGINES", "0")
    assert regions.refusal(oy.relu.op.call(X), "Some Engine", "numpy", str) == (
        "Some Engine does not keep every NaN; OPYARD_ENGINES=1 allows it"
    )
    monkeypatch.setenv("OPYARD_ENGINES", "yes")
    with pytest.raises(oy.OpyardError, match=r"OPYARD_ENGINES is 0 or 1; found 'yes'\."):
        regions.refusal(oy.relu.op.call(X), "Some Engine", "numpy", str)
