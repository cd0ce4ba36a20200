"""The fixture ``opyard_bench``: run by pytest in processes of its own, for the benchmarks of this one are skipped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opyard.testing import NullDevice
from opyard_bench.pytest_plugin import Clock

PAGE = """
import itertools
import numpy as np
import pytest
import opyard as oy
from opyard.testing import NullDevice, add_null_backend, prepare_null

X = oy.TensorSpec((64,))
ticks = itertools.count(1)


@pytest.fixture(autouse=True)
def registry():
    made = oy.standard_registry()
    clocked = NullDevice("clocked:0", clock=lambda: float(next(ticks)))
    add_null_backend(made, NullDevice("null:0"), ops=("exp", "add", "max_pool"))
    add_null_backend(made, clocked, ops=("exp",))

    def zeros(call, device):
        return lambda *arrays: device.upload(np.zeros(call.outputs[0].shape, call.outputs[0].dtype))

    def fades(call, device):
        right, made = prepare_null(call, device), []

        def run(*arrays):
            made.append(1)
            return right(*arrays) if len(made) < 2 else zeros(call, device)(*arrays)

        return run

    def fails(call, device):
        raise RuntimeError("no such unit")

    made.kernel("exp", backend="null", name="zeros", prepare=zeros)
    made.kernel("exp", backend="null", name="fades", prepare=fades)
    made.kernel("exp", backend="null", name="fails", prepare=fails)
    made.kernel("exp", backend="null", name="picky", prepare=prepare_null, dtypes=("float64",))
    with oy.using(registry=made):
        yield


def test_specs(opyard_bench, benchmark):
    result = opyard_bench(oy.add, X, X, kernel="null/null", device="null:0")
    assert result.shape == (64,)
    assert benchmark.group == "add(float32[64], float32[64]) -> float32[64]"


@pytest.mark.benchmark(group="mine")
def test_arrays(opyard_bench):
    opyard_bench("exp", np.ones(8, np.float32), kernel="null/null")


def test_a_call(opyard_bench):
    call = oy.max_pool.op.call(oy.TensorSpec((1, 1, 4, 4)), kernel=2)
    opyard_bench(call, kernel="null/null")


def test_the_best(opyard_bench):
    opyard_bench(oy.relu, X)


def test_the_clock_of_the_device(opyard_bench):
    opyard_bench(oy.exp, X, device="clocked:0")


@pytest.mark.parametrize("kernel", ["zeros", "fades", "fails", "picky", "nothing"])
def test_fails(opyard_bench, kernel):
    opyard_bench(oy.exp, X, kernel=f"null/{kernel}", device="null:0")


def test_fails_for_a_call_with_attributes(opyard_bench):
    opyard_bench(oy.exp.op.call(X), axis=1)


def test_fails_without_any(opyard_bench):
    opyard_bench(oy.add, X, X, device="clocked")
"""


def run_pytest(folder: Path, *arguments: str, page: str = PAGE) -> subprocess.CompletedProcess[str]:
    (folder / "test_page.py").write_text(page)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "OPYARD_CACHE_DIR": str(folder / "cache"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What pytest printed, and the record of pytest-benchmark by test."""
    folder = tmp_path_factory.mktemp("page")
    done = run_pytest(folder, "--benchmark-only", "--benchmark-json=found.json")
    assert "7 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    found = json.loads((folder / "found.json").read_text())
    return done.stdout, {row["name"]: row for row in found["benchmarks"] if "verified" in row["extra_info"]}


def test_what_is_timed_is_told(outcome):
    row = outcome[1]["test_specs"]
    info = row["extra_info"]
    assert (info["kernel"], info["device"], info["clock"]) == ("null/null", "null:0", "host")
    assert info["verified"] is True
    assert (info["flops"], info["bytes"]) == (64, 768)
    assert info["predicted_seconds"] > 0
    median = row["stats"]["median"]
    assert info["gigabytes_per_second"] == pytest.approx(768 / median / 1e9)
    assert info["gigaflops_per_second"] == pytest.approx(64 / median / 1e9)
    assert row["stats"]["rounds"] >= 5


def test_groups_of_the_user_stay(outcome):
    found = {name: row["group"] for name, row in outcome[1].items()}
    assert found["test_arrays"] == "mine"
    assert found["test_specs"] == "add(float32[64], float32[64]) -> float32[64]"


def test_arrays_calls_and_defaults(outcome):
    assert outcome[1]["test_arrays"]["extra_info"]["bytes"] == 64
    assert outcome[1]["test_a_call"]["extra_info"]["kernel"] == "null/null"
    assert outcome[1]["test_the_best"]["extra_info"]["kernel"] == "reference/reference", "there is no other"


def test_the_device_has_a_clock_of_its_own(outcome):
    """It ticks once for each mark, and there is one at the begin and one at the end of a round."""
    row = outcome[1]["test_the_clock_of_the_device"]
    assert row["extra_info"]["clock"] == "device"
    assert row["stats"]["iterations"] * row["stats"]["min"] == pytest.approx(1.0)
    assert row["stats"]["iterations"] * row["stats"]["max"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "null/zeros on null:0 is wrong for exp(float32[64]) -> float32[64]: 64 of 64 values differ",
        "null/fades on null:0 is wrong for exp(float32[64]) -> float32[64]: 64 of 64 values differ",
        "null/fails on null:0 failed on exp(float32[64]) -> float32[64]: RuntimeError: no such unit",
        "no kernel takes exp(float32[64]) -> float32[64]: null/picky on null:0: takes x of float64, not float32",
        "there is no kernel null/nothing for exp on null:0; those there are: ",
        "opyard_bench was given the call exp(float32[64]) -> float32[64], which has its inputs and attributes; give arrays for all 1 inputs",
        "there is no kernel at all for add on clocked; those there are: none.",
    ],
)
def test_what_cannot_be_timed_fails_with_its_sentence(outcome, text: str):
    assert text in outcome[0]


def test_without_benchmarks_kernels_are_verified_all_the_same(tmp_path):
    done = run_pytest(tmp_path, "--benchmark-disable", "-k", "test_specs or zeros")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "64 of 64 values differ" in done.stdout


def test_without_pytest_benchmark_the_plugin_does_no_harm(tmp_path):
    """As if it were not installed: an importer that knows nothing of it."""
    (tmp_path / "hide.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'pytest_benchmark' else find(name, *more)\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n\ndef test_bench(opyard_bench): pass\n")
    done = subprocess.run(
        [sys.executable, "-c", "import hide, pytest; raise SystemExit(pytest.main())"]
        + ["-q", "-p", "no:benchmark", "-p", "no:cacheprovider", "test_other.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the fixture opyard_bench needs pytest-benchmark. Type: `pip install" in done.stdout
    assert "opyard-bench[pytest]" in done.stdout


def test_the_example_of_the_documentation_runs(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text.partition("## With pytest-benchmark")[2], re.DOTALL)
    assert "opyard_bench(oy.matmul" in block
    done = run_pytest(tmp_path, "--benchmark-only", page=block)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_clock_goes_on_while_its_device_is_idle():
    ticks = iter([10.0, 11.0, 11.5, 14.5, 14.5, 15.5, 99.0])
    device = NullDevice("clocked:0", clock=lambda: next(ticks))
    clock = Clock()
    before = clock()
    assert clock.set(device) == "device"
    assert clock() - before == 1.0
    assert clock() - before == 1.0 + 3.0
    assert clock() - before == 1.0 + 3.0 + 1.0
    assert Clock().set(NullDevice("null:0")) == "host"
