"""Quarantine: a plugin whose loading killed the process is not loaded again until it changes or the user asks.

While a plugin loads, a marker file with this process's number lies in the cache folder. A marker whose process is gone
is a suspicion; loading the plugin once more in a process of its own tells a crash from a Ctrl-C or a power cut. The
same holds for each backend of a plugin while it is opened: where a function takes ``backend``, "" means loading.
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
_SURVIVED = b"opyard: the trial lives"
"""What a trial prints at its end. A status says nothing: a plugin may end the process with any, 0 included."""


def _folder() -> Path:
    return settings.cache_dir() / "plugins"


def _label(entry: EntryPoint, backend: str) -> str:
    plugin = f"{_safe(entry.name)}@{_safe(entry.distribution)}-{_safe(entry.version)}"
    return f"{plugin}+{backend}" if backend else plugin


def _safe(name: str) -> str:
    """The name with nothing in it that a file name may not have or that ``glob`` would read as a pattern."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


@contextmanager
def marked(entry: EntryPoint, backend: str = "") -> Iterator[None]:
    """Keeps a marker on disk while the block runs; without a writable cache folder there is none."""
    marker = _folder() / f"{_label(entry, backend)}.{os.getpid()}.loading"
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


def reason(entry: EntryPoint, backend: str = "") -> str | None:
    """Why the plugin must not be loaded, or None. Looks into suspicions that earlier processes left."""
    label = _label(entry, backend)
    record = _folder() / f"{label}.quarantined"
    try:
        return record.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    markers = _folder().glob(f"{label}.*.loading")
    suspicions = [m for m in markers if m.name.rsplit(".", 2)[0] == label and not _is_running(m)]
    if not suspicions:
        return None
    crash = _crash(entry, backend)
    with suppress(OSError):
        if crash is not None:
            record.write_text(crash, encoding="utf-8")
        for marker in suspicions:
            marker.unlink(missing_ok=True)
    return crash


def retry(name: str) -> int:
    """Turns the quarantine of every plugin of this name into a suspicion, so that it is tried anew; gives how many there were.

    Raises OSError where the cache folder cannot be written.
    """
    records = list(_folder().glob(f"{_safe(name)}@*.quarantined"))
    for record in records:
        record.replace(record.with_name(f"{record.name.removesuffix('.quarantined')}.retry.loading"))
    return len(records)


def _is_running(marker: Path) -> bool:
    number = marker.name.split(".")[-2]
    if not number.isdecimal() or int(number) == os.getpid():
        return False  # by retry; or a predecessor had this number, as in a container that was started again
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


def _crash(entry: EntryPoint, backend: str) -> str | None:
    """Loads the plugin in another process; None if that process lives on, else how it ended."""
    trial = (
        f"sys.path[:] = {sys.path!r}; from opyard.plugin import probe; probe({entry.value!r}, {backend!r})"
    )
    # also at the end of a Python-level failure: that is met, and explained, on the ordinary path
    code = f"import os, sys\ntry: {trial}\nfinally: os.write(1, {_SURVIVED!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _sentence(entry, backend, f"did not end within {PROBE_SECONDS} seconds")
    except OSError:  # no process can be started here, so nothing can be told
        return None
    if _SURVIVED in (done.stdout or b""):
        return None
    try:
        how = f"was ended by {signal.Signals(-done.returncode).name}"
    except ValueError:
        how = f"ended with status {done.returncode}"
    return _sentence(entry, backend, how)


def _sentence(entry: EntryPoint, backend: str, how: str) -> str:
    what = f"opening the backend {backend!r} of" if backend else "loading"
    return f"{what} {entry.value} kills the process: the last trial {how}. Upgrade {entry.distribution}, or try again: opyard plugins --retry {entry.name}"
