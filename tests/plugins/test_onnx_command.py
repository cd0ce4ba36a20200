"""``opyard run``, and model files for the other commands."""

from __future__ import annotations

import json
import re
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
    ops = {op for row in profile.nodes for op in row.op.split(" + ")}
    assert ops >= {"abs", "greater", "negative"}


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
        (["--input", "x=none"], "--input x: an input of a model is an array; none is for ops."),
        (["--input", "x=big"], "--input x: an input is written as dtype[sizes] with numbers"),
        (["--input", "x=f32[n,4]"], "--input x: an input is written as dtype[sizes] with numbers"),
        (["--input", "x=float99[3,4]"], "--input x: there is no dtype called 'float99'"),
        (
            ["--input", "x=f32[2,4]", "--input", "x=random"],
            "--input x is given twice: 'f32[2,4]' and 'random'.",
        ),
        (
            ["--input", "x=f32[2,4]", "--input", "k=int64[3]"],
            "the size batch of network.onnx is 2 in the input 'x' and 3 in 'k'.",
        ),
        (
            ["--input", "x=f64[2,4]"],
            "feed 'x' is float64[2, 4]; network.onnx takes float32 there; convert it: x.astype('float32').",
        ),
        (
            ["--input", "x=f32[2,5]"],
            "feed 'x' is float32[2, 5]; network.onnx takes the shape [batch, 4] there.",
        ),
        (["--input", "x=f32[4]"], "feed 'x' is float32[4]; network.onnx takes the shape [batch, 4] there."),
        (["--device", "moon:0"], "there is no device 'moon:0': there is no backend called 'moon'. Known: "),
        (["--device", "gpu"], "there is no device 'gpu': "),
    ],
)
def test_wrong_inputs(opyard: Opyard, network: str, arguments: list[str], message: str):
    status, out, err = opyard("run", network, *arguments)
    assert (status, out) == (1, "") and message in err


def test_array_files_that_do_not_fit(opyard: Opyard, network: str, tmp_path: Path):
    def fails(name: str) -> str:
        status, out, err = opyard("run", network, "--input", f"x={tmp_path / name}")
        assert (status, out) == (1, "") and "Traceback" not in err
        return str(err)

    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name in ("text.npy", "empty.npy", "objects.npy"):
        assert f"{name}' is no array file, or one of Python objects; write it by numpy.save(" in fails(name)
    (tmp_path / "folder.npy").mkdir()
    assert "--input x: there is no file '" in fails("folder.npy")
    np.savez(tmp_path / "several.npz", x=np.ones((2, 4), "float32"))
    assert "several.npz' does not end in .npy; an array is read from what numpy.save writes" in fails(
        "several.npz"
    )
    np.save(tmp_path / "wide.npy", np.ones((2, 4)))
    assert "feed 'x' is float64[2, 4]; network.onnx takes float32 there" in fails("wide.npy")
    np.save(tmp_path / "long.npy", np.ones((2, 5), "float32"))
    assert "feed 'x' is float32[2, 5]; network.onnx takes the shape [batch, 4] there." in fails("long.npy")


def test_an_array_file_that_may_not_be_read(
    opyard: Opyard, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    np.save(tmp_path / "x.npy", np.ones((2, 4), "float32"))

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", denied)
    status, _, err = opyard("run", network, "--input", f"x={tmp_path / 'x.npy'}")
    assert status == 1 and "x.npy' cannot be read: Permission denied." in err


@pytest.mark.parametrize("command", [["run"], ["explain"], ["tune", "--seconds", "0"], ["bench", "--model"]])
def test_model_files_that_are_none(opyard: Opyard, tmp_path: Path, command: list[str]):
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 9)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    for name, message in [
        ("damaged.onnx", "damaged.onnx is no ONNX model: "),
        ("empty.onnx", "empty.onnx holds no graph; is it an ONNX model?"),
        ("folder.onnx", "folder.onnx'. A saved model is a folder with a folder for each version"),
        ("missing.onnx", "there is no file or folder '"),
    ]:
        status, out, err = opyard(*command, str(tmp_path / name))
        assert (status, out) == (1, "") and message in err and "Traceback" not in err


