"""The script for shares and regret runs, and the libraries agree. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "limits.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), "--seconds", "0", "--sizes", "48", "65", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_products_of_all_libraries_agree():
    lines = run("--only", "products").strip().splitlines()
    assert lines[-4].startswith("| product | opyard |") and "OpenBLAS" in lines[-4]
    for line, size in zip(lines[-2:], ("48", "65"), strict=True):
        name, opyard, *_, kernel = line.strip("| ").split(" | ")
        assert name == f"{size} x {size}" and opyard.endswith(" us") and kernel.startswith("`cpu/")


def test_the_regret_is_that_of_the_chosen_plan():
    rows = json.loads(run("--only", "regret", "--contains", "product", "--json"))["regret"]
    assert list(rows) == ["product 48", "product 65"]
    for row in rows.values():
        assert row["plans"] >= 1
        for how in ("estimates", "tuned"):
            assert row[f"regret, {how}"] >= 0
            assert row[f"regret, {how}"] == 0 or row[how] != row["best"]
