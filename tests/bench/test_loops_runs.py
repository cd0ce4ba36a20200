"""The script for loops runs, and its ways agree. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "loops.py"


def test_the_script_compares_all_ways():
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--steps", "20", "--rounds", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    rows = json.loads(found.stdout)
    assert [row["body"] for row in rows] == ["counted", "tested", "large"]
    assert all({"node", "onnxruntime"} <= set(row["step"]) for row in rows)
