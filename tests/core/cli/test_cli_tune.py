"""``opyard tune``, ``opyard costs`` and ``opyard explain`` of programs, run in this process."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import opyard as oy
from opyard.cli import main
from opyard.cli import program as cli_program
from opyard.entrypoints import EntryPoint
from opyard.errors import RegistryError
from opyard.placement import default_costs
from opyard.placement.store import Measurement
from opyard.testing import NullDevice

PROGRAM = """
import numpy as np
import opyard as oy

weights = np.ones((4, 2), "float32")

def block(x):
    return oy.relu(oy.matmul(x, weights))

def add(x, y):
    return oy.add(x, y)

compiled = oy.compile(block, devices="cpu:0")

graph = oy.trace(block, oy.TensorSpec((3, 4), "float32"))

def build():
    return graph

def session():
    return oy.Session(graph, devices="cpu:0")

def by_hand():
    with oy.Graph() as made:
        x = made.input("x", oy.TensorSpec(("batch", 4), "float32"))
        made.output("y", oy.relu(x))
    return made

number = 3

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
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "tuned_program.py").write_text(PROGRAM)

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return run


QUICK = ("--seconds", "1", "--no-calibration")
FILE = "tuned_program.py"


# explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("block", ["f32[3,4]"]),
        ("compiled", ["f32[3,4]"]),
        ("graph", []),
        ("build", []),
        ("session", []),
        ("by_hand", ["f32[5,4]"]),
    ],
)
def test_explain_takes_programs(opyard: Any, name: str, inputs: list[str]) -> None:
    data = opyard("explain", f"{FILE}:{name}", *inputs, "--json").json
    assert [node["op"] for node in data["nodes"]][-1] == "relu"
    assert data["home"] in ("cpu:0", "reference")
    assert opyard("explain", f"{FILE}:{name}", *inputs).out.startswith("predicted ")


def test_a_program_may_be_in_a_module(opyard: Any) -> None:
    data = opyard("explain", "tuned_program:add", "f32[2]", "f32[2]", "--json").json
    assert [node["op"] for node in data["nodes"]] == ["add"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([f"{FILE}:blok", "f32[3,4]"], "tuned_program.py has no 'blok'. Did you mean block?"),
        (["nowhere.py:block"], "there is no file 'nowhere.py'"),
        (["nowhere:block"], "'nowhere:block' cannot be imported"),
        ([f"{FILE}:add", "f32[2]"], "1 inputs were given. Write one for each, such as 'float32[32,64]'."),
        ([f"{FILE}:by_hand"], "takes the inputs x: float32[batch, 4]; 0 were given"),
        ([f"{FILE}:graph", "f32[3,4]", "f32[3,4]"], "2 were given"),
        ([f"{FILE}:number"], "is int; name a function over arrays"),
        ([f"{FILE}:without_output"], "has no output; name one with graph.output('y', value)"),
        ([f"{FILE}:add", "f32[2]", "none"], "none is for ops"),
        ([f"{FILE}:block", "f32[3,4]", "--set", "axis=0"], "--set is for the attributes of an op"),
    ],
)
def test_explain_of_programs_that_are_none(opyard: Any, arguments: list[str], text: str) -> None:
    outcome = opyard("explain", *arguments)
    assert outcome.status == 1
    assert text in outcome.err


