"""The example that trains the demo's network, as its users run it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import opyard as oy

SCRIPT = Path(__file__).parents[2] / "examples" / "train_digits.py"


MEASURE = """
import sys
import opyard as oy
from opyard.placement.identity import describe_kernel, describe_work
from opyard.placement.store import Measurement
from train_digits import Training

specs = oy.TensorSpec((32, 1, 8, 8), "float32"), oy.TensorSpec((32,), "int64"), oy.TensorSpec((2,), "uint32")
store, decisions = oy.CostStore(), Training(0, 41, "auto").step.explain(*specs).decisions
for decision in decisions:
    work, kernel = describe_work(decision.match.work), describe_kernel(decision.chosen.kernel)
    store.put(work, kernel, decision.chosen.device, Measurement(1.0))
print(len(decisions))
"""
"""Notes that each kernel of the training takes a second: whoever plans by what was measured takes others from now on."""


def command(*options: str) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPT), "--epochs", "1", *options]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that cannot be caught")
@pytest.mark.parametrize("threads", [pytest.param("1", marks=pytest.mark.sweep), "2"])
def test_training_that_was_killed_goes_on_to_the_same_weights(tmp_path, monkeypatch, threads: str):
    monkeypatch.setenv("OPYARD_NUM_THREADS", threads)
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    whole, resumed, checkpoint = (tmp_path / name for name in ("whole", "resumed", "checkpoint"))
    found = subprocess.run(command("--output", str(whole)), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "held-out accuracy 0." in found.stdout
    options = ("--output", str(resumed), "--checkpoint", str(checkpoint), "--every", "7")
    with subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not resumed.exists()
    model = oy.load(whole)
    assert list(model.graph.inputs) == ["images"] and list(model.graph.outputs) == ["logits"]
    assert not model.graph.variables and model.metadata["epochs"] == "1"
    assert f"held-out accuracy {model.metadata['held_out_accuracy']}" in found.stdout
    found = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=SCRIPT.parent, capture_output=True, text=True, timeout=300
    )
    assert int(found.stdout) > 20, found.stderr
    found = subprocess.run(command(*options), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    one, other = (load_file(folder / "1" / "weights.safetensors") for folder in (whole, resumed))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in other.items()
    }
    found = subprocess.run(command(*options, "--seed", "1"), capture_output=True, text=True, timeout=300)
    assert found.returncode == 2
    assert "is of a training with {'epochs': '1', 'seed': '0'}, asked for was" in found.stderr
