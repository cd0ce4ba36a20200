"""The record of a run: everything that was measured, as plain data. Tables, CSV and Markdown are functions of it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opyard.errors import SettingsError

SCHEMA = 2
"""Version of the file. A reader refuses any other."""

OK, WRONG, REFUSED, FAILED = "ok", "wrong", "refused", "failed"

HOT, COLD, HOST, END_TO_END = "hot", "cold", "host", "end-to-end"
REGIMES = (HOT, COLD, HOST, END_TO_END)
"""What a time holds, see docs/bench.md: times of different regimes are never compared with each other."""

CALL, PATTERN, REGION = "call", "pattern", "region"
"""What a cell is: one call of an op, a pattern that a fused kernel replaces, or a region that a compiler takes."""

PARTS = "parts"
"""The kernel of a row that times the calls of a pattern or region one by one, each by its best kernel on the device."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel on one device in one regime, for the call of a cell.

    status   "ok", "wrong" (differs from the reference), "refused" (does not take the call), or "failed" (raised)
    reason   the sentence for all but "ok"; there what one has to know about the time, or empty
    calls    calls in one batch
    samples  seconds of one call, one number for each batch, in the order in which they were taken
    shares   whether the output shares the memory of an input, so that no bytes need to move
    regime   "hot", "cold", "host" or "end-to-end"
    first    seconds of preparing the kernel and of its first call together, compilation included; None if it failed
    clock    "host", or "device" for times between marks on the device
    passes   numbers of the samples that each process took, in order; empty: one process took all
    """

    kernel: str
    device: str
    status: str
    reason: str = ""
    calls: int = 0
    samples: tuple[float, ...] = ()
    shares: bool = False
    regime: str = HOT
    first: float | None = None
    clock: str = "host"
    passes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One call with all kernels that were asked for.

    op           its name; the name of a pattern, or the compiler of a region, where ``kind`` says so
    case         stable name of its inputs and attributes
    flops        arithmetic operations of one call; ``bytes``: what it must read and write at least
    dtypes       names of the dtypes of inputs and outputs
    chosen       "kernel on device" that placement would have used where no array has to move, or empty
    note         why nothing was measured, as a sentence, or empty
    kind         "call", "pattern" or "region"
    times        how often the call occurs in the model; 1 where no model was asked for
    chosen_end_to_end  as ``chosen``, for inputs that lie on the host and outputs that are wanted there
    interrupted  whether the run ended within the cell, so that rows or samples are missing
    """

    op: str
    case: str
    flops: float
    bytes: float
    dtypes: tuple[str, ...]
    chosen: str = ""
    note: str = ""
    rows: tuple[Row, ...] = ()
    kind: str = CALL
    times: int = 1
    chosen_end_to_end: str = ""
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Roof:
    """A device and what it can do at most, as far as that was measured.

    flops      float32 operations per second, or None
    bandwidth  (bytes, bytes per second) pairs: the best rate over that many bytes, smallest first
    caches     (name, bytes) pairs of the caches before its memory, smallest first, as far as they are known
    """

    device: str
    kind: str
    description: str
    fingerprint: str
    flops: float | None = None
    bandwidth: tuple[tuple[float, float], ...] = ()
    caches: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of ``opyard bench``.

    machine   what must be equal for two runs to be comparable: processor, number of processors, threads, system
    versions  of Python, NumPy, opyard and its plugins
    options   what was asked for, seed included
    started   date and time, UTC; ``load``: the mean number of running processes before the run, or None
    absent    a sentence for each backend without a device
    pair      not empty where another run took its samples in turns with this one: equal in both, see ``opyard bench ab``
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
    pair: str = ""


def to_text(run: Run) -> str:
    """The run as JSON."""
    return json.dumps({"opyard_bench": SCHEMA, **asdict(run)}, indent=1, allow_nan=False) + "\n"


def from_text(text: str, name: str) -> Run:
    """The run in a text; ``name`` is what messages call it. Raises SettingsError for anything else."""
    try:
        data = json.loads(text)
        version = data.pop("opyard_bench")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_record(name, error) from None
    if version != SCHEMA:
        raise SettingsError(
            f"{name} is a record of version {version!r}, and this opyard-bench reads version {SCHEMA} alone; measure again with `opyard bench --json FILE`."
        )
    try:
        roofs = (
            Roof(**{**roof, **{key: tuple((a, b) for a, b in roof[key]) for key in ("bandwidth", "caches")}})
            for roof in data.pop("devices")
        )
        cells = tuple(map(_cell, data.pop("cells")))
        return Run(**{**data, "devices": tuple(roofs), "absent": tuple(data["absent"]), "cells": cells})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_record(name, error) from None


def _no_record(name: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"{name} is no record of a benchmark ({type(error).__name__}: {error}); write one with `opyard bench --json FILE`."
    )


def read(path: str | Path) -> Run:
    """The run in a file. Raises SettingsError for a file that holds something else, and OSError."""
    return from_text(Path(path).read_text(encoding="utf-8"), str(path))


def _cell(data: dict[str, Any]) -> Cell:
    rows = tuple(
        Row(**{**row, "samples": tuple(map(float, row["samples"])), "passes": tuple(row["passes"])})
        for row in data["rows"]
    )
    return Cell(**{**data, "dtypes": tuple(data["dtypes"]), "rows": rows})
