"""The script that opens a large model runs, and no weight is copied. Nothing here looks at the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("onnx_open.py")


def test_weights_are_mapped_and_not_copied() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--megabytes", "60", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["weights"] == found["mapped"] == 15
    assert found["weight_bytes"] == 15 * 2**22
    assert found["peak_growth_bytes"] < 2**24  # a quarter of the weights
