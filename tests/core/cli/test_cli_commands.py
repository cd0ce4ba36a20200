"""The commands of ``opyard``: tables, JSON, exit codes and error texts, run in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

import opyard as oy
from opyard import cli
from opyard.cli import main
from opyard.errors import SpecError
from opyard.placement import exact

COMMANDS = (
    "bench",
    "costs",
    "demo",
    "devices",
    "doctor",
    "explain",
    "kernels",
    "new-plugin",
    "ops",
    "plugins",
    "tune",
)


class Outcome:
    """What one command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def opyard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Runs one command line."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err or "--debug" in arguments
        return Outcome(ended.value.code, captured.out, captured.err)

    return run


def test_devices(opyard):
    data = opyard("devices", "--json").json
    assert set(data) == {"devices", "unavailable"}
    assert {"device", "kind", "memory", "description"} == set(data["devices"][0])
    assert {"cpu:0", "reference"} <= {row["device"] for row in data["devices"]}
    assert all(set(row) == {"backend", "state", "reason"} and row["reason"] for row in data["unavailable"])
    table = opyard("devices").out
    assert all(row["device"] in table for row in data["devices"])
    assert all(row["reason"] in table for row in data["unavailable"])


def test_plugins(opyard):
    data = opyard("plugins", "--json").json
    assert set(data) == {"plugins", "conflicts", "settings"}
    by_name = {row["name"]: row for row in data["plugins"]}
    assert set(by_name["cpu"]) == {
        *("name", "state", "reason", "notes", "distribution", "version", "module", "backends", "kernels")
    }
    assert by_name["cpu"]["state"] == "ok"
    assert by_name["cpu"]["kernels"] > 50
    assert by_name["cpu"]["backends"] == ["cpu"]
    assert "opyard-cpu" in opyard("plugins").out


def test_plugins_retry_without_a_quarantine_changes_nothing(opyard):
    assert "opyard-cpu" in opyard("plugins", "--retry", "cpu").out


def test_plugins_retry_of_an_unknown_plugin(opyard):
    outcome = opyard("plugins", "--retry", "cup")
    assert outcome.status == 1
    assert (
        "there is no plugin called 'cup'. Did you mean cpu? Installed: bench, conformance, cpu" in outcome.err
    )


def test_ops(opyard):
    data = opyard("ops", "--json").json
    by_name = {row["op"]: row for row in data["ops"]}
    assert set(by_name["softmax"]) == {"op", "signature", "kind", "kernels", "standard", "summary"}
    assert by_name["softmax"]["signature"] == "(x, *, axis=-1)"
    assert {by_name[name]["kind"] for name in ("softmax", "exp", "matmul")} == {
        *("composite", "elementwise", "primitive")
    }
    assert by_name["softmax"]["standard"] is True
    assert len(by_name) > 150
    assert all(row["summary"] for row in data["ops"])


def test_ops_of_a_pattern(opyard):
    outcome = opyard("ops", "soft")
    assert "log_softmax" in outcome.out
    assert "matmul" not in outcome.out


def test_ops_of_a_pattern_that_nothing_has(opyard):
    outcome = opyard("ops", "sofmax")
    assert (outcome.status, outcome.out) == (1, "")
    assert "no op has 'sofmax' in its name. Did you mean softmax" in outcome.err


def test_kernels(opyard):
    data = opyard("kernels", "matmul", "--json").json
    assert set(data) == {"op", "signature", "kernels"}
    assert data["signature"] == "matmul(x1, x2)"
    blas = next(row for row in data["kernels"] if row["kernel"] == "cpu/blas")
    assert set(blas) == {"kernel", "origin", "dtypes", "form", "aside"}
    assert blas["origin"].startswith("opyard-cpu ")
    assert blas["aside"] is None
    table = opyard("kernels", "matmul").out
    assert table.startswith("matmul(x1, x2)\n")
    assert all(row["kernel"] in table for row in data["kernels"])


