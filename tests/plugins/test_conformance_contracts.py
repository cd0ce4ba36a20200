"""What a single run does not show: threads, overlapping runs, refused inputs, lazy results, several devices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from conforming import checked
from hosts import Devices, HostDevice, add_host
from opyard.testing import NullArray, add_null_backend
from opyard_conformance import contracts, run_conformance, trials
from opyard_conformance.contracts import CONTRACTS

# Threads, overlapping runs, refused inputs ------------------------------------------------------------------------


def prepare_shared_scratch(call: Any, device: Any) -> Any:
    scratch = np.empty(call.output.shape, call.output.dtype)

    def run(x: Any) -> Any:
        np.exp(x, out=scratch)
        time.sleep(0)  # another thread may go on here, as it may anywhere in a kernel that releases the GIL
        return scratch.copy()

    return run


def prepare_counting(call: Any, device: Any) -> Any:
    running: list[int] = []

    def run(x: Any) -> Any:
        running.append(1)
        time.sleep(0.001)
        alone = len(running) == 1
        running.pop()
        if not alone:
            raise RuntimeError("one at a time")
        return np.exp(x)

    return run


SHARED: dict[Any, Any] = {}


def prepare_static_buffer(call: Any, device: Any) -> Any:
    """Preparations for equal shapes share one buffer, and the second of them spoils what the first gave."""
    buffers = SHARED.setdefault(call.output, {})
    mine = buffers.setdefault(len(buffers), np.empty((64, *call.output.shape), call.output.dtype))
    others = [buffer for buffer in buffers.values() if buffer is not mine]
    turn: list[int] = []

    def run(x: Any) -> Any:
        turn.append(1)
        result = mine[len(turn) % 64]
        np.exp(x, out=result)
        for other in others:
            other[...] = 0
        return result

    return run


def late(x: Any) -> Any:
    """Gives an array that a thread fills later: as on another stream, for which nobody waits."""
    result = np.zeros_like(x)

    def work() -> None:
        time.sleep(0.02)
        with np.errstate(all="ignore"):
            result[...] = np.exp(x)

    threading.Thread(target=work).start()
    return result


class Promise:
    """No array: it computes when it is downloaded, from what its input is then."""

    def __init__(self, x: Any) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.exp(self.x)


def lenient_product(x1: Any, x2: Any) -> Any:
    try:
        return np.matmul(x1, x2)
    except ValueError:
        return np.zeros(x1.shape[:1], x1.dtype)


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("exp", {"prepare": prepare_shared_scratch}, "run by 4 threads at once, a result is wrong: "),
    (
        "exp",
        {"prepare": prepare_counting},
        "run by 4 threads at once: it accepts the call and raises Runtime",
    ),
    (
        "exp",
        {"prepare": prepare_static_buffer},
        "several runs started before the device was waited for, a result is wrong: ",
    ),
    ("exp", {"load": late}, "differ"),
    ("exp", {"load": Promise}, "output 0: it returned Promise, which is no array of mine:0"),
    (
        "matmul",
        {"load": lenient_product},
        "given an input 0 of rank 7, which the op refuses, it gives a result",
    ),
]


@pytest.mark.parametrize(("op", "facts", "text"), BROKEN)
def test_broken_contracts_are_found(op: str, facts: dict[str, Any], text: str) -> None:
    failures = checked(op, **facts).failures
    assert any(text in failure.detail for failure in failures), [f.detail for f in failures]


def test_a_lazy_result_is_found() -> None:
    """Computed when it is downloaded, from what its input is then; waiting for the device does not help."""

    class Lazy(HostDevice):
        pending: list[Callable[[], Any]] = []  # noqa: RUF012

        def download(self, array: Any) -> Any:
            with np.errstate(all="ignore"):
                while self.pending:
                    self.pending.pop()()
            return super().download(array)

    def later(x: Any) -> Any:
        result = np.zeros_like(x)
        Lazy.pending.append(lambda: np.exp(x, out=result))
        return result

    registry = oy.standard_registry()
    registry.backend("mine", load=lambda: Devices(Lazy("mine:0")))
    registry.kernel("exp", backend="mine", name="k", load=later, dtypes=("float32",))
    report = run_conformance("mine", registry=registry, ops=["exp"])
    assert {failure.case for failure in report.failures} == {"float32[3,4]@overlap"}
    (failure,) = report.failures
    assert "several runs started before the device was waited for, a result is wrong: " in failure.detail


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (TypeError("what is this?"), "refuses, it raises TypeError: what is this?"),
        (MemoryError(), "refuses, it raises MemoryError"),
        (None, "given an input 0 of rank 7, which the op refuses, it gives a result"),
    ],
)
def test_refused_inputs_end_in_an_error_of_opyard(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, text: str
) -> None:
    def function(x1: Any, x2: Any) -> Any:
        if answer is not None and (x1.ndim, x2.ndim) != (2, 2):
            raise answer
        return x1

    monkeypatch.setattr(function, "op", oy.matmul.op, raising=False)
    monkeypatch.setattr(contracts, "STANDARD", {"matmul": function})
    (failure,) = (f for f in checked("matmul", np.matmul).failures if f.case.endswith("@errors"))
    assert text in failure.detail


def test_the_first_call_of_a_program_has_to_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: Any) -> Any:
        raise ValueError("not now")

    monkeypatch.setattr(contracts, "STANDARD", {"exp": function})
    (failure,) = checked("exp", np.exp).failures
    assert failure.detail == "called by a program, it raises ValueError: not now"


def test_ops_that_are_not_standard_are_not_called() -> None:
    @oy.op("mine.twice", scalar="2 * x", cases=lambda: [oy.case((3, 4))])
    def twice(x: Any) -> Any: ...

    registry = oy.standard_registry()
    add_host(registry, "mine")
    registry.op(twice)
    registry.kernel("mine.twice", backend="mine", name="k", load=lambda x: x + x, dtypes=("float32",))
    report = run_conformance("mine", registry=registry)
    assert not report.failures
    reasons = {o.detail for o in report.outcomes if o.case.endswith("@errors")}
    assert reasons == {"the function of an op that is not standard is not known here"}


def test_a_result_that_cannot_be_downloaded_is_a_failure() -> None:
    def prepare(call: Any, device: Any) -> Callable[..., Any]:
        return lambda x: NullArray(np.zeros(call.output.shape, call.output.dtype), "null:0", "elsewhere")

    registry = oy.standard_registry()
    add_null_backend(registry)
    registry.kernel("exp", backend="null", name="far", prepare=prepare)
    report = run_conformance("null", registry=registry, level="smoke")
    assert set(report.counts) == {"failed"}
    assert report.failures[0].detail.startswith(
        "output 0: it cannot be read: TypeError: null:0 was given NullArray("
    )


def test_every_op_has_each_contract_once() -> None:
    ids = [trial.id for trial in trials(oy.exp.op, "core")]
    for name in CONTRACTS:
        assert sum(f"@{name}" in found for found in ids) == 1
    assert "float32[1023,4]@threads" in ids and "float32[3,4]@overlap" in ids


def test_five_runs_of_an_own_case_give_the_same_bits() -> None:
    def prepare(call: Any, device: Any) -> Any:
        runs: list[int] = []

        def run(x: Any) -> Any:
            runs.append(1)
            up = len(runs) == 5 and x.shape == (3, 4)
            return np.nextafter(np.exp(x), x.dtype.type(np.inf)) if up else np.exp(x)

        return run

    failures = checked("exp", prepare=prepare).failures
    assert {f.case for f in failures} == {"float32[3,4]", "float64[3,4]"} & {f.case for f in failures}
    assert any("differs in bits" in f.detail for f in failures)


# Devices ---------------------------------------------------------------------------------------------------------


def test_all_devices_of_a_backend_are_checked() -> None:
    registry = oy.standard_registry()
    devices = HostDevice("mine:0"), HostDevice("mine:1")
    registry.backend("mine", load=lambda: Devices(*devices))

    def prepare(call: Any, device: Any) -> Callable[..., Any]:
        return np.exp if device.name == "mine:0" else np.exp2

    registry.kernel("exp", backend="mine", name="k", prepare=prepare, dtypes=("float32",))
    report = run_conformance("mine", registry=registry, level="smoke")
    assert report.devices == ("mine:0", "mine:1")
    assert {failure.device for failure in report.failures} == {"mine:1"}
    assert "--backend mine:1 --op exp" in report.failures[0].command
    assert [s.device for s in report.summaries()] == ["mine:0", "mine:1"]
    assert not run_conformance("mine:0", registry=registry, level="smoke").failures
