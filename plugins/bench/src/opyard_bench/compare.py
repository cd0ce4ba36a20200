"""Comparing two sides, each measured once or often: cell by cell, with a verdict that noise does not make.

The unit of evidence is a process: samples of one process resemble each other, for they share where its memory lies and what
else the machine did. Two sides that took their samples in turns (``opyard bench ab``) give one log-ratio for each pair of
processes; other sides are compared by the medians of their runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from opyard.errors import SettingsError
from opyard_bench.record import OK, Row, Run
from opyard_bench.statistics import Interval, difference_interval, mean_interval, summarize

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
"""Times that differ by less than this fraction are the same for all that matters."""

LEAST_PAIRS = 5
"""Pairs of processes below which there is no verdict: where memory lies may favour one side in a few of them by chance."""

LEAST_PEERS = 10
"""Kernels that it takes, beside the one that is judged, to tell a change of the machine from one of the kernel."""

REACH = 3.0
"""Between single runs a change counts beyond this many times the ninth decile of those of the other kernels."""

Key = tuple[str, str, str, str, str]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kernel on one device for one call, on both sides.

    ratio      seconds of the head over those of the base, with the ends of its 99 % interval, after ``shift`` was taken out
    shift      the ratio that the kernels of the device share between the sides: the machine's, as far as one can tell
    """

    op: str
    case: str
    kernel: str
    device: str
    regime: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    shift: float = 1.0
    reason: str = ""


def compare(base: Sequence[Run], head: Sequence[Run], *, force: bool = False) -> list[Verdict]:
    """A verdict for everything that was timed on one of the sides, in the order of the first.

    SLOWER and FASTER: the 99 % interval of the ratio lies beyond 2 %. SAME: it lies within 2 %. AMBIGUOUS: neither.
    BROKEN: right in the base and wrong, failed or refused in the head. MISSING: on one side alone.

    Runs of one pair give the interval of the mean of the log-ratios of their processes, by Student's t. Other runs give that of the
    difference of their means, by Welch's t, after the ratio that all kernels of a run share was taken out. Of single runs
    nobody knows how much they differ by themselves: there the changes of the other kernels say what counts.
    Raises SettingsError for runs of different machines, unless ``force``.
    """
    first, *others = (*base, *head)
    differences = list(dict.fromkeys(chain.from_iterable(_differences(first, other) for other in others)))
    if differences and not force:
        raise SettingsError(
            f"the runs are of different machines: {'; '.join(differences)}. Times of different machines say nothing about a change; --force compares them all the same."
        )
    old, new = _Side(base), _Side(head)
    keys = [key for key in dict.fromkeys([*old.rows, *new.rows]) if old.is_timed(key) or new.is_timed(key)]
    common = [key for key in keys if old.medians(key) and new.medians(key)]
    if len(base) == len(head) == 1 and base[0].pair and base[0].pair == head[0].pair:
        judged = {key: _judge_pairs(key, old, new) for key in common}
    else:
        judged = _judge_runs(common, old, new)
    found = [judged.get(key) or _one_sided(key, old, new) for key in keys]
    return [verdict for verdict in found if verdict is not None]


