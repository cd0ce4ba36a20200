"""The numbers of ``opyard bench``: intervals, verdicts, roofs and sizes, on samples that are made and not measured."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import SettingsError
from opyard.ops import STANDARD
from opyard_bench.levels import Level, Share, levels, share
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
    MARKDOWN_BYTES,
    lines,
    regret_summary,
    remarks,
    table_rows,
    to_csv,
    to_markdown,
)
from opyard_bench.roofs import least_seconds
from opyard_bench.sizes import MEDIUM, SMALL, call_of, parse_shapes, scaled_cases, size_names
from opyard_bench.statistics import is_precise, median_interval, summarize

REFERENCE = "reference/reference"
MACHINE = {"processor": "Z80", "processors": 1, "threads": 1, "system": "CP/M", "architecture": "z80"}
REGISTRY = oy.standard_registry()


def row(kernel: str, samples: Any = (), device: str = "null:0", **facts: Any) -> Row:
    return Row(kernel, device, facts.pop("status", OK), samples=tuple(map(float, samples)), calls=1, **facts)


def run_of(*rows: Row, chosen: str = "", devices: tuple[Roof, ...] = (), **facts: Any) -> Run:
    cell = Cell("exp", "float32[8]", 8e6, 64e6, ("float32",), chosen, rows=rows)
    return Run(MACHINE, {"numpy": "2"}, {"seed": 0}, "1976-07-01", None, devices, cells=(cell,), **facts)


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
        "regret of placement: geometric mean 2.000 over 1 cells, 95 % of them at most 2, "
        "all at most 2 (exp float32[8]: null/chosen on null:0)."
    )
    nothing = "no cell has a time for the kernel that placement would use."
    assert regret_summary(run_of(*ROWS)) == f"regret of placement: {nothing}"
    assert regret_summary(run, COLD) == f"regret of placement, cold: {nothing}"
    assert remarks(run_of())[1] == f"regret of placement: {nothing}"


def test_regimes_are_never_compared_with_each_other():
    cold = [replace(r, regime=COLD, samples=tuple(3 * s for s in r.samples)) for r in ROWS[:3]]
    copied = [replace(ROWS[2], regime=END_TO_END), replace(ROWS[0], regime=END_TO_END)]
    run = run_of(*copied, *cold, *ROWS[:3], chosen="null/chosen on null:0")
    run = replace(run, cells=(replace(run.cells[0], chosen_end_to_end="null/good on null:0"),))
    found = [(line.row.regime, line.row.kernel, line.vs_reference, line.regret) for line in lines(run)]
    assert found == [
        *(("hot", "null/good", 4.0, None), ("hot", "null/chosen", 2.0, 2.0), ("hot", REFERENCE, 1.0, None)),
        *(
            ("cold", "null/good", 4.0, None),
            ("cold", "null/chosen", 2.0, 2.0),
            ("cold", REFERENCE, 1.0, None),
        ),
        *(("end-to-end", "null/good", None, 1.0), ("end-to-end", "null/chosen", None, None)),
    ]
    assert [sentence.split(":")[0] for sentence in remarks(run)[1:]] == [
        "regret of placement",
        "regret of placement, cold",
        "regret of placement, end-to-end",
    ]
    parsed = list(csv.DictReader(io.StringIO(to_csv(run))))
    assert [line["regime"] for line in parsed] == [HOT] * 3 + [COLD] * 3 + [END_TO_END] * 2


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


def test_shares_name_the_level_that_binds():
    roof = Roof(
        "null:0", "cpu", "", "", flops=1e9, bandwidth=((1e3, 1e9), (1e4, 4e10), (1e6, 2e10), (1e8, 1e10))
    )
    assert levels(roof, HOT) == [
        Level("up to 10 kB", 1e4, 4e10),
        Level("up to 1 MB", 1e6, 2e10),
        Level("over 1 MB", math.inf, 1e10),
    ]
    assert levels(replace(roof, bandwidth=((1e4, 1e9),)), HOT) == [Level("bytes", math.inf, 1e9)]
    assert levels(replace(roof, bandwidth=()), COLD) == []

    def found(nbytes: float, flops: float = 0.0, roof: Roof | None = roof, **facts: Any) -> Share | None:
        return share(Cell("exp", "", flops, nbytes, ("float32",)), row("null/a", **facts), 1e-3, roof)

    assert found(1e3) == Share(1e3 / 4e10 / 1e-3, "up to 10 kB")
    assert found(1e6) == Share(1e6 / 2e10 / 1e-3, "up to 1 MB")
    assert found(1e9) == Share(1e9 / 1e10 / 1e-3, "over 1 MB")
    assert found(1e3, regime=COLD) == Share(1e3 / 1e10 / 1e-3, "over 1 MB"), "no cache holds it"
    assert found(1e3, flops=1e6) == Share(1.0, "operations")
    assert found(1e3, shares=True) is found(1e3, regime=END_TO_END) is None
    assert found(1e3, roof=None) is found(0.0) is None


def test_levels_are_named_by_the_caches_that_are_known():
    caches = (("L1", 10_000), ("L2", 1_000_000), ("L3", 50_000_000))
    rates = ((5e3, 1e9), (2e4, 4e10), (5e5, 6e10), (1e7, 2e10), (1e8, 1e10))
    roof = Roof("null:0", "cpu", "", "", bandwidth=rates, caches=caches)
    assert levels(roof, HOT) == [
        Level("L2", 1e6, 6e10),
        Level("L3", 5e7, 2e10),
        Level("memory", math.inf, 1e10),
    ], "the rate of L1 is that of a start, and L2 is one level"
    assert levels(replace(roof, bandwidth=rates[:4]), HOT)[-1] == Level("L3", math.inf, 2e10), (
        "memory was not met"
    )
    assert levels(replace(roof, bandwidth=((5e3, 9e10), *rates[1:])), HOT)[0] == Level("L1", 1e4, 9e10)
    one = replace(roof, bandwidth=((2e6, 4e10), (1e7, 2e10)))
    assert levels(one, HOT) == [Level("L3", math.inf, 4e10)]
    assert levels(one, COLD) == [Level("L3", math.inf, 2e10)], "the rate over the most bytes"
    timed = row("null/a")
    cells = [Cell("exp", "", 0.0, nbytes, ("float32",)) for nbytes in (5e3, 9e5, 1e6 + 1, 6e7)]
    found = [share(cell, timed, 1e-3, roof) for cell in cells]
    assert [s and s.level for s in found] == ["L2", "L2", "L3", "memory"]
    assert share(cells[0], replace(timed, regime=COLD), 1e-3, roof) == Share(5e3 / 1e10 / 1e-3, "memory")


@given(
    st.lists(st.tuples(st.floats(1, 1e12), st.floats(1, 1e15)), max_size=8),
    st.lists(st.integers(1, 10**12), max_size=4),
    st.floats(1, 1e13),
)
def test_no_rate_over_as_many_bytes_is_above_its_level(
    rates: list[tuple[float, float]], sizes: list[int], nbytes: float
):
    caches = tuple((f"L{number}", size) for number, size in enumerate(sorted(set(sizes)), 1))
    roof = Roof("null:0", "cpu", "", "", bandwidth=tuple(sorted(rates)), caches=caches)
    found = levels(roof, HOT)
    assert [(level.name, level.most, level.rate) for level in levels(roof, COLD)] == [
        (level.name, level.most, max(rates)[1]) for level in found[-1:]
    ]
    assert bool(found) == bool(rates)
    assert [level.most for level in found] == sorted({level.most for level in found})
    assert [level.rate for level in found] == sorted({level.rate for level in found}, reverse=True)
    if found:
        level = next(level for level in found if nbytes <= level.most)
        assert all(rate <= level.rate for measured, rate in rates if measured >= nbytes)


def test_the_part_of_the_roof():
    roof = Roof("null:0", "cpu", "", "", bandwidth=((1e8, 128e9),))
    (line,) = lines(run_of(row("null/a", [1e-3] * 9, first=0.5), devices=(roof,)))
    assert line.share == Share(pytest.approx(0.5), "bytes")
    shown = dict(zip(HEADINGS, table_rows(run_of(line.row, devices=(roof,)))[0], strict=True))
    assert (shown["roof"], shown["first"], shown["regime"], shown["grade"]) == (
        "50 % bytes",
        "500 ms",
        "hot",
        "A",
    )


def test_what_has_to_be_known_of_a_time_is_in_the_note():
    run = run_of(row("null/a", [1e-3] * 9, reason="timed on the host"))
    assert table_rows(run)[0][-1] == "timed on the host"


def test_markdown_ends_where_a_comment_ends_and_begins_with_the_worst():
    rows = [row(f"null/{number}", [1e-3 + 1e-9 * number] * 9) for number in range(1500)]
    bad = [row("null/broken", status=FAILED, reason="no\nsuch <unit>")]
    run = run_of(*rows, *bad, chosen="null/700 on null:0")
    text = to_markdown(run)
    assert len(text.encode()) <= MARKDOWN_BYTES
    body = [line for line in text.splitlines() if line.startswith("| exp")]
    assert body[0].endswith("| FAILED: no such &lt;unit> |")
    assert "| null/700 |" in body[1], "what placement would use"
    assert "| null/1499 |" in body[2], "the slowest"
    left_out = re.search(
        r"The last (\d+) of 1501 rows are left out, those with the least to say; `--csv FILE` has them all",
        text,
    )
    assert left_out
    assert int(left_out[1]) == 1501 - len(body)
    assert "left out" not in to_markdown(run_of(*ROWS))


def test_a_record_survives_the_file(tmp_path):
    roof = Roof("null:0", "cpu", "a device", "abc", 1e12, ((1e4, 5e11),), (("L1", 1 << 15),))
    run = run_of(*ROWS, chosen="null/chosen on null:0", devices=(roof,), absent=("none",), interrupted=True)
    path = tmp_path / "run.json"
    path.write_text(to_text(run))
    assert read(path) == run
    assert to_csv(read(path)) == to_csv(run)
    parsed = list(csv.DictReader(io.StringIO(to_csv(run))))
    assert float(parsed[0]["median_seconds"]) == 1e-3
    assert (parsed[0]["regime"], parsed[0]["clock"], parsed[0]["roof_level"]) == ("hot", "host", "L1")
    assert float(parsed[0]["roof_fraction"]) == pytest.approx(64e6 / 5e11 / 1e-3)
    assert parsed[0]["first_seconds"] == ""
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
