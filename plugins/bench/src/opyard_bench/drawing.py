"""What all charts are made of: frames with titles and axes, marks, and the colours and shapes of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from opyard.registry import REFERENCE
from opyard_bench.markup import Markup, join, tag
from opyard_bench.record import Run
from opyard_bench.report import Line
from opyard_bench.scales import LogScale

WIDTH = 360
"""Of all charts, in units that are pixels on a telephone; wider screens scale them."""
CHARACTER = 5.7
"""The mean width of a character of the labels, in the units of charts."""
_APART = 42, 20
"""The least distance between the numbers of an axis, across and up."""
COLOURS = 7
DASHES = 6
"""Kinds of lines."""
SHAPES = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "M-2.7-2.7h5.4v5.4h-5.4z",
    "M0-3.7 3.6 2.6h-7.2z",
    "M0-3.9 3.9 0 0 3.9-3.9 0z",
    "M0 3.7 3.6-2.6h-7.2z",
    "M-1.1-3.6h2.2v2.5h2.5v2.2H1.1v2.5h-2.2V1.1h-2.5v-2.2h2.5z",
)
"""Outlines around the origin. Colours and shapes have different periods, so that kernels differ in one where not in both."""
_CROSS = "M-3.4-2-2-3.4 0-1.4 2-3.4 3.4-2 1.4 0 3.4 2 2 3.4 0 1.4-2 3.4-3.4 2-1.4 0z"

Key = tuple[str, str]


class Entry(NamedTuple):
    """A line of the report, with the number of its row in the tables of the page: marks lead there."""

    number: int
    line: Line

    @property
    def key(self) -> Key:
        """Kernel and device: what a series of marks is of."""
        return self.line.row.kernel, self.line.row.device

    @property
    def median(self) -> float:
        """Seconds, or 0.0 where nothing was timed."""
        return self.line.summary.median if self.line.summary else 0.0


class Style(NamedTuple):
    """How a kernel on a device looks: its name, the class of its colour, and the identity of its shape."""

    name: str
    colour: str
    shape: str


class Frame(NamedTuple):
    """The plane of a chart: ``height`` of all, and what is left free around the plane."""

    height: int
    left: int = 46
    right: int = 10
    top: int = 10
    bottom: int = 32


def styles(run: Run) -> dict[Key, Style]:
    """A style for every kernel on every device, those of one op in different colours; the reference is grey."""
    cells = [{(row.kernel, row.device) for row in cell.rows} for cell in run.cells]
    keys = sorted(set().union(*cells), key=lambda key: key[::-1])
    kernels = [kernel for kernel, _ in keys]
    beside: dict[Key, set[Key]] = {}
    for cell in cells:
        for key in cell:
            beside.setdefault(key, set()).update(cell)
    colours: dict[Key, int] = {}
    found = {}
    for number, key in enumerate(keys):
        if key[1] == REFERENCE:
            found[key] = Style("reference", "kr", "mr")
            continue
        taken = {colours[other] for other in beside[key] if other in colours}
        choices = [(number + step) % COLOURS for step in range(COLOURS)]
        colours[key] = next((c for c in choices if c not in taken), choices[0])
        name = key[0] if kernels.count(key[0]) == 1 else " ".join(key)
        found[key] = Style(name, f"k{colours[key]}", f"m{number % len(SHAPES)}")
    return found


def shapes() -> Markup:
    """The outlines of marks, to be used by all charts of a page."""
    outlines = {**{f"m{number}": d for number, d in enumerate(SHAPES)}, "mr": _CROSS}
    paths = join(tag("path", id=name, d=outline) for name, outline in outlines.items())
    return tag("svg", tag("defs", paths), class_="shapes", width=0, height=0, aria_hidden="true")


def chart(
    identity: str, title: str, description: str, height: int, *contents: Markup, class_: str | None = None
) -> Markup:
    """An image with a title and a description for those who do not see it."""
    return tag(
        "svg",
        tag("title", title, id=f"{identity}t"),
        tag("desc", description, id=f"{identity}d"),
        *contents,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        class_=class_,
        aria_labelledby=f"{identity}t {identity}d",
    )


def axes(
    frame: Frame,
    x: LogScale,
    y: LogScale,
    names: tuple[str, str],
    formats: tuple[Callable[[float], str], Callable[[float], str]],
) -> Markup:
    """Grid, ticks with their numbers, and the names of the axes, where they are not empty."""
    across, up = x.ticks(_APART[0]), y.ticks(_APART[1])
    bottom, right = frame.height - frame.bottom, WIDTH - frame.right
    grid = [f"M{place(x(value))} {frame.top}V{bottom}" for value in across]
    grid += [f"M{frame.left} {place(y(value))}H{right}" for value in up]
    below = [label(x(value), bottom + 12, formats[0](value)) for value in across]
    beside = [label(frame.left - 5, y(value) + 3, formats[1](value)) for value in up]
    named = []
    if names[0]:
        named.append(label((frame.left + right) / 2, bottom + 26, names[0], class_="m"))
    if names[1]:
        turn = f"rotate(-90 10 {place((frame.top + bottom) / 2)})"
        named.append(label(10, (frame.top + bottom) / 2, names[1], class_="m", transform=turn))
    lines = tag("path", d="".join(grid), class_="grid")
    return join([lines, tag("g", *below, class_="m"), tag("g", *beside, class_="e"), *named])


def label(x: float, y: float, content: str, **attributes: str | None) -> Markup:
    """A text; its class says which of its ends is at the place: ``m`` the middle, ``e`` the end."""
    return tag("text", content, x=place(x), y=place(y), **attributes)


def marks(entries: Iterable[tuple[Entry, float, float]], known: Mapping[Key, Style]) -> Markup:
    """A mark at the place of each entry, those of one kernel together."""
    groups: dict[Key, list[Markup]] = {}
    for entry, x, y in entries:
        groups.setdefault(entry.key, []).append(mark(known[entry.key], x, y, entry.number))
    return join(tag("g", *found, class_=known[key].colour) for key, found in groups.items())


def mark(style: Style, x: float, y: float, number: int | None = None) -> Markup:
    """One mark; the script of the page shows the row of that number."""
    return tag("use", href=f"#{style.shape}", x=place(x), y=place(y), data_r=number)


def legend(used: Iterable[Key], known: Mapping[Key, Style], lines: Iterable[tuple[str, str]] = ()) -> Markup:
    """The names of kernels beside their marks, and those of (class, name) lines beside pieces of them."""
    order = list(known)
    items = [
        tag("li", _sample(10, mark(known[key], 5, 5), known[key].colour), known[key].name)
        for key in sorted(set(used), key=order.index)
    ]
    items += [tag("li", _sample(28, tag("path", d="M0 5H28", class_=class_)), name) for class_, name in lines]
    return tag("ul", *items, class_="legend")


def _sample(width: int, drawn: Markup, class_: str | None = None) -> Markup:
    return tag(
        "svg", drawn, class_=class_, viewBox=f"0 0 {width} 10", width=width, height=10, aria_hidden="true"
    )


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, that are ``gap`` apart and lie between low and high where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    last = low - gap
    for i in order:
        last = found[i] = max(wanted[i], last + gap)
    limit = high
    for i in reversed(order):
        found[i] = min(found[i], limit)
        limit = found[i] - gap
    return found


def shortened(content: str, width: float) -> str:
    """The text, cut where it is wider than so many units."""
    room = max(int(width / CHARACTER), 2)
    return content if len(content) <= room else f"{content[: room - 1]}…"


def place(value: float) -> str:
    """A coordinate: whole units are as exact as anyone sees."""
    return f"{value:.0f}"


def point(x: float, y: float) -> str:
    """A point of a path."""
    return f"{place(x)} {place(y)}"
