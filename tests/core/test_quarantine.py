from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from environments import install, run_python
from opyard import quarantine
from opyard.entrypoints import EntryPoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
HEALTHY = "import opyard\n@opyard.hookimpl\ndef opyard_register(registry): ...\n"
WAITING = "import sys, time\nprint('loading', flush=True)\ntime.sleep(60)\n"

REPORT = """
import opyard.runtime as runtime
for plugin in runtime.plugins().all:
    if plugin.entry.name in ("fragile", "steady"):
        print(plugin.entry.name, plugin.state, plugin.reason)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(folder))
    return folder / "plugins"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def entry(name: str = "fragile", version: str = "1.0", value: str = "fragile") -> EntryPoint:
    return EntryPoint(name, f"opyard-{name}", version, value)


def install_plugin(site: Path, name: str, source: str, version: str = "1.0") -> None:
    install(site, f"opyard-{name}", {name: name}, {name: source}, version)


def report(site: Path, cache: Path) -> tuple[int, list[str]]:
    names = ",".join(path.stem for path in site.glob("*.py"))
    done = run_python(REPORT, site, OPYARD_CACHE_DIR=str(cache.parent), OPYARD_PLUGINS=names)
    assert done.returncode < 0 or done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def marker(cache: Path, number: int, of: EntryPoint | None = None) -> Path:
    """The marker that a process with this number leaves when it ends while it loads the plugin."""
    chosen = of or entry()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{chosen.name}@{chosen.distribution}-{chosen.version}.{number}.loading"
    path.touch()
    return path


def ended_process() -> int:
    """The number of a process that is no longer there."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_plugin_that_kills_the_process_is_not_loaded_again(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", CRASH)
    install_plugin(site, "steady", HEALTHY)
    assert report(site, cache) == (-signal.SIGSEGV, [])
    for _ in range(2):  # by the trial, then by the record of the trial
        code, lines = report(site, cache)
        assert code == 0
        assert lines == [
            "fragile quarantined loading fragile kills the process: the last trial was ended by SIGSEGV. "
            "Upgrade opyard-fragile, or try again: opyard plugins --retry fragile",
            "steady ok ",
        ]
    assert [path.suffix for path in cache.iterdir()] == [".quarantined"]


def test_the_user_may_have_it_tried_again(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", CRASH)
    report(site, cache)
    (quarantined,) = report(site, cache)[1]
    assert quarantine.retry("steady") == 0
    assert quarantine.retry("fragile") == 1
    assert report(site, cache) == (0, [quarantined]), "it was tried where a crash does no harm"
    assert quarantine.retry("fragile") == 1
    (site / "fragile.py").write_text(HEALTHY + "# the missing library is there now\n")
    assert report(site, cache) == (0, ["fragile ok "])
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("os._exit(0)", "ended with status 0"),
        ("os._exit(3)", "ended with status 3"),
        ("import ctypes; ctypes.CDLL(None).exit(0)", "ended with status 0"),
    ],
)
def test_a_plugin_that_ends_the_process_without_a_crash(
    site: Path, cache: Path, ending: str, how: str
) -> None:
    install_plugin(site, "fragile", f"import os\nprint('half')\n{ending}\n")
    install_plugin(site, "steady", HEALTHY)
    assert report(site, cache)[1] in ([], ["half"])
    code, lines = report(site, cache)
    assert code == 0 and lines[1] == "steady ok "
    assert lines[0].startswith(
        f"fragile quarantined loading fragile kills the process: the last trial {how}. Upgrade"
    )


DRIVER = """
import opyard

class Backend:
    def devices(self):
        {body}

@opyard.hookimpl
def opyard_register(registry):
    registry.backend("toy", load=Backend)
"""
OPEN = """
import opyard.runtime as runtime
print([(n, s.state, s.reason) for n in ("toy", "reference") for s in [runtime.registry().open(n)]])
print([(p.state, p.reason) for p in runtime.plugins().report() if p.entry.name == "fragile"])
"""


