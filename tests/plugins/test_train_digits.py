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


def command(*options: str) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPT), "--epochs", "1", *options]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that cannot be caught")
@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.sweep)])
def test_training_that_was_killed_goes_on_to_the_same_weights(tmp_path, monkeypatch, threads: str):
    """On two threads one of some thirty resumed runs differed in the last bit, on a busy machine; why is not known yet."""
    monkeypatch.setenv("OPYARD_NUM_THREADS", threads)
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
    found = subprocess.run(command(*options), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    one, other = (load_file(folder / "1" / "weights.safetensors") for folder in (whole, resumed))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in other.items()
    }
    found = subprocess.run(command(*options, "--seed", "1"), capture_output=True, text=True, timeout=300)
    assert found.returncode == 2
    assert "is of a training with {'epochs': '1', 'seed': '0'}, asked for was" in found.stderr
