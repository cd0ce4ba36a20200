"""The ONNX project's own backend test suite, and that its counts cannot be had for nothing."""

from __future__ import annotations

import json
import unittest
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import opyard as oy
from onnx_models import model
from opyard_onnx import suite
from opyard_onnx.backend import backend_for

BACKENDS = [name for name in ("cpu", "opencl") if f"{name}:0" in {device.name for device in oy.devices()}]
SOME = "^test_(add|conv|reduce_sum|softmax|gemm|lstm|loop11|nonzero|quantizelinear|sequence_model1|training_dropout)"


def check(backend: str, results: list[suite.CaseResult], least: dict[str, int]) -> None:
    """Nothing surprises, and so many cases of each group passed."""
    wrong = suite.surprises(results, suite.exceptions(backend))
    assert not wrong, "\n".join(wrong)
    found = suite.counts(results)
    for group, count in least.items():
        assert found[group]["passed"] >= count, group


def test_the_whole_suite():
    """On the CPU: everything that is not in exceptions.txt, with outputs compared."""
    results = list(suite.run("cpu"))
    check(
        "cpu",
        results,
        {"node": 1860, "pytorch-converted": 82, "pytorch-operator": 35, "simple": 23, "real": 9},
    )
    ran = sum((result.ran for result in results), Counter[str]())
    assert ran["cpu"] > 7_000  # attention, loops and regions of ops are one node each


@pytest.mark.skipif("opencl" not in BACKENDS, reason="no OpenCL device here")
def test_a_part_of_the_suite_on_opencl():
    results = list(suite.run("opencl", SOME))
    check("opencl", results, {"node": 60})
    ran = sum((result.ran for result in results), Counter[str]())
    assert ran["opencl"] > 0.9 * sum(ran.values())


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["opencl", "reference"])
def test_the_whole_suite_on_other_devices(backend: str):
    check(backend, list(suite.run(backend)), {"node": 1850, "real": 9})


def test_every_exception_has_a_reason_and_is_a_case():
    for backend in ("cpu", "opencl"):
        known = suite.exceptions(backend)
        assert known and all(len(reason.split()) >= 4 for reason in known.values())


def test_a_backend_that_does_nothing_passes_nothing(monkeypatch: pytest.MonkeyPatch):
    """The suite itself counts BackendIsNotSupposedToImplementIt as passed."""
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

    class Nothing:
        @classmethod
        def prepare(cls, *_: Any, **__: Any) -> Any:
            raise BackendIsNotSupposedToImplementIt("nothing")

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    monkeypatch.setattr("opyard_onnx.backend.backend_for", lambda *_, **__: Nothing)
    results = list(suite.run("reference", "^test_(abs|relu)$"))
    assert [(r.name, r.outcome, r.reason) for r in results] == [
        ("test_abs", "failed", "no output was compared"),
        ("test_relu", "failed", "no output was compared"),
    ]


def test_surprises_go_both_ways():
    results = [
        suite.CaseResult("test_a", "node", "passed"),
        suite.CaseResult("test_b", "node", "failed", "wrong"),
        suite.CaseResult("test_c", "node", "unsupported", "no operator"),
    ]
    assert suite.surprises(results, {"test_a": "reason", "test_c": "reason", "test_d": "not run"}) == [
        "test_b (node) failed: wrong",
        "test_a passes now; take it out of exceptions.txt",
    ]


def test_models_that_are_not_imported_are_skipped_with_the_reason():
    backend = backend_for("reference", devices="reference")
    with pytest.raises(unittest.SkipTest, match="is written for opset 999"):
        backend.prepare(model("g (float[1] x) => (float[1] y) { y = Relu (x) }", opset=999))
    prepared = backend.prepare(model("g (float[1] x) => (float[1] y) { y = Frobnicate (x) }"))
    with pytest.raises(unittest.SkipTest, match="has no operator Frobnicate of opset 21"):
        prepared.run([np.zeros(1, "float32")])
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA")


def test_the_command_prints_counts_and_fails_on_surprises(monkeypatch: pytest.MonkeyPatch):
    run = CliRunner().invoke
    done = run(suite.main, ["--device", "cpu", "--only", "^test_(relu|dft_inverse)$"], standalone_mode=False)
    assert done.return_value == 0
    assert "node   1 of 2                    0            1" in done.output
    assert "cpu 1" in done.output and "reference 1" in done.output and "(of 2)" in done.output
    assert "known  test_dft_inverse: ten zeros are expected as 1.9e-7" in done.output
    data = json.loads(
        run(suite.main, ["--only", "^test_string_concat$", "--json"], standalone_mode=False).output
    )
    assert data["counts"] == {"node": {"passed": 1, "all": 1}} and data["passed_without_a_node"] == 1
    monkeypatch.setattr(suite, "exceptions", lambda _: {"test_relu": "a reason"})
    done = run(suite.main, ["--only", "^test_relu$"], standalone_mode=False)
    assert (
        done.return_value == 1 and "WRONG  test_relu passes now; take it out of exceptions.txt" in done.output
    )


def test_the_suite_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))
    assert [r.outcome for r in suite.run("reference", "^test_squeezenet$")] == ["passed"]
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("ONNX_HOME")
    assert list(suite.run("reference", "^test_none_such$")) == []