def test_models_that_take_no_arrays(opyard: Opyard, tmp_path: Path):
    onnx.save(model("g (string[2] x) => (string[2] y) { y = Identity (x) }"), tmp_path / "text.onnx")
    sequence = "g (seq(float[2]) x) => (float[2] y) { i = Constant <value_int = 0> () y = SequenceAt (x, i) }"
    onnx.save(model(sequence), tmp_path / "sequence.onnx")
    for command in ("run", "explain"):
        err = opyard(command, str(tmp_path / "text.onnx"))[2]
        assert "'x' holds strings, which are no tensors of a graph; use opyard_onnx.Model" in err
        err = opyard(command, str(tmp_path / "sequence.onnx"))[2]
        assert "the input 'x' is no tensor, and a graph takes tensors alone; use opyard_onnx.Model" in err


def test_explaining_a_model_with_stages(opyard: Opyard, tmp_path: Path):
    proto = model("g (float[5] x) => (int64[1, n] y) { y = NonZero (x) }")
    onnx.save(proto, tmp_path / "m.onnx")
    status, _, err = opyard("explain", str(tmp_path / "m.onnx"))
    assert status == 1 and "or use opyard_onnx.Model, as `opyard run` does." in err


def test_specs_that_do_not_fit_the_model(opyard: Opyard, network: str):
    for command in (["explain"], ["tune"], ["bench", "--model"]):
        err = opyard(*command, network)[2]
        assert "takes the inputs x: float32[batch, 4], k: int64[batch]; 0 were given." in err
        err = opyard(*command, network, "f32[3,4]", "int64[2]")[2]
        assert "feed 'k' is int64[2], the graph's input is int64[batch] with batch=3." in err
        err = opyard(*command, network, "f32[3,4]", "f32[3]")[2]
        assert "feed 'k' is float32[3], the graph's input is int64[batch]; convert it" in err


def test_bench_takes_model_files(opyard: Opyard, network: str):
    status, out, _ = opyard(
        "bench", "--model", network, "f32[2,4]", "int64[2]", "--quick", "--kernel", "cpu/blas"
    )
    assert status == 0 and "matmul" in out


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
    assert status == 0 and re.search(r"^matmul: cpu/\w+ on cpu:0", out, re.MULTILINE)
    status, out, _ = opyard("tune", network, "f32[8,4]", "int64[8]", "--seconds", "0", "--no-calibration")
    assert status == 0 and "predicted" in out
    status, _, err = opyard("explain", network)
    assert (
        status == 1
        and f"{network} takes the inputs x: float32[batch, 4], k: int64[batch]; 0 were given" in err
    )


def test_what_became_of_branches_and_loops(opyard: Opyard, tmp_path: Path):
    """A loop is a node that is explained with its body; one that is unrolled is noted, with the reason."""
    body = "body (int64 i, bool on, float[k] v) => (bool go, float[k] w) { go = Identity (on) w = %s }"
    for name, step in (("node", "Tanh (v)"), ("unrolled", "Concat <axis = 0> (v, v)")):
        proto = model("g (float[2] x) => (float[k] y) { }", three=np.int64(3))
        graph = onnx.parser.parse_graph(body % step)
        proto.graph.node.append(onnx.helper.make_node("Loop", ["three", "", "x"], ["y"], body=graph))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    status, out, _ = opyard("explain", str(tmp_path / "node.onnx"))
    assert status == 0 and "scan: " in out and "body: predicted" in out and "note" not in out
    path, note = (
        str(tmp_path / "unrolled.onnx"),
        "Loop 'y' is no node of a graph, it is unrolled: scan: the carry",
    )
    status, out, _ = opyard("explain", path)
    assert status == 0 and f"note  {note}" in " ".join(out.split("\n")) and "scan: cpu" not in out
    assert json.loads(opyard("explain", path, "--json")[1])["notes"][0].startswith(note)
    assert "note    Loop 'y' is no node" in opyard("run", path)[1]
    assert json.loads(opyard("run", path, "--json")[1])["notes"][0].startswith(note)
