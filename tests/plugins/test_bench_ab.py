"""``opyard bench ab``: two opyards in processes of their own, what they are made from, and how it ends when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opyard.cli import main
from opyard.errors import SettingsError
from opyard_bench import ab as measuring
from opyard_bench import ab_command, environments
from opyard_bench.environments import HERE, python_of
from opyard_bench.record import read

ROOT = Path(__file__).parents[2]
PLUGIN = """
import os
import time
import opyard as oy
from opyard import hookimpl
from opyard.errors import SpecError

OPYARD_API = (1, 1)

{code}

def infer(x):
    if x.shape != (64,):
        raise SpecError("there is no other size")
    return x


@hookimpl
def opyard_register(registry):
    for name in OPS:
        title = "acme." + name
        cases = lambda: [oy.Case((oy.Draw((64,)),))]
        registry.op(oy.op(title, infer=infer, cases=cases)(lambda x: x + 1))
        for kernel, function in KERNELS.items():
            registry.kernel(title, backend="cpu", name=kernel, load=function)
"""
GOOD = """
OPS = ["step"]

def slow(x):
    return x + 1

def steady(x):
    return x + 1

def gone(x):
    return x + 1

def fades(x):
    return x + 1

KERNELS = {"slow": slow, "steady": steady, "fades": fades, "gone": gone}
"""


class Outcome:
    """Exit status and texts."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def python_with(folder: Path, code: str) -> str:
    """A program that is this Python with a plugin of this code on its path."""
    info = folder / "site" / "opyard_acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opyard-acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opyard]\nacme = opyard_acme\n")
    (folder / "site" / "opyard_acme.py").write_text(PLUGIN.replace("{code}", code))
    return script(folder / "python", f'PYTHONPATH="{folder / "site"}" exec "{sys.executable}" "$@"')


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the command here, with the plugin of the base in the registry, few passes and little time."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(ab_command.tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()

    monkeypatch.setattr(ab_command.signal, "signal", lambda *_: None)

    def run(*arguments: str | Path) -> Outcome:
        shared = ("acme.step", "--device", "cpu:0", "--seconds", "0.05", "--passes", "5")
        with pytest.raises(SystemExit) as ended:
            main(["bench", "ab", *shared, *map(str, arguments)])
        out, err = capfd.readouterr()
        assert not list((tmp_path / "temporary").iterdir()), "everything that was made is gone"
        return Outcome(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The Python of the base; the parent knows the op, too."""
    import opyard as oy

    program = python_with(tmp_path / "base", GOOD)
    monkeypatch.syspath_prepend(str(tmp_path / "base" / "site"))
    registry = oy.standard_registry()
    import opyard_acme  # type: ignore[import-not-found]

    opyard_acme.opyard_register(registry)
    monkeypatch.setattr(ab_command.oy, "default_registry", lambda: registry)
    monkeypatch.delitem(sys.modules, "opyard_acme")
    return program


def workers() -> list[str]:
    """The processes of this user that run the worker."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    me = str(os.getpid())
    return [
        line
        for line in found.stdout.splitlines()
        if "opyard_bench/worker.py" in line and line.split()[1] == me
    ]


def test_what_became_slower_and_what_broke_is_found(bench, acme, tmp_path):
    """Both sleep: on a busy machine the logarithm of what takes a microsecond says little."""
    sleepy = GOOD.replace("def slow(x):\n", "def slow(x):\n    time.sleep(0.004)\n")
    calm = python_with(tmp_path / "calm", sleepy)
    head = python_with(
        tmp_path / "head",
        sleepy.replace("sleep(0.004)", "sleep(0.02)")
        .replace("def fades(x):\n    return x + 1", "def fades(x):\n    return x * 0")
        .replace('"gone": gone', '"new": gone'),
    )
    (tmp_path / "records").mkdir()
    page = tmp_path / "page.html"
    done = bench("--base", calm, "--head", head, "--records", tmp_path / "records", "--html", page)
    assert done.status == 1, done.err
    assert "cpu/slow on cpu:0, hot" in page.read_text()
    assert calm in page.read_text(), "what was compared"
    assert "<title>opyard bench ab: " in page.read_text()
    assert f"base: {calm}; head: {head}." in done.out
    base, new = (read(tmp_path / "records" / f"{side}.json") for side in ("base", "head"))
    assert base.pair == new.pair != ""
    assert (base.options["side"], base.options["passes"]) == (calm, 5)
    assert {device.device for device in base.devices} == {"cpu:0"}
    rows = {row.kernel: row for row in base.cells[0].rows}
    assert len(rows["cpu/slow"].passes) == 5
    assert sum(rows["cpu/slow"].passes) == len(rows["cpu/slow"].samples)
    assert not workers()

    again = subprocess.run(
        [sys.executable, "-c", "from opyard.cli import main; main()", "bench", "compare", "--json"]
        + [str(tmp_path / "records" / f"{side}.json") for side in ("base", "head")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1, again.stderr
    found = {v["kernel"]: v for v in json.loads(again.stdout)["verdicts"]}
    assert found["cpu/slow"]["verdict"] == "SLOWER", found["cpu/slow"]
    assert found["cpu/steady"]["low"] <= found["cpu/steady"]["ratio"] <= found["cpu/steady"]["high"]
    assert (found["cpu/gone"]["verdict"], found["cpu/gone"]["reason"]) == ("MISSING", "only in the base")
    assert (found["cpu/new"]["verdict"], found["cpu/new"]["reason"]) == ("MISSING", "only in the head")
    assert (found["cpu/fades"]["verdict"], found["cpu/fades"]["reason"][:6]) == ("BROKEN", "wrong:")
    for verdict in found.values():
        assert verdict["kernel"] in done.out


def test_a_kernel_that_ends_its_process_is_an_error_and_leaves_nothing(bench, acme, tmp_path):
    head = python_with(tmp_path / "head", GOOD.replace("def fades(x):\n", "def fades(x):\n    os._exit(7)\n"))
    done = bench("--base", acme, "--head", head)
    assert done.status == 1
    assert "error: the process of the head ended with status 7 in the place of an answer" in done.err
    assert "Leave the kernel that ends it out with --kernel." in done.err
    assert not workers()


def test_a_base_without_opyard_is_an_error(bench, acme, tmp_path):
    bare = script(tmp_path / "bare", f'shift; exec "{sys.executable}" -P -S "$@"')
    done = bench("--base", bare)
    assert done.status == 1
    assert "error: the base cannot be timed: ModuleNotFoundError: No module named 'numpy'" in done.err
    assert "It needs opyard with opyard.placement.measuring, and the devices asked for" in done.err
    assert not workers()


def test_what_is_no_python_is_an_error(bench, acme, tmp_path):
    done = bench("--base", script(tmp_path / "false", "echo no such option >&2; exit 3"))
    assert "error: the process of the base ended with status 3 in the place of an answer" in done.err
    assert "Each side needs a Python of version 3.11 or newer." in done.err
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0\0")
    broken.chmod(0o755)
    assert f"error: --base: {broken} cannot be started" in bench("--base", broken).err


def test_an_interrupt_keeps_what_was_measured(bench, acme, tmp_path, monkeypatch):
    rounds = []

    def interrupted(self: Any, turn: Any) -> None:
        rounds.append(1)
        if len(rounds) == 20:
            raise KeyboardInterrupt
        original(self, turn)

    original = measuring._Pass._round
    monkeypatch.setattr(measuring._Pass, "_round", interrupted)
    (tmp_path / "records").mkdir()
    done = bench("--base", acme, "--records", tmp_path / "records", "--head", acme)
    assert done.status == 130
    assert done.err.rstrip().endswith("interrupted")
    assert "pairs of processes are too few to tell; give it more --passes" in done.out
    base, head = (read(tmp_path / "records" / f"{side}.json") for side in ("base", "head"))
    assert base.interrupted
    for a, b in zip(base.cells[0].rows, head.cells[0].rows, strict=True):
        assert len(a.samples) == len(b.samples) == sum(a.passes)
    assert sum(len(row.samples) for row in base.cells[0].rows) == 19
    assert not workers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_both_processes(acme, tmp_path, number):
    """As a terminal does it for Ctrl-C."""
    command = [acme, "-c", "from opyard.cli import main; main()", "bench", "ab", "acme.step"]
    process = subprocess.Popen(
        [*command, "--device", "cpu:0", "--base", acme, "--head", acme, "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    before = set(tmp_path.iterdir())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(children(process.pid)) < 2:
        time.sleep(0.05)
    started = children(process.pid)
    assert len(started) == 2
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not {line.split()[0] for line in started} & {line.split()[0] for line in children(process.pid)}
    assert set(tmp_path.iterdir()) <= before, "the folder of the environments is gone"


def children(parent: int) -> list[str]:
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if line.split()[1] == str(parent)]


def test_records_that_cannot_be_written_are_an_error_before_anything_is_made(
    bench, acme, tmp_path, monkeypatch
):
    monkeypatch.setattr(ab_command, "python_of", lambda *_: pytest.fail("it made an environment"))
    done = bench("--base", acme, "--records", tmp_path / "none")
    assert done.status == 1
    assert f"there is no folder '{tmp_path / 'none'}'" in done.err
    assert f"error: {tmp_path} cannot be written" in bench("--base", acme, "--html", tmp_path).err


def test_large_cells_are_prepared_in_groups():
    import opyard as oy

    def cell(elements: int) -> Any:
        return measuring._Cell(
            oy.add.op.call(oy.TensorSpec((elements,)), oy.TensorSpec((elements,))), "", None
        )

    cells = [cell(1), cell(1 << 24), cell(1), cell(1 << 24), cell(1)]
    assert [len(group) for group in measuring._groups(cells)] == [3, 2]


# What the sides are made from -----------------------------------------------------------------------------------


def test_what_is_here_and_programs_are_taken_as_they_are(tmp_path):
    assert python_of("head", HERE, tmp_path) == (sys.executable, "what is installed here")
    program = script(tmp_path / "python", "exit 0")
    assert python_of("base", program, tmp_path) == (program, program)


def test_what_is_nothing_of_that_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError,
        match=r"--base nonsense is no file, no folder, and no revision of a git repository here",
    ):
        python_of("base", "nonsense", tmp_path)
    with pytest.raises(SettingsError, match=r"--head \. is no Python, no wheel, and no folder with wheels"):
        python_of("head", ".", tmp_path)
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(SettingsError, match=r"a git revision needs git; install it, or name a wheel"):
        python_of("base", "nonsense", tmp_path)


def test_sources_of_something_else_are_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    with pytest.raises(SettingsError, match=r"--base: none of the distributions there is installed here"):
        python_of("base", str(tmp_path), tmp_path)


def write_wheel(path: Path, version: str) -> Path:
    """A wheel of opyard-acme, with nothing but its version in it."""
    info = f"opyard_acme-{version}.dist-info"
    with zipfile.ZipFile(path / f"opyard_acme-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("opyard_acme.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: opyard-acme\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path / f"opyard_acme-{version}-py3-none-any.whl"


@pytest.mark.wheels
def test_a_wheel_is_installed_before_everything_that_is_here(tmp_path, monkeypatch):
    """A wheel by uv, a folder with it by venv and pip."""
    wheel = write_wheel(tmp_path, "7.0")
    for named in (wheel, tmp_path):
        if named is tmp_path:
            monkeypatch.setattr(environments.shutil, "which", lambda name: None)
        folder = tmp_path / named.suffix.lstrip(".") / "side"
        folder.mkdir(parents=True)
        python, what = python_of("base", str(named), folder)
        assert what in (wheel.name, f"the wheels in {tmp_path}")
        code = "import opyard_acme, opyard, numpy; print(opyard_acme.VERSION, numpy.__version__)"
        done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("7.0 "), done.stderr


@pytest.mark.wheels
def test_a_wheel_that_is_none_is_an_error(tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("nothing")
    with pytest.raises(
        SettingsError, match=r"(?s)--base: broken-1.0-py3-none-any.whl cannot be installed:\n."
    ):
        python_of("base", str(tmp_path / "broken-1.0-py3-none-any.whl"), tmp_path)


@pytest.mark.wheels
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_revision_is_built_and_leaves_the_repository_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "docs")
    before = (ROOT / ".git").stat().st_mtime_ns
    python, what = python_of("base", "HEAD", tmp_path)
    assert what.startswith("HEAD (")
    code = "import opyard, opyard_cpu; print(opyard.__file__, opyard_cpu.__file__)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split()), done.stdout
    worktrees = subprocess.run(
        ["git", "worktree", "list"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert str(tmp_path) not in worktrees.stdout
    assert (ROOT / ".git").stat().st_mtime_ns == before
