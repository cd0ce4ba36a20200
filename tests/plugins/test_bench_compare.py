"""Verdicts of ``opyard bench compare``: intervals and decisions, on samples that are made and not measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.errors import SettingsError
from opyard_bench import compare as comparing
from opyard_bench.compare import AMBIGUOUS, BROKEN, FASTER, MISSING, SAME, SLOWER, compare, is_worse, summary
from opyard_bench.record import COLD, OK, WRONG, Cell, Roof, Row, Run
from opyard_bench.statistics import difference_interval, mean_interval, student_quantile

MACHINE = {"processor": "Z80", "processors": 1, "threads": 1, "system": "CP/M", "architecture": "z80"}
PASSES, ROUNDS = 30, 12


def row(kernel: str, samples: Any = (), device: str = "null:0", **facts: Any) -> Row:
    return Row(kernel, device, facts.pop("status", OK), samples=tuple(map(float, samples)), calls=1, **facts)


def run_of(*rows: Row, devices: tuple[Roof, ...] = (), **facts: Any) -> Run:
    cell = Cell("exp", "float32[8]", 8e6, 64e6, ("float32",), rows=rows)
    return Run(MACHINE, {"numpy": "2"}, {"seed": 0}, "1976-07-01", None, devices, cells=(cell,), **facts)


def verdict_of(base: Run, head: Run) -> comparing.Verdict:
    (found,) = compare([base], [head])
    return found


# Intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 63.657), (2, 9.925), (3, 5.841), (9, 3.250), (30, 2.750), (500, 2.586)]
)
def test_quantiles_of_student_are_those_of_tables(freedom: int, quantile: float):
    assert student_quantile(freedom, 0.995) == pytest.approx(quantile, rel=2e-4)


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_intervals_hold_the_truth_as_often_as_they_say(count: int):
    generator = np.random.default_rng(count)
    one, two = 0, 0
    for _ in range(2000):
        interval = mean_interval(generator.normal(1.0, 0.3, count), 0.99)
        one += interval.low <= 1.0 <= interval.high
        interval = difference_interval(generator.normal(1, 0.1, count), generator.normal(3, 0.3, count), 0.99)
        two += interval.low <= 2.0 <= interval.high
    assert one >= 1950
    assert two >= 1950


def test_an_unlucky_process_does_not_spoil_the_interval():
    lucky = [0.01 * (number % 5) for number in range(20)]
    interval = mean_interval([*lucky, 8.0], 0.99)
    assert interval.high < 0.04
    assert interval.low > 0


def test_one_value_says_nothing_of_its_error():
    assert mean_interval([2.0], 0.99) == (2.0, -math.inf, math.inf)
    assert difference_interval([2.0], [3.0, 3.0], 0.99) == (1.0, -math.inf, math.inf)


VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@settings(deadline=None)
@given(VALUES, VALUES, st.floats(-1, 1))
def test_the_difference_turns_with_its_sides_and_moves_with_one(
    base: list[float], head: list[float], shift: float
):
    there, back = difference_interval(base, head, 0.99), difference_interval(head, base, 0.99)
    assert there == pytest.approx((-back.middle, -back.high, -back.low), abs=1e-9)
    moved = difference_interval(base, [value + shift for value in head], 0.99)
    assert moved == pytest.approx([end + shift for end in there], abs=1e-6)


@settings(deadline=None)
@given(st.floats(1e-6, 1.0), st.floats(0.5, 2.0))
def test_steady_samples_give_their_ratio(base: float, ratio: float):
    a = run_of(row("a", [base] * 10, passes=(2,) * 5), pair="p")
    b = run_of(row("a", [base * ratio] * 10, passes=(2,) * 5), pair="p")
    found = verdict_of(a, b)
    assert (found.ratio, found.low, found.high) == (
        pytest.approx(ratio),
        pytest.approx(ratio),
        pytest.approx(ratio),
    )


# Pairs ----------------------------------------------------------------------------------------------------------


def pairs(shifts: Sequence[float], seed: int, lottery: float = 0.02) -> dict[str, comparing.Verdict]:
    """Verdicts on kernels whose true ratios these are, measured in turns on a machine with moods.

    The moods, which both sides share, are many times as large as what is looked for; where memory lies favours one side of
    each pass by ``lottery``; samples are skewed and have outliers.
    """
    generator = np.random.default_rng(seed)
    base, head = [], []
    for number, shift in enumerate(shifts):
        mood = np.exp(np.cumsum(generator.normal(0.0, 0.1, PASSES * ROUNDS)))
        luck = np.repeat(np.exp(generator.normal(0.0, lottery, PASSES)), ROUNDS)
        base.append(row(f"null/{number}", 1e-4 * mood * noise(generator), passes=(ROUNDS,) * PASSES))
        head.append(
            row(f"null/{number}", 1e-4 * mood * luck * shift * noise(generator), passes=(ROUNDS,) * PASSES)
        )
    found = compare([run_of(*base, pair="p")], [run_of(*head, pair="p")])
    return {verdict.kernel: verdict for verdict in found}


def noise(generator: np.random.Generator) -> Any:
    times = generator.lognormal(0.0, 0.03, PASSES * ROUNDS)
    times[generator.random(len(times)) < 0.1] *= 1.3
    times[generator.random(len(times)) < 0.02] *= 10
    return times


def counted(verdicts: dict[str, comparing.Verdict]) -> Counter[str]:
    return Counter(verdict.verdict for verdict in verdicts.values())


def test_pairs_that_are_equal_are_not_called_slower():
    found = counted(pairs([1.0] * 1000, seed=1))
    assert found[SLOWER] <= 10
    assert found[FASTER] <= 10
    assert found[SAME] >= 500


@pytest.mark.parametrize(("shift", "least"), [(1.05, 270), (1.10, 291)])
def test_slow_downs_of_pairs_are_found_and_their_sign_is_right(shift: float, least: int):
    found = counted(pairs([shift] * 300, seed=2))
    assert found[SLOWER] >= least
    assert found[FASTER] == 0
    found = counted(pairs([1 / shift] * 300, seed=3))
    assert found[FASTER] >= least
    assert found[SLOWER] == 0


def test_a_lottery_of_memory_is_not_called_slower():
    """Each process is 15 % faster or slower throughout, by chance: rounds do not help, passes do."""
    found = counted(pairs([1.0] * 300, seed=4, lottery=0.15))
    assert found[SLOWER] <= 3
    assert found[SAME] == 0


def test_few_passes_are_ambiguous_whatever_they_say():
    a = run_of(row("a", [1.0] * 8, passes=(2,) * 4), pair="p")
    b = run_of(row("a", [9.0] * 8, passes=(2,) * 4), pair="p")
    found = verdict_of(a, b)
    assert (found.verdict, found.ratio) == (AMBIGUOUS, pytest.approx(9.0))
    assert found.reason == "4 pairs of processes are too few to tell; give it more --passes"


def test_only_runs_of_one_pair_are_compared_sample_by_sample():
    a = run_of(row("a", [1.0, 2.0] * 5, passes=(2,) * 5), pair="p")
    b = run_of(row("a", [1.1, 2.2] * 5, passes=(2,) * 5), pair="q")
    assert verdict_of(a, replace(b, pair="p")).verdict == SLOWER
    assert verdict_of(a, b).reason.startswith("one run says nothing about the machine")
    assert verdict_of(replace(a, pair=""), replace(b, pair="")).verdict == AMBIGUOUS


# Runs of their own ----------------------------------------------------------------------------------------------


def runs(shifts: Sequence[float], count: int, seed: int) -> tuple[list[Run], list[Run]]:
    """So many runs of each side: moods of 20 % for a whole run, luck of 2 % for each kernel in it, noise of 3 %."""
    generator = np.random.default_rng(seed)

    def run(changes: Sequence[float]) -> Run:
        mood = float(np.exp(generator.normal(0.0, 0.2)))
        luck = np.exp(generator.normal(0.0, 0.02, len(changes)))
        samples = [
            1e-4 * mood * change * lucky * noise(generator)[:40]
            for change, lucky in zip(changes, luck, strict=True)
        ]
        return run_of(*(row(f"null/{number}", times) for number, times in enumerate(samples)))

    return [run([1.0] * len(shifts)) for _ in range(count)], [run(shifts) for _ in range(count)]


def judged(count: int, shift: float, seeds: range) -> tuple[Counter[str], Counter[str]]:
    """Verdicts on kernels that are equal, and on the tenth of them that is not."""
    equal: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for seed in seeds:
        shifts = [shift if number % 10 == 0 else 1.0 for number in range(50)]
        for number, verdict in enumerate(compare(*runs(shifts, count, seed))):
            (changed if number % 10 == 0 else equal)[verdict.verdict] += 1
    return equal, changed


@pytest.mark.parametrize("count", [1, 3, 10])
def test_kernels_that_are_equal_are_not_called_slower(count: int):
    equal, _ = judged(count, 1.10, range(20))
    assert equal.total() == 900
    assert equal[SLOWER] <= 9
    assert equal[FASTER] <= 9


def test_ten_runs_of_each_side_find_what_single_ones_cannot():
    assert judged(10, 1.10, range(20))[1][SLOWER] >= 97
    assert judged(1, 1.10, range(20))[1][SLOWER] <= 10
    assert judged(1, 1.60, range(20))[1][SLOWER] >= 80


def test_a_shift_of_all_kernels_is_taken_out_and_told():
    head = [row(f"null/{n}", [1.2] * 9) for n in range(12)]
    found = compare([run_of(*(row(f"null/{n}", [1.0] * 9) for n in range(12)))], [run_of(*head)])
    assert {verdict.verdict for verdict in found} == {SAME}
    assert found[0].shift == pytest.approx(1.2)
    assert summary(found) == (
        "total: 12 SAME; geometric mean of head / base 1.000. Taken out before: what all kernels share, 1.200 on null:0. "
        "That is the machine, or a change of everything; `opyard bench ab` tells which."
    )


def test_what_stays_as_it_was_while_all_others_become_faster_is_no_slower():
    base = [row(f"null/{n}", [1.0] * 9) for n in range(12)]
    head = [row(f"null/{n}", [1.0 if n == 0 else 0.5] * 9) for n in range(12)]
    found = compare([run_of(*base)], [run_of(*head)])[0]
    assert found.verdict == AMBIGUOUS
    assert found.reason == "so beside the other kernels only; by itself it did not change"


def test_devices_have_shifts_of_their_own():
    def side(slow: float) -> Run:
        here = [row(f"null/{n}", [1.0] * 9) for n in range(12)]
        return run_of(*here, *(row(f"null/{n}", [slow] * 9, "null:1") for n in range(12)))

    shifts = {verdict.device: verdict.shift for verdict in compare([side(1.0)], [side(1.5)])}
    assert shifts == {"null:0": pytest.approx(1.0), "null:1": pytest.approx(1.5)}


def test_single_runs_of_few_kernels_tell_nothing():
    found = verdict_of(run_of(row("a", [1.0] * 40)), run_of(row("a", [3.0] * 40)))
    assert (found.verdict, found.ratio) == (AMBIGUOUS, pytest.approx(3.0))
    assert found.reason == (
        "one run says nothing about the machine, and 0 other kernels too little; measure each side several times, or use `opyard bench ab`"
    )


def test_several_runs_of_one_kernel_are_enough():
    def side(time: float) -> list[Run]:
        return [run_of(row("a", [time * (1 + 0.01 * number)] * 9)) for number in range(4)]

    (found,) = compare(side(1.0), side(1.5))
    assert (found.verdict, found.shift) == (SLOWER, 1.0)
    (found,) = compare(side(1.0), side(1.0))
    assert found.verdict in (SAME, AMBIGUOUS)


# What was not timed, and where ----------------------------------------------------------------------------------


def test_what_broke_is_worse_and_what_is_missing_is_said():
    base = run_of(row("a", [1.0] * 9), row("b", [1.0] * 9), row("c", status=WRONG), row("d", status=WRONG))
    head = run_of(row("a", status=WRONG, reason="zeros"), row("c", [1.0] * 9), row("d", status=WRONG))
    found = {v.kernel: v for v in compare([base], [head])}
    assert (found["a"].verdict, found["a"].reason) == (BROKEN, "wrong: zeros")
    assert (found["b"].verdict, found["b"].reason) == (MISSING, "only in the base")
    assert (found["c"].verdict, found["c"].reason) == (MISSING, "was wrong in the base: ")
    assert "d" not in found
    assert is_worse(list(found.values()))
    assert not is_worse([found["b"]])
    assert summary([]) == "total: nothing in common."


def test_what_is_wrong_in_one_of_several_runs_is_broken():
    good, bad = run_of(row("a", [1.0] * 9)), run_of(row("a", status=WRONG, reason="zeros"))
    assert [v.verdict for v in compare([good, good], [good, bad])] == [BROKEN]


def test_what_an_interrupt_left_without_samples_has_no_verdict():
    assert compare([run_of(row("a", [1.0] * 9))], [run_of(row("a"))]) == []


def test_regimes_are_compared_apart():
    def side(*regimes: str) -> Run:
        return run_of(*(row("a", [1.0] * 10, regime=regime, passes=(2,) * 5) for regime in regimes), pair="p")

    found = compare([side("hot", COLD)], [side("hot")])
    assert [(v.regime, v.verdict) for v in found] == [("hot", SAME), (COLD, MISSING)]


def test_runs_of_another_machine_are_refused():
    base, other = run_of(row("a", [1.0] * 9)), {**MACHINE, "threads": 8}
    head = replace(base, machine=other)
    text = "the runs are of different machines: threads is 1 in one and 8 in another.*--force compares them"
    with pytest.raises(SettingsError, match=text):
        compare([base], [head])
    with pytest.raises(SettingsError, match=text):
        compare([base, head], [base])
    assert len(compare([base], [head], force=True)) == 1


def test_another_card_is_another_machine_and_another_library_is_not():
    def with_device(kind: str, description: str) -> list[Run]:
        return [run_of(row("a", [1.0] * 9), devices=(Roof("null:0", kind, description, ""),))]

    with pytest.raises(SettingsError, match="null:0 is 'old card' in one and 'new card' in another"):
        compare(with_device("gpu", "old card"), with_device("gpu", "new card"))
    assert compare(with_device("cpu", "BLAS 1"), with_device("cpu", "BLAS 2"))
