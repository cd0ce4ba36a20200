"""``opyard run``, and model files for the other commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_models import model
from opyard.cli import main
from opyard.errors import GraphError
from opyard_onnx import Model
from tracing import check_trace, lanes

Opyard = Callable[..., Any]


@pytest.fixture
def opyard(capsys: pytest.CaptureFixture[str]) -> Opyard:
    """Runs one command in this process: its exit status, what it printed, and its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def network(tmp_path: Path) -> str:
    proto = model(
        "g (float[batch, 4] x, int64[batch] k) => (float[batch, 2] y, int64[batch] j) { m = MatMul (x, w) y = Softmax (m) j = Add (k, k) }",
        w=np.arange(8, dtype="float32").reshape(4, 2),
    )
    path = tmp_path / "network.onnx"
    onnx.save(proto, path)
    return str(path)


def test_run_draws_what_is_not_given(opyard: Opyard, network: str):
    status, out, _ = opyard("run", network, "--input", "x=f32[3,4]", "--compare", "onnxruntime")
    assert status == 0
    assert "input x   float32[3, 4]" in out and "input k   int64[3]" in out  # the batch of k is that of x
    assert "output y  float32[3, 2]" in out and "output j  int64[3]" in out
    assert "cpu/blas" in out and "median of 5 runs" in out
    assert "differs from onnxruntime at most by  j: 0, 0 of the greatest element" in out
    assert "input x   float32[1, 4]" in opyard("run", network)[1]


def test_run_reads_arrays_and_prints_json(opyard: Opyard, network: str, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.ones((2, 4), "float32"))
    given = (
        "run",
        network,
        "--input",
        f"x={tmp_path / 'x.npy'}",
        "--input",
        "k=random",
        "--device",
        "reference",
    )
    status, out, _ = opyard(*given, "--compare", "onnxruntime", "--json")
    data = json.loads(out)
    assert status == 0
    assert data["inputs"] == {"x": "float32[2, 4]", "k": "int64[2]"}
    assert data["outputs"] == {"y": "float32[2, 2]", "j": "int64[2]"}
    assert {row["device"] for row in data["kernels"]} == {"reference"}
    assert data["stages"] == 1 and data["runs"] == 5 and data["seconds"] > 0
    assert all(row["relative"] < 1e-6 for row in data["differences"])


def test_run_shows_a_difference(opyard: Opyard, network: str, monkeypatch: pytest.MonkeyPatch):
    """Not a silent zero where the outputs do not even have the same shape, or are not finite."""
    from opyard.cli.run import _difference

    nan, inf = np.array([np.nan], "f4"), np.array([np.inf], "f4")
    assert _difference("y", nan, nan).absolute == 0 and _difference("y", inf, inf).absolute == 0
    assert _difference("y", nan, inf).absolute == np.inf
    assert _difference("y", np.array([3.0]), np.array([2.0])).relative == 0.5
    other = _difference("y", np.zeros(2), np.zeros(3))
    assert other.note == "float64[2] here, float64[3] there" and other.absolute == np.inf
    assert _difference("y", [nan], [nan]).note == "not compared: it is no tensor of numbers"


def test_run_tells_of_stages(opyard: Opyard, tmp_path: Path):
    proto = model("g (float[5] x) => (int64[1, n] y) { t = Exp (x) u = NonZero (t) y = Neg (u) }")
    onnx.save(proto, tmp_path / "m.onnx")
    status, out, _ = opyard("run", str(tmp_path / "m.onnx"))
    assert status == 0 and "output y  int64[1, 5]" in out
    two = model(
        "g (float[5] x) => (float[n] y) { t = Abs (x) c = Greater (t, w) u = Compress (t, c) y = Neg (u) }",
        w=np.float32(-1),
    )
    onnx.save(two, tmp_path / "two.onnx")
    assert "stages  2: shapes depend on numbers" in opyard("run", str(tmp_path / "two.onnx"))[1]


