"""``opyard demo`` as users run it: its numbers, its JSON, what it says when something is missing, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import opyard as oy
from environments import run_python
from opyard_demo import model
from opyard_demo.data import WEIGHTS_PATH

DEVICES = {device.name for device in oy.devices()}
needs_opencl = pytest.mark.skipif("opencl:0" not in DEVICES, reason="no OpenCL device here")

QUICK = "import opyard_demo.command as command; command.PASSES = command.REFERENCE_PASSES = 1\n"


def code(*arguments: str, before: str = "") -> str:
    return f"{before}\nfrom opyard.cli import main; main({['demo', *arguments]!r})"


@pytest.fixture
def demo(tmp_path: Path):
    """Runs the demo in a process of its own, as quickly as it goes; ``before`` is code that runs first there."""

    def run(*arguments: str, before: str = QUICK, **variables: str) -> subprocess.CompletedProcess[str]:
        done = run_python(code(*arguments, before=before), OPYARD_CACHE_DIR=str(tmp_path), **variables)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


def result(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_demo_is_right_and_says_what_ran_where(demo):
    data = result(demo("--json", before=""))
    assert set(data) == {
        *("accuracy", "digits", "equal_to_reference", "devices", "nodes", "predicted_seconds_per_batch"),
        *("batch", "seconds", "reference_seconds"),
    }
    assert data["accuracy"] >= 0.97
    assert data["equal_to_reference"] is True
    assert data["digits"] == 364
    assert {device["name"] for device in data["devices"]} == DEVICES
    assert len(DEVICES) >= 2
    assert data["seconds"] > 0
    assert data["reference_seconds"] > 0
    ops = [node["op"] for node in data["nodes"]]
    assert ops.count("conv") == 2
    assert ops.count("matmul") == 2
    assert "max_pool" in ops
    for node in data["nodes"]:
        assert set(node) >= {"op", "kernel", "device", "seconds", "alternatives", "reason"}
        assert node["device"] in DEVICES
        assert node["seconds"] >= 0
        assert node["alternatives"], "every node has at least the reference as an alternative"
        assert all(
            set(other) == {"node", "op", "kernel", "device", "extra_seconds", "refusal"}
            for other in node["alternatives"]
        )


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("opencl:0", marks=needs_opencl)])
def test_one_device_alone(demo, device: str):
    data = result(demo("--device", device, "--json"))
    assert [row["name"] for row in data["devices"]] == [device]
    assert {node["device"] for node in data["nodes"]} == {device}
    assert data["accuracy"] >= 0.97
    assert data["equal_to_reference"] is True


@needs_opencl
def test_two_devices_by_name(demo):
    data = result(demo("--device", "cpu:0", "--device", "opencl:0", "--json"))
    assert {row["name"] for row in data["devices"]} == {"cpu:0", "opencl:0"}


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_are_readable_at_any_width(demo, width: int):
    done = demo("--device", "cpu:0", COLUMNS=str(width))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert any("cpu/blas" in line and line.startswith("matmul") for line in lines)
    assert any(line.startswith("accuracy     0.9") for line in lines)
    assert "predictions  equal to those of the reference kernels" in lines


def test_an_unknown_device(demo):
    done = demo("--device", "cpu:7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "cpu:7" in done.stderr
    assert "cpu:0" in done.stderr


@pytest.mark.parametrize("module", ["sklearn.datasets", "safetensors"])
def test_a_package_that_is_missing(demo, module: str):
    done = demo(before=f"import sys; sys.modules[{module!r}] = None")
    name = {"sklearn.datasets": "scikit-learn", "safetensors": "safetensors"}[module]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "which cannot be imported here" in done.stderr
    assert f"pip install {name}" in done.stderr


def damaged(folder: Path, how: str) -> Path:
    """The weights, spoiled in one way."""
    path = folder / "digits.safetensors"
    weights = load_file(WEIGHTS_PATH)
    if how == "cut short":
        path.write_bytes(WEIGHTS_PATH.read_bytes()[:1000])
    elif how == "incomplete":
        save_file({name: w for name, w in weights.items() if name != "conv2.bias"}, path)
    elif how == "wrong shape":
        save_file({**weights, "conv1.weight": np.zeros((16, 2, 3, 3), np.float32)}, path)
    elif how == "wrong values":
        save_file({name: np.zeros_like(w) for name, w in weights.items()}, path)
    return path


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("not there", "the demo's weights digits.safetensors cannot be read"),
        ("cut short", "cannot be read .* Type: pip install --force-reinstall opyard-demo"),
        ("incomplete", "lack conv2.bias. Type: pip install --force-reinstall opyard-demo"),
    ],
)
def test_weights_that_cannot_be_loaded(tmp_path: Path, monkeypatch, how: str, text: str):
    monkeypatch.setattr(model, "WEIGHTS_PATH", damaged(tmp_path, how))
    with pytest.raises(oy.errors.OpyardError, match=text):
        model.load_weights()


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("cut short", "cannot be read"),
        ("wrong shape", "conv"),
        (
            "wrong values",
            "below 0.97: the weights are damaged. Type: pip install --force-reinstall opyard-demo",
        ),
    ],
)
def test_damaged_weights(demo, tmp_path: Path, how: str, text: str):
    path = damaged(tmp_path, how)
    before = f"import pathlib, opyard_demo.model as model; model.WEIGHTS_PATH = pathlib.Path({str(path)!r})"
    done = demo("--device", "cpu:0", "--json", before=QUICK + before)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]


def test_a_wrong_kernel_is_noticed(demo):
    before = f"""{QUICK}
import numpy as np
import opyard as oy
oy.default_registry().kernel("relu", backend="cpu", name="wrong", load=lambda x: np.negative(x), cost=lambda call, device: 0.0)
"""
    done = demo("--device", "cpu:0", "--json", before=before)
    assert done.returncode == 1
    assert json.loads(done.stdout)["equal_to_reference"] is False
    assert "predictions differ from the reference kernels': a kernel is wrong on this machine" in done.stderr


def test_an_interrupt_ends_with_130(tmp_path: Path):
    # the signal may be ignored here, as in a background job; and the run lasts long enough to be interrupted
    before = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
import opyard_demo.command as command; command.PASSES = 100_000
"""
    environment = {**os.environ, "OPYARD_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code("--device", "cpu:0", before=before)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("device")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.rstrip().endswith("interrupted")
