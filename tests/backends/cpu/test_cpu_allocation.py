"""Freed arrays stay with the process: the next run of a plan finds their pages mapped."""

from __future__ import annotations

import sys

import pytest

from environments import run_python

PROGRAM = """
import resource
import numpy as np
import opyard as oy
from opyard_cpu.allocation import keep_freed_memory

oy.default_registry().device("cpu:0")

def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2 << 20, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin

faults()
print(keep_freed_memory(), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_freed_arrays_are_used_again() -> None:
    kept, faults = run_python(PROGRAM, OPYARD_PLUGINS="cpu").stdout.split()
    if kept == "False":
        pytest.skip("the C library has no mallopt")
    assert int(faults) < 1000  # of 20,480 pages


def test_settings_of_the_user_stay() -> None:
    done = run_python(PROGRAM, OPYARD_PLUGINS="cpu", MALLOC_ARENA_MAX="4")
    assert done.stdout.split()[0] == "False"
