"""The script that looks for false alarms runs and counts; what it finds belongs into docs/conformance.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("conformance_seeds.py")


def test_it_counts_the_cases_of_all_seeds() -> None:
    words = ["--op", "exp", "--op", "flip", "--level", "smoke", "--seeds", "3", "--first", "5"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["cpu seed 5", "cpu seed 6", "cpu seed 7", "cpu"]
    assert " cases of 3 seeds, {" in lines[-1] and "'passed': " in lines[-1] and "failed" not in done.stdout
