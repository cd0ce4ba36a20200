"""The OpenCL script runs and reports every part. Nothing here looks at the clock: numbers belong into docs/opencl.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("opencl.py")


def test_reports_every_part() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json", "--only", "rows", "convolution", "launch"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if not report:
        pytest.skip("there is no OpenCL device here")
    for parts in report.values():
        assert {row["what"] for row in parts["rows"]} >= {"layer_normalization", "softmax"}
        assert any("opencl/tiles" in row["what"] for row in parts["convolution"])
        assert parts["launch"][0]["seconds"] > 0
