"""``opyard run`` of programs, its profile and its trace, run in this process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard import files, runtime
from opyard.cli import main
from tracing import check_trace, lanes

PROGRAM = """
import numpy as np
import opyard as oy

weights = np.ones((4, 2), "float32")
count = oy.Variable(np.zeros(4, "float32"), name="count")

def block(x, y):
    return oy.matmul(oy.relu(x), weights), oy.add(y, 1)

def loop(x):
    return oy.while_loop(lambda s: oy.sum(s) < 10, lambda s: oy.abs(s) + 1, x)

def step(x):
    count.assign_add(x)
    return oy.sum(x)

compiled = oy.compile(block, devices="cpu:0")

def by_hand():
    with oy.Graph() as made:
        x = made.input("x", oy.TensorSpec(("batch", 4), "float32"))
        y = made.input("y", oy.TensorSpec(("batch",), "float32"))
        made.output("total", oy.sum(x, axis=1) + y)
    return made

def session():
    return oy.Session(by_hand(), devices="cpu:0")

def nothing(x):
    return x

def without_output():
    made = oy.Graph()
    made.input("x", oy.TensorSpec((4,), "float32"))
    return made
"""


class Outcome:
    """What one command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def opyard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs one command line in a folder with a program."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("program.py").write_text(PROGRAM)

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(["run", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return run


# Programs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["block", "compiled"])
def test_a_function_takes_specs_in_order_or_by_name(opyard: Any, name: str) -> None:
    by_order = opyard(f"program.py:{name}", "f32[3,4]", "f32[2]", "--json").json
    by_name = opyard(f"program.py:{name}", "--input", "y=f32[2]", "--input", "x=f32[3,4]", "--json").json
    for data in (by_order, by_name):
        assert data["model"] == f"program.py:{name}" and data["stages"] == 1
        assert data["inputs"] == {"x": "float32[3, 4]", "y": "float32[2]"}
        assert data["outputs"] == {"output_0": "float32[3, 2]", "output_1": "float32[2]"}


@pytest.mark.parametrize("name", ["by_hand", "session"])
def test_open_sizes_of_a_graph_are_told_by_an_input_or_one(opyard: Any, name: str) -> None:
    assert opyard(f"program.py:{name}", "--json").json["outputs"] == {"total": "float32[1]"}
    np.save("x.npy", np.ones((5, 4), "float32"))
    data = opyard(f"program.py:{name}", "--input", "x=x.npy", "--json").json
    assert data["inputs"] == {"x": "float32[5, 4]", "y": "float32[5]"}


def test_a_program_is_compared_with_the_reference(opyard: Any) -> None:
    done = opyard("program.py:block", "f32[3,4]", "f32[2]", "--compare", "reference", "--device", "cpu:0")
    assert (
        done.status == 0 and "differs from reference at most by  output_1: 0, 0 of the greatest" in done.out
    )
    assert "opyard-" not in done.out and "cpu/blas" in done.out
    done = opyard("program.py:block", "f32[3,4]", "f32[2]", "--compare", "onnxruntime")
    assert done.status == 1
    assert (
        done.err
        == "error: 'onnxruntime' does not run program.py:block; a program is compared with 'reference'.\n"
    )


def test_a_program_runs_what_it_assigns(opyard: Any) -> None:
    done = opyard("program.py:step", "f32[4]", "--profile")
    assert done.status == 0 and "variable count" in done.out and "output_0" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["program.py:block"],
            "program.py:block(x, y): missing a required argument: 'x'; 0 inputs were given.",
        ),
        (["program.py:by_hand", "f32[1,4]", "f32[1]", "f32[1]"], "takes the inputs x, y; 3 were given."),
        (["program.py:by_hand", "--input", "z=random"], "program.py:by_hand has no input 'z'. Inputs: x, y."),
        (["program.py:by_hand", "--input", "x"], "--input is written as name=file.npy"),
        (["program.py:without_output"], "the graph of program.py:without_output has no output"),
        (["program.py:nobody"], "program.py has no 'nobody'."),
        (
            ["add"],
            "'add' is no program; write module:function, path.py:function or the path of a model file.",
        ),
        (["none.onnx"], "there is no file or folder 'none.onnx'."),
        (["program.py:by_hand", "--device", "moon:0"], "moon"),
    ],
)
def test_what_cannot_be_run(opyard: Any, arguments: list[str], message: str) -> None:
    done = opyard(*arguments)
    assert (done.status, done.out) == (1, "") and message in done.err


