"""Sessions with a number of threads of their own, on the CPU: what BLAS, oneDNN and compiled loops then use."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import opyard as oy
from opyard.settings import limit_threads, num_threads
from opyard_cpu import threads
from opyard_cpu.onednn.library import OPENMP, follow_threads, missing

needs_two = pytest.mark.skipif(num_threads() < 2, reason="one processor is all that there is")


def blas() -> list[int]:
    """The number of threads of each BLAS."""
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@needs_two
def test_blas_keeps_to_the_least_limit_and_gets_its_own_back() -> None:
    before = blas()
    with threads.few_threads(1):
        assert set(blas()) == {1}
        with threads.few_threads(2):
            assert set(blas()) == {1}
    assert blas() == before


@needs_two
def test_limits_that_end_in_another_order_leave_nothing_behind() -> None:
    """As two sessions in two threads: the first to begin may be the first to end."""
    before = blas()
    first, second = threads.few_threads(1), threads.few_threads(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas()) == {2}
    second.__exit__(None, None, None)
    assert blas() == before


@needs_two
@pytest.mark.skipif(missing() is not None, reason="oneDNN is not installed")
def test_openmp_keeps_to_the_limit_in_this_thread_alone() -> None:
    openmp = ctypes.CDLL(OPENMP)
    follow_threads()
    before, elsewhere = openmp.omp_get_max_threads(), []

    def look() -> None:
        follow_threads()
        elsewhere.append(openmp.omp_get_max_threads())

    with limit_threads(num_threads()), threads.few_threads(1):
        assert openmp.omp_get_max_threads() == 1
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert (before, elsewhere, openmp.omp_get_max_threads()) == (num_threads(), [num_threads()], before)


PROGRAM = """
import json, os, sys
import numpy as np
import opyard as oy

threads = json.loads(sys.argv[1])
generator = np.random.default_rng(0)
x = generator.random((8, 32, 64, 64), np.float32)
w = generator.random((32, 32, 3, 3), np.float32)
m = generator.random((4096, 512), np.float32)

def f(x, m):
    return oy.relu(oy.conv(x, w, padding=1)), oy.exp(oy.matmul(m, m[:512])) * 2, oy.sum(x * 3, axis=0)

graph = oy.trace(f, oy.TensorSpec(x.shape), oy.TensorSpec(m.shape))
def opened(threads):
    session = oy.Session(graph, devices="cpu:0", threads=threads)
    return session.callable(list(graph.outputs), list(graph.inputs))

opened(None)(x, m)  # what it made for more threads is not used again
call = opened(threads)

def busy():
    found = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/schedstat") as file:
            found[task] = int(file.read().split()[0])
    return found

call(x, m)
before = busy()
for _ in range(20):
    call(x, m)
after = busy()
spent = sorted(after[t] - before.get(t, 0) for t in after)
print(json.dumps([spent[-1], sum(spent[:-1])]))
"""


@needs_two
@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the system does not count threads' times"
)
def test_a_session_on_one_thread_leaves_the_others_idle(tmp_path: Path) -> None:
    def spent(threads: int | None) -> tuple[int, int]:
        """Nanoseconds of the busiest thread, and of all others."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(threads)],
            env={**os.environ, "OPYARD_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        first, rest = json.loads(done.stdout)
        return first, rest

    first, rest = spent(1)
    assert rest < first / 20
    first, rest = spent(None)
    assert rest > first / 20


def test_results_on_any_number_of_threads_are_near() -> None:
    x = np.random.default_rng(0).random((64, 300), np.float32)

    def function(a: Any) -> Any:
        return oy.softmax(oy.matmul(a, x.T))

    one, all_ = (oy.compile(function, devices="cpu:0", threads=n)(x) for n in (1, None))
    np.testing.assert_allclose(one, all_, rtol=1e-4)
