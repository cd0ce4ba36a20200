"""CostStore: what was measured on this machine, in one SQLite file that many processes and threads share.

Any difference in what a measurement is of (identity.py) is a miss, never an error. A file that is damaged or cannot be
written is reported once, and everything goes on without it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import settings
from ..driver import Capabilities, Device
from ..errors import SettingsError
from .identity import POLICY, describe_device, fingerprint

if TYPE_CHECKING:
    import sqlite3

SCHEMA = 1
"""Version of the tables, kept in the file. A file with another version stays as it is; a new one is made beside it."""

FILE = "costs.sqlite"
BUSY_SECONDS = 10.0
"""How long to wait for other processes that write."""

OK, WRONG, SCALED = "ok", "wrong", "scaled"

_TABLES = f"""
CREATE TABLE measurement (
    work TEXT, kernel TEXT, device TEXT, policy TEXT,
    seconds REAL, spread REAL, rounds INTEGER, time REAL, verdict TEXT, reason TEXT,
    PRIMARY KEY (work, kernel, device, policy)
) WITHOUT ROWID;
CREATE TABLE device (fingerprint TEXT PRIMARY KEY, facts TEXT, capabilities TEXT, time REAL) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA};
PRAGMA journal_mode = WAL;
"""
_NUMBERS = tuple(f.name for f in fields(Capabilities) if f.name != "features")


class CostsWarning(UserWarning):
    """Measured costs cannot be read or kept; estimates are used instead."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Median seconds of one call, the range between the quartiles, the number of rounds, and when it was taken (Unix time).

    ``verdict`` is "ok", or "wrong" where the kernel disagrees with the reference; ``reason`` then says how. "scaled" is an
    estimate beside what was measured: of a kernel that no plan ran, on the scale of those that ran.
    """

    seconds: float
    spread: float = 0.0
    rounds: int = 0
    verdict: str = OK
    reason: str = ""
    time: float = field(default_factory=time.time)


class CostStore:
    """The file of measured costs. Nothing is opened before the first look, and no file is made before the first ``put``.

    path  the file; ``costs.sqlite`` in the cache folder unless given
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else settings.cache_dir() / FILE
        self.version = 0  # raised by each change that this process makes
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._broken = False

    @property
    def is_there(self) -> bool:
        """Whether there is a file to look into."""
        return self._connection is not None or (not self._broken and self.path.exists())

    # Measurements ------------------------------------------------------------------------------------------------

    def get(self, work: str, kernel: str, device: Device) -> Measurement | None:
        """The measurement of exactly this, or None."""
        rows = self._read(
            "SELECT seconds, spread, rounds, verdict, reason, time FROM measurement"
            " WHERE work = ? AND kernel = ? AND device = ? AND policy = ?",
            (work, kernel, fingerprint(device), POLICY),
        )
        return Measurement(*rows[0]) if rows else None

    def put(self, work: str, kernel: str, device: Device, measured: Measurement) -> None:
        """Records a measurement. Of two of the same, the later one stays."""
        row = (
            *(work, kernel, fingerprint(device), POLICY, measured.seconds, measured.spread),
            *(measured.rounds, measured.time, measured.verdict, measured.reason),
        )
        self._write([row], [self._device_row(device)])

    # Devices -----------------------------------------------------------------------------------------------------

    def capabilities(self, device: Device) -> Capabilities | None:
        """The measured capabilities of a device, or None."""
        rows = self._read("SELECT capabilities FROM device WHERE fingerprint = ?", (fingerprint(device),))
        if not rows or rows[0][0] is None:
            return None
        with suppress(ValueError, TypeError):
            return Capabilities(device.capabilities.features, **json.loads(rows[0][0]))
        return None

    def put_capabilities(self, device: Device, measured: Capabilities) -> None:
        """Records the measured capabilities of a device."""
        numbers = {name: getattr(measured, name) for name in _NUMBERS}
        self._write([], [(*self._device_row(device)[:2], json.dumps(numbers), time.time())])

    def _device_row(self, device: Device) -> tuple[Any, ...]:
        return fingerprint(device), describe_device(device), None, time.time()

    # The whole ---------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Plain data: the file, the number of measurements, of wrong kernels, and both for each device."""
        counts = {
            name: (total, wrong)
            for name, total, wrong in self._read(
                "SELECT device, SUM(verdict != 'scaled'), SUM(verdict = 'wrong') FROM measurement GROUP BY device"
            )
        }
        devices = []
        for name, facts, numbers, _ in self._read("SELECT * FROM device ORDER BY facts"):
            measured, wrong = counts.get(name, (0, 0))
            described = {
                key: value
                for key, value in _object(facts).items()
                if key in ("name", "description", "threads")
            }
            devices.append(
                {**described, "measurements": measured, "wrong": wrong, "calibrated": numbers is not None}
            )
        return {
            "path": str(self.path),
            "measurements": sum(total for total, _ in counts.values()),
            "wrong": sum(wrong for _, wrong in counts.values()),
            "devices": devices,
        }

    def wrong(self) -> list[tuple[str, str, str]]:
        """(kernel, work, reason) of every kernel that disagreed with the reference."""
        sql = "SELECT kernel, work, reason FROM measurement WHERE verdict = 'wrong' ORDER BY kernel, work"
        return [(kernel, work, reason) for kernel, work, reason in self._read(sql)]

    def export(self, path: str | Path) -> int:
        """Writes everything to a JSON file for other machines of the same kind; gives the number of measurements."""
        names = ("work", "kernel", "device", "policy", *(f.name for f in fields(Measurement)))
        rows = self._read(f"SELECT {', '.join(names)} FROM measurement")
        devices = self._read("SELECT fingerprint, facts, capabilities, time FROM device")
        self._require_whole()
        data = {
            "opyard_costs": SCHEMA,
            "devices": [
                {"fingerprint": name, "facts": _object(facts), "capabilities": _object(numbers), "time": at}
                for name, facts, numbers, at in devices
            ],
            "measurements": [dict(zip(names, row, strict=True)) for row in rows],
        }
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
        partial.replace(target)
        return len(rows)

    def import_(self, path: str | Path) -> int:
        """Adds what ``export`` wrote, here or elsewhere; gives the number of measurements in the file.

        Raises SettingsError, and adds nothing, for a file that is something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["opyard_costs"] != SCHEMA:
                raise ValueError(f"its version is {data['opyard_costs']!r}, this opyard reads {SCHEMA}")
            rows = [_imported(row) for row in data["measurements"]]
            devices = [
                (str(d["fingerprint"]), json.dumps(d["facts"]), _imported_numbers(d), float(d["time"]))
                for d in data["devices"]
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SettingsError(
                f"{path} is no export of measured costs ({type(error).__name__}: {error}); write one with `opyard costs --export FILE`."
            ) from None
        self._write(rows, devices)
        self._require_whole()
        return len(rows)

    def _require_whole(self) -> None:
        """Raises SettingsError when the file could not be used: whoever exports or imports must not believe that it was."""
        if self._broken:
            raise SettingsError(
                f"{self.path} is damaged or cannot be written: nothing was exported or imported. "
                "Remove the file with `opyard costs --clear`, or set OPYARD_CACHE_DIR to a folder that can be written."
            )

    def clear(self) -> int:
        """Forgets everything, and removes a damaged file; gives the number of measurements forgotten."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CostsWarning)
            count = int(self.summary()["measurements"])
            if self.path.exists():
                self._write([], [], "DELETE FROM measurement", "DELETE FROM device")
        if self._broken:  # nobody can be using it, so it may be removed under everybody's feet
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._broken = False
        return count

    def close(self) -> None:
        """Closes the file; the next look opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    # SQLite ------------------------------------------------------------------------------------------------------

    def _read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        self._after_fork()
        with self._lock:
            try:
                connection = self._open(create=False)
                return [] if connection is None else connection.execute(sql, parameters).fetchall()
            except Exception as error:
                self._give_up(error)
                return []

    def _write(
        self, rows: Iterable[Sequence[Any]], devices: Iterable[Sequence[Any]], *statements: str
    ) -> None:
        self._after_fork()
        with self._lock:
            self.version += 1
            try:
                connection = self._open(create=True)
                if connection is None:
                    return
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    for statement in statements:
                        connection.execute(statement)
                    connection.executemany(
                        "INSERT INTO measurement (work, kernel, device, policy, seconds, spread, rounds, time, verdict, reason)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET seconds = excluded.seconds,"
                        " spread = excluded.spread, rounds = excluded.rounds, time = excluded.time,"
                        " verdict = excluded.verdict, reason = excluded.reason WHERE excluded.time >= time",
                        rows,
                    )
                    connection.executemany(
                        "INSERT INTO device VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                        " capabilities = COALESCE(excluded.capabilities, capabilities), time = excluded.time"
                        " WHERE excluded.time >= time",
                        devices,
                    )
            except Exception as error:
                self._give_up(error)

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        """The connection; None where there is no file and none is to be made, or where there is no hope."""
        if self._broken or self._connection is not None:
            return None if self._broken else self._connection
        if not self.path.exists():
            if not create:
                return None
            _make(self.path)
        connection = _connect(self.path)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != SCHEMA:
            connection.close()
            name = f"{FILE.partition('.')[0]}-{SCHEMA}.sqlite"
            if self.path.name == name:
                raise OSError(f"its schema is {found}, this opyard has {SCHEMA}")
            self.path = self.path.with_name(name)
            return self._open(create=create)
        self._connection = connection
        weakref.finalize(self, _close_in, os.getpid(), connection)
        return connection

    def _after_fork(self) -> None:
        if self._process != os.getpid():  # SQLite forbids to use, or close, what another process opened
            _inherited.append(self._connection)
            self._connection, self._lock, self._process = None, threading.RLock(), os.getpid()

    def _give_up(self, error: Exception) -> None:
        """Says once that the file is of no use, and goes on without it."""
        import sqlite3

        if not isinstance(error, (sqlite3.Error, OSError)):
            raise error
        if self._broken:
            return
        self.close()
        self._broken = True
        warnings.warn(
            f"measured costs are not used: {self.path}: {error}; estimates take their place. Remove the file with `opyard costs --clear`, or set OPYARD_CACHE_DIR to a folder that can be written.",
            CostsWarning,
            stacklevel=4,
        )


_inherited: list[Any] = []
"""Connections of a parent process: kept, for forgetting one would close it."""


def _connect(path: Path) -> sqlite3.Connection:
    import sqlite3  # 4 ms: only when there is something to read or to keep

    shipped = not os.access(
        path.parent, os.W_OK
    )  # as in a container image: nobody writes, so no log is needed
    name = f"{path.absolute().as_uri()}{'?immutable=1' if shipped else ''}"
    connection = sqlite3.connect(
        name, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _close_in(process: int, connection: sqlite3.Connection) -> None:
    if process == os.getpid():
        connection.close()


def _make(path: Path) -> None:
    """Makes the file under another name and then links it, so that no process ever sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        connection = _connect(partial)
        connection.executescript(_TABLES)
        connection.close()
        try:
            os.link(partial, path)
        except FileExistsError:
            pass  # another process was first
        except OSError:  # a file system without links
            if not path.exists():
                partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _object(text: str | None) -> Any:
    """JSON as an object; None for none, and an empty object for what is no JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _imported(row: Mapping[str, Any]) -> tuple[Any, ...]:
    texts = [str(row[name]) for name in ("work", "kernel", "device", "policy")]
    measured = Measurement(**{f.name: row[f.name] for f in fields(Measurement)})
    numbers = [float(n) for n in (measured.seconds, measured.spread, measured.time)]
    if not all(math.isfinite(n) and n >= 0 for n in numbers) or measured.verdict not in (OK, WRONG, SCALED):
        raise ValueError(f"{asdict(measured)} is no measurement")
    seconds, spread, at = numbers
    return (*texts, seconds, spread, int(measured.rounds), at, measured.verdict, str(measured.reason))


def _imported_numbers(row: Mapping[str, Any]) -> str | None:
    if row["capabilities"] is None:
        return None
    numbers = {name: float(row["capabilities"][name]) for name in _NUMBERS}
    if not all(math.isfinite(n) and n >= 0 for n in numbers.values()):
        raise ValueError(f"{numbers} are no capabilities")
    return json.dumps(numbers)