def opened(site: Path, cache: Path) -> tuple[int, list[str]]:
    done = run_python(OPEN, site, OPYARD_CACHE_DIR=str(cache.parent), OPYARD_PLUGINS="fragile,steady")
    return done.returncode, done.stdout.splitlines()


def test_a_driver_that_kills_the_process_is_not_opened_again(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", DRIVER.format(body="__import__('os').abort()"))
    assert opened(site, cache) == (-signal.SIGABRT, [])
    reason = (
        "opening the backend 'toy' of fragile kills the process: the last trial was ended by SIGABRT. "
        "Upgrade opyard-fragile, or try again: opyard plugins --retry fragile"
    )
    for _ in range(2):  # by the trial, then by the record of the trial
        code, (backends, plugin) = opened(site, cache)
        assert code == 0
        assert backends == repr([("toy", "quarantined", reason), ("reference", "ok", "")])
        assert plugin == repr([("quarantined", reason)])
    assert [path.name for path in cache.iterdir()] == ["fragile@opyard-fragile-1.0+toy.quarantined"]
    assert quarantine.retry("fragile") == 1
    (site / "fragile.py").write_text(DRIVER.format(body="return []"))
    code, (backends, _) = opened(site, cache)
    assert code == 0 and "('toy', 'inactive', " in backends


def test_a_driver_that_raises_leaves_no_marker(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", DRIVER.format(body="raise SystemExit(3)"))
    for _ in range(2):
        code, (backends, _) = opened(site, cache)
        assert code == 0 and "('toy', 'failed', 'SystemExit: 3')" in backends
    assert list(cache.iterdir()) == []


def test_another_version_is_tried_again(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", CRASH)
    report(site, cache)
    report(site, cache)
    (site / "opyard_fragile-1.0.dist-info").rename(site / "opyard_fragile-1.1.dist-info")
    (site / "fragile.py").write_text(HEALTHY + "# the crash is repaired\n")
    assert report(site, cache) == (0, ["fragile ok "])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_healthy_plugin_whose_loading_was_interrupted_is_loaded(
    site: Path, cache: Path, number: signal.Signals
) -> None:
    install_plugin(site, "fragile", WAITING)
    process = subprocess.Popen(
        [sys.executable, "-c", REPORT],
        env={
            **os.environ,
            "PYTHONPATH": str(site),
            "OPYARD_CACHE_DIR": str(cache.parent),
            "OPYARD_PLUGINS": "fragile",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None and process.stdout.readline() == b"loading\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    assert len(list(cache.glob("*.loading"))) == (number == signal.SIGKILL)
    (site / "fragile.py").write_text(HEALTHY)
    assert report(site, cache) == (0, ["fragile ok "])
    assert list(cache.iterdir()) == []


def test_a_process_that_loads_at_the_same_time_is_no_suspicion(site: Path, cache: Path) -> None:
    install_plugin(
        site, "fragile", "from pathlib import Path\nPath(__file__).with_name('loaded').touch()\n" + HEALTHY
    )
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        busy = marker(cache, process.pid)
        assert quarantine.reason(entry()) is None
        assert not (site / "loaded").exists(), "nothing was tried in another process"
        assert report(site, cache) == (0, ["fragile ok "])
        assert list(cache.iterdir()) == [busy], "and its marker stays"
    finally:
        process.kill()
        process.wait()


def test_two_processes_load_the_plugins_at_once(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", "import time\ntime.sleep(0.2)\n" + HEALTHY)
    marker(cache, ended_process())
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "OPYARD_CACHE_DIR": str(cache.parent),
        "OPYARD_PLUGINS": "fragile",
    }
    both = [
        subprocess.Popen([sys.executable, "-c", REPORT], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["fragile ok \n"] * 2
    assert list(cache.iterdir()) == []


def test_a_marker_of_this_very_process_number_is_a_suspicion(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that is started again, processes have the numbers of their predecessors."""
    install_plugin(site, "fragile", CRASH)
    monkeypatch.syspath_prepend(str(site))
    marker(cache, os.getpid())
    assert "was ended by SIGSEGV" in (quarantine.reason(entry()) or "")


def test_the_trial_sees_the_module_search_path_of_this_process(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(site, "fragile", "import os\nos.abort()\n")
    left = marker(cache, ended_process())
    assert quarantine.reason(entry()) is None, "without the path it is an ordinary ImportError, met later"
    assert not left.exists()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    marker(cache, ended_process())
    assert "was ended by SIGABRT" in (quarantine.reason(entry()) or "")


def test_a_trial_that_does_not_end(site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(site, "fragile", WAITING)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(quarantine, "PROBE_SECONDS", 1)
    marker(cache, ended_process())
    assert "the last trial did not end within 1 seconds" in (quarantine.reason(entry()) or "")


def test_a_trial_that_ends_with_a_windows_status(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess[bytes]([], 0xC0000005)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    marker(cache, 2**22 + 1)
    assert "the last trial ended with status 3221225477" in (quarantine.reason(entry()) or "")


def test_where_no_process_can_be_started_the_plugin_is_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = ended_process()
    monkeypatch.setattr(sys, "executable", "/no/python/here")
    marker(cache, number)
    assert quarantine.reason(entry()) is None


def test_an_ordinary_exception_is_no_crash(site: Path, cache: Path) -> None:
    install_plugin(site, "fragile", "raise SystemExit(3)")
    marker(cache, ended_process())
    assert report(site, cache) == (0, ["fragile failed SystemExit: 3"])


def test_an_unwritable_cache_folder(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made below a file")
    install_plugin(site, "steady", HEALTHY)
    assert report(site, blocked / "cache" / "plugins") == (0, ["steady ok "])
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(blocked / "cache"))
    assert quarantine.reason(entry()) is None and quarantine.retry("fragile") == 0
    with pytest.raises(OSError, match="from the plugin"), quarantine.marked(entry()):
        raise OSError("from the plugin")


def test_a_marker_lies_there_while_the_block_runs_whatever_ends_it(cache: Path) -> None:
    with pytest.raises(SystemExit), quarantine.marked(entry()):
        assert [path.name for path in cache.iterdir()] == [
            f"fragile@opyard-fragile-1.0.{os.getpid()}.loading"
        ]
        raise SystemExit
    assert list(cache.iterdir()) == []


def test_names_that_are_no_file_names(cache: Path) -> None:
    strange = entry(name="../[a]*/b")
    with quarantine.marked(strange):
        (path,) = cache.iterdir()
        assert path.parent == cache
    (cache / path.name.replace(f".{os.getpid()}.loading", ".quarantined")).write_text("why")
    assert quarantine.reason(strange) == "why"
    assert quarantine.retry("*") == 0, "a name is no pattern"
    assert quarantine.retry(strange.name) == 1


def test_a_marker_of_a_longer_version_belongs_to_another(cache: Path) -> None:
    left = marker(cache, ended_process(), entry(version="1.0"))
    assert quarantine.reason(entry(version="1")) is None
    assert left.exists()


def test_elsewhere_than_on_posix_the_age_of_a_marker_decides(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[EntryPoint] = []
    fresh = marker(cache, 2**22 + 1)
    monkeypatch.setattr(quarantine, "_crash", lambda plugin, backend: tried.append(plugin))
    monkeypatch.setattr(quarantine, "os", SimpleNamespace(name="nt", getpid=os.getpid))
    assert quarantine.reason(entry()) is None and fresh.exists() and not tried
    two_hours_ago = time.time() - 7200
    os.utime(fresh, (two_hours_ago, two_hours_ago))
    assert quarantine.reason(entry()) is None and not fresh.exists() and tried == [entry()]
