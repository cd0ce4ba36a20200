"""The heat map: how many times as fast as another each kernel is, op by op.

It is a table and no image, so that its numbers can be read aloud, found, sorted and copied, and its head stays in sight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from opyard_bench.document import table
from opyard_bench.drawing import Entry, Key, Style
from opyard_bench.markup import Markup, tag
from opyard_bench.record import Cell
from opyard_bench.report import Line

_EDGES = (0.125, 0.25, 0.5, 0.9, 1.1, 2.0, 4.0, 8.0)
"""Between the colours: less than an eighth is the first, as fast as the other is the fifth, eight times the last."""


def heat_map(
    caption: str,
    entries: Sequence[Entry],
    known: Mapping[Key, Style],
    titles: Mapping[tuple[str, tuple[str, ...]], str],
    ratio: Callable[[Line], float | None],
) -> Markup | None:
    """A row for each op, a column for each kernel on each device, the geometric mean of the ratios in each field.

    titles  names of ops by ``op_key``
    """
    found: dict[tuple[str, tuple[str, ...]], dict[Key, list[float]]] = {}
    for entry in entries:
        value = ratio(entry.line)
        if value:
            row = found.setdefault(op_key(entry.line.cell), {})
            row.setdefault(entry.key, []).append(value)
    if not found:
        return None
    columns = [key for key in known if any(key in row for row in found.values())]
    rows = (
        tag("tr", tag("th", titles[name], scope="row"), *(_field(found[name].get(key)) for key in columns))
        for name in sorted(found, key=lambda name: titles[name])
    )
    heads = [tag("span", known[key].name) for key in columns]
    return table(caption, ["op", *heads], rows, "heat")


def op_key(cell: Cell) -> tuple[str, tuple[str, ...]]:
    """What the cells of one op and of the same dtypes share."""
    return cell.op, cell.dtypes


def op_titles(cells: Sequence[Cell]) -> dict[tuple[str, tuple[str, ...]], str]:
    """Names of ops: with the dtypes where the op was timed with several."""
    keys = dict.fromkeys(map(op_key, cells))
    names = [op for op, _ in keys]
    return {(op, dtypes): op if names.count(op) == 1 else f"{op} {', '.join(dtypes)}" for op, dtypes in keys}


def _field(ratios: Sequence[float] | None) -> Markup:
    if not ratios:
        return tag("td")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return tag(
        "td", f"{mean:.2g}" if mean < 100 else f"{mean:.0f}", class_=f"h{sum(mean > edge for edge in _EDGES)}"
    )
