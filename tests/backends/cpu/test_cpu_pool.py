"""Threads that divide the work of a compiled function as they come. See opyard_cpu.jit.pool."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

import numpy as np
import pytest

from opyard_cpu.jit import machine, pool, pool_source, teams

REASON = pool.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]

COUNTING = """
declare i32 @gettid()
define void @kernel(ptr %words, ptr %table, i64 %begin, i64 %end) {
entry:
  %data = load ptr, ptr %words
  %any = icmp ult i64 %begin, %end
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %after ]
  %place = getelementptr i64, ptr %data, i64 %i
  %old = load i64, ptr %place
  %who = call i32 @gettid()
  %wide = zext i32 %who to i64
  %many = mul i64 %wide, 1000
  %more.old = add i64 %old, %many
  %new = add i64 %more.old, 1
  store i64 %new, ptr %place
  br label %slow
slow:
  %k = phi i64 [ 0, %loop ], [ %l, %slow ]
  %l = add i64 %k, 1
  fence seq_cst
  %again = icmp ult i64 %l, WORK
  br i1 %again, label %slow, label %after
after:
  %next = add i64 %i, 1
  %further = icmp ult i64 %next, %end
  br i1 %further, label %loop, label %done
done:
  ret void
}
"""
"""Adds one to each number of its part, and 1000 times the number of the thread."""


def counting(work: int = 1) -> machine.Module:
    return machine.compiler().function(COUNTING.replace("WORK", str(work)))


def run(compute: Any, count: int) -> list[int]:
    """The numbers of the threads that did each unit; each was done once."""
    counts = np.zeros(count, np.int64)
    compute((ctypes.c_void_p * 1)(counts.ctypes.data), None)
    assert (counts % 1000 == 1).all()
    return [int(number) for number in counts // 1000]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_unit_is_done_once_however_many_there_are(threads: int) -> None:
    """Also by threads that sleep in between."""
    module = counting()
    for count in (1, 2, 3, 31, 32, 33, 1000):
        compute = teams.on_threads(module, count, threads)
        for number in range(60):
            run(compute, count)
            if number % 20 == 0:
                time.sleep(0.001)


def test_units_that_lie_beside_each_other_may_stay_together() -> None:
    """With as many chunks as threads one thread does all of a half, or all."""
    compute = teams.on_threads(counting(50), 40, 2, 2)
    for _ in range(100):
        found = run(compute, 40)
        assert len(set(found[:20])) == len(set(found[20:])) == 1


def test_other_threads_take_part() -> None:
    compute = teams.on_threads(counting(20_000), 40, 2)
    seen = set[int]()
    for _ in range(200):
        seen.update(run(compute, 40))
        if len(seen) > 1:
            break
    assert len(seen) > 1 and threading.get_native_id() in seen


def test_functions_of_arrays_share_their_work_too() -> None:
    """On as many threads as are wanted; what a built-in function does not know goes to the other one."""

    def otherwise(*arrays: Any) -> str:
        return "handed on"

    for threads in (1, 3):
        compute = teams.held(counting(), 1, 50, threads, 32, 0, otherwise)
        for _ in range(20):
            counts = np.zeros(50, np.int64)
            assert compute(counts) is counts
            assert (counts % 1000 == 1).all()
        assert compute([1]) == "handed on"


def test_two_callers_at_once_do_not_disturb_each_other() -> None:
    """One has the helpers, the other does its work alone."""
    compute = teams.on_threads(counting(200), 64, 3)
    errors: list[BaseException] = []

    def caller() -> None:
        try:
            for _ in range(200):
                run(compute, 64)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=caller) for _ in range(3)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert errors == []


def test_where_the_system_gives_no_threads_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = pool.Pool()
    monkeypatch.setattr(lonely, "_create", lambda *arguments: 11)
    monkeypatch.setattr(teams, "pool", lambda: lonely)
    assert set(run(teams.on_threads(counting(), 40, 4), 40)) == {threading.get_native_id()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_computes_with_threads_of_its_own() -> None:
    before = teams.on_threads(counting(), 40, 3)
    run(before, 40)
    child = os.fork()
    if not child:
        try:
            run(before, 40)
            run(teams.on_threads(counting(), 40, 3), 40)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    run(before, 40)


def test_words_that_threads_write_are_on_lines_of_their_own() -> None:
    written = [pool_source.PLACES[name] // 8 for name in ("state", "done", "sleepers", "busy", "run")]
    assert len(set(written)) == len(written)
    assert len(set(pool_source.PLACES.values())) == len(pool_source.PLACES)


def test_other_systems_say_why_there_are_no_such_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert pool.missing.__wrapped__() == "threads are shared by system calls of Linux on x86-64"
