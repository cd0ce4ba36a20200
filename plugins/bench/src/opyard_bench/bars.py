"""Charts that are lists: the regret of placement, worst first, and the ratios of two runs with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opyard_bench.compare import FASTER, SLOWER, Verdict
from opyard_bench.drawing import CHARACTER, WIDTH, Entry, chart, label, place, shortened
from opyard_bench.markup import Markup, join, tag
from opyard_bench.scales import LogScale, is_drawable, log_scale

_ROW, _BAR = 38, 7
_FOREST_ROW, _HALF = 30, 150
_VALUE = 40


def regret_bars(
    identity: str, title: str, entries: Sequence[Entry], told: Mapping[int, str], most: float
) -> Markup:
    """A bar for the regret of each entry, on a logarithmic scale from 1 to ``most``.

    told  for the number of each entry what was chosen, and what is best
    """
    scale = LogScale(1.0, max(most, 1.5), 0.0, WIDTH - _VALUE)
    rows = []
    for number, entry in enumerate(entries):
        top, line = number * _ROW, entry.line
        regret = line.regret or 1.0
        width = max(scale(regret), 1.0)
        rows += [
            label(0, top + 10, shortened(f"{line.cell.op} {line.cell.case}", WIDTH), class_="strong"),
            label(0, top + 21, shortened(told[entry.number], WIDTH), class_="faint"),
            tag("rect", x=0, y=top + 24, width=place(width), height=_BAR, class_="bar", data_r=entry.number),
            label(width + 4, top + 31, f"{regret:.3g}"),
        ]
    description = (
        f"{len(entries)} bars, the longest first, on a logarithmic scale that starts at 1, the best choice."
    )
    return chart(identity, title, description, max(_ROW * len(entries), 1), *rows, class_="wide")


def forest(identity: str, title: str, verdicts: Sequence[Verdict], scale: LogScale) -> Markup:
    """The ratio of each verdict, head by base, with its interval; 1 is a line, and so are the edges of SAME."""
    height = _FOREST_ROW * len(verdicts) + 24
    bottom = height - 20
    rows = []
    for number, verdict in enumerate(verdicts):
        top = number * _FOREST_ROW + 4
        names = f"{verdict.op} {verdict.case}", f"{verdict.kernel} on {verdict.device}, {verdict.regime}"
        numbers = f"{verdict.ratio:.3f}" if verdict.ratio else ""
        rows += [
            label(0, top + 9, shortened(names[0], WIDTH - _HALF - 4), class_="strong"),
            label(0, top + 20, shortened(names[1], WIDTH - _HALF - 4), class_="faint"),
            _interval(verdict, scale, top + 12),
            label(WIDTH, top + 16, numbers, class_="e"),
        ]
    ticks = scale.ticks(28)
    lines = [f"M{place(scale(value))} 0V{bottom}" for value in ticks]
    described = f"{len(verdicts)} ratios of medians, head by base, with their intervals, on a logarithmic scale; left of 1 is faster."
    return chart(
        identity,
        title,
        described,
        height,
        tag("path", d="".join(lines), class_="grid"),
        tag("path", d=f"M{place(scale(1.0))} 0V{bottom}", class_="one"),
        join(label(scale(value), height - 8, f"{value:g}", class_="m") for value in ticks),
        *rows,
        class_="wide",
    )


def forest_scale(verdicts: Sequence[Verdict]) -> LogScale:
    """One scale for plots that are compared with each other, with 1 in it."""
    bounds = [b for v in verdicts for b in (v.low, v.ratio, v.high) if b is not None and is_drawable(b)]
    return log_scale([*bounds, 1.0], WIDTH - _HALF, WIDTH - 6 * CHARACTER - 4, 1.05, 1.2)


def _interval(verdict: Verdict, scale: LogScale, middle: int) -> Markup:
    """A line for the interval and a mark for the ratio, in the colour of the verdict."""
    if verdict.ratio is None or not is_drawable(verdict.ratio):
        return Markup("")
    colour = {SLOWER: "slower", FASTER: "faster"}.get(verdict.verdict, "neutral")
    parts = []
    if verdict.low and verdict.high:
        parts.append(
            tag("path", d=f"M{place(scale(verdict.low))} {middle}H{place(scale(verdict.high))}", class_="l")
        )
    parts.append(tag("use", href="#m1", x=place(scale(verdict.ratio)), y=middle))
    return tag("g", *parts, class_=colour)
