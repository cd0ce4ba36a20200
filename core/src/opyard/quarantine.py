"""Quarantine: a plugin whose loading killed the process is not loaded again until it changes or the user asks.

While a plugin loads, a marker file with this process's number lies in the cache folder. A marker whose process is gone
is a suspicion; loading the plugin once more in a process of its own tells a crash from a Ctrl-C or a power cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import settings
from .entrypoints import EntryPoint

PROBE_SECONDS = 120
_HOUR = 3600


def _folder() -> Path:
    return settings.cache_dir() / "plugins"


def _label(entry: EntryPoint) -> str:
    return f"{_safe(entry.name)}@{_safe(entry.distribution)}-{_safe(entry.version)}"


def _safe(name: str) -> str:
    """The name with nothing in it that a file name may not have or that ``glob`` would read as a pattern."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


@contextmanager
def marked(entry: EntryPoint) -> Iterator[None]:
    """Keeps a marker on disk while the block runs; without a writable cache folder there is none."""
    marker = _folder() / f"{_label(entry)}.{os.getpid()}.loading"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            marker.unlink()


def reason(entry: EntryPoint) -> str | None:
    """Why the plugin must not be loaded, or None. Looks into suspicions that earlier processes left."""
    record = _folder() / f"{_label(entry)}.quarantined"
    try:
        return record.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    markers = _folder().glob(f"{_label(entry)}.*.loading")
    suspicions = [m for m in markers if m.name.rsplit(".", 2)[0] == _label(entry) and not _is_running(m)]
    if not suspicions:
        return None
    crash = _crash(entry)
    with suppress(OSError):
        if crash is not None:
            record.write_text(crash, encoding="utf-8")
        for marker in suspicions:
            marker.unlink(missing_ok=True)
    return crash


def clear(name: str) -> int:
    """Forgets the quarantine of every plugin of this name; gives how many there were."""
    records = list(_folder().glob(f"{_safe(name)}@*.quarantined"))
    for record in records:
        record.unlink(missing_ok=True)
    return len(records)


def _is_running(marker: Path) -> bool:
    number = marker.name.split(".")[-2]
    if not number.isdecimal() or int(number) == os.getpid():
        return False  # a predecessor had this process's number, as in a container that was started again
    if os.name != "posix":  # there is no harmless way to ask: an old marker counts as left behind
        with suppress(OSError):
            return time.time() - marker.stat().st_mtime < _HOUR
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _crash(entry: EntryPoint) -> str | None:
    """Loads the plugin in another process; None if that process lives on, else how it ended."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from opyard.plugin import probe; probe({entry.value!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _sentence(entry, f"did not end within {PROBE_SECONDS} seconds")
    except OSError:  # no process can be started here, so nothing can be told
        return None
    if 0 <= done.returncode < 256:  # a Python-level failure is met, and explained, on the ordinary path
        return None
    try:
        how = f"was ended by {signal.Signals(-done.returncode).name}"
    except ValueError:
        how = f"ended with status {done.returncode}"
    return _sentence(entry, how)


def _sentence(entry: EntryPoint, how: str) -> str:
    return f"loading {entry.value} kills the process: the last trial {how}. Upgrade {entry.distribution}, or try again: opyard plugins --retry {entry.name}"
