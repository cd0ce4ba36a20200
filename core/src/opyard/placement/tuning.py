"""Tuning: measures what can change a placement, and nothing else, until the placement is sure or the time is up."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from typing import Any

import numpy as np

from ..costs import Costs
from ..driver import Device, shares_arrays, transfer
from ..errors import OpyardError, PlacementError
from ..kernels import Work
from ..registry import REFERENCE, Registry, describe_error
from .bounds import KNOWN, Arm, Bounds, Key
from .calibration import calibrate, keep
from .identity import short
from .inplace import LATE_RUNS, MOST_PLANS, PlanTime, Rehearse, Trials
from .measured import TRANSFER_BYTES, MeasuredCosts, transfer_key
from .measuring import Batch, Expected, disagreement, expect, interleave, make_start
from .model import Placement
from .report import Measured, TuneReport, compare
from .store import WRONG, Measurement

CALIBRATION_SHARE = 0.25
"""Part of the time that calibrating devices may take."""

REHEARSAL_SHARE = 0.3
"""Part of the time that is kept for running whole plans."""

REFERENCE_RATE, REFERENCE_FLOPS = 2e-9, 1e10
"""Seconds of references for one byte, and operations per second, before any ran: NumPy, in float64, on one thread."""

Place = Callable[[Costs], Placement]
Progress = Callable[[float, str], None]


def tune(
    place: Place,
    costs: MeasuredCosts,
    registry: Registry,
    *,
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
    budget_seconds: float = 30.0,
    calibrate: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    rehearse: Rehearse | None = None,
) -> TuneReport:
    """Measures kernels and transfers into the store of ``costs`` until ``place(costs)`` cannot change any more.

    place     places the graph with the costs that it is given
    arrays    contents of inputs of the graph by name; others, and what lies inside the graph, are drawn at random
    rehearse  runs a placement as a plan; then the times of kernels are corrected by what they take in plans
    progress  called with the part of the time that is used, in [0, 1], and what is being done

    Each kernel is compared with the reference first; one that is wrong is recorded and not used again. The time is looked
    at before each measurement, and none is begun that is known to take longer than is left: references and whole plans may
    take seconds. An interrupt ends the work and keeps what was measured.
    """
    tuner = _Tuner(place, costs, registry, dict(arrays or {}), budget_seconds, seed, progress)
    tuner.say("placing")
    before_bounds = Bounds(costs)
    before = place(before_bounds)
    tuner.keep_for_the_end()
    old = set(before_bounds.chosen(before))
    stable = interrupted = False
    try:
        if calibrate:
            tuner.calibrate({arm.device for arm in before_bounds.arms.values()})
        stable = tuner.settle(1.0 - REHEARSAL_SHARE if rehearse else 1.0)
        if rehearse:
            tuner.settle_in_place(rehearse)
    except KeyboardInterrupt:
        interrupted = True
    after = place(Bounds(costs, without=tuner.failed))
    return TuneReport(
        measured=tuple(tuner.measured),
        wrong=tuple(tuner.wrong),
        failed=tuple(tuner.failed.values()),
        calibrated=tuple(tuner.calibrated),
        plans=tuple(tuner.plans),
        changes=compare(before, after),
        before=before,
        after=after,
        seconds_unchanged=_seconds_of(place, costs, old),
        stable=stable,
        interrupted=interrupted,
        elapsed_seconds=time.perf_counter() - tuner.begin,
    )


def _seconds_of(place: Place, costs: MeasuredCosts, arms: set[Key]) -> float | None:
    """Predicted seconds of the plan that uses these arms; None where it is no plan any more."""
    try:
        return place(Bounds(costs, only=arms)).seconds
    except PlacementError:
        return None


def _reference_prior(work: Work) -> float:
    """Seconds of a reference of which nothing is known: of reading and writing, or of matrix products."""
    flops, nbytes = work.cost
    return max(nbytes * REFERENCE_RATE, flops / REFERENCE_FLOPS, 1e-9)


class _Tuner:
    """The state of one tuning. ``settled`` arms are measured no more."""

    def __init__(
        self,
        place: Place,
        costs: MeasuredCosts,
        registry: Registry,
        arrays: dict[str, np.ndarray[Any, Any]],
        budget_seconds: float,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.place, self.costs, self.registry, self.arrays = place, costs, registry, arrays
        self.begin = time.perf_counter()
        self.budget = self.end = max(budget_seconds, 1e-9)
        self.random, self.seed = Random(seed), seed
        self.progress = progress
        self.settled: set[Key] = set()
        self.measured: list[Measured] = []
        self.wrong: list[str] = []
        self.failed: dict[Key, str] = {}
        self.calibrated: list[str] = []
        self.plans: list[PlanTime] = []
        self._pairs: set[tuple[Device, Device]] = set()
        self.omitted = False
        # of each kind of reference the prior of the last one, and its seconds
        self._references: dict[str, tuple[float, float]] = {}
        self._took, self._believed = defaultdict[str, float](float), defaultdict[str, float](float)

    @property
    def scales(self) -> dict[str, float]:
        """For each device what the best kernels took of all works that were measured, over their estimates."""
        return {name: self._took[name] / seconds for name, seconds in self._believed.items()}

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.begin + self.budget - time.perf_counter()

    def say(self, text: str) -> None:
        """Reports progress."""
        if self.progress is not None:
            self.progress(min(1.0, (time.perf_counter() - self.begin) / self.end), text)

    def keep_for_the_end(self) -> None:
        """Keeps the time of the last two placements: as long as the first has taken, at most a tenth of all each."""
        self.budget -= 2 * min(time.perf_counter() - self.begin, self.budget / 10)

    def calibrate(self, devices: Iterable[Device]) -> None:
        """Measures the devices that were not measured before."""
        store = self.costs.store
        ours = (d for d in sorted(devices, key=lambda d: d.name) if d.backend != REFERENCE)
        new = [device for device in ours if store.capabilities(device) is None]
        for device in new:
            self.say(f"calibrating {device.name}")
            found = calibrate(device, self.registry, CALIBRATION_SHARE * self.budget / len(new))
            if refusal := keep(device, store, found):
                self._note(refusal)
            else:
                self.calibrated.append(device.name)

    def settle(self, share: float) -> bool:
        """Measures until the plan is stable; gives whether it is, before that share of the time was up."""
        whole, self.budget = self.budget, self.budget * share
        try:
            return self._settle()
        finally:
            self.budget = whole

    def settle_in_place(self, rehearse: Rehearse) -> None:
        """Runs the best plan of each device and of all, and corrects what is known, until the best plan was run twice."""
        trials = Trials(self.costs, self.plans, self.scales)
        try:
            self._run_plans(trials, rehearse)
        finally:  # also what an interrupt leaves
            if trials.scales:
                self._keep_estimates(trials)

    def _keep_estimates(self, trials: Trials) -> None:
        """Sees to it that the plan of what is known from now on is one that was run, if any was."""
        believed = Bounds(self.costs, without=self.failed, scales=trials.scales)
        is_sure = trials.runs(self.place(believed)) > 0 or not self.plans
        trials.keep_estimates([*believed.arms.values(), *believed.conversions.values()], is_sure)

    def _run_plans(self, trials: Trials, rehearse: Rehearse) -> None:
        believed = Bounds(self.costs, without=self.failed)
        self.place(believed)
        alone = sorted({arm.device.name for arm in believed.arms.values() if arm.device.backend != REFERENCE})
        wanted: list[str | None] = [*(alone if len(alone) > 1 else ()), *[None] * MOST_PLANS]
        for device in wanted:
            if self.left <= 0:
                return
            try:
                scales = trials.scales
                plan = self.place(Bounds(self.costs, without=self.failed, device=device, scales=scales))
            except PlacementError:
                continue  # a device that cannot run all of the graph
            if device is None and trials.runs(plan) > 1:
                return
            if device is not None and trials.runs(plan):
                continue
            if LATE_RUNS * plan.makespan > self.left:
                return
            self.say(f"running the plan for {device or 'all devices'}")
            try:
                trials.add(plan, rehearse(plan, self.left / 2))
            except Exception as error:
                self._note(f"a plan could not be run: {describe_error(error)}")
                return

    def _settle(self) -> bool:
        while True:
            scales = self.scales
            believed = Bounds(self.costs, without=self.failed, scales=scales)
            plan = self.place(believed)
            own = believed.chosen(plan)
            hopeful = Bounds(self.costs, slow=set(own), without=self.failed, scales=scales)
            rival = hopeful.chosen(self.place(hopeful))
            doubtful = {k: hopeful.arms[k] for k in own.keys() ^ rival.keys() if k in hopeful.arms}
            used = {arm.device for arm in (*own.values(), *rival.values())} | {plan.home}
            pairs = self._new_pairs(hopeful.pairs, used) if doubtful else []
            if any(arm.kernel.layouts for arm in doubtful.values()):
                doubtful.update({k: arm for k, arm in hopeful.conversions.items() if arm.device in used})
            groups = self._groups(doubtful, hopeful.arms)
            if not groups and not pairs:
                return not self.omitted
            for source, target in pairs:
                if self.left <= 0:
                    return False
                self._pairs.add((source, target))
                self._measure_transfer(source, target)
            for number, arms in enumerate(groups):
                if self.left <= 0:
                    return False
                self._measure(arms, plan, self.left / (len(groups) - number))

    def _new_pairs(
        self, pairs: Iterable[tuple[Device, Device]], used: Iterable[Device]
    ) -> list[tuple[Device, Device]]:
        """Pairs between the places of the devices in use that were not looked at before."""
        new = [
            (a, b)
            for a, b in pairs
            if (a, b) not in self._pairs and all(any(shares_arrays(d, u) for u in used) for d in (a, b))
        ]
        return sorted(new, key=lambda pair: (pair[0].name, pair[1].name))

    def _groups(self, doubtful: Mapping[Key, Arm], arms: Mapping[Key, Arm]) -> list[list[Arm]]:
        """Arms to measure together: those in doubt that are not settled, and others that may be better on their device.

        The work about which least is known comes first.
        """
        groups: dict[str, dict[Key, Arm]] = {}
        for key, arm in doubtful.items():
            if key not in self.settled:
                groups.setdefault(key[0], {})[key] = arm
        for key, arm in arms.items():
            same = [a for a in groups.get(key[0], {}).values() if a.device is arm.device]
            if same and key not in self.settled and arm.low < min(a.high for a in same):
                groups[key[0]][key] = arm
        widths = {work: max(a.high - a.low for a in group.values()) for work, group in groups.items()}
        order = sorted(groups, key=lambda work: (-widths[work], work))
        return [[groups[work][key] for key in sorted(groups[work])] for work in order]

    # Measuring ---------------------------------------------------------------------------------------------------

    def _measure(self, arms: list[Arm], plan: Placement, seconds: float) -> None:
        """Checks the arms of one work and measures those that are right, in turns."""
        work = arms[0].work
        self.settled.update(arm.key for arm in arms)
        if (seconds_wanted := self._reference_seconds(work)) > self.left:
            self.omitted = True
            self._note(
                f"nothing of {short(work)} was measured: to check it, its reference takes some {seconds_wanted:.0f} s, and {max(self.left, 0.0):.0f} s were left"
            )
            return
        self.say(f"measuring {short(work)}: {', '.join(arm.kernel.id for arm in arms)}")
        deadline = time.perf_counter() + seconds
        try:
            known, fixed = self._known(work, plan)
            begin = time.perf_counter()
            expected = expect(work, known, self.seed)
            self._references[work.title] = _reference_prior(work), time.perf_counter() - begin
        except Exception as error:
            sentence = f"nothing of {short(work)} was measured: its reference fails on drawn arrays ({describe_error(error)})"
            self._note(sentence)
            return
        ready: list[tuple[Arm, Batch]] = []
        for arm in arms:
            batch = self._checked(arm, expected, fixed) if self.left > 0 else None
            if batch is not None:
                ready.append((arm, batch))
        try:
            interleave([batch for _, batch in ready], self.random, deadline)
        finally:  # also what an interrupt leaves
            sampled = [(arm, batch) for arm, batch in ready if batch.samples]
            self._compare(sampled)
            for arm, batch in sampled:
                self._keep(arm, batch.result())

    def _compare(self, sampled: list[tuple[Arm, Batch]]) -> None:
        """Adds the best kernel of each device to what says how far off estimates are."""
        best: dict[str, tuple[float, float]] = {}
        for arm, batch in sampled:
            prior = self.costs.kernel_seconds(arm.kernel, arm.work, arm.device)
            if prior.source not in KNOWN and arm.work.title != "identity":
                pair = batch.result().seconds, prior.seconds
                best[arm.device.name] = min(pair, best.get(arm.device.name, pair))
        for name, (took, believed) in best.items():
            self._took[name] += took
            self._believed[name] += believed

    def _reference_seconds(self, work: Work) -> float:
        """How long the reference will take, by those of the same kind that ran before, or else by all of them."""
        same = self._references.get(work.title)
        known = [same] if same else self._references.values()
        scale = sum(took for _, took in known) / sum(prior for prior, _ in known) if known else 1.0
        return scale * _reference_prior(work)

    def _checked(self, arm: Arm, expected: Expected, fixed: Collection[int]) -> Batch | None:
        """The arm as a batch if it computes what the reference computes; else None, and the reason is kept."""
        where = f"{arm.kernel.id} on {arm.device.name}"
        try:
            arrays = expected.arrays
            start = make_start(arm.kernel, arm.work, arm.device, arrays, self.registry, fixed)
            reason = disagreement(expected, arm.kernel, arm.work, arm.device, start(), self.registry)
        except Exception as error:
            self.failed[arm.key] = f"{where} failed on {short(arm.work)}: {describe_error(error)}"
            return None
        if reason is None:
            return Batch(start, arm.device)
        self.wrong.append(f"{where} is wrong on {short(arm.work)}: {reason}")
        work, kernel, _ = arm.key
        self.costs.store.put(work, kernel, arm.device, Measurement(0.0, verdict=WRONG, reason=reason))
        return None

    def _note(self, sentence: str) -> None:
        """Keeps a sentence about something that could not be measured and that no arm is to blame for."""
        self.failed[(sentence, "", "")] = sentence

    def _keep(self, arm: Arm, found: Measurement) -> None:
        work, kernel, _ = arm.key
        self.costs.store.put(work, kernel, arm.device, found)
        self.measured.append(Measured(short(arm.work), arm.kernel.id, arm.device.name, found, arm.estimate))

    def _known(
        self, work: Work, plan: Placement
    ) -> tuple[list[np.ndarray[Any, Any] | None], Collection[int]]:
        """Arrays that are known for the inputs of some work: constants of the graph, whose positions are given too, and the user's."""
        given = {value: self.arrays.get(name) for name, value in plan.graph.inputs.items()}
        for part in plan.with_bodies():
            constants = part.graph.constants
            for decision in part.decisions:
                for match in (decision.match, *(other.match for other in decision.alternatives)):
                    if match.work is work or str(match.work) == str(work):
                        fixed = [n for n, value in enumerate(match.inputs) if value in constants]
                        return [
                            None if v is None else constants.get(v, given.get(v)) for v in match.inputs
                        ], fixed
        return [None] * len(work.inputs), ()

    def _measure_transfer(self, source: Device, target: Device) -> None:
        """Measures moving arrays from one device to the other, unless that was measured before."""
        if all(self.costs.transfer_measurement(source, target, size) for size in TRANSFER_BYTES):
            return
        self.say(f"measuring transfers from {source.name} to {target.name}")
        try:
            for size in TRANSFER_BYTES:
                native = source.upload(np.zeros(size, np.uint8))
                batch = Batch(lambda native=native: transfer(native, source, target), target)  # type: ignore[misc]
                interleave([batch], self.random, time.perf_counter() + min(1.0, max(self.left, 0.0) / 4))
                self.costs.store.put(*transfer_key(target, size), source, batch.result())
                self.measured.append(
                    Measured(f"transfer of {size} bytes", source.name, target.name, batch.result(), None)
                )
        except (OpyardError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            self._note(
                f"transfers from {source.name} to {target.name} were not measured: {describe_error(error)}"
            )
