"""``opyard bench`` on scripted kernels: what is timed, what is shown, what is kept, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.cli import main
from opyard.placement import default_costs
from opyard.testing import NullBackend, NullDevice, add_null_backend, prepare_null
from opyard_bench import sweep as sweeping
from opyard_bench.record import Roof, read
from opyard_bench.report import COLUMNS, lines

SPEED = ("--no-calibration", "--seconds", "0.01")


class Outcome:
    """Exit status and texts."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def zeros(call: oy.Call, device: oy.Device) -> Any:
    """Prepares a kernel that is wrong."""
    return lambda *arrays: device.upload(np.zeros(call.outputs[0].shape, call.outputs[0].dtype))


def turns_wrong(call: oy.Call, device: oy.Device) -> Any:
    """Prepares a kernel that is right the first time alone."""
    right, made = prepare_null(call, device), []

    def run(*arrays: Any) -> Any:
        made.append(1)
        return right(*arrays) if len(made) == 1 else zeros(call, device)(*arrays)

    return run


def sleeper(seconds: float) -> Callable[..., Any]:
    def prepare(call: oy.Call, device: oy.Device) -> Any:
        right = prepare_null(call, device)

        def run(*arrays: Any) -> Any:
            time.sleep(seconds)
            return right(*arrays)

        return run

    return prepare


