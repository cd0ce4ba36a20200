"""The numbers of ``opyard bench``: intervals, verdicts, roofs and sizes, on samples that are made and not measured."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import SettingsError
from opyard.ops import STANDARD
from opyard_bench import compare as comparing
from opyard_bench.record import (
    COLD,
    END_TO_END,
    FAILED,
    HOT,
    OK,
    REFUSED,
    WRONG,
    Cell,
    Roof,
    Row,
    Run,
    from_text,
    read,
    to_text,
)
from opyard_bench.report import (
    HEADINGS,
    IMPLAUSIBLE,
    lines,
    regret_summary,
    remarks,
    table_rows,
    to_csv,
    to_markdown,
)
from opyard_bench.roofs import least_seconds, share
from opyard_bench.sizes import MEDIUM, SMALL, call_of, parse_shapes, scaled_cases, size_names
from opyard_bench.statistics import is_precise, log_ratio_interval, median_interval, summarize

REFERENCE = "reference/reference"
MACHINE = {"processor": "Z80", "processors": 1, "threads": 1, "system": "CP/M", "architecture": "z80"}
REGISTRY = oy.standard_registry()


def row(kernel: str, samples: Any = (), device: str = "null:0", **facts: Any) -> Row:
    return Row(kernel, device, facts.pop("status", OK), samples=tuple(map(float, samples)), calls=1, **facts)


def run_of(*rows: Row, chosen: str = "", devices: tuple[Roof, ...] = (), **facts: Any) -> Run:
    cell = Cell("exp", "float32[8]", 8e6, 64e6, ("float32",), chosen, rows=rows)
    return Run(MACHINE, {"numpy": "2"}, {"seed": 0}, "1976-07-01", None, devices, cells=(cell,), **facts)


def noise(generator: np.random.Generator, count: int, median: float = 1e-4) -> list[float]:
    """Times as they are: skewed, with a second mode now and then, and outliers."""
    times = median * generator.lognormal(0.0, 0.02, count)
    times[generator.random(count) < 0.1] *= 1.15
    times[generator.random(count) < 0.01] *= 10
    return [float(t) for t in times]


# Statistics -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60))
def test_a_median_lies_in_its_interval(samples):
    low, high = median_interval(samples)
    assert min(samples) <= low <= summarize(samples).median <= high <= max(samples)


def test_the_interval_covers_the_median_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        low, high = median_interval(generator.lognormal(0.0, 0.3, 25))
        hits += low <= 1.0 <= high
    assert 930 <= hits <= 995


@pytest.mark.parametrize(("spread", "grade"), [(0.01, "A"), (0.04, "B"), (0.08, "C"), (0.2, "D"), (0.5, "E")])
def test_grades(spread: float, grade: str):
    assert summarize([1 - spread / 2, 1 - spread / 2, 1.0, 1 + spread / 2, 1 + spread / 2]).grade == grade


def test_few_samples_have_no_grade_and_are_not_precise():
    assert summarize([1.0] * 4).grade == "-"
    assert summarize([0.0] * 9).grade == "-"
    assert not is_precise([1.0] * 14)
    assert is_precise([1.0] * 15)
    assert not is_precise([1.0, 2.0] * 10)


@given(st.floats(1e-6, 1.0), st.floats(0.1, 10.0))
def test_the_ratio_of_steady_samples_is_exact(base, ratio):
    low, high = log_ratio_interval([base] * 9, [base * ratio] * 9, 0.99)
    assert low == pytest.approx(math.log(ratio), abs=1e-9)
    assert high == pytest.approx(math.log(ratio), abs=1e-9)


# Comparing ------------------------------------------------------------------------------------------------------


def verdicts(shift: float, pairs: int, seed: int, count: int = 40) -> list[str]:
    """Of so many pairs of samples whose true medians differ by a factor."""
    generator = np.random.default_rng(seed)
    base = [row(f"null/{i}", noise(generator, count)) for i in range(pairs)]
    head = [row(f"null/{i}", noise(generator, count, 1e-4 * shift)) for i in range(pairs)]
    return [v.verdict for v in comparing.compare(run_of(*base), run_of(*head))]


def test_noise_is_not_called_slower():
    found = verdicts(1.0, 1000, seed=1)
    assert found.count(comparing.SLOWER) <= 10
    assert found.count(comparing.FASTER) <= 10


def test_five_per_cent_are_found_and_their_sign_is_right():
    found = verdicts(1.05, 300, seed=2)
    assert found.count(comparing.SLOWER) >= 270
    assert comparing.FASTER not in found
    found = verdicts(1 / 1.05, 300, seed=3)
    assert found.count(comparing.FASTER) >= 270
    assert comparing.SLOWER not in found


def test_a_slower_machine_is_no_slower_kernel():
    """The reference, which took turns with the kernels, shows the change of the machine."""
    generator = np.random.default_rng(4)

    def samples(shift: float) -> list[float]:
        return noise(generator, 100, 1e-4 * shift)

    base = run_of(row("same", samples(1)), row("worse", samples(1)), row(REFERENCE, samples(1), "reference"))
    head = run_of(
        row("same", samples(1.2)), row("worse", samples(1.5)), row(REFERENCE, samples(1.2), "reference")
    )
    found = {v.kernel: v.verdict for v in comparing.compare(base, head)}
    assert found == {"same": comparing.AMBIGUOUS, "worse": comparing.SLOWER}


def test_moods_of_the_machine_are_not_called_slower():
    """Neighbouring samples resemble each other: forty of them say less than forty would alone."""
    generator = np.random.default_rng(5)

    def moody() -> Any:
        steps = generator.normal(0.0, 0.02, 60)
        for number in range(1, 60):
            steps[number] += 0.8 * steps[number - 1]
        return np.exp(steps)

    base = [row(f"null/{number}", moody()) for number in range(500)]
    head = [row(f"null/{number}", moody()) for number in range(500)]
    found = [v.verdict for v in comparing.compare(run_of(*base), run_of(*head))]
    assert found.count(comparing.SLOWER) <= 5


def test_equal_samples_are_the_same_and_uncertain_ones_ambiguous():
    steady, wild = [1.0] * 9, [1.0, 3.0] * 5
    found = comparing.compare(
        run_of(row("a", steady), row("b", wild)), run_of(row("a", steady), row("b", wild))
    )
    assert [v.verdict for v in found] == [comparing.SAME, comparing.AMBIGUOUS]
    assert not comparing.is_worse(found)
    assert comparing.summary(found) == "total: 1 SAME, 1 AMBIGUOUS; geometric mean of head / base 1.000."


def test_too_few_samples_are_ambiguous_whatever_they_say():
    (found,) = comparing.compare(run_of(row("a", [1.0] * 4)), run_of(row("a", [9.0] * 40)))
    assert found.verdict == comparing.AMBIGUOUS
    assert found.reason == "4 samples are too few to tell; give it more --seconds"


def test_what_broke_is_worse_and_what_is_missing_is_said():
    base = run_of(row("a", [1.0] * 9), row("b", [1.0] * 9), row("c", status=WRONG), row("d", status=WRONG))
    head = run_of(row("a", status=WRONG, reason="zeros"), row("c", [1.0] * 9), row("d", status=WRONG))
    found = {v.kernel: v for v in comparing.compare(base, head)}
    assert (found["a"].verdict, found["a"].reason) == (comparing.BROKEN, "wrong: zeros")
    assert (found["b"].verdict, found["b"].reason) == (comparing.MISSING, "only in the base")
    assert (found["c"].verdict, found["c"].reason) == (comparing.MISSING, "was wrong in the base: ")
    assert "d" not in found
    assert comparing.is_worse(list(found.values()))
    assert comparing.summary([]) == "total: nothing in common."


def test_runs_of_another_machine_are_refused():
    base, other = run_of(row("a", [1.0] * 9)), {**MACHINE, "threads": 8}
    head = replace(base, machine=other)
    text = "the runs are of different machines: threads is 1 in the base and 8 in the head.*--force compares them"
    with pytest.raises(SettingsError, match=text):
        comparing.compare(base, head)
    assert [v.verdict for v in comparing.compare(base, head, force=True)] == [comparing.SAME]


def test_another_card_is_another_machine_and_another_library_is_not():
    def with_device(kind: str, description: str) -> Run:
        return run_of(row("a", [1.0] * 9), devices=(Roof("null:0", kind, description, ""),))

    with pytest.raises(SettingsError, match="null:0 is 'old card' in the base and 'new card' in the head"):
        comparing.compare(with_device("gpu", "old card"), with_device("gpu", "new card"))
    assert comparing.compare(with_device("cpu", "BLAS 1"), with_device("cpu", "BLAS 2"))


# Reports --------------------------------------------------------------------------------------------------------

ROWS = (
    row("null/good", [1e-3] * 9),
    row("reference/reference", [4e-3] * 9, "reference"),
    row("null/chosen", [2e-3] * 9),
    row("null/bad", status=WRONG, reason="8 of 8 values differ | really"),
    row("null/none", status=REFUSED, reason="takes no such thing"),
    row("null/dead", status=FAILED, reason="RuntimeError: no"),
)


def test_columns():
    found = {line.row.kernel: line for line in lines(run_of(*ROWS, chosen="null/chosen on null:0"))}
    assert list(found)[:3] == ["null/good", "null/chosen", "reference/reference"]
    good = found["null/good"]
    assert (good.gigabytes, good.gigaflops) == (pytest.approx(64.0), pytest.approx(8.0))
    assert (good.vs_reference, good.vs_best, good.regret) == (4.0, 1.0, None)
    assert (found["null/chosen"].vs_best, found["null/chosen"].regret) == (0.5, 2.0)
    assert found["null/bad"].vs_best is None
    shown = table_rows(run_of(*ROWS))
    assert shown[3][-1] == "WRONG: 8 of 8 values differ | really"
    assert shown[4][-1] == "REFUSED: takes no such thing"


def test_the_regret_of_a_run():
    run = run_of(*ROWS, chosen="null/chosen on null:0")
    assert regret_summary(run) == (
        "regret of placement: geometric mean 2.000 over 1 cells, at most 2 (exp float32[8]: null/chosen on null:0)."
    )
    assert regret_summary(run_of(*ROWS)).endswith(
        "no cell has a time for the kernel that placement would use."
    )


def test_what_is_too_fast_is_implausible_and_not_ranked():
    roof = Roof("null:0", "cpu", "", "", flops=1e12, bandwidth=((1e4, 5e11), (1e8, 1e10)))
    run = run_of(row("null/lazy", [1e-3] * 9), row("null/honest", [7e-3] * 9), devices=(roof,))
    found = {line.row.kernel: line for line in lines(run)}
    assert found["null/lazy"].status == IMPLAUSIBLE
    assert found["null/lazy"].reason.startswith("6.40 times as fast as what was measured of null:0 at most")
    assert found["null/lazy"].vs_best is None
    assert (found["null/honest"].status, found["null/honest"].vs_best) == (OK, 1.0)
    view = run_of(row("null/view", [1e-9] * 9, shares=True), devices=(roof,))
    assert [(line.status, line.gigabytes) for line in lines(view)] == [(OK, None)]


def test_roofs():
    roof = Roof("null:0", "cpu", "", "", flops=1e9, bandwidth=((1e4, 5e11), (1e8, 1e10)))

    def cell(flops: float, nbytes: float, dtype: str = "float32") -> Cell:
        return Cell("exp", "", flops, nbytes, (dtype,))

    assert least_seconds(cell(1e6, 0), roof) == 1e-3
    assert least_seconds(cell(1e6, 0, "float16"), roof) == 0, "smaller dtypes may be faster"
    assert least_seconds(cell(0, 5e4), roof) == pytest.approx(1e-7), "a cache may hold it"
    assert least_seconds(cell(0, 1e8), roof) == pytest.approx(1e-2)
    assert least_seconds(cell(0, 1e10), roof) == pytest.approx(1.0)
    assert least_seconds(cell(1e6, 1e6), Roof("null:0", "cpu", "", "")) == 0


def test_shares_of_the_roof_name_their_level():
    roof = Roof("null:0", "cpu", "", "", 1e9, ((1e4, 5e11), (1e8, 1e10)), (("L1", 1000), ("L2", 1_000_000)))

    def found(flops: float, nbytes: float, roof: Roof | None = roof, **facts: Any) -> Any:
        timed = row("null/a", [1e-3] * 9)
        return share(Cell("exp", "", flops, nbytes, ("float32",)), replace(timed, **facts), 1e-3, roof)

    assert found(5e5, 12) == (0.5, "flops")
    assert found(0, 1e4) == (pytest.approx(1e4 / 5e11 / 1e-3), "L2")
    assert found(0, 900) == (pytest.approx(900 / 5e11 / 1e-3), "L1")
    assert found(0, 5e7) == (pytest.approx(5e7 / 1e10 / 1e-3), "memory")
    assert found(0, 900, regime=COLD) == (pytest.approx(900 / 1e10 / 1e-3), "memory"), "no cache holds it"
    assert found(0, 900, replace(roof, caches=())) == (pytest.approx(900 / 5e11 / 1e-3), "memory")
    assert found(0, 0) == (0, "L1")
    assert found(1e6, 1e6, shares=True) is found(1e6, 1e6, None) is None
    assert found(1e6, 1e6, replace(roof, bandwidth=())) is None


def test_regimes_are_ranked_among_themselves():
    rows = [
        row(f"null/{name}", [seconds] * 9, regime=regime, first=0.25)
        for regime, times in ((HOT, (1e-3, 2e-3)), (END_TO_END, (6e-3, 3e-3)))
        for name, seconds in zip("ab", times, strict=True)
    ]
    run = run_of(*rows, chosen="null/a on null:0")
    run = replace(run, cells=(replace(run.cells[0], chosen_end_to_end="null/a on null:0"),))
    found = {(line.row.kernel, line.row.regime): line for line in lines(run)}
    assert list(found) == [
        *(("null/a", HOT), ("null/b", HOT), ("null/b", END_TO_END), ("null/a", END_TO_END)),
    ]
    assert (found["null/a", HOT].vs_best, found["null/a", HOT].regret) == (1.0, 1.0)
    assert (found["null/a", END_TO_END].vs_best, found["null/a", END_TO_END].regret) == (0.5, 2.0)
    assert found["null/b", END_TO_END].regret is None
    said = remarks(run)
    assert said[1].startswith("regret of placement: geometric mean 1.000 over 1 cells")
    assert said[2].startswith("regret of placement, end-to-end: geometric mean 2.000 over 1 cells")
    parsed = list(csv.DictReader(io.StringIO(to_csv(run))))
    assert [(line["regime"], line["first_seconds"], line["clock"]) for line in parsed] == [
        *((HOT, "0.25", "host"), (HOT, "0.25", "host")),
        *((END_TO_END, "0.25", "host"), (END_TO_END, "0.25", "host")),
    ]
    assert table_rows(run)[0][HEADINGS.index("first")] == "250 ms"


def test_a_note_about_a_time_is_shown():
    run = run_of(row("null/a", [1e-3] * 9, reason="not cold"))
    assert table_rows(run)[0][-1] == "not cold"


def test_a_record_survives_the_file(tmp_path):
    roof = Roof("null:0", "cpu", "a device", "abc", 1e12, ((1e4, 5e11),), (("L1", 1 << 15),))
    run = run_of(*ROWS, chosen="null/chosen on null:0", devices=(roof,), absent=("none",), interrupted=True)
    path = tmp_path / "run.json"
    path.write_text(to_text(run))
    assert read(path) == run
    assert to_csv(read(path)) == to_csv(run)
    parsed = list(csv.DictReader(io.StringIO(to_csv(run))))
    assert float(parsed[0]["median_seconds"]) == 1e-3
    assert parsed[3]["reason"] == "8 of 8 values differ | really"
    assert "8 of 8 values differ \\| really" in to_markdown(run)


def test_what_is_no_record_is_refused():
    good = json.loads(to_text(run_of(*ROWS)))
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({**good, "cells": [{}]}),
    ):
        with pytest.raises(
            SettingsError,
            match=r"x\.json is no record of a benchmark \(.*write one with `opyard bench --json FILE`",
        ):
            from_text(text, "x.json")


@pytest.mark.parametrize("version", [1, 3, None])
def test_a_record_of_another_version_is_refused(version: object):
    text = json.dumps({**json.loads(to_text(run_of(*ROWS))), "opyard_bench": version})
    with pytest.raises(
        SettingsError,
        match=rf"x\.json is a record of version {version}, and .* reads version 2 alone; measure again",
    ):
        from_text(text, "x.json")


# Sizes ----------------------------------------------------------------------------------------------------------


def test_ranges():
    assert parse_shapes("m=256:2048:x2, k=2^5,n=1:100:x10") == {
        "m": (256, 512, 1024, 2048),
        "k": (32,),
        "n": (1, 10, 100),
    }


def test_names_of_sizes_come_from_the_description():
    assert size_names(REGISTRY.get_op("matmul")) == [["m", "k"], ["k", "n"]]
    assert size_names(REGISTRY.get_op("add")) == [["n"], ["n"]]
    assert size_names(REGISTRY.get_op("conv")) is None


@pytest.mark.parametrize("name", sorted(STANDARD))
def test_scaled_cases_are_calls_within_the_limits(name: str):
    op = REGISTRY.get_op(name)
    found = [call_of(op, case) for case in scaled_cases(op, (SMALL, MEDIUM), ())]
    assert found
    if len(found) > 1:
        assert found[0].bytes < found[1].bytes
        assert all(c.cost.bytes <= MEDIUM.bytes and c.cost.flops <= MEDIUM.flops for c in found)
        assert found[1].bytes >= 1e4
