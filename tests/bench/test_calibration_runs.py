"""The script for calibrations runs. Nothing is timed."""

from __future__ import annotations

import json
import runpy
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
        assert sample["device"] == "cpu:0"
        assert min(min(pair) for pair in sample["yardsticks"].values()) > 0
        assert sample["numbers"]["flops"] > 0 and sample["numbers"]["bandwidth"] > 0


def test_the_table_has_a_row_for_each_number() -> None:
    """How far values are apart: all of them, from one to the next, and those whose yardsticks were alike."""
    script = runpy.run_path(str(SCRIPT))
    make = script["Sample"]
    samples = [
        make("toy:0", {"flops": (1.0, 1.0), "bandwidth": (y, y)}, {"flops": f, "bandwidth": b}, doubts)
        for y, f, b, doubts in (
            (1.0, 100e9, 10e9, ()),
            (2.0, 102e9, 20e9, ()),
            (1.0, 101e9, 10.1e9, ()),
            (1.0, 9e9, 1e9, ("flops: no",)),
        )
    ]
    flops, bandwidth = script["table"](script["rows"](samples)).splitlines()[2:]
    assert (
        flops == "| toy:0 | flops | 4 (1) | 101.0 GFLOP/s | 2.0% | 0.0% | 1.5% and 2.0% | 3 | 1.0% and 2.0% |"
    )
    assert bandwidth == (
        "| toy:0 | bandwidth | 4 (1) | 10.1 GB/s | 100.0% | 100.0% | 99.0% and 100.0% | 1 | 1.0% and 1.0% |"
    )
