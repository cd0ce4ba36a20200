"""The script for verdicts runs and counts what it should. Nothing here looks at the rates: they belong into docs/bench.md."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("verdicts.py")


def load() -> Any:
    spec = importlib.util.spec_from_file_location("verdicts", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.sweep
def test_every_method_judges_every_kernel() -> None:
    words = ["--trials", "1", "--runs", "3", "--seconds", "0.05", "--passes", "5", "--run-seconds", "0.05"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["method"], row["more work"]): row for row in json.loads(done.stdout)["rows"]}
    methods = {"ab": 1, "compare, 1 run of each": 9, "compare, 3 runs of each": 1}
    assert set(rows) == {(method, more) for method in methods for more in ("0 %", "5 %", "10 %")}
    for (method, _), row in rows.items():
        assert row["kernels"] == methods[method] * len(load().WORKS)
        assert row["kernels"] == sum(row[name] for name in ("SLOWER", "FASTER", "SAME", "AMBIGUOUS"))


@pytest.mark.parametrize(
    ("hits", "total", "bound"), [(0, 10, 0.2589), (0, 299, 0.00997), (1, 100, 0.0466), (5, 50, 0.1986)]
)
def test_bounds_are_those_of_tables(hits: int, total: int, bound: float) -> None:
    assert load().upper(hits, total) == pytest.approx(bound, abs=5e-4)
