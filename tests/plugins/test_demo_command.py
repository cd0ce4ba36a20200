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

import opyard as oy
from environments import run_python
from opyard_demo import command

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
    assert data["accuracy"] >= 0.98
    assert data["equal_to_reference"] is True
    assert data["digits"] == 364
    assert {device["name"] for device in data["devices"]} == DEVICES
    assert len(DEVICES) >= 2
    assert data["seconds"] > 0
    assert data["reference_seconds"] > 0
    # a node may be several ops that one kernel computes
    ops = [op for node in data["nodes"] for op in node["op"].split(" + ")]
    assert ops.count("conv") == 2
    assert ops.count("matmul") + ops.count("linear") == 2
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
    assert any("cpu/" in line and line.startswith(("matmul", "linear")) for line in lines)
    assert any(line.startswith("accuracy     0.9") for line in lines)
    assert "predictions  equal to those of the reference kernels" in lines


def test_an_unknown_device(demo):
    done = demo("--device", "cpu:7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "cpu:7" in done.stderr
    assert "cpu:0" in done.stderr


def test_a_package_that_is_missing(demo):
    done = demo(before="import sys; sys.modules['sklearn.datasets'] = None")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "which cannot be imported here" in done.stderr
    assert "pip install scikit-learn" in done.stderr


def test_what_opens_the_model_is_missing(demo):
    for setting, text in (
        ({"before": "import sys; sys.modules['onnx'] = None"}, "import of onnx halted"),
        (
            {"OPYARD_BLOCK": "onnx"},
            "needs a plugin: opyard-onnx is installed, and blocked: OPYARD_BLOCK names onnx.",
        ),
    ):
        done = demo(**setting)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: the model of the demo cannot be opened: ")
        assert text in done.stderr
        assert "Type: pip install --force-reinstall opyard-demo opyard-onnx" in done.stderr


def damaged(folder: Path, how: str) -> Path:
    """The model, spoiled in one way."""
    if how == "not there":
        return folder / "nothing"
    model = oy.load(command.MODEL)
    with oy.Graph() as zero:
        images = zero.input("images", model.graph.inputs["images"].spec)
        zero.output("logits", oy.matmul(oy.flatten(images), np.zeros((64, 10), np.float32)))
    path = folder / "digits"
    oy.save(path, zero if how == "wrong values" else model)
    if how == "cut short":
        weights = path / "1" / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    return path


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("not there", "cannot be opened: there is no file or folder"),
        (
            "cut short",
            "digits/1 is damaged: weights.safetensors has 1000 bytes, 153728 were written. Type: pip install",
        ),
        (
            "wrong values",
            "below 0.97: the model is damaged. Type: pip install --force-reinstall opyard-demo opyard-onnx",
        ),
    ],
)
def test_a_damaged_model(demo, tmp_path: Path, how: str, text: str):
    path = damaged(tmp_path, how)
    before = f"import pathlib; command.MODEL = pathlib.Path({str(path)!r})"
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
