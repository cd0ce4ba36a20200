"""The ONNX project's own backend test suite, run on one device: ``python -m opyard_onnx.suite --device cpu``.

Only cases whose outputs were compared count as passed. ``exceptions.txt`` lists those that do not pass, with a reason each; a
case that is not in it and does not pass is a failure, and so is one that is in it and passes.
"""

from __future__ import annotations

import os
import re
import tempfile
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import click

import opyard as oy
from opyard.cli.output import json_option, print_json, print_table, print_text
from opyard.registry import REFERENCE

GROUPS = {
    "OnnxBackendNodeModelTest": "node",
    "OnnxBackendPyTorchConvertedModelTest": "pytorch-converted",
    "OnnxBackendPyTorchOperatorModelTest": "pytorch-operator",
    "OnnxBackendSimpleModelTest": "simple",
    "OnnxBackendRealModelTest": "real",
}
"""Kinds of cases by the names that the suite's runner gives them."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case.

    outcome  "passed": every output was compared and equal; "unsupported"; "failed"
    reason   why it did not pass
    ran      nodes by the backend that ran them; empty where everything was known at import
    """

    name: str
    group: str
    outcome: str
    reason: str = ""
    ran: Counter[str] = field(default_factory=Counter)


class OnDevice:
    """Costs that bring every op to one device if it has any kernel for it, so that the device is tested and not chosen."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def kernel_seconds(self, kernel: Any, work: Any, device: Any) -> oy.Estimate:
        """A microsecond on the device, a second elsewhere, and more by the reference."""
        rank = {self.backend: 1e-6, REFERENCE: 10.0}
        return oy.Estimate(rank.get(kernel.backend, 1.0), "suite")

    def transfer_seconds(self, source: Any, target: Any, nbytes: float) -> float:
        """Nothing to speak of."""
        return 0.0 if source is target else 1e-7


def options_for(backend: str) -> dict[str, Any]:
    """Options of opyard.Session that test one backend; the CPU and the references run what it has no kernels for."""
    names = dict.fromkeys([f"{backend}:0", "cpu:0", REFERENCE])
    devices = [REFERENCE] if backend == REFERENCE else list(names)
    return {"devices": devices, "costs": OnDevice(backend)}


def exceptions(backend: str) -> dict[str, str]:
    """Reasons of the cases that are known not to pass, by name."""
    text = resources.files("opyard_onnx").joinpath("exceptions.txt").read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            names, _, reason = line.partition(": ")
            where, _, name = names.rpartition("/")
            if where in ("", backend):
                found[name] = reason
    return found


def run(backend: str, pattern: str = "") -> Iterator[CaseResult]:
    """Runs all cases, or those whose name the pattern is found in."""
    from onnx.backend.test.runner import Runner

    from opyard_onnx.backend import backend_for

    class Comparing(Runner):  # type: ignore[misc]
        compared = 0

        @classmethod
        def assert_similar_outputs(cls, *given: Any, **options: Any) -> None:
            Comparing.compared += 1
            super().assert_similar_outputs(*given, **options)

    ran: Counter[str] = Counter()
    made = backend_for(backend, observe=ran, **options_for(backend))
    with _folder_for_models(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about overflow in the expected values
        for title, cases in Comparing(made).test_cases.items():
            for name, function in vars(cases).items():
                case = name.removesuffix("_cpu")
                if case == name or not re.search(pattern, case):
                    continue
                Comparing.compared = 0
                ran.clear()
                outcome, reason = _outcome(function)
                if outcome == "passed" and not Comparing.compared:
                    outcome, reason = "failed", "no output was compared"
                yield CaseResult(case, GROUPS[title], outcome, reason, Counter(ran))


def _outcome(function: Any) -> tuple[str, str]:
    try:
        function(None)
    except unittest.SkipTest as error:
        return "unsupported", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "passed", ""


@contextmanager
def _folder_for_models() -> Iterator[None]:
    """The suite writes inputs of its models below ONNX_HOME: a folder that goes away again."""
    before = os.environ.get("ONNX_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONNX_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["ONNX_HOME"]
            else:
                os.environ["ONNX_HOME"] = before


def surprises(results: Sequence[CaseResult], known: dict[str, str]) -> list[str]:
    """A sentence for each case that did not pass and is not known for it, and for each that is known and passed."""
    found = [
        f"{r.name} ({r.group}) {r.outcome}: {r.reason}"
        for r in results
        if r.outcome != "passed" and r.name not in known
    ]
    passed = {r.name for r in results if r.outcome == "passed"}
    return found + [f"{name} passes now; take it out of exceptions.txt" for name in known if name in passed]


def counts(results: Sequence[CaseResult]) -> dict[str, Counter[str]]:
    """Cases by group and outcome; ``all`` counts the group."""
    found: dict[str, Counter[str]] = {group: Counter() for group in GROUPS.values()}
    for result in results:
        found[result.group].update([result.outcome, "all"])
    return {group: count for group, count in found.items() if count}


@click.command()
@click.option("--device", "backend", default="cpu", show_default=True, help="cpu, opencl, cuda or reference.")
@click.option(
    "--only", default="", metavar="PATTERN", help="Cases in whose name this regular expression is found."
)
@json_option
def main(backend: str, only: str, as_json: bool) -> int:
    """Run the ONNX backend test suite on a device. The exit status is 1 when a case surprises."""
    results = list(run(backend, only))
    known = exceptions(backend)
    wrong = surprises(results, known)
    ran = sum((r.ran for r in results), Counter[str]())
    idle = sum(r.outcome == "passed" and not r.ran for r in results)
    if as_json:
        print_json(
            {
                "device": backend,
                "counts": {group: dict(count) for group, count in counts(results).items()},
                "nodes": dict(ran),
                "passed_without_a_node": idle,
                "surprises": wrong,
                "cases": [
                    {"name": r.name, "group": r.group, "outcome": r.outcome, "reason": r.reason}
                    for r in results
                ],
            }
        )
        return int(bool(wrong))
    rows = [
        [group, f"{count['passed']} of {count['all']}", count["unsupported"], count["failed"]]
        for group, count in counts(results).items()
    ]
    print_table(["group", "passed, outputs compared", "unsupported", "failed"], rows)
    total = sum(ran.values())
    print_text(
        f"\nnodes run by {', '.join(f'{name} {n}' for name, n in ran.most_common()) or 'none'} (of {total})"
    )
    print_text(f"{idle} of the passed cases are known at import and run no node")
    for result in results:
        if result.outcome != "passed" and result.name in known:
            print_text(f"known  {result.name}: {known[result.name]}", hanging=7)
    for sentence in wrong:
        print_text(f"WRONG  {sentence}", hanging=7)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main(standalone_mode=False))
