"""The record of a run: everything that was measured, as plain data. Tables, CSV and Markdown are functions of it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opyard.errors import SettingsError

SCHEMA = 1
"""Version of the file. A reader refuses any other."""

OK, WRONG, REFUSED, FAILED = "ok", "wrong", "refused", "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel on one device for the call of a cell.

    status   "ok", "wrong" (differs from the reference), "refused" (does not take the call), or "failed" (raised)
    reason   the sentence for all but "ok"
    calls    calls in one batch
    samples  seconds of one call, one number for each batch, in the order in which they were taken
    shares   whether the output shares the memory of an input, so that no bytes need to move
    """

    kernel: str
    device: str
    status: str
    reason: str = ""
    calls: int = 0
    samples: tuple[float, ...] = ()
    shares: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One call with all kernels that were asked for.

    case    stable name of its inputs and attributes
    flops   arithmetic operations of one call; ``bytes``: what it must read and write at least
    dtypes  names of the dtypes of inputs and outputs
    chosen  "kernel on device" that placement would have used, or empty
    note    why nothing was measured, as a sentence, or empty
    """

    op: str
    case: str
    flops: float
    bytes: float
    dtypes: tuple[str, ...]
    chosen: str = ""
    note: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Roof:
    """A device and what it can do at most, as far as that was measured.

    flops      float32 operations per second, or None
    bandwidth  (bytes, bytes per second) pairs: the best rate over that many bytes, smallest first
    """

    device: str
    kind: str
    description: str
    fingerprint: str
    flops: float | None = None
    bandwidth: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of ``opyard bench``.

    machine   what must be equal for two runs to be comparable: processor, number of processors, threads, system
    versions  of Python, NumPy, opyard and its plugins
    options   what was asked for, seed included
    started   date and time, UTC; ``load``: the mean number of running processes before the run, or None
    absent    a sentence for each backend without a device
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    started: str
    load: float | None
    devices: tuple[Roof, ...] = ()
    absent: tuple[str, ...] = ()
    interrupted: bool = False
    cells: tuple[Cell, ...] = field(default=())


def to_text(run: Run) -> str:
    """The run as JSON."""
    return json.dumps({"opyard_bench": SCHEMA, **asdict(run)}, indent=1, allow_nan=False) + "\n"


def from_text(text: str, name: str) -> Run:
    """The run in a text; ``name`` is what messages call it. Raises SettingsError for anything else."""
    try:
        data = json.loads(text)
        if data.pop("opyard_bench") != SCHEMA:
            raise ValueError(f"its version is another one, this opyard-bench reads {SCHEMA}")
        roofs = (
            Roof(**{**roof, "bandwidth": tuple((b, r) for b, r in roof["bandwidth"])})
            for roof in data.pop("devices")
        )
        cells = tuple(map(_cell, data.pop("cells")))
        return Run(**{**data, "devices": tuple(roofs), "absent": tuple(data["absent"]), "cells": cells})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"{name} is no record of a benchmark ({type(error).__name__}: {error}); write one with `opyard bench --json FILE`."
        ) from None


def read(path: str | Path) -> Run:
    """The run in a file. Raises SettingsError for a file that holds something else, and OSError."""
    return from_text(Path(path).read_text(encoding="utf-8"), str(path))


def _cell(data: dict[str, Any]) -> Cell:
    rows = tuple(Row(**{**row, "samples": tuple(map(float, row["samples"]))}) for row in data["rows"])
    return Cell(**{**data, "dtypes": tuple(data["dtypes"]), "rows": rows})
