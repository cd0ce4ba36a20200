"""Records that grow with a run: what an interrupt, a full disk and another machine leave, and going on from there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import opyard as oy
from opyard.cli import main
from opyard.errors import SettingsError
from opyard.testing import NullDevice, add_null_backend
from opyard_bench import keeping
from opyard_bench.keeping import Keeper, check_machine, check_writable, write
from opyard_bench.record import read, to_text
from opyard_bench.sweep import _Bench

ARGUMENTS = ("add", "exp", "--quick", "--no-calibration", "--seconds", "0.01", "--regime", "hot,host")


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """``opyard bench`` on a null device: exit status, output and errors. Records are written after every cell."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(keeping.Keeper.__init__, "__defaults__", (0.0,))
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"), ops=("exp", "add"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    with oy.using(registry=registry):
        yield run


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException, cells: int) -> list[str]:
    """Ends runs with an error in the cell after so many; gives the list of the cells that are begun."""
    measure, begun = _Bench.measure, list[str]()

    def measured(self: _Bench, found: Any) -> None:
        begun.append(self.task.case)
        if len(begun) == cells + 1:
            self.options = replace(self.options, regimes=("hot",))
            measure(self, found)
            found[-1] = replace(found[-1], interrupted=True)
            raise error
        measure(self, found)

    monkeypatch.setattr(_Bench, "measure", measured)
    return begun


def test_an_interrupted_run_goes_on_where_it_ended(bench, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        begun = interrupt(patch, KeyboardInterrupt(), 2)
        assert bench(*ARGUMENTS, "--json", path)[0] == 130
        assert len(begun) == 3
    first = read(path)
    assert first.interrupted
    assert [cell.interrupted for cell in first.cells] == [False, False, True]
    begun = interrupt(monkeypatch, KeyboardInterrupt(), 99)
    status, out, _ = bench("--resume", path)
    assert status == 0
    second = read(path)
    assert not second.interrupted
    assert begun == [cell.case for cell in second.cells[2:]], "what was not finished is measured again"
    assert [cell.op for cell in second.cells] == ["add", "add", "exp", "exp"]
    assert second.cells[:2] == first.cells[:2]
    assert {row.regime for cell in second.cells for row in cell.rows} == {"hot", "host"}
    assert (second.started, second.options) == (first.started, first.options)
    assert "It was interrupted" not in out
    assert not list(tmp_path.glob(".*")), "nothing lies beside the record"


def test_what_is_killed_leaves_a_whole_record(bench, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    interrupt(monkeypatch, RuntimeError("killed"), 2)
    assert bench(*ARGUMENTS, "--json", path)[0] != 0
    assert len(read(path).cells) == 2
    assert read(path).interrupted


def test_a_resumed_run_may_go_to_another_file(bench, tmp_path, monkeypatch):
    path, other = tmp_path / "run.json", tmp_path / "other.json"
    with monkeypatch.context() as patch:
        interrupt(patch, KeyboardInterrupt(), 1)
        bench(*ARGUMENTS, "--json", path)
    before = path.read_text()
    assert bench("--resume", path, "--json", other, "--quick")[0] == 0
    assert path.read_text() == before
    assert len(read(other).cells) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--seed", "7"), "run.json cannot be resumed: seed is 0 there and 7 here. Times of both would not"),
        (("exp",), "ops is ('add', 'exp') there and ('exp',) here"),
        (("--regime", "cold"), "regimes is ('hot', 'host') there and ('cold',) here"),
        (
            ("--seconds", "2", "--save"),
            "seconds is 0.01 there and 2.0 here; save is False there and True here",
        ),
        (("--shapes", "n=4"), "shapes is {} there and {'n': (4,)} here"),
    ],
)
def test_other_options_are_refused(bench, tmp_path, monkeypatch, arguments, text):
    path = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        interrupt(patch, KeyboardInterrupt(), 1)
        bench(*ARGUMENTS, "--json", path)
    before = path.read_text()
    status, out, err = bench(*arguments, "--resume", path)
    assert (status, out) == (1, "")
    assert text in err
    assert path.read_text() == before