def summary(verdicts: Sequence[Verdict]) -> str:
    """The numbers of verdicts, the geometric mean of the ratios, and what was taken out of them."""
    counts = {
        name: sum(v.verdict == name for v in verdicts)
        for name in (FASTER, SLOWER, SAME, AMBIGUOUS, BROKEN, MISSING)
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing in common"
    logs = [math.log(v.ratio) for v in verdicts if v.ratio]
    mean = f"; geometric mean of head / base {math.exp(sum(logs) / len(logs)):.3f}" if logs else ""
    shifts = {v.device: v.shift for v in verdicts if v.ratio and abs(math.log(v.shift)) > math.log1p(FLOOR)}
    told = ", ".join(f"{shift:.3f} on {device}" for device, shift in shifts.items())
    taken = (
        f" Taken out before: what all kernels share, {told}. That is the machine, or a change of everything; `opyard bench ab` tells which."
        if told
        else ""
    )
    return f"total: {text}{mean}.{taken}"


def is_worse(verdicts: Sequence[Verdict]) -> bool:
    """Whether something became slower, or broke."""
    return any(v.verdict in (SLOWER, BROKEN) for v in verdicts)


# Reading runs ---------------------------------------------------------------------------------------------------


class _Side:
    """The runs of one side: of each key the row of each run."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = len(runs)
        self.rows: dict[Key, list[Row]] = defaultdict(list)
        for run in runs:
            for cell in run.cells:
                for row in cell.rows:
                    self.rows[cell.op, cell.case, row.kernel, row.device, row.regime].append(row)

    def is_timed(self, key: Key) -> bool:
        return any(row.status == OK for row in self.rows.get(key, ()))

    def fault(self, key: Key) -> Row | None:
        """The first row that is wrong, failed or refused."""
        return next((row for row in self.rows.get(key, ()) if row.status != OK), None)

    def medians(self, key: Key) -> list[float]:
        """The logarithm of the median of each run; empty unless all runs timed it."""
        rows = self.rows.get(key, ())
        timed = [row for row in rows if row.status == OK and row.samples]
        return [_log_median(row.samples) for row in timed] if len(timed) == len(rows) == self.runs else []

    def error(self, key: Key) -> float:
        """Standard error of the logarithm of the median within the runs, as if samples were independent."""
        found = []
        for row in self.rows[key]:
            s = summarize(row.samples)
            found.append(1.2533 * s.spread / 1.349 / max(s.median, 1e-12) / math.sqrt(s.rounds))
        return math.hypot(*found) / len(found)


def _log_median(samples: Sequence[float]) -> float:
    return math.log(max(float(np.median(samples)), 1e-12))  # a clock may show nothing at all


def _one_sided(key: Key, old: _Side, new: _Side) -> Verdict | None:
    """The verdict on what was not timed on both sides; None where an interrupt came before there was a sample."""
    before, after = old.fault(key), new.fault(key)
    if key not in old.rows or key not in new.rows:
        return Verdict(*key, MISSING, reason=f"only in the {'head' if key not in old.rows else 'base'}")
    if before is not None:
        return Verdict(*key, MISSING, reason=f"was {before.status} in the base: {before.reason}")
    if after is not None:
        return Verdict(*key, BROKEN, reason=f"{after.status}: {after.reason}")
    return None


# Judging --------------------------------------------------------------------------------------------------------


def _judge_pairs(key: Key, old: _Side, new: _Side) -> Verdict:
    """By the median of the log-ratios of each pair of processes."""
    (a,), (b,) = old.rows[key], new.rows[key]
    first, second = np.maximum(a.samples, 1e-12), np.maximum(b.samples, 1e-12)
    ratios = np.log(second / first)
    ends = np.cumsum(a.passes or (len(ratios),))
    medians = [float(np.median(part)) for part in np.split(ratios, ends[:-1]) if len(part)]
    if len(medians) < LEAST_PAIRS:
        reason = f"{len(medians)} pairs of processes are too few to tell; give it more --passes"
        return Verdict(*key, AMBIGUOUS, math.exp(float(np.mean(medians))), reason=reason)
    change = mean_interval(medians, CONFIDENCE)
    return _verdict(key, change, change, 0.0)


def _judge_runs(keys: Sequence[Key], old: _Side, new: _Side) -> dict[Key, Verdict]:
    """By the medians of runs, each without what the kernels of its run share."""
    if not keys:
        return {}
    times = np.array([[*old.medians(key), *new.medians(key)] for key in keys])
    is_head = np.arange(times.shape[1]) >= old.runs
    centre = (times[:, ~is_head].mean(axis=1) + times[:, is_head].mean(axis=1)) / 2
    found = {}
    for group in _groups(keys):
        enough = len(group) > LEAST_PEERS
        shares = np.median((times - centre[:, None])[group], axis=0) if enough else np.zeros(len(is_head))
        shift = float(shares[is_head].mean() - shares[~is_head].mean())
        rest = times[group] - shares
        changes = rest[:, is_head].mean(axis=1) - rest[:, ~is_head].mean(axis=1)
        for number, index in enumerate(group):
            key = keys[index]
            if min(old.runs, new.runs) > 1:
                change, whole = (
                    difference_interval(values[~is_head].tolist(), values[is_head].tolist(), CONFIDENCE)
                    for values in (rest[number], times[index])
                )
                found[key] = _verdict(key, change, whole, shift)
            elif enough:
                reach = REACH * float(np.quantile(np.abs(np.delete(changes, number)), 0.9))
                reach = math.hypot(reach, 2.5758 * math.hypot(old.error(key), new.error(key)))
                middle = float(changes[number])
                change = Interval(middle, middle - reach, middle + reach)
                found[key] = _verdict(key, change, Interval(*[middle + shift] * 3), shift)
            else:
                reason = f"one run says nothing about the machine, and {len(group) - 1} other kernels too little; measure each side several times, or use `opyard bench ab`"
                found[key] = Verdict(*key, AMBIGUOUS, math.exp(float(changes[number])), reason=reason)
    return found


def _groups(keys: Sequence[Key]) -> Iterator[list[int]]:
    """The positions of the keys by device, if each device has enough kernels; else all together."""
    devices: Mapping[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        devices[key[3]].append(index)
    if min(map(len, devices.values())) > LEAST_PEERS:
        yield from devices.values()
    else:
        yield list(range(len(keys)))


def _verdict(key: Key, change: Interval, whole: Interval, shift: float) -> Verdict:
    """The verdict on a change of the logarithm of the time: ``whole`` before ``shift`` was taken out of it, ``change`` after."""
    edge, reason = math.log1p(FLOOR), ""
    if change.low > edge or change.high < -edge:
        verdict = SLOWER if change.low > edge else FASTER
        if whole.high <= edge if verdict == SLOWER else whole.low >= -edge:
            verdict = AMBIGUOUS
            reason = "so beside the other kernels only; by itself it did not change"
    else:
        verdict = SAME if -edge <= change.low and change.high <= edge else AMBIGUOUS
    ratio, low, high = (math.exp(value) if abs(value) < 100 else None for value in change)
    return Verdict(*key, verdict, ratio, low, high, math.exp(shift), reason)


def _differences(base: Run, head: Run) -> Iterator[str]:
    """What of the machines differs, one sentence each. Descriptions of processors hold versions, which may change."""
    for name in dict.fromkeys([*base.machine, *head.machine]):
        a, b = base.machine.get(name), head.machine.get(name)
        if a != b:
            yield f"{name} is {a!r} in one and {b!r} in another"
    other = {device.device: device for device in head.devices}
    for device in base.devices:
        found = other.get(device.device)
        if found and device.kind != "cpu" and device.description != found.description:
            yield f"{device.device} is {device.description!r} in one and {found.description!r} in another"