def test_explanations_wrap_below_their_rows(opyard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("explain", f"{FILE}:block", "float32[3,4]")
    piped = opyard(*arguments).out.splitlines()
    assert max(map(len, piped)) > 80
    monkeypatch.setenv("COLUMNS", "80")
    wrapped = opyard(*arguments).out.splitlines()
    assert max(map(len, wrapped)) <= 80 and len(wrapped) > len(piped)
    starts = {len(line) - len(line.lstrip()) for line in wrapped}
    assert starts <= {0, 4, 6, 10}
    assert [line.split()[0] for line in wrapped if line[0] != " "] == [
        line.split()[0] for line in piped if line[0] != " "
    ]
    assert " ".join(" ".join(wrapped).split()) == " ".join(" ".join(piped).split())


def test_explain_of_an_op_shows_what_was_measured(opyard: Any) -> None:
    opyard("tune", f"{FILE}:add", "f32[64]", "f32[64]", *QUICK)
    rows = opyard("explain", "add", "f32[64]", "f32[64]", "--json").json["candidates"]
    measured = opyard("costs", "--json").json["measurements"]
    assert sum(row["estimate"] == "measured" for row in rows) <= measured


# tune ------------------------------------------------------------------------------------------------------------


def test_tune(opyard: Any) -> None:
    outcome = opyard("tune", f"{FILE}:block", "f32[3,4]", *QUICK, "--seed", "3", "--json")
    data = outcome.json
    assert data["interrupted"] is False and data["calibrated"] == [] and data["wrong"] == []
    assert set(data) >= {"outcome", "measured", "changes", "seconds_before", "seconds_after", "placement"}
    again = opyard("tune", f"{FILE}:block", "f32[3,4]", *QUICK)
    assert "predicted " in again.out and "by what is known now" in again.out
    assert opyard("costs", "--json").json["measurements"] >= len(data["measured"]) > 0
    assert "measuring " in outcome.err


def test_tune_needs_a_program(opyard: Any) -> None:
    outcome = opyard("tune", "matmul", "f32[2,2]", "f32[2,2]")
    assert outcome.status == 1
    assert (
        "'matmul' is no program; write module:function, path.py:function or the path of a model file"
        in outcome.err
    )


def test_model_files_are_opened_by_plugins(
    opyard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opyard import runtime

    made = oy.trace(oy.relu, oy.TensorSpec((3, 4), "float32"))
    opened = {"acme": made, "other": None}

    class Hook:
        def __init__(self, name: str) -> None:
            self.name, self.hook = name, self

        def opyard_open_model(self, path: str, version: int | None, verify: bool) -> oy.Graph | None:
            assert version is None and verify
            return opened[self.name] if path.endswith(".acme") else None

    class Loaded:
        entry = EntryPoint("acme", "opyard-acme", "1", "acme")

        def __init__(self, name: str) -> None:
            self.manager = Hook(name)

    found = type(runtime.inspect_plugins())(oy.standard_registry())
    found.all = [Loaded("other"), Loaded("acme")]  # type: ignore[list-item]
    monkeypatch.setattr(runtime, "inspect_plugins", lambda: found)
    path = tmp_path / "net.acme"
    path.write_bytes(b"")
    assert cli_program.load(str(path), ()).session.graph is made
    with pytest.raises(RegistryError, match=r"there is no file or folder '.*none\.acme'\."):
        cli_program.load(str(tmp_path / "none.acme"), ())
    with pytest.raises(RegistryError, match=r"there is no file or folder 'none\.onnx'\."):
        cli_program.load("none.onnx", ())
    for ending, text in (
        (
            ".onnx",
            r"opening the file '.*onnx' needs a plugin: it comes with opyard-onnx\. Type: `pip install",
        ),
        (
            ".tflite",
            r"no installed plugin opens the file '.*tflite'\..* known endings of files are \.onnx; opyard",
        ),
    ):
        other = tmp_path / f"net{ending}"
        other.write_bytes(b"")
        with pytest.raises(RegistryError, match=text):
            cli_program.load(str(other), ())


def test_what_names_a_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("add", "net.acme", "block.py"):
        Path(name).write_bytes(b"")
    for name in ("digits", "matmul", "models/digits"):  # a folder beside us may have the name of an op
        Path(name).mkdir(parents=True)
    folders = ["digits", "models/digits", "./matmul", "matmul/"]
    models = [*folders, "net.onnx", "net.acme", "folder/none.acme", "folder/net.onnx"]
    others = [
        "add",
        "matmul",
        "acme.swish",
        "block.py",
        "block.py:f",
        "folder/block.py:f",
        "package.module:f",
    ]
    assert all(map(cli_program.is_model, models))
    assert not any(map(cli_program.is_model, others))


def test_an_interrupted_tune_says_so(opyard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("opyard.placement.tuning.interleave", interrupt)
    outcome = opyard("tune", f"{FILE}:block", "f32[3,4]", *QUICK)
    assert outcome.status == 130
    assert "interrupted; what was measured is kept" in outcome.out


# costs -----------------------------------------------------------------------------------------------------------


def test_costs(opyard: Any, tmp_path: Path) -> None:
    empty = opyard("costs", "--json").json
    assert empty == {
        "path": str(tmp_path / "cache" / "costs.sqlite"),
        "measurements": 0,
        "wrong": 0,
        "devices": [],
        "wrong_kernels": [],
    }
    assert not (tmp_path / "cache" / "costs.sqlite").exists()
    device = NullDevice("null:0")
    store = default_costs().store
    store.put("exp", "null/k", device, Measurement(1e-3))
    store.put("sin", "null/k", device, Measurement(0.0, verdict="wrong", reason="it is zero"))
    data = opyard("costs", "--json").json
    assert (data["measurements"], data["wrong"]) == (2, 1)
    assert data["wrong_kernels"] == [{"kernel": "null/k", "work": "sin", "reason": "it is zero"}]
    table = opyard("costs").out
    assert table.startswith("2 measurements in ")
    assert "wrong: null/k on sin: it is zero" in table
    assert any(line.split()[:1] == ["null:0"] for line in table.splitlines())


def test_costs_travel(opyard: Any, tmp_path: Path) -> None:
    default_costs().store.put("exp", "null/k", NullDevice("null:0"), Measurement(1e-3))
    file = str(tmp_path / "fleet.json")
    assert opyard("costs", "--export", file, "--json").json["exported"] == 1
    assert opyard("costs", "--clear", "--json").json["cleared"] == 1
    assert opyard("costs", "--json").json["measurements"] == 0
    assert opyard("costs", "--import", file, "--json").json["imported"] == 1
    assert opyard("costs", "--json").json["measurements"] == 1
    assert opyard("costs", "--import", file).out.startswith("imported 1 measurements\n")


def test_costs_errors(opyard: Any, tmp_path: Path) -> None:
    both = opyard("costs", "--clear", "--export", "file")
    assert both.status == 2 and "exclude each other; give one" in both.err
    missing = opyard("costs", "--import", "missing.json")
    assert missing.status == 1 and "No such file" in missing.err
    (tmp_path / "other.json").write_text("[]")
    other = opyard("costs", "--import", "other.json")
    assert other.status == 1 and "other.json is no export of measured costs" in other.err


def test_a_damaged_store_is_a_warning_and_no_error(opyard: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "costs.sqlite").write_bytes(b"damaged" * 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = opyard("explain", f"{FILE}:block", "f32[3,4]", "--json")
    assert outcome.status == 0 and "warning: measured costs are not used" in outcome.err
    assert opyard("costs", "--clear").status == 0
    assert not (folder / "costs.sqlite").exists()
    assert isinstance(default_costs(), oy.MeasuredCosts)


@pytest.mark.parametrize(("style", "start"), [("mermaid", "flowchart TD"), ("dot", "digraph placement {")])
def test_explain_draws_programs(opyard: Any, style: str, start: str) -> None:
    done = opyard("explain", f"{FILE}:block", "float32[3,4]", "--draw", style)
    assert done.status == 0, done.err
    assert done.out.startswith(start)
    assert "matmul" in done.out


def test_a_drawing_is_no_json(opyard: Any) -> None:
    done = opyard("explain", f"{FILE}:block", "float32[3,4]", "--draw", "dot", "--json")
    assert done.status == 1
    assert "--draw prints a drawing and --json prints data; choose one of them." in done.err


def test_ops_are_not_drawn(opyard: Any) -> None:
    done = opyard("explain", "exp", "float32[2,3]", "--draw", "dot")
    assert done.status == 1
    assert "--draw is for programs, such as model.py:function; 'exp' is an op." in done.err


def test_what_the_program_raises_is_shown_as_its_own(opyard: Any, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text(
        "import sys\n\ndef bad(x):\n    raise ValueError('nope')\n\ndef leave():\n    sys.exit(3)\n"
    )
    done = opyard("explain", "raising.py:bad", "float32[2]")
    assert (done.status, done.err) == (1, "error: raising.py:bad raised ValueError: nope\n")
    done = opyard("explain", "raising.py:leave")
    assert (done.status, done.err) == (1, "error: raising.py:leave raised SystemExit: 3\n")
