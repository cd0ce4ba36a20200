"""Freed arrays stay with the process: the next run of a plan finds their pages mapped."""

from __future__ import annotations

import sys
from pathlib import Path

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


PAGES = """
import sys
import numpy as np
import opyard as oy

oy.default_registry().device("cpu:0")
arrays = [np.ones(700_000, np.float32) for _ in range(9)]  # each less than what NumPy itself asks huge pages for
places, found = [array.ctypes.data for array in arrays], 0
for line in open("/proc/self/smaps"):
    head = line.split()[0]
    if "-" in head and not head.endswith(":"):
        begin, end = (int(part, 16) for part in head.split("-"))
    elif head == "VmFlags:" and "hg" in line.split():
        found += sum(begin <= place < end for place in places)
print(found)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux")
@pytest.mark.parametrize("limit", [None, "4"])
def test_arrays_lie_in_huge_pages(limit: str | None) -> None:
    try:
        chosen = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        pytest.skip("this system has no transparent huge pages")
    if "[never]" in chosen:
        pytest.skip("transparent huge pages are switched off")
    given = {} if limit is None else {"MALLOC_ARENA_MAX": limit}
    found = int(run_python(PAGES, OPYARD_PLUGINS="cpu", **given).stdout)
    assert found > 4 if limit is None else found == 0
