"""The script about fused kernels runs and reports all ways. Nothing here looks at the clock."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fusion.py")


def test_every_way_is_measured() -> None:
    pytest.importorskip("pyopencl")
    if shutil.which("ld") is None:
        pytest.skip("without the linker `ld` PoCL has no device")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--elements", "4096", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["way"] for row in rows][:3] == ["np.copyto", "one op", "eight ops, one kernel"]
    assert len(rows) == 9
    assert all(row["elements"] == 4096 for row in rows)