def test_a_trace_goes_over_all_stages(opyard: Opyard, tmp_path: Path):
    proto = model(
        "g (float[5] x) => (float[n] y) { t = Abs (x) c = Greater (t, w) u = Compress (t, c) y = Neg (u) }",
        w=np.float32(-1),
    )
    onnx.save(proto, tmp_path / "two.onnx")
    trace = tmp_path / "trace.json"
    status, out, _ = opyard("run", str(tmp_path / "two.onnx"), "--trace", str(trace), "--profile")
    assert status == 0 and "stage 1/" in out and "stage 2/" in out
    found = check_trace(json.loads(trace.read_text()))
    host = lanes(found)["host (Python)"]
    first, second = (event for event in host if event["cat"] == "run")
    assert (first["name"], second["name"]) == ("stage 1: run", "stage 2: run")
    assert second["ts"] >= first["ts"] + first["dur"] - 1e-3
    assert found["traceEvents"][0]["args"] == {"name": "opyard: two.onnx"}
    profile = Model(proto).profile({"x": np.ones(5, "f4")}, runs=2)
    assert sum(row.share for row in (*profile.nodes, *profile.copies)) == pytest.approx(1)
    assert {row.op for row in profile.nodes} >= {"abs", "greater", "negative"}


def test_a_model_in_one_stage_has_a_plain_profile(opyard: Opyard, network: str):
    feeds = {"x": np.ones((2, 4), "f4"), "k": np.ones(2, "i8")}
    profile = Model(network).profile(feeds, runs=1)
    assert {row.op for row in profile.nodes} >= {"matmul", "softmax", "add"}
    assert not any(row.node.startswith("stage") for row in profile.nodes)
    sources = {row.op: row.source for row in profile.nodes}
    assert sources["matmul"] == "network.onnx: MatMul m" and sources["add"] == "network.onnx: Add j"
    with pytest.raises(GraphError, match=r"network.onnx needs a feed for 'k'"):
        Model(network).profile({"x": feeds["x"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--input", "x"],
            "--input is written as name=file.npy, name=float32[2,3] or name=random; found 'x'.",
        ),
        (["--input", "z=random"], "network.onnx has no input 'z'. Inputs: x, k."),
        (["--input", "x=none.npy"], "--input x: there is no file 'none.npy'."),
        (["--input", "x=none"], "an input of a model is an array; none is for ops."),
        (["--input", "x=big"], "an input is written as dtype[sizes] with numbers"),
        (["--device", "moon:0"], "moon"),
    ],
)
def test_wrong_inputs(opyard: Opyard, network: str, arguments: list[str], message: str):
    status, out, err = opyard("run", network, *arguments)
    assert (status, out) == (1, "") and message in err


def test_an_array_file_that_is_none(opyard: Opyard, network: str, tmp_path: Path):
    (tmp_path / "x.npy").write_text("no array")
    status, _, err = opyard("run", network, "--input", f"x={tmp_path / 'x.npy'}")
    assert status == 1 and "x.npy' is no array file: " in err


def test_comparing_with_what_is_not_there_or_does_not_run(
    opyard: Opyard, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proto = model("g (bfloat16[5] x) => (bfloat16[5] y) { y = Cos (x) }", opset=22)
    onnx.save(proto, tmp_path / "m.onnx")
    status, _, err = opyard("run", str(tmp_path / "m.onnx"), "--compare", "onnxruntime")
    assert status == 1 and "ONNX Runtime does not run m.onnx: " in err
    status, _, err = opyard("run", network, "--compare", "tvm")
    assert (
        status == 1 and "'tvm' does not run network.onnx; an ONNX model is compared with 'onnxruntime'" in err
    )
    feeds = {"x": np.ones((2, 4), "f4"), "k": np.ones(2, "i8")}
    (y, j) = Model(onnx.load(network)).run_by("onnxruntime", feeds)  # a model without a path
    assert y.shape == (2, 2) and j.tolist() == [2, 2]
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    status, _, err = opyard("run", network, "--compare", "onnxruntime")
    assert status == 1 and "--compare onnxruntime needs ONNX Runtime. Type: pip install onnxruntime" in err


def test_explain_and_tune_take_model_files(opyard: Opyard, network: str):
    status, out, _ = opyard("explain", network, "f32[8,4]", "int64[8]")
    assert status == 0 and "matmul: cpu/blas on cpu:0" in out
    status, out, _ = opyard("tune", network, "f32[8,4]", "int64[8]", "--seconds", "0", "--no-calibration")
    assert status == 0 and "predicted" in out
    status, _, err = opyard("explain", network)
    assert (
        status == 1
        and f"{network} takes the inputs x: float32[batch, 4], k: int64[batch]; 0 were given" in err
    )


def test_a_damaged_file(opyard: Opyard, tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 9)
    for command in ("run", "explain"):
        status, _, err = opyard(command, str(tmp_path / "m.onnx"))
        assert status == 1 and "m.onnx is no ONNX model: " in err and "Traceback" not in err
