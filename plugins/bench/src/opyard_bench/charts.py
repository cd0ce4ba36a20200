"""The charts of a run: roofline, bytes per second, and time against size. Each is a function of rows of one regime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from opyard.units import format_bytes, format_seconds
from opyard_bench.drawing import (
    DASHES,
    WIDTH,
    Entry,
    Frame,
    Key,
    Style,
    axes,
    chart,
    label,
    legend,
    mark,
    marks,
    place,
    point,
    shortened,
    spread_out,
)
from opyard_bench.levels import OPERATIONS, Level, levels
from opyard_bench.markup import Markup, tag
from opyard_bench.record import Roof
from opyard_bench.scales import LogScale, is_drawable, log_scale

_TALL = Frame(280)
_MARGIN = 114
_LINE = 11
_THIN = 2
"""A band that is nowhere as high as this lies below its line."""


def roofline(
    identity: str, roof: Roof, regime: str, entries: Sequence[Entry], known: Mapping[Key, Style]
) -> Markup | None:
    """Operations per second against operations per byte, below the roofs that were measured; None without marks.

    The roofline model: Williams, Waterman and Patterson, Communications of the ACM 52(4), 2009.
    """
    intensities = [
        (entry, entry.line.cell.flops / entry.line.cell.bytes, entry.line.gigaflops)
        for entry in entries
        if is_drawable(entry.line.cell.bytes) and not entry.line.row.shares
    ]
    shown = [
        (entry, a, b) for entry, a, b in intensities if b is not None and is_drawable(a) and is_drawable(b)
    ]
    if not shown:
        return None
    rates = _rates(roof, regime)
    most = roof.flops / 1e9 if roof.flops else math.inf
    x = log_scale([across for _, across, _ in shown], _TALL.left, WIDTH - _TALL.right)
    tops = [min(most, rate * x.high) for _, rate in rates] or [most]
    y = log_scale([*(up for _, _, up in shown), *tops], _TALL.height - _TALL.bottom, _TALL.top, 1.6)
    lines = []
    for _, rate in rates:
        first, last = max(x.low, y.low / rate), min(x.high, most / rate)
        ends = (x(first), y(rate * first), x(last), y(rate * last))
        lines.append(f"M{point(*ends[:2])}L{point(*ends[2:])}" if first < last else "")
    names = [f"{rate:.3g} GB/s, {level.name}" for level, rate in rates]
    if roof.flops:
        ridge = max([x.low, *(most / rate for _, rate in rates[:1])])
        lines.append(f"M{point(x(min(ridge, x.high)), y(most))}H{place(x.end)}" if ridge < x.high else "")
        names.append(f"{most:.3g} GFLOP/s, {OPERATIONS}")
    description = (
        f"{len(shown)} times: billions of operations per second against operations per byte, both logarithmic. "
        f"Roofs: {'; '.join(names) or 'none was measured'}."
    )
    return _scatter(
        (identity, f"Roofline of {roof.device}, {regime}", description),
        axes(_TALL, x, y, ("operations per byte", "GFLOP/s"), (_plain, _plain)),
        list(zip(names, lines, strict=True)),
        [(entry, x(a), y(b)) for entry, a, b in shown],
        known,
    )


def traffic(
    identity: str, roof: Roof, regime: str, entries: Sequence[Entry], known: Mapping[Key, Style]
) -> Markup | None:
    """Bytes per second against bytes, of the calls without operations; None without marks."""
    moving = [
        (entry, entry.line.cell.bytes, entry.line.gigabytes) for entry in entries if not entry.line.cell.flops
    ]
    shown = [(entry, a, b) for entry, a, b in moving if b is not None and is_drawable(a) and is_drawable(b)]
    if not shown:
        return None
    rates = _rates(roof, regime)
    x = log_scale([across for _, across, _ in shown], _TALL.left, WIDTH - _TALL.right)
    heights = [*(up for _, _, up in shown), *(rate for _, rate in rates)]
    y = log_scale(heights, _TALL.height - _TALL.bottom, _TALL.top, 1.6)
    lines = []
    start = x.low
    for level, rate in rates:
        end = min(level.most, x.high)
        lines.append(f"M{point(x(start), y(rate))}H{place(x(end))}" if start < end else "")
        start = max(start, end)
    names = [f"{rate:.3g} GB/s, {level.name}" for level, rate in rates]
    description = (
        f"{len(shown)} times of calls that only move bytes: billions of bytes per second against bytes, both "
        f"logarithmic. Roofs: {'; '.join(names) or 'none was measured'}."
    )
    return _scatter(
        (identity, f"Bytes per second on {roof.device}, {regime}", description),
        axes(_TALL, x, y, ("bytes of the call", "GB/s"), (format_bytes, _plain)),
        list(zip(names, lines, strict=True)),
        [(entry, x(a), y(b)) for entry, a, b in shown],
        known,
    )


def _rates(roof: Roof, regime: str) -> list[tuple[Level, float]]:
    """The levels that bind the regime, with their billions of bytes per second."""
    return [(level, level.rate / 1e9) for level in levels(roof, regime)]


def _scatter(
    texts: tuple[str, str, str],
    plane: Markup,
    roofs: Sequence[tuple[str, str]],
    places: Sequence[tuple[Entry, float, float]],
    known: Mapping[Key, Style],
) -> Markup:
    """A figure of marks and roofs. Each roof is (name, path); those that do not cross the plane are not named."""
    drawn = [(f"roof d{number % DASHES}", name, path) for number, (name, path) in enumerate(roofs) if path]
    paths = [tag("path", d=path, class_=class_) for class_, _, path in drawn]
    drawing = chart(*texts, _TALL.height, plane, *paths, marks(places, known), class_="large")
    lines = [(class_, name) for class_, name, _ in drawn]
    return _figure(drawing, texts[1], legend([entry.key for entry, _, _ in places], known, lines))


def time_against_size(
    identity: str, title: str, entries: Sequence[Entry], known: Mapping[Key, Style]
) -> Markup | None:
    """Median seconds of each kernel against the bytes of the call, with the range between the quartiles.

    A line joins the marks of a kernel where no two calls have the same bytes. None where nothing can be drawn.
    """
    series: dict[Key, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.line.cell.bytes):
        if is_drawable(entry.median) and is_drawable(entry.line.cell.bytes):
            series.setdefault(entry.key, []).append(entry)
    if not series:
        return None
    shown = [entry for found in series.values() for entry in found]
    frame = Frame(max(150, _LINE * len(series) + 36), right=_MARGIN, top=6, bottom=20)
    bounds = [v for e in shown if e.line.summary for v in e.line.summary[:3] if is_drawable(v)]
    x = log_scale([entry.line.cell.bytes for entry in shown], frame.left + 4, WIDTH - frame.right - 6, 1.0)
    y = log_scale(bounds, frame.height - frame.bottom, frame.top)
    ends = [y(found[-1].median) for found in series.values()]
    rows = spread_out(ends, _LINE, frame.top + 4, frame.height - frame.bottom)
    groups = [
        tag(
            "g",
            *_curve(found, known[key], x, y),
            mark(known[key], WIDTH - _MARGIN + 8, row),
            label(WIDTH - _MARGIN + 14, row + 3, shortened(known[key].name, _MARGIN - 14)),
            class_=known[key].colour,
        )
        for (key, found), row in zip(series.items(), rows, strict=True)
    ]
    largest = max(entry.line.cell.bytes for entry in shown)
    best = min((e for e in shown if e.line.cell.bytes == largest), key=lambda entry: entry.median)
    description = (
        f"{known[best.key].name} is the fastest over {format_bytes(largest)}: {format_seconds(best.median)}."
    )
    drawing = chart(
        identity,
        title,
        description,
        frame.height,
        axes(frame, x, y, ("", ""), (format_bytes, format_seconds)),
        *groups,
    )
    return _figure(drawing, title)


def _curve(found: Sequence[Entry], style: Style, x: LogScale, y: LogScale) -> list[Markup]:
    """Band, line and marks of one kernel; where there is no line, each mark has its quartiles as a stroke."""
    points = [(x(e.line.cell.bytes), y(e.median), *_quartiles(e, y)) for e in found]  # smallest bytes first
    across = [e.line.cell.bytes for e in found]
    made = [mark(style, at[0], at[1], e.number) for at, e in zip(points, found, strict=True)]
    if len(found) < 2 or len(set(across)) < len(across):
        strokes = "".join(f"M{place(a)} {place(low)}V{place(high)}" for a, _, low, high in points)
        return [tag("path", d=strokes, class_="l"), *made]
    lower = " ".join(point(a, low) for a, _, low, _ in points)
    upper = " ".join(point(a, high) for a, _, _, high in reversed(points))
    middle = " ".join(point(a, b) for a, b, _, _ in points)
    band = tag("path", d=f"M{lower} {upper}z", class_="b")
    is_seen = any(low - high >= _THIN for _, _, low, high in points)
    return [*([band] if is_seen else []), tag("path", d=f"M{middle}", class_="l"), *made]


def _quartiles(entry: Entry, y: LogScale) -> tuple[float, float]:
    summary = entry.line.summary
    bounds = (summary.lower, summary.upper) if summary else ()
    low, high = (bound if is_drawable(bound) else entry.median for bound in bounds)
    return y(low), y(high)


def _figure(drawing: Markup, title: str, *below: Markup) -> Markup:
    return tag("figure", tag("figcaption", title), drawing, *below)


def _plain(value: float) -> str:
    """A number of a tick: 1000 and not 1e+03."""
    return f"{value:g}" if 1e-4 <= value < 1e7 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
