"""The overhead script runs and reports every row. Nothing here looks at the clock: numbers belong into docs/performance.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("overhead.py")


def test_reports_every_row() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"raw no-op", "opyard.add, no-op kernel", "resolved no-op", "pluggy hook", "raw np.add"} <= report[
        "eager_ns"
    ].keys()
    assert report["plan_ns"].keys() == {
        "plan, per node",
        "session callable, per node beside its kernel",
        "session callable, per call beyond the plan",
        "no-op kernel alone",
    }
    assert len(report["start_ms"]) == 3
    assert "pluggy hook / eager overhead" in report["derived"]