def test_kernels_of_an_unknown_op(opyard):
    outcome = opyard("kernels", "sofmax", "--json")
    assert (outcome.status, outcome.out) == (1, "")
    assert "there is no op called 'sofmax'. Did you mean softmax" in outcome.err


def test_explain(opyard):
    data = opyard("explain", "matmul", "f32[4, 8]", "float32[8,2]", "--json").json
    assert data["call"] == "matmul(float32[4, 8], float32[8, 2]) -> float32[4, 2]"
    first = data["candidates"][0]
    assert set(first) == {"kernel", "device", "origin", "seconds", "estimate", "refusal"}
    assert first["seconds"] > 0
    assert data["candidates"][-1]["kernel"] == "reference/reference" or data["candidates"][-1]["refusal"]
    table = opyard("explain", "matmul", "f32[4,8]", "f32[8,2]").out
    assert table.startswith("matmul(float32[4, 8], float32[8, 2]) -> float32[4, 2]\n")
    assert next(line for line in table.splitlines() if line.startswith("best")).split()[1] == first["kernel"]


def test_explain_takes_attributes_and_inputs_left_out(opyard):
    def call(*arguments: str) -> str:
        return opyard("explain", *arguments, "--json").json["call"]

    assert "axis=0" in call("softmax", "f64[2,3]", "--set", "axis=0")
    assert call("sum", "f32[2,3]", "--set", "axis=(0,1)", "--set", "keepdims=true").endswith("float32[1, 1]")
    assert "None, " in call("conv", "f32[1,3,8,8]", "f32[4,3,3,3]", "none", "--set", "padding=1")
    assert call("exp", "f16[]") == "exp(float16[]) -> float16[]" or "float16" in call("exp", "f16[]")
    assert call("exp", "f32[0,3]").endswith("float32[0, 3]")


def test_explain_says_why_kernels_are_refused(opyard):
    with oy.using(pin={"matmul": "reference/reference"}):
        outcome = opyard("explain", "matmul", "f32[4,8]", "f32[8,2]")
    refused = [line for line in outcome.out.splitlines() if line.startswith("refused")]
    assert any("cpu/blas" in line and "matmul is pinned to reference/reference" in line for line in refused)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sofmax", "f32[2]"], "there is no op called 'sofmax'. Did you mean softmax"),
        (["matmul", "f32[2,2]"], "matmul.x1, x2. needs the input 'x2'"),
        (["exp", "f32[2"], "dtype.sizes. with numbers, such as 'float32.32,4096.'; found 'f32.2'"),
        (["exp", "f32[batch]"], "with numbers, such as 'float32.32,4096.'; found 'f32.batch.'"),
        (["exp", "f32[-1]"], "with numbers, .* found 'f32.-1.'"),
        (["exp", ""], "with numbers, .* found ''"),
        (["exp", "f99[2]"], "there is no dtype called 'f99'"),
        (["softmax", "f32[2,3]", "--set", "axis=7"], "axis=7 is out of range"),
        (["softmax", "f32[2,3]", "--set", "axes=1"], "has no attribute 'axes'. Did you mean axis?"),
        (["softmax", "f32[2,3]", "--set", "axis"], "written as name=value, such as axis=-1; found 'axis'"),
        (["matmul", "f32[2,3]", "f32[2,3]"], "matmul"),
    ],
)
def test_explain_of_what_cannot_be(opyard, arguments: list[str], text: str):
    outcome = opyard("explain", *arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("error: ")
    with pytest.raises(SpecError, match=text):
        raise SpecError(outcome.err)


def test_doctor(opyard, tmp_path):
    data = opyard("doctor", "--json").json
    assert set(data) == {"healthy", "checks"}
    assert data["healthy"] is True
    assert all(set(check) == {"subject", "state", "detail"} for check in data["checks"])
    by_subject = {check["subject"]: check for check in data["checks"]}
    assert oy.__version__ in by_subject["opyard"]["detail"]
    assert by_subject["cache folder"]["detail"] == str(tmp_path / "cache")
    assert by_subject["backend reference"]["state"] == "ok"
    assert opyard("doctor").out.endswith("\nAll is well.\n")


def test_doctor_tries_the_extra_exact(opyard, monkeypatch):
    def found() -> tuple[str, str]:
        checks = json.loads(opyard("doctor", "--json").out)["checks"]
        return next((c["state"], c["detail"]) for c in checks if c["subject"] == "extra exact")

    def fail() -> None:
        raise exact.ExactFailed("no libgmp")

    monkeypatch.setattr(exact, "version", lambda: None)
    assert found()[0] == "inactive" and found()[1].startswith("not installed")
    monkeypatch.setattr(exact, "version", lambda: "9.9")
    monkeypatch.setattr(exact, "check", lambda: None)
    assert found() == ("ok", "pytoulbar2 9.9")
    monkeypatch.setattr(exact, "check", fail)
    assert found() == ("failed", "pytoulbar2 9.9 does not work: no libgmp")
    assert opyard("doctor").status == 1


def test_doctor_notes_a_cache_folder_that_cannot_be_written(opyard, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "file" / "cache"))
    data = opyard("doctor", "--json").json
    cache = next(check for check in data["checks"] if check["subject"] == "cache folder")
    assert cache["state"] == "note"
    assert cache["detail"].endswith("nothing is remembered between runs; set OPYARD_CACHE_DIR")


