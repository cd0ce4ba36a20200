"""The HTML page of a comparison: the ratio of each kernel with its interval, and all verdicts with their reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from opyard_bench.bars import forest, forest_scale
from opyard_bench.compare import AMBIGUOUS, BROKEN, FASTER, MISSING, SAME, SLOWER, Verdict, summary
from opyard_bench.document import document, figures, folded, paragraph, section, table, tiles
from opyard_bench.drawing import shapes
from opyard_bench.markup import Markup, tag
from opyard_bench.record import Run

_HEADS = {
    SLOWER: "the interval lies above 1, and beyond what does not matter",
    FASTER: "the interval lies below 1, and beyond what does not matter",
    AMBIGUOUS: "what was measured is too little, or too far apart, to tell",
    SAME: "the interval lies so near to 1 that it does not matter",
}
_UNPLOTTED = (BROKEN, MISSING)
_PLOT = 20
_OPEN = 2
"""Plots of a verdict that are not folded away."""


def to_html(base: Sequence[Run], head: Sequence[Run], verdicts: Sequence[Verdict]) -> str:
    """The page of the verdicts on the runs of two sides. The same records give the same bytes."""
    counts = {
        name: sum(v.verdict == name for v in verdicts)
        for name in (BROKEN, SLOWER, FASTER, AMBIGUOUS, SAME, MISSING)
    }
    machine = next((run.machine.get("processor") for run in (*base, *head)), "") or "an unknown processor"
    in_turns = {run.pair for run in base} & {run.pair for run in head} - {""}
    title = f"opyard bench {'ab' if in_turns else 'compare'}: {machine}"
    return document(
        title,
        shapes(),
        tag(
            "header",
            tag("h1", title),
            tiles({name: str(count) for name, count in counts.items() if count}),
            paragraph(
                f"{summary(verdicts)} The ratio is the time of the head by that of the base: below 1 is faster."
            ),
        ),
        tag("main", _sides(base, head), _unplotted(verdicts), *_plots(verdicts), _rows(verdicts)),
    )


def _sides(base: Sequence[Run], head: Sequence[Run]) -> Markup:
    """What is known of the runs, and where the sides differ."""
    sides = [_facts(side) for side in (base, head)]
    rows = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(name, "") for side in sides]
        differs = "differs" if values[0] != values[1] else None
        rows.append(tag("tr", tag("th", name, scope="row"), *(tag("td", v) for v in values), class_=differs))
    return section("runs", "Runs", table("The runs of both sides", ("", "base", "head"), rows, "runs"))


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """What was compared, machine, versions and dates of the runs of a side, each value once."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        side = {name: value for name, value in run.options.items() if name == "side"}
        for name, value in {**side, "started": run.started, **run.machine, **run.versions}.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _unplotted(verdicts: Sequence[Verdict]) -> Markup:
    """What broke, and what one of the sides lacks, with its sentence."""
    items = [
        tag(
            "li",
            tag("b", f"{v.verdict}: {v.op} {v.case}, {v.kernel} on {v.device}, {v.regime}"),
            " ",
            tag("span", v.reason),
        )
        for name in _UNPLOTTED
        for v in verdicts
        if v.verdict == name
    ]
    if not items:
        return Markup("")
    return section("broken", "Broken or missing", tag("ul", *items, class_="doubts"))


def _plots(verdicts: Sequence[Verdict]) -> Iterator[Markup]:
    """A section for each verdict that has ratios, the greatest changes first."""
    for name, meaning in _HEADS.items():
        found = [v for v in verdicts if v.verdict == name and v.ratio]
        found.sort(key=lambda v: -abs(math.log(v.ratio or 1.0)))
        scale = forest_scale(found)
        drawings = [
            tag(
                "figure",
                forest(
                    f"{name}{start}",
                    f"{name}, from the greatest but {start}",
                    found[start : start + _PLOT],
                    scale,
                ),
            )
            for start in range(0, len(found), _PLOT)
        ]
        if drawings:
            rest = drawings[_OPEN:]
            more = folded(f"{len(found) - _OPEN * _PLOT} more", figures(rest, "pair")) if rest else Markup("")
            text = f"{meaning[0].upper()}{meaning[1:]}."
            yield section(name.lower(), name, paragraph(text), figures(drawings[:_OPEN], "pair"), more)


def _rows(verdicts: Sequence[Verdict]) -> Markup:
    names = [field.name for field in fields(Verdict)]
    rows = (
        tag("tr", *(tag("td", f"{v:.4g}" if isinstance(v, float) else v) for v in asdict(verdict).values()))
        for verdict in verdicts
    )
    return section("rows", "All verdicts", table("All verdicts", names, rows, "rows"))
