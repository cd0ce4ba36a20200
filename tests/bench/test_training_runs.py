"""The script of the training step runs, and the passes reach their goal. Nothing here looks at the clock."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("training.py")


@pytest.fixture
def training() -> Any:
    spec = importlib.util.spec_from_file_location("training", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training"] = module  # where dataclasses look for their types
    spec.loader.exec_module(module)
    yield module
    del sys.modules["training"]


def test_the_passes_leave_two_thirds_of_a_training_step_and_placement_three_fifths(training: Any) -> None:
    for size in training.SIZES.values():
        found = training.nodes(size)
        assert found["passes"] <= 2 / 3 * found["traced"]
        assert found["steps"] <= 0.6 * found["traced"]


def test_a_step_of_the_plan_is_a_step_of_the_references(training: Any) -> None:
    import opyard as oy

    size = training.Size(8, 8, (4, 8), 16)
    loss, right, weights = training.Ours(size).checked()
    with oy.using(prefer="reference"):
        expected = training.Ours(size).checked()
    np.testing.assert_allclose((loss, right), expected[:2], rtol=1e-5)
    for name, array in weights.items():
        # the first step of Adam is the rate, up or down: a gradient near zero may go either way
        assert np.mean(np.abs(array - expected[2][name]) > 1e-4) < 0.02, name


def test_reports_every_row() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--sizes", "small", "--rounds", "1", "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert {"traced", "passes", "steps"} <= row.keys()
    if importlib.util.find_spec("torch"):
        assert {"ours_wall", "theirs_wall", "ratio_wall", "ours_cpu", "theirs_cpu", "ratio_cpu"} <= row.keys()


def test_the_profile_names_kernels(training: Any) -> None:
    rows = training.profile(training.Size(8, 8, (4, 8), 16), 0.1)
    assert "cpu/im2col" in {kernel for _, _, kernel, _ in rows}
    assert all(ms >= 0 and count > 0 for ms, count, _, _ in rows)
