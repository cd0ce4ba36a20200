"""Keeping records: files that are whole at any moment, and going on with a run that was interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opyard.errors import SettingsError
from opyard_bench.record import Run, to_text
from opyard_bench.tasks import Options

INTERVAL = 5.0
"""Seconds after which a run that goes on is written again."""

_PROBE = b" " * (1 << 20)


class Keeper:
    """Writes a run to a file now and then while it goes on. ``latest`` is the run as it was last seen, or None."""

    def __init__(self, path: Path | None, interval: float = INTERVAL) -> None:
        self.path, self.interval = path, interval
        self.latest: Run | None = None
        self._written = time.monotonic()

    def keep(self, run: Run) -> None:
        """Remembers the run, and writes it if the last time is long enough ago. Raises SettingsError, as ``write`` does."""
        self.latest = run
        if self.path is not None and time.monotonic() - self._written >= self.interval:
            write(self.path, to_text(run))
            self._written = time.monotonic()


def write(path: Path, text: str) -> None:
    """Puts a text into a file in one step: what the file held before stays until all of the text is on the disk.

    Raises SettingsError where it cannot be written.
    """
    if path.exists() and not path.is_file():  # a pipe or a device
        path.write_text(text, encoding="utf-8")
        return
    _through_a_neighbour(path, text.encode(), keep=True)


def check_writable(path: Path) -> None:
    """Raises SettingsError for a file that cannot be written, before anything is measured: a megabyte is tried beside it."""
    folder = path.parent
    if not folder.is_dir():
        raise SettingsError(
            f"{path} cannot be written: there is no folder {str(folder)!r}. Type: mkdir -p {folder}"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise SettingsError(f"{path} cannot be written; name another file, or change its rights.")
    if path.is_file() or not path.exists():
        _through_a_neighbour(path, _PROBE, keep=False)


def _through_a_neighbour(path: Path, contents: bytes, keep: bool) -> None:
    """Writes a file beside ``path``, which then takes its place, or is removed again."""
    neighbour = path.with_name(f".{path.name}.part")
    try:
        with neighbour.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        if keep:
            neighbour.replace(path)
    except OSError as error:
        held = "what it held before is still there" if path.exists() else "nothing is there"
        raise SettingsError(
            f"{path} cannot be written: {error.strerror or error}; {held}. Make room, or name another file."
        ) from None
    finally:
        neighbour.unlink(missing_ok=True)


# Going on --------------------------------------------------------------------------------------------------------


def options_of(run: Run, name: str) -> Options:
    """The options of a run that was interrupted; ``name`` is what messages call it. Raises SettingsError for another run."""
    if run.pair:
        raise SettingsError(
            f"{name} is one side of `opyard bench ab`, whose sides take turns, so neither can be resumed alone; see what both have with `opyard bench compare BASE HEAD`, or start again."
        )
    if not run.interrupted:
        raise SettingsError(
            f"{name} is of a run that came to its end, so there is nothing to resume; see it with `opyard bench show {name}`."
        )
    try:
        return Options(**{key: _tuples(value) for key, value in run.options.items()})
    except TypeError as error:
        raise SettingsError(
            f"{name} cannot be resumed: its options are those of another version of opyard-bench ({error})."
        ) from None


def check_options(begun: Options, given: Options, names: Collection[str], name: str) -> None:
    """Raises SettingsError where one of these options is not as it was in the run to resume."""
    there, here = asdict(begun), asdict(given)
    _refuse(_differences({n: there[n] for n in names}, {n: here[n] for n in names}), name)


def check_machine(begun: Run, run: Run, name: str) -> None:
    """Raises SettingsError where the machine, its devices or versions are not those of the run to resume."""
    devices = ({d.device: f"{d.description} ({d.fingerprint})" for d in r.devices} for r in (begun, run))
    pairs = ((begun.machine, run.machine), (begun.versions, run.versions), devices)
    _refuse([row for there, here in pairs for row in _differences(there, here)], name)


def _refuse(differences: list[str], name: str) -> None:
    if differences:
        raise SettingsError(
            f"{name} cannot be resumed: {'; '.join(differences)}. Times of both would not belong together; start a new run with --json."
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key)
    ]


def _tuples(value: Any) -> Any:
    """What JSON made lists of."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(row) for key, row in value.items()} if isinstance(value, dict) else value
