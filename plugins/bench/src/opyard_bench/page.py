"""The HTML page of a run: charts and tables in one file, made from the record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from opyard.registry import REFERENCE
from opyard.units import format_bytes
from opyard_bench.bars import regret_bars
from opyard_bench.charts import roofline, time_against_size, traffic
from opyard_bench.document import document, facts, figures, folded, paragraph, section, table, tiles
from opyard_bench.drawing import Entry, Key, Style, shapes, styles
from opyard_bench.heat import heat_map, op_key, op_titles
from opyard_bench.markup import Markup, tag
from opyard_bench.record import COLD, END_TO_END, HOST, HOT, OK, REFUSED, Roof, Run
from opyard_bench.report import HEADINGS, Regret, lines, note, numbers, regimes, regret_of

MEANINGS = {
    HOT: "call after call on arrays that lie on the device, and one wait for all; caches are warm",
    COLD: "each call on arrays that no cache holds",
    HOST: "eager calls, each with the choice of its kernel and a wait behind it",
    END_TO_END: "calls with uploads of all inputs before and downloads of all outputs behind",
}
FIRST_CHARTS = 12
"""Charts of time against size that are not folded away."""
MOST_BARS = 40
MOST_DOUBTS = 200
_BARS = 10


def to_html(run: Run) -> str:
    """The page of a run. The same record gives the same bytes."""
    found, number = lines(run), count()
    parts = {
        name: [Entry(next(number), line) for line in found if line.row.regime == name]
        for name in regimes(line.row for line in found)
    }
    known = styles(run)
    title = f"opyard bench: {run.machine.get('processor') or 'an unknown processor'}, {run.started}"
    return document(
        title,
        shapes(),
        tag("header", tag("h1", title), *_head(run, parts)),
        tag(
            "main",
            _machine(run),
            _doubts(run, [entry for entries in parts.values() for entry in entries]),
            *(_regime(name, run, entries, known) for name, entries in parts.items()),
        ),
    )


def _head(run: Run, parts: Mapping[str, Sequence[Entry]]) -> Iterator[Markup]:
    """What ended early, the numbers that matter most, and links to the parts."""
    if run.interrupted:
        yield paragraph(
            "The run was interrupted: what follows is what was measured until then.", class_="warning"
        )
    if not run.cells:
        yield paragraph("Nothing was timed.", class_="warning")
    statuses = [entry.line.status for entries in parts.values() for entry in entries]
    numbers_shown = {"calls": str(len(run.cells)), "times": str(statuses.count(OK))}
    numbers_shown |= {
        name.upper(): str(statuses.count(name))
        for name in dict.fromkeys(statuses)
        if name not in (OK, REFUSED)
    }
    for name, entries in parts.items():
        regret = regret_of(entry.line for entry in entries)
        if regret is not None:
            numbers_shown[f"mean regret of placement, {name}"] = f"{regret.mean:.3f}"
    yield tiles(numbers_shown)
    links = {"machine": "Machine", "doubts": "Not ranked", **{name: name.capitalize() for name in parts}}
    yield tag("nav", *(tag("a", text, href=f"#{name}") for name, text in links.items()), aria_label="Parts")


def _machine(run: Run) -> Markup:
    """Where it ran, with what, and what was asked for."""
    device_rows = (
        tag(
            "tr",
            tag("th", roof.device, scope="row"),
            tag("td", roof.kind),
            tag("td", f"{roof.flops / 1e9:.3g}" if roof.flops else ""),
            tag(
                "td",
                ", ".join(f"{rate / 1e9:.3g} ({format_bytes(nbytes)})" for nbytes, rate in roof.bandwidth),
            ),
            tag("td", ", ".join(f"{name} {format_bytes(size)}" for name, size in roof.caches)),
            tag("td", roof.description),
        )
        for roof in run.devices
    )
    headings = ("device", "kind", "GFLOP/s, float32", "GB/s over so many bytes", "caches", "description")
    load = {} if run.load is None else {"load before": f"{run.load:.2f}"}
    return section(
        "machine",
        "Machine",
        facts({**run.machine, "started": run.started, **load}),
        table("Devices, and what they can do at most", headings, device_rows, "machine"),
        *(paragraph(sentence, class_="faint") for sentence in run.absent),
        folded("Versions", facts(run.versions)),
        folded("Options", facts(run.options)),
    )


def _doubts(run: Run, entries: Sequence[Entry]) -> Markup:
    """What was not timed or is not believed, and why."""
    found = [(f"{cell.op} {cell.case}", f"not timed: {cell.note}") for cell in run.cells if cell.note]
    order = {name: number for number, name in enumerate(dict.fromkeys(("wrong", "failed")))}
    doubtful = [entry.line for entry in entries if entry.line.status not in (OK, REFUSED)]
    found += [
        (
            f"{line.cell.op} {line.cell.case}, {line.row.kernel} on {line.row.device}, {line.row.regime}",
            note(line),
        )
        for line in sorted(doubtful, key=lambda line: order.get(line.status, len(order)))
    ]
    if not found:
        return section(
            "doubts",
            "Not ranked",
            paragraph("Every kernel agrees with the reference, and no time is too good to be true."),
        )
    items = [tag("li", tag("b", where), " ", tag("span", why)) for where, why in found]
    rest = len(items) - MOST_DOUBTS
    end = paragraph(f"{rest} more are in the tables below.") if rest > 0 else Markup("")
    return section("doubts", "Not ranked", tag("ul", *items[:MOST_DOUBTS], class_="doubts"), end)


def _regime(name: str, run: Run, entries: Sequence[Entry], known: Mapping[Key, Style]) -> Markup:
    """All charts and the table of one regime."""
    meaning = MEANINGS.get(name)
    regret = regret_of(entry.line for entry in entries)
    return section(
        name,
        name.capitalize(),
        paragraph(f"{meaning[0].upper()}{meaning[1:]}.") if meaning else Markup(""),
        Markup("") if name == END_TO_END else _roofs(name, run.devices, entries, known),
        _regrets(name, entries, known, regret),
        _times(name, run, entries, known, regret),
        _speed_ups(name, run, entries, known),
        section(f"{name}-rows", "All rows", _rows(name, entries), level=3),
    )


def _roofs(
    name: str, devices: Sequence[Roof], entries: Sequence[Entry], known: Mapping[Key, Style]
) -> Markup:
    ranked = [entry for entry in entries if entry.line.status == OK]
    drawings = []
    measured = [roof for roof in devices if roof.device != REFERENCE] or devices
    for number, roof in enumerate(measured):
        own = [entry for entry in ranked if entry.line.row.device == roof.device]
        drawings.append(roofline(f"{name}r{number}", roof, name, own, known))
        drawings.append(traffic(f"{name}b{number}", roof, name, own, known))
    if not any(drawings):
        return section(
            f"{name}-roofs", "Against the roofs", paragraph("Nothing was timed that could be drawn."), level=3
        )
    text = (
        "How near each time comes to what was measured of its device. Lines are the roofs: bytes per second of each level, "
        "and operations per second. Small calls lie far below, for starting them takes longer than their work."
    )
    return section(f"{name}-roofs", "Against the roofs", paragraph(text), figures(drawings, "pair"), level=3)


def _regrets(
    name: str, entries: Sequence[Entry], known: Mapping[Key, Style], regret: Regret | None
) -> Markup:
    """Bars for the worst choices of placement."""
    heading = "Regret of placement"
    if regret is None:
        text = "No cell has a time for the kernel that placement would use."
        return section(f"{name}-regret", heading, paragraph(text), level=3)
    fastest = {id(entry.line.cell): entry.key for entry in reversed(entries) if entry.line.vs_best == 1}
    numbered = {id(entry.line): entry for entry in entries}
    wrong_choices = [numbered[id(line)] for line in regret.lines if line.regret and line.regret > 1]
    worst = wrong_choices[:MOST_BARS]
    told = {
        entry.number: f"{known[entry.key].name}; best: {known[fastest[id(entry.line.cell)]].name}"
        for entry in worst
    }
    most = regret.lines[0].regret or 1.0
    drawings = [
        regret_bars(
            f"{name}-g{start}",
            f"Regret of placement, {name}, from the worst but {start}"
            if start
            else f"Regret of placement, {name}",
            worst[start : start + _BARS],
            told,
            most,
        )
        for start in range(0, len(worst), _BARS)
    ]
    text = f"Time of the kernel that placement would use by that of the best: {regret.sentence}."
    more = len(wrong_choices) - len(worst)
    end = f" {more} smaller ones are in the table." if more > 0 else ""
    return section(
        f"{name}-regret",
        heading,
        paragraph(text + end),
        figures((tag("figure", d) for d in drawings), "pair"),
        level=3,
    )


def _times(
    name: str, run: Run, entries: Sequence[Entry], known: Mapping[Key, Style], regret: Regret | None
) -> Markup:
    """A chart for each op, those with the greatest regrets first."""
    titles = op_titles(run.cells)
    groups: dict[tuple[str, tuple[str, ...]], list[Entry]] = {}
    for entry in entries:
        if entry.line.status == OK:
            groups.setdefault(op_key(entry.line.cell), []).append(entry)
    order = {op_key(line.cell): n for n, line in reversed(list(enumerate(regret.lines if regret else ())))}
    ordered = sorted(groups, key=lambda key: (order.get(key, len(order) + len(entries)), titles[key]))
    drawings = [
        drawing
        for number, key in enumerate(ordered)
        if (drawing := time_against_size(f"{name}s{number}", titles[key], groups[key], known))
    ]
    if not drawings:
        return section(f"{name}-times", "Time against size", paragraph("Nothing was timed."), level=3)
    text = (
        "Median seconds against the bytes of the call, both logarithmic, for every op, the greatest regrets of placement first. "
        "Bands, or strokes through the marks, are the ranges between the quartiles."
    )
    rest = drawings[FIRST_CHARTS:]
    more = folded(f"{len(rest)} more ops", figures(rest, "small")) if rest else Markup("")
    return section(
        f"{name}-times",
        "Time against size",
        paragraph(text),
        figures(drawings[:FIRST_CHARTS], "small"),
        more,
        level=3,
    )


def _speed_ups(name: str, run: Run, entries: Sequence[Entry], known: Mapping[Key, Style]) -> Markup:
    titles = op_titles(run.cells)
    others = [entry for entry in entries if entry.line.row.device != REFERENCE]
    maps = [
        heat_map("Times as fast as the reference", others, known, titles, lambda line: line.vs_reference),
        heat_map("Times as fast as the best", entries, known, titles, lambda line: line.vs_best),
    ]
    text = (
        "Geometric means over the calls of an op. Above 1, in blue, is faster; below 1, in orange, is slower."
    )
    shown = figures(maps, "pair") if any(maps) else paragraph("Nothing was ranked.")
    return section(f"{name}-speed", "Speed-up", paragraph(text), shown, level=3)


def _rows(name: str, entries: Sequence[Entry]) -> Markup:
    """The table of all rows. The call stands in the first row of a cell alone; the script repeats it, to sort."""
    rows = []
    last = None
    for entry in entries:
        cell, row = entry.line.cell, entry.line.row
        call = tag("td") if cell is last else tag("td", cell.op, " ", tag("i", cell.case))
        where = ("reference",) if row.device == REFERENCE else (row.kernel, " ", tag("i", row.device))
        values = (tag("td", value) for value in (*numbers(entry.line), note(entry.line)))
        rows.append(tag("tr", call, tag("td", *where), *values))
        last = cell
    return table(f"All rows, {name}", ("call", "kernel", *HEADINGS[5:]), rows, "rows")
