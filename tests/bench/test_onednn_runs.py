"""The script about kernels on oneDNN runs and reports all ways. Nothing here looks at the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opyard_cpu.onednn.library import missing

SCRIPT = Path(__file__).with_name("onednn.py")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_each_way_is_measured() -> None:
    arguments = ["--rounds", "1", "--only", "1x1024x1024", "--json"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["flops"] == 2 * 1024 * 1024
    assert {"NumPy", "oneDNN, plain", "oneDNN"} <= set(row["seconds"])