def test_an_unknown_command(opyard):
    outcome = opyard("device")
    assert outcome.status == 2
    assert "there is no command 'device'. Did you mean devices? Commands: " in outcome.err
    assert opyard("xyzzy").status == 2


def test_a_command_whose_package_is_not_installed(opyard, monkeypatch):
    monkeypatch.setattr(cli, "BROUGHT_BY", {"parade": "opyard-parade"})
    outcome = opyard("parade")
    assert outcome.status == 2
    assert (
        "the command 'parade' is not here: it comes with opyard-parade. Type: `pip install --find-links dist 'opyard-parade'`"
        in outcome.err
    )


def test_a_command_whose_package_is_installed_without_it(opyard, monkeypatch):
    monkeypatch.setattr(cli, "BROUGHT_BY", {"parade": "opyard-cpu"})
    outcome = opyard("parade")
    assert outcome.status == 2
    assert (
        "the command 'parade' is not here: opyard-cpu is installed, and ok: it adds no such command."
        in outcome.err
    )


@pytest.mark.parametrize("arguments", [["devices", "extra"], ["devices", "--frob"], ["kernels"], ["--frob"]])
def test_wrong_use(opyard, arguments: list[str]):
    outcome = opyard(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert "Usage: opyard" in outcome.err
    assert "--help" in outcome.err


def test_version_and_help(opyard):
    assert opyard("--version").out == f"opyard, version {oy.__version__}\n"
    text = opyard("--help").out
    for command in COMMANDS:
        assert f"\n  {command} " in text
        assert "Usage: opyard" in opyard(command, "--help").out
        assert "--json" in opyard(command, "--help").out
    assert "..." not in text.partition("Commands:")[2], "a description in the list of commands is cut off"


@pytest.mark.parametrize("arguments", [["--debug", "kernels", "nope"], ["kernels", "nope", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(opyard, arguments: list[str]):
    outcome = opyard(*arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("Traceback (most recent call last)")
    assert outcome.err.endswith("error: there is no op called 'nope'. `opyard ops` lists all.\n")


def test_an_unexpected_error_is_one_sentence(opyard, monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError("never mind")

    monkeypatch.setattr("opyard.runtime.registry", broken)
    outcome = opyard("ops")
    assert outcome.status == 1
    assert outcome.err == (
        "error: unexpected ZeroDivisionError: never mind. "
        "This is a fault in opyard or in a plugin; --debug shows where.\n"
    )
