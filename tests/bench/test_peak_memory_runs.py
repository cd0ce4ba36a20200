"""The script for memory runs, and says what a plan keeps. Nothing is compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "peak_memory.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says what processes had in memory")
def test_the_script_tells_what_is_alive_from_what_is_made() -> None:
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--scale", "tiny", "--models", "resnet18", "--batch", "2"],
        check=True,
        capture_output=True,
        text=True,
    )
    (row,) = json.loads(found.stdout)
    assert 0 < row["opyard"]["alive"] <= row["opyard"]["outputs"]
