"""The script for oversubscription runs, and says what it says. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "oversubscription.py"


def test_the_script_times_what_is_installed() -> None:
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--scale", "tiny", "--model", "mlp", "--rounds", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    said = json.loads(found.stdout)
    assert {"opyard"} <= set(said["runtimes"]) <= {"opyard", "pytorch", "onnxruntime"}
    assert all(row["turns_processors_ms"] > 0 for row in said["runtimes"].values())
    assert said["pools"] and all(pool["threads"] <= said["threads"] for pool in said["pools"])