def test_another_machine_is_refused(bench, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        interrupt(patch, KeyboardInterrupt(), 1)
        bench(*ARGUMENTS, "--json", path)
    data = json.loads(path.read_text())
    data["machine"]["processor"], data["versions"]["numpy"] = "Z80", "0.1"
    path.write_text(json.dumps(data))
    status, _, err = bench("--resume", path)
    assert status == 1
    assert "run.json cannot be resumed: processor is 'Z80' there and" in err
    assert "numpy is '0.1' there and" in err
    run = read(path)
    other = replace(run, devices=(replace(run.devices[0], description="new card"), *run.devices[1:]))
    with pytest.raises(SettingsError, match=r"null:0 is 'a device for tests \(.*\)' there and 'new card"):
        check_machine(run, other, "run.json")


def test_what_cannot_be_resumed(bench, tmp_path):
    path = tmp_path / "run.json"
    assert bench(*ARGUMENTS, "--json", path)[0] == 0
    assert (
        f"{path} is of a run that came to its end, so there is nothing to resume"
        in bench("--resume", path)[2]
    )
    data = {**json.loads(path.read_text()), "interrupted": True}
    path.write_text(json.dumps({**data, "options": {"speed": 9}}))
    assert "its options are those of another version of opyard-bench" in bench("--resume", path)[2]
    path.write_text(json.dumps({**data, "pair": "of two"}))
    assert (
        f"{path} is one side of `opyard bench ab`, whose sides take turns, so neither can be resumed alone"
        in bench("--resume", path)[2]
    )


# Disks that are full -----------------------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Lets writing fail after so many files, when the data have to reach the disk."""
    written: list[int] = []

    def fsync(number: int) -> None:
        written.append(number)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keeping.os, "fsync", fsync)


def test_a_full_disk_is_an_error_before_anything_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("opyard_bench.command.sweep", lambda *_: pytest.fail("it measured"))
    fill_disk(monkeypatch)
    path = tmp_path / "run.json"
    status, _, err = bench("exp", "--json", path)
    assert status == 1
    assert f"{path} cannot be written: No space left on device; nothing is there. Make room" in err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_is_on_it(bench, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    fill_disk(monkeypatch, after=3)  # the trial, and two cells
    status, out, err = bench(*ARGUMENTS, "--json", path)
    assert status == 1
    assert "cannot be written: No space left on device; what it held before is still there" in err
    assert len(read(path).cells) == 2
    assert "3 cells. It was interrupted" in out, "what was measured is shown"
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*.part"))


def test_a_disk_that_is_full_at_the_end_prints_what_was_measured(bench, tmp_path, monkeypatch):
    path = tmp_path / "run.csv"
    fill_disk(monkeypatch, after=1)
    status, out, err = bench(*ARGUMENTS, "--csv", path)
    assert status == 1
    assert "cannot be written: No space left on device" in err
    assert "12 times over 4 cells." in out or "16 times over 4 cells." in out


def test_writing_is_one_step(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, "first")
    fill_disk(monkeypatch)
    with pytest.raises(SettingsError, match="what it held before is still there"):
        write(path, "second")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    write(Path(os.devnull), "a device is written to as it is")
    check_writable(Path(os.devnull))


def test_a_record_is_written_now_and_then(bench, tmp_path):
    source, path = tmp_path / "source.json", tmp_path / "run.json"
    bench(*ARGUMENTS, "--json", source)
    run = read(source)
    seldom = Keeper(path, interval=3600.0)
    seldom.keep(run)
    assert seldom.latest == run
    assert not path.exists()
    often = Keeper(path, interval=0.0)
    often.keep(run)
    assert path.read_text() == to_text(run)
    Keeper(None, interval=0.0).keep(run)
