"""The threads of BLAS. See opyard_cpu.blas_threads. What holds for a whole process is tested in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

POOLS = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]

pytestmark = pytest.mark.skipif(
    not POOLS or any(pool.get("threading_layer") != "pthreads" for pool in POOLS),
    reason="NumPy's BLAS is not OpenBLAS with threads of its own",
)

PROGRAM = """
import ctypes, os, threading
import numpy as np
from threadpoolctl import threadpool_info
from opyard_cpu.blas_threads import let_idle_threads_sleep

matrix = np.random.default_rng(0).random((300, 300), np.float32)
before = matrix @ matrix
pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
libraries = [ctypes.CDLL(pool["filepath"]) for pool in pools]
{before}
print(let_idle_threads_sleep())
print(*(library.openblas_thread_timeout() for library in libraries))
print("OPENBLAS_THREAD_TIMEOUT" in os.environ)
after = matrix @ matrix
print(bool((before == after).all()), pools == [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"])
"""


def said(before: str = "", **variables: str) -> list[str]:
    """The lines that the program prints."""
    environment = {name: text for name, text in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{before}", before)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.splitlines()


def test_idle_threads_sleep_soon_and_products_stay_what_they_are() -> None:
    assert said() == ["True", " ".join(["16"] * len(POOLS)), "False", "True True"]


def test_what_the_user_has_set_stays() -> None:
    assert said(OPENBLAS_THREAD_TIMEOUT="20") == ["False", " ".join(["20"] * len(POOLS)), "True", "True True"]


def test_nothing_is_changed_while_other_threads_may_multiply() -> None:
    wait = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert said(wait) == ["False", " ".join(["0"] * len(POOLS)), "False", "True True"]


def test_opening_the_backend_does_it() -> None:
    begin = "import opyard; opyard.default_registry().device('cpu:0')"
    assert said(begin)[1:] == [" ".join(["16"] * len(POOLS)), "False", "True True"]