def test_a_plugin_may_bring_what_runs_its_models(
    opyard: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    session = oy.Session(oy.trace(oy.relu, oy.TensorSpec((3, 4), "float32")), devices="cpu:0")

    class Hook:
        manager = property(lambda self: self)
        hook = property(lambda self: self)

        def opyard_commands(self, group: Any) -> None: ...

        def opyard_model_runner(self, path: str, devices: tuple[str, ...]) -> Any:
            asked.append((path, devices))
            from opyard.cli.runner import SessionRunner

            return SessionRunner("a model", session) if path.endswith(".acme") else None

        def opyard_open_model(self, path: str, version: int | None, verify: bool) -> Any:
            return session.graph if path.endswith(".graph") else None

    found = type(runtime.inspect_plugins())(oy.standard_registry())
    found.all = [Hook()]  # type: ignore[list-item]
    monkeypatch.setattr(runtime, "inspect_plugins", lambda: found)
    for name in ("net.acme", "net.graph"):
        Path(name).write_bytes(b"")
    assert opyard("net.acme", "--device", "reference", "--json").json["model"] == "a model"
    assert asked == [("net.acme", ("reference",))]
    assert opyard("net.graph", "--device", "reference", "--json").json["model"] == "net.graph"


# Profile and trace -----------------------------------------------------------------------------------------------


def test_a_profile_is_printed(opyard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_BLOCK", "cpu/jit")  # which computes a body at once
    done = opyard("program.py:loop", "f32[4]", "--profile", "--device", "cpu:0")
    assert done.status == 0 and "while_loop/body/abs" in done.out and "a run takes" in done.out
    data = opyard("program.py:loop", "f32[4]", "--profile", "--json", "--device", "cpu:0").json
    assert data["profile"]["runs"] == 10 and data["profile"]["nodes"]
    assert "profile" not in opyard("program.py:loop", "f32[4]", "--json").json


@pytest.mark.parametrize("name", ["loop", "nothing"])
def test_a_trace_is_written(opyard: Any, name: str) -> None:
    done = opyard(f"program.py:{name}", "f32[4]", "--trace", "trace.json", "--device", "cpu:0")
    assert done.status == 0 and "trace   trace.json; open it in ui.perfetto.dev" in done.out
    trace = check_trace(json.loads(Path("trace.json").read_text()))
    assert trace["traceEvents"][0]["args"]["name"] == f"opyard: program.py:{name}"
    assert "host (Python)" in lanes(trace)
    assert opyard(f"program.py:{name}", "f32[4]", "--trace", "trace.json", "--json").json["outputs"]
    assert [path.name for path in Path().iterdir() if "trace" in path.name] == ["trace.json"]


def test_where_no_trace_can_be_written_nothing_is_run(opyard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    Path("link.json").symlink_to("elsewhere.json")
    os.mkfifo("pipe")
    for path, message in (
        ("folder", "--trace folder is a folder; name a file in it: folder/trace.json."),
        ("none/trace.json", "--trace none/trace.json: there is no folder 'none'; make it first."),
        ("link.json", "--trace link.json is no ordinary file; name one that may be replaced."),
        ("pipe", "--trace pipe is no ordinary file; name one that may be replaced."),
    ):
        done = opyard("program.py:nobody", "--trace", path)
        assert (done.status, done.out, done.err) == (1, "", f"error: {message}\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = opyard("program.py:nobody", "--trace", "folder/trace.json")
    assert (
        done.err
        == "error: --trace folder/trace.json: the folder 'folder' cannot be written to; name another.\n"
    )


def test_an_interrupt_leaves_the_trace_that_was_there(opyard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("trace.json").write_text("old")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    done = opyard("program.py:loop", "f32[4]", "--trace", "trace.json")
    assert done.status == 130 and done.err == "interrupted\n"
    assert Path("trace.json").read_text() == "old"
    assert sorted(path.name for path in Path().iterdir()) == ["program.py", "trace.json"]
