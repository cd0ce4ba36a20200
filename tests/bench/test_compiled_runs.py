"""The script for compiled loops runs, and its ways agree. Nothing is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compiled.py"


def test_the_script_compares_all_ways():
    pytest.importorskip("llvmlite", reason="the loops are compiled with llvmlite")
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--seconds", "0", "--only", " 1024 x 1024"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OPYARD_NUM_THREADS": "1"},
    )
    rows = json.loads(found.stdout)
    names = ("chain of 5,", "gelu (tanh)", "softmax", "layer norm")
    assert list(rows) == [f"{name} 1024 x 1024" for name in names]
    assert all({"opyard", "NumPy", "limit"} <= set(row) for row in rows.values())
    assert all(seconds > 0 for row in rows.values() for seconds in row.values())
