"""The script for calibrations runs. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "calibration.py"


def test_the_script_calibrates_in_fresh_processes():
    options = ["--processes", "2", "--seconds", "0.05", "--devices", "cpu:0"]
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *options],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(found.stdout)
    assert [(row["device"], row["number"]) for row in report["rows"]] == [
        ("cpu:0", "flops"),
        ("cpu:0", "bandwidth"),
    ]
    assert len(report["samples"]) == 2
    for sample in report["samples"]:
        assert min(sample["loops"]) > 0 and sample["numbers"]["cpu:0"]["flops"] > 0
