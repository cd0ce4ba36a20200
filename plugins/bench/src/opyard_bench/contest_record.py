"""The record of a contest: models run by opyard and by its peers, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from opyard.errors import SettingsError
from opyard_bench.record import FAILED, OK, WRONG

CONTEST = 1
"""Version of the file. A reader refuses any other."""

KEY = "opyard_bench_models"

MISSING = "missing"

__all__ = ["CONTEST", "FAILED", "KEY", "MISSING", "OK", "WRONG", "Contest", "Entry", "Match", "mean_ratio"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant with one model.

    status      "ok", "wrong" (its outputs are not those of the others), "missing" (not installed), or "failed" (raised)
    reason      the sentence for all but "ok"
    error       greatest difference from the outputs compared with, over their greatest number; None: not run
    first       seconds from the model to the end of its first run, in a process of its own, compilation included
    tuning      seconds of tuning before that, in another process; None for peers
    tuned       what came of tuning, as a sentence
    samples     seconds of one run by the clock of the options, one number for each round
    cpu         processor seconds of all threads, likewise
    kernels     of ours, (what and by which kernel, share of the time of all kernels), the greatest first
    """

    name: str
    status: str
    reason: str = ""
    error: float | None = None
    first: float | None = None
    tuning: float | None = None
    tuned: str = ""
    samples: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    kernels: tuple[tuple[str, float], ...] = ()

    @property
    def seconds(self) -> float | None:
        """The median of the samples; None where there are none, or they do not count."""
        return median(self.samples) if self.samples and self.status == OK else None


@dataclass(frozen=True, slots=True)
class Match:
    """One model at one batch size with so many threads: all contestants, ours first."""

    model: str
    batch: int
    threads: int
    nodes: int
    weights: int
    entries: tuple[Entry, ...]
    interrupted: bool = False

    @property
    def best_peer(self) -> Entry | None:
        """The one of the others that we look worst beside; None where none was timed, or ours was not."""
        ratios = {entry.name: self._ratio(entry) for entry in self.entries[1:]}
        return (
            max(self.entries[1:], key=lambda entry: ratios[entry.name] or 0.0)
            if any(ratios.values())
            else None
        )

    @property
    def ratio(self) -> float | None:
        """Our time over that of the best peer: the median of the rounds, for what slows the machine down slows both in a round."""
        return self._ratio(self.best_peer) if self.best_peer else None

    def _ratio(self, peer: Entry) -> float | None:
        ours = self.entries[0]
        if not (ours.seconds and peer.seconds):
            return None
        return median(mine / other for mine, other in zip(ours.samples, peer.samples, strict=False))


@dataclass(frozen=True, slots=True)
class Contest:
    """One run of ``opyard bench models``. ``load`` is the mean number of running processes before it, or None."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    started: str
    load: float | None
    matches: tuple[Match, ...] = ()
    interrupted: bool = False


def mean_ratio(contest: Contest) -> float | None:
    """The geometric mean of the ratios; None where there are none."""
    logs = [math.log(match.ratio) for match in contest.matches if match.ratio]
    return math.exp(sum(logs) / len(logs)) if logs else None


def to_text(contest: Contest) -> str:
    """The contest as JSON, with the ratios, which readers compute anew."""
    data = asdict(contest)
    for row, match in zip(data["matches"], contest.matches, strict=True):
        row["ratio"] = match.ratio
    return json.dumps({KEY: CONTEST, **data}, indent=1, allow_nan=False) + "\n"


def is_contest(text: str) -> bool:
    """Whether a text is the record of a contest, of whatever version."""
    return f'"{KEY}"' in text[:100]


def from_text(text: str, name: str) -> Contest:
    """The contest in a text; ``name`` is what messages call it. Raises SettingsError for anything else."""
    try:
        data = json.loads(text)
        version = data.pop(KEY)
        if version == CONTEST:
            matches = tuple(map(_match, data.pop("matches")))
            return Contest(**data, matches=matches)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"{name} is no record of models ({type(error).__name__}: {error}); write one with `opyard bench models --json FILE`."
        ) from None
    raise SettingsError(
        f"{name} is a record of models of version {version!r}, and this opyard-bench reads version {CONTEST} alone; measure again with `opyard bench models --json FILE`."
    )


def _match(data: dict[str, Any]) -> Match:
    data.pop("ratio")
    entries = tuple(
        Entry(
            **{
                **row,
                "samples": tuple(row["samples"]),
                "cpu": tuple(row["cpu"]),
                "kernels": tuple((name, share) for name, share in row["kernels"]),
            }
        )
        for row in data.pop("entries")
    )
    return Match(**data, entries=entries)