def fails(call: oy.Call, device: oy.Device) -> Any:
    raise RuntimeError("no such unit")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[oy.Registry]:
    """Null devices with kernels of exp and add, as the registry of the command line; costs of its own."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), ops=("exp", "add"))
    made.backend("gone", load=lambda: NullBackend(reason="no such card here; buy one"))
    with oy.using(registry=made):
        yield made


@pytest.fixture
def bench(registry: oy.Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return run


def measure(bench: Callable[..., Outcome], path: Path, *arguments: str) -> Any:
    """The record of a run, as plain data."""
    done = bench(*SPEED, *arguments, "--json", path)
    assert done.status == 0, done.err
    return json.loads(path.read_text())


def rows(data: Any) -> dict[tuple[str, str], Any]:
    """(kernel, case) -> row."""
    return {(row["kernel"], cell["case"]): row for cell in data["cells"] for row in cell["rows"]}


def test_every_kernel_of_every_scaled_case_is_timed(bench, tmp_path):
    data = measure(bench, tmp_path / "run.json", "exp")
    assert [cell["op"] for cell in data["cells"]] == ["exp"] * 3
    assert data["cells"][0]["bytes"] < data["cells"][1]["bytes"] < data["cells"][2]["bytes"]
    for cell in data["cells"]:
        assert {(r["kernel"], r["device"]) for r in cell["rows"]} == {
            ("null/null", "null:0"),
            ("reference/reference", "reference"),
        }
        assert all(r["status"] == "ok" and r["samples"] and r["calls"] >= 1 for r in cell["rows"])
        assert cell["chosen"] == "null/null on null:0"
        assert cell["flops"] > 0
    assert data["interrupted"] is False
    assert data["machine"]["threads"] >= 1
    assert data["versions"]["numpy"] == np.__version__
    assert {device["device"] for device in data["devices"]} == {"null:0", "reference"}
    assert data["absent"] == ["gone has no device here (inactive): no such card here; buy one"]


def test_quick_leaves_the_largest_out(bench, tmp_path):
    assert len(measure(bench, tmp_path / "run.json", "exp", "--quick")["cells"]) == 2


def test_sizes_by_name(bench, tmp_path):
    data = measure(bench, tmp_path / "run.json", "matmul", "--shapes", "m=2:8:x2,k=3,n=2^2")
    assert [cell["case"] for cell in data["cells"]] == [f"float32[{m},3]-float32[3,4]" for m in (2, 4, 8)]
    data = measure(
        bench, tmp_path / "run.json", "exp", "--shapes", "n=5", "--dtype", "f64", "--dtype", "float16"
    )
    assert [cell["case"] for cell in data["cells"]] == ["float64[5]", "float16[5]"]


def test_a_wrong_kernel_is_shown_and_never_timed(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="zeros", prepare=zeros)
    path = tmp_path / "run.json"
    done = bench("exp", "--shapes", "n=8", *SPEED, "--json", path)
    row = rows(json.loads(path.read_text()))["null/zeros", "float32[8]"]
    assert (row["status"], row["samples"]) == ("wrong", [])
    assert "8 of 8 values differ" in row["reason"]
    assert "WRONG: 8 of 8 values differ" in done.out
    shown = next(line for line in lines(read(path)) if line.row.kernel == "null/zeros")
    assert shown.summary is shown.vs_best is shown.regret is None


def test_a_kernel_that_turns_wrong_while_it_is_timed(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="fades", prepare=turns_wrong)
    row = rows(measure(bench, tmp_path / "run.json", "exp", "--shapes", "n=8"))["null/fades", "float32[8]"]
    assert (row["status"], row["samples"]) == ("wrong", [])
    assert row["reason"].startswith("after it was timed: 8 of 8 values differ")


def test_refused_and_failed_kernels_have_their_sentence(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="picky", prepare=prepare_null, dtypes=("float64",))
    registry.kernel("exp", backend="null", name="broken", prepare=fails)
    found = rows(measure(bench, tmp_path / "run.json", "exp", "--shapes", "n=8"))
    assert found["null/picky", "float32[8]"]["status"] == "refused"
    assert found["null/picky", "float32[8]"]["reason"] == "takes x of float64, not float32"
    assert found["null/broken", "float32[8]"]["status"] == "failed"
    assert found["null/broken", "float32[8]"]["reason"] == "RuntimeError: no such unit"


def test_the_order_of_times_and_the_regret_of_a_bad_choice(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="slow", prepare=sleeper(0.02), cost=lambda call, device: 0.0)
    path = tmp_path / "run.json"
    measure(bench, path, "exp", "--shapes", "n=8")
    found = {line.row.kernel: line for line in lines(read(path))}
    assert found["null/slow"].cell.chosen == "null/slow on null:0"
    regret = found["null/slow"].regret
    assert regret is not None
    assert regret > 3, "it sleeps, and the others do not"
    assert found["null/null"].regret is None


def test_kernels_and_devices_by_name(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="other", prepare=prepare_null)
    path = tmp_path / "run.json"
    found = rows(measure(bench, path, "exp", "--shapes", "n=8", "--kernel", "null/o*"))
    assert {kernel for kernel, _ in found} == {"null/other", "reference/reference"}
    found = rows(measure(bench, path, "exp", "--shapes", "n=8", "--device", "reference"))
    assert {kernel for kernel, _ in found} == {"reference/reference"}


def test_save_makes_costs_of_the_medians(bench, registry, tmp_path):
    registry.kernel("exp", backend="null", name="zeros", prepare=zeros)
    call = registry.get_op("exp").call(oy.TensorSpec((8,)))
    device = registry.device("null:0")

    def estimates() -> dict[str, Any]:
        found = oy.candidates(call, [device], registry, costs=default_costs())
        return {c.kernel.id: c for c in found}

    path = tmp_path / "run.json"
    measure(bench, path, "exp", "--shapes", "n=8")
    assert estimates()["null/null"].estimate.source == "roofline"
    measure(bench, path, "exp", "--shapes", "n=8", "--save")
    kept = estimates()
    assert kept["null/null"].estimate.source == "measured"
    shown = {line.row.kernel: line for line in lines(read(path))}
    summary = shown["null/null"].summary
    assert summary is not None
    assert kept["null/null"].seconds == summary.median
    assert kept["null/zeros"].refusal.startswith("wrong on this machine: 8 of 8 values differ")


def test_what_is_implausible_is_not_saved(bench, registry, tmp_path, monkeypatch):
    """A device that was measured to be slow: nothing on it can be this fast."""
    slow = Roof("null:0", "accelerator", "", "", bandwidth=((64.0, 1.0),))
    monkeypatch.setattr(sweeping.roofs, "measure", lambda device, *_: replace(slow, device=device.name))
    done = bench("exp", "--shapes", "n=8", "--seconds", "0.01", "--save", "--device", "null:0")
    assert "IMPLAUSIBLE" in done.out
    assert default_costs().store.summary()["measurements"] == 0


def test_a_run_with_calibration_names_the_roofs(bench, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "QUICK_CALIBRATION_SECONDS", 0.05)
    path = tmp_path / "run.json"
    done = bench("exp", "--shapes", "n=8", "--quick", "--seconds", "0.01", "--json", path)
    assert done.status == 0, done.err
    roofs = {device.device: device for device in read(path).devices}
    assert roofs["null:0"].bandwidth
    assert roofs["null:0"].flops is None, "there is no product to measure it by"
    assert roofs["reference"].bandwidth == ()
    assert default_costs().store.capabilities(registry.device("null:0")) is None, "nothing is kept unasked"


def test_an_interrupt_keeps_what_was_measured(bench, registry, tmp_path):
    def interrupts(call: oy.Call, device: oy.Device) -> Any:
        raise KeyboardInterrupt

    registry.kernel("exp", backend="null", name="null", prepare=interrupts, override=True)
    path = tmp_path / "run.json"
    done = bench("add", "exp", "--quick", *SPEED, "--json", path)
    assert done.status == 130
    assert done.err.rstrip().endswith("interrupted")
    assert "It was interrupted: the rest is missing." in done.out
    data = read(path)
    assert data.interrupted
    assert {cell.op for cell in data.cells if any(row.samples for row in cell.rows)} == {"add"}


def test_formats_are_functions_of_the_record(bench, tmp_path):
    path, csv, markdown, html = (tmp_path / f"run.{end}" for end in ("json", "csv", "md", "html"))
    done = bench(
        "add", "--quick", *SPEED, "--json", path, "--csv", csv, "--markdown", markdown, "--html", html
    )
    assert done.status == 0
    assert bench("show", path).out == done.out
    assert bench("show", path, "--format", "csv").out == csv.read_text()
    assert bench("show", path, "--format", "markdown").out == markdown.read_text()
    assert bench("show", path, "--format", "html").out == html.read_text()
    assert bench("show", path, "--format", "json").out == path.read_text()
    assert html.read_text().count("<tr><td>add") == 2
    head, *body = csv.read_text().splitlines()
    assert head == ",".join(COLUMNS)
    assert len(body) == 4
    assert sum(line.startswith("| add | float32[") for line in markdown.read_text().splitlines()) == 4


def test_a_record_on_the_standard_output(bench):
    done = bench("exp", "--shapes", "n=8", *SPEED, "--json", "-")
    assert json.loads(done.out)["opyard_bench"] == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "there is no op called 'nonsense'"),
        (
            ["exp", "--kernel", "null/nul"],
            "no kernel is called 'null/nul'. Did you mean null/null? `opyard kernels OP` lists",
        ),
        (["exp", "--device", "cpu:9"], "there is no device 'cpu:9'"),
        (["exp", "--dtype", "floaty"], "there is no dtype called 'floaty'"),
        (
            ["bitwise_and", "--dtype", "f16"],
            "there is nothing to time: none of the ops has a case for float16.",
        ),
        (
            ["exp", "--shapes", "n"],
            "--shapes 'n' is no size; write a name and a number or a range with a factor",
        ),
        (["exp", "--shapes", "n=8:4:x2"], "--shapes 'n=8:4:x2' names no sizes: the first must be positive"),
        (["exp", "--shapes", "n=2^2^2"], "--shapes 'n=2^2^2': '2^2^2' is no number; write 1024 or 2^10."),
        (
            ["exp", "--shapes", "m=8"],
            "--shapes lacks n: the sizes of exp are n. Write for example --shapes n=256.",
        ),
        (
            ["conv", "--shapes", "m=8"],
            "--shapes cannot be used with conv: its description does not name the sizes",
        ),
    ],
)
def test_what_is_refused(bench, arguments, text):
    done = bench(*arguments)
    assert done.status == 1
    assert done.err.startswith("error: ")
    assert text in done.err
    assert done.out == ""


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("opyard_bench.command.sweep", lambda *_: pytest.fail("it measured"))
    done = bench("exp", "--json", tmp_path / "none" / "run.json")
    assert f"there is no folder '{tmp_path / 'none'}'. Type: mkdir -p {tmp_path / 'none'}" in done.err
    done = bench("exp", "--csv", tmp_path)
    assert f"error: {tmp_path} cannot be written; name another file, or change its rights." in done.err
    assert done.status == 1
    assert "there is no folder" in bench("exp", "--html", tmp_path / "none" / "run.html").err
    done = bench("compare", "a.json", "b.json", "--html", tmp_path)
    assert f"error: {tmp_path} cannot be written" in done.err, "before anything is read"


def test_compare_on_the_command_line(bench, registry, tmp_path):
    """Single runs of two kernels tell nothing; folders with some of each side do."""
    for number in range(3):
        (tmp_path / "base").mkdir(exist_ok=True)
        measure(bench, tmp_path / "base" / f"{number}.json", "exp", "--shapes", "n=8", "--seconds", "0.1")
    base = tmp_path / "base" / "0.json"
    assert bench("compare", base, base).status == 0
    registry.kernel("exp", backend="null", name="null", prepare=sleeper(0.02), override=True)
    for number in range(3):
        (tmp_path / "head").mkdir(exist_ok=True)
        measure(bench, tmp_path / "head" / f"{number}.json", "exp", "--shapes", "n=8", "--seconds", "0.1")
    done = bench("compare", base, tmp_path / "head" / "0.json")
    assert done.status == 0
    assert "one run says nothing about the machine" in done.out
    done = bench("compare", tmp_path / "base", tmp_path / "head")
    assert done.status == 1
    assert "SLOWER" in done.out
    page = tmp_path / "page.html"
    data = json.loads(bench("compare", tmp_path / "base", tmp_path / "head", "--json", "--html", page).out)
    assert "null/null" in page.read_text()
    assert next(v for v in data["verdicts"] if v["kernel"] == "null/null")["verdict"] == "SLOWER"
    (tmp_path / "none").mkdir()
    done = bench("compare", tmp_path / "none", base)
    assert f"error: {tmp_path / 'none'} has no records; write one with `opyard bench --json" in done.err
