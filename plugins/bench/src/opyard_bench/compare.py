"""Comparing two runs: cell by cell, with a verdict that noise does not make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from opyard.errors import SettingsError
from opyard.registry import REFERENCE
from opyard_bench.record import OK, Roof, Row, Run
from opyard_bench.statistics import log_ratio_interval, summarize

FASTER, SLOWER, SAME, AMBIGUOUS, BROKEN, MISSING = (
    "FASTER",
    "SLOWER",
    "SAME",
    "AMBIGUOUS",
    "BROKEN",
    "MISSING",
)
CONFIDENCE = 0.99
FLOOR = 0.02
"""Medians that differ by less than this fraction are the same for all that matters."""

LEAST_SAMPLES = 5

Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kernel on one device for one call, in both runs: ratio of the medians, head over base, and its interval."""

    op: str
    case: str
    kernel: str
    device: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def compare(base: Run, head: Run, *, force: bool = False) -> list[Verdict]:
    """A verdict for everything that was timed in one of the runs, in the order of the first.

    The reference took turns with the kernels of its cell in both runs. Where it is there, it shows how much the machine
    itself changed, and gets no verdict of its own.

    SLOWER and FASTER: the 99 % interval of the ratio lies beyond 2 %, and so does that of the ratio by the reference's.
    SAME: the first lies within 2 %. AMBIGUOUS: neither.
    BROKEN: right in the base and wrong, failed or refused in the head. MISSING: in one run alone.
    Raises SettingsError for runs of different machines, unless ``force``.
    """
    differences = list(_differences(base, head))
    if differences and not force:
        raise SettingsError(
            f"the runs are of different machines: {'; '.join(differences)}. Times of different machines say nothing about a change; --force compares them all the same."
        )
    old, new = _rows(base), _rows(head)
    keys = dict.fromkeys([*old, *new])
    return [
        _verdict(key, old.get(key), new.get(key), _yardstick(key, old, new))
        for key in keys
        if _was_timed(key, old, new) and not (key[3] == REFERENCE and _yardstick(key, old, new))
    ]


def summary(verdicts: list[Verdict]) -> str:
    """The numbers of verdicts, and the geometric mean of the ratios."""
    counts = {
        name: sum(v.verdict == name for v in verdicts)
        for name in (FASTER, SLOWER, SAME, AMBIGUOUS, BROKEN, MISSING)
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing in common"
    logs = [math.log(v.ratio) for v in verdicts if v.ratio]
    mean = f"; geometric mean of head / base {math.exp(sum(logs) / len(logs)):.3f}" if logs else ""
    return f"total: {text}{mean}."


def is_worse(verdicts: list[Verdict]) -> bool:
    """Whether something became slower, or broke."""
    return any(v.verdict in (SLOWER, BROKEN) for v in verdicts)


def _yardstick(
    key: Key, old: dict[Key, Row], new: dict[Key, Row]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The samples of the reference in the cell, if both runs have enough of them."""
    name = (*key[:2], f"{REFERENCE}/{REFERENCE}", REFERENCE)
    pair = tuple(rows[name].samples for rows in (old, new) if name in rows and rows[name].status == OK)
    return (pair[0], pair[1]) if len(pair) == 2 and min(map(len, pair)) >= LEAST_SAMPLES else None


def _verdict(
    key: Key,
    old: Row | None,
    new: Row | None,
    yardstick: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Verdict:
    if old is None or new is None:
        return Verdict(*key, MISSING, reason=f"only in the {'head' if old is None else 'base'}")
    if old.status != OK or new.status != OK:
        if old.status == OK:
            return Verdict(*key, BROKEN, reason=f"{new.status}: {new.reason}")
        return Verdict(*key, MISSING, reason=f"was {old.status} in the base: {old.reason}")
    a, b = summarize(old.samples).median, summarize(new.samples).median
    ratio = b / a if a > 0 and b > 0 else None
    if ratio is None or min(len(old.samples), len(new.samples)) < LEAST_SAMPLES:
        reason = (
            f"{min(len(old.samples), len(new.samples))} samples are too few to tell; give it more --seconds"
        )
        return Verdict(*key, AMBIGUOUS, ratio, reason=reason)
    low, high = log_ratio_interval(old.samples, new.samples, CONFIDENCE)
    least, most = low, high
    if yardstick is not None:
        relative = log_ratio_interval(old.samples, new.samples, CONFIDENCE, yardstick)
        least, most = min(low, relative[0]), max(high, relative[1])
    edge = math.log1p(FLOOR)
    if least > edge:
        verdict = SLOWER
    elif most < -edge:
        verdict = FASTER
    else:
        verdict = SAME if -edge <= low and high <= edge else AMBIGUOUS
    return Verdict(*key, verdict, ratio, math.exp(low), math.exp(high))


def _rows(run: Run) -> dict[Key, Row]:
    return {
        (cell.op, cell.case, row.kernel, row.device): row
        for cell in run.cells
        for row in cell.rows
        if row.status != OK or row.samples
    }


def _was_timed(key: Key, *runs: dict[Key, Row]) -> bool:
    return any(key in rows and rows[key].status == OK for rows in runs)


def _differences(base: Run, head: Run) -> Iterator[str]:
    """What of the machines differs, one sentence each. Descriptions of processors hold versions, which may change."""
    for name in dict.fromkeys([*base.machine, *head.machine]):
        a, b = base.machine.get(name), head.machine.get(name)
        if a != b:
            yield f"{name} is {a!r} in the base and {b!r} in the head"
    other: dict[str, Roof] = {device.device: device for device in head.devices}
    for device in base.devices:
        found = other.get(device.device)
        if found and device.kind != "cpu" and device.description != found.description:
            yield f"{device.device} is {device.description!r} in the base and {found.description!r} in the head"
