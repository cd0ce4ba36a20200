"""The script about variables in place runs and reports all ways. Nothing here looks at the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("donation.py")


def test_in_place_needs_no_new_arrays() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--parameters", "100000", "--rounds", "2", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    new, in_place, fused = json.loads(done.stdout)
    assert (new["way"], in_place["way"], fused["way"]) == ("new arrays", "in place", "fused")
    assert new["peak_bytes"] >= 3 * 400_000 > 400_000 > in_place["peak_bytes"]
