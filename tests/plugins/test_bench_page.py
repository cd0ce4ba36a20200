"""The HTML pages of ``opyard bench``: what is in them, for records of every kind; and that nothing of a record is taken for a tag."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opyard.registry import REFERENCE
from opyard_bench import comparison
from opyard_bench.compare import Verdict, compare
from opyard_bench.drawing import spread_out, styles
from opyard_bench.markup import Markup, tag, text
from opyard_bench.page import FIRST_CHARTS, MOST_BARS, MOST_DOUBTS, to_html
from opyard_bench.record import (
    COLD,
    END_TO_END,
    FAILED,
    HOST,
    HOT,
    OK,
    WRONG,
    Cell,
    Roof,
    Row,
    Run,
    from_text,
    to_text,
)
from opyard_bench.scales import LogScale, log_scale

MACHINE = {"processor": "Z80", "processors": 1, "threads": 1, "system": "CP/M", "architecture": "z80"}
ROOF = Roof("null:0", "cpu", "a device", "abc", 1e12, ((1e4, 5e11), (1e6, 1e11), (1e8, 1e10)))
OTHER = Roof("null:1", "gpu", "another", "def", None, ())

# Reading pages --------------------------------------------------------------------------------------------------

_VOID = {"meta", "link", "input", "use", "path", "rect"}
_ENDS = {
    "td": {"td", "th"},
    "th": {"td", "th"},
    "tr": {"td", "th", "tr"},
    "li": {"li"},
    "dt": {"dd"},
    "dd": {"dt"},
}
"""What the start of an element ends, where its end tag is left out."""


@dataclass
class Element:
    """One element of a page."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, name: str, **attributes: str) -> list[Element]:
        """The elements of a name below this one, with these values of attributes."""
        return [e for e in self._below() if e.name == name and attributes.items() <= e.attributes.items()]

    def one(self, identity: str) -> Element:
        """The element of an identity."""
        (found,) = [e for e in self._below() if e.attributes.get("id") == identity]
        return found

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def _below(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._below()


class Reader(HTMLParser):
    """Builds the tree, and fails for an end tag that ends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.path = [Element("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        while self.path[-1].name in _ENDS.get(tag, ()):
            self.path.pop()
        made = Element(tag, dict(attrs))
        self.path[-1].children.append(made)
        if tag not in _VOID:
            self.path.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.path[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.path[-1].name in ("td", "th", "tr", "li", "dt", "dd") and self.path[-1].name != tag:
            self.path.pop()
        assert self.path.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.path[-1].children.append(data)


def parse(page: str) -> Element:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.path) == 1, f"never ended: {reader.path[-1].name}"
    return reader.path[0]


def marks(part: Element) -> list[int]:
    """The numbers of the rows that marks and bars of a part stand for."""
    found = [*part.all("use"), *part.all("rect")]
    return [int(e.attributes["data-r"] or "") for e in found if "data-r" in e.attributes]


def body(part: Element) -> list[Element]:
    """The rows of the tables in a part, heads left out."""
    return [row for found in part.all("tbody") for row in found.all("tr")]


# Making records -------------------------------------------------------------------------------------------------


def row(kernel: str, samples: Any = (), device: str = "null:0", **facts: Any) -> Row:
    return Row(kernel, device, facts.pop("status", OK), samples=tuple(map(float, samples)), calls=1, **facts)


def timed(kernel: str, seconds: float, device: str = "null:0", **facts: Any) -> Row:
    return row(kernel, [seconds * (1 + 0.01 * step) for step in range(9)], device, **facts)


def reference(seconds: float, **facts: Any) -> Row:
    return timed(f"{REFERENCE}/{REFERENCE}", seconds, REFERENCE, **facts)


def run_of(*cells: Cell, devices: tuple[Roof, ...] = (ROOF,), **facts: Any) -> Run:
    return Run(MACHINE, {"numpy": "2"}, {"seed": 0}, "1976-07-01", None, devices, cells=cells, **facts)


def cell(*rows: Row, op: str = "exp", size: int = 1000, flops: float | None = None, **facts: Any) -> Cell:
    work = 8.0 * size if flops is None else flops
    return Cell(op, f"float32[{size}]", work, 8.0 * size, ("float32",), rows=rows, **facts)


def sample_run(regimes: tuple[str, ...] = (HOT,)) -> Run:
    """Three ops in three sizes, one without operations, with a wrong kernel, a failed one, and a bad choice."""
    cells = []
    for op in ("exp", "matmul", "copy"):
        for size in (100, 10_000, 1_000_000):
            rows = []
            for regime in regimes:
                seconds = size * 1e-8
                rows += [
                    timed("null/slow", 3 * seconds, regime=regime),
                    timed("null/fast", seconds, regime=regime),
                ]
                rows += [reference(4 * seconds, regime=regime)]
            made = cell(
                *rows, op=op, size=size, flops=0.0 if op == "copy" else None, chosen="null/slow on null:0"
            )
            cells.append(replace(made, chosen_end_to_end="null/fast on null:0"))
    bad = [
        row("null/zeros", status=WRONG, reason="8 of 8 values differ"),
        row("null/dead", status=FAILED, reason="no"),
    ]
    cells[0] = replace(cells[0], rows=(*cells[0].rows, *bad))
    return run_of(*cells)


def many(calls: int, kernels: int = 3) -> Run:
    """A run of so many calls, three sizes of each op, with a row for each of some kernels and for the reference."""
    cells = []
    for number in range(calls):
        size = 1000 * 16 ** (number % 3)
        rows = [
            timed(f"backend/kernel{k}", 1e-9 * size * (1.37 + k)) for k in range((number // 3) % kernels + 1)
        ]
        case = f"float32[{size},64]-float32[{size},64]-axis={number}"
        made = cell(*rows, reference(3e-9 * size), op=f"operation_{number // 3}", size=size)
        cells.append(replace(made, case=case, chosen="backend/kernel0 on null:0"))
    return run_of(*cells)


# What is in a page ----------------------------------------------------------------------------------------------


def test_every_row_that_was_timed_has_its_marks():
    page = parse(to_html(sample_run()))
    assert len(body(page.one("hot-rows"))) == 29
    roofs = page.one("hot-roofs")
    assert [c.text for c in roofs.all("figcaption")] == [
        "Roofline of null:0, hot",
        "Bytes per second on null:0, hot",
    ]
    roofline, traffic = roofs.all("figure")
    assert len(marks(roofline)) == 12, "two kernels, two ops with operations, three sizes; not the reference"
    assert len(marks(traffic)) == 6
    assert len(marks(page.one("hot-times"))) == 27
    assert len(marks(page.one("hot-regret"))) == 9
    assert [c.text for c in page.one("hot-times").all("figcaption")] == ["exp", "matmul", "copy"]
    by_reference, by_best = page.one("hot-speed").all("table")
    assert [c.text.strip() for r in body(by_reference) for c in r.all("td")] == ["4", "1.3"] * 3
    assert [c.text.strip() for r in body(by_best) for c in r.all("td")] == ["1", "0.33", "0.25"] * 3
    assert [r.all("th")[0].text for r in body(by_best)] == ["copy", "exp", "matmul"]


def test_marks_lead_to_their_rows():
    page = parse(to_html(sample_run((HOT, COLD))))
    rows = [
        r
        for part in page.all("table")
        if "rows" in (part.attributes["class"] or "").split()
        for r in body(part)
    ]
    for regime in (HOT, COLD):
        numbers = {number for number, r in enumerate(rows) if r in body(page.one(f"{regime}-rows"))}
        assert set(marks(page.one(regime))) <= numbers
    for figure in page.one("cold-times").all("figure"):
        for group in figure.all("g"):
            assert len({rows[number].all("td")[1].text for number in marks(group)}) <= 1
    for number in marks(page.one("cold-regret")):
        assert "null/slow" in rows[number].text


def test_the_roofs_are_named_with_their_levels():
    page = parse(to_html(sample_run((HOT, COLD))))
    levels = ["500 GB/s, up to 10 kB", "100 GB/s, up to 1 MB", "10 GB/s, over 1 MB"]
    roofline, traffic = page.one("hot-roofs").all("figure")
    assert [e.text for e in roofline.all("li")] == ["null/fast", "null/slow", *levels]
    assert [e.text for e in traffic.all("li")] == ["null/fast", "null/slow", *levels]
    (cold, _) = page.one("cold-roofs").all("figure")
    assert [e.text for e in cold.all("li")][2] == "10 GB/s, over 1 MB"
    assert "up to" not in cold.text
    told = roofline.all("desc")[0].text
    assert told.endswith(f"Roofs: {'; '.join(levels)}; 1e+03 GFLOP/s, operations.")
    operations = "1e+03 GFLOP/s, operations"
    light, heavy = cell(timed("a/a", 1e-3), flops=1e3), cell(timed("a/a", 1e-3), flops=1e6)
    both = parse(to_html(run_of(light, heavy))).one("hot-roofs")
    assert [e.text for e in both.all("li")] == ["a/a", *levels, operations]
    alone = parse(to_html(run_of(heavy))).one("hot-roofs")
    assert [e.text for e in alone.all("li")] == ["a/a", levels[2], operations], (
        "the others do not come this low"
    )


def test_the_roofs_are_named_with_the_caches_that_are_known():
    known = replace(ROOF, caches=(("L2", 10_000), ("L3", 1_000_000)))
    page = parse(to_html(replace(sample_run(), devices=(known,))))
    _, traffic = page.one("hot-roofs").all("figure")
    named = ["500 GB/s, L2", "100 GB/s, L3", "10 GB/s, memory"]
    assert [e.text for e in traffic.all("li")] == ["null/fast", "null/slow", *named]
    assert {r.all("td")[-5].text.split(" % ")[-1] for r in body(page.one("hot-rows"))} >= {
        "L2",
        "L3",
        "memory",
    }


def test_regimes_have_parts_of_their_own():
    page = parse(to_html(sample_run((END_TO_END, HOST, COLD, HOT))))
    found = [
        e.attributes["id"] for e in page.all("section") if e.attributes["id"] in (HOT, COLD, HOST, END_TO_END)
    ]
    assert found == [HOT, COLD, HOST, END_TO_END]
    assert [a.attributes["href"] for a in page.all("nav")[0].all("a")][2:] == [f"#{name}" for name in found]
    assert len(marks(page.one("hot-regret"))) == 9
    assert len(marks(page.one("end-to-end-regret"))) == 0, "there placement chooses well"
    assert [len(body(page.one(f"{name}-rows"))) for name in found] == [29, 27, 27, 27]


def test_an_unknown_regime_is_shown_as_it_is():
    page = parse(to_html(run_of(cell(timed("null/a", 1e-3, regime="luke warm")))))
    assert page.one("luke warm").all("h2")[0].text == "Luke warm"


def test_what_is_not_ranked_is_said_with_its_sentence():
    run = sample_run()
    lazy = cell(timed("null/lazy", 1e-12), size=10**8)
    page = parse(to_html(replace(run, cells=(*run.cells, lazy, cell(op="sin", note="the reference fails")))))
    sentences = [e.text for e in page.one("doubts").all("li")]
    assert sentences[0] == "sin float32[1000] not timed: the reference fails"
    assert sentences[1] == "exp float32[100], null/zeros on null:0, hot WRONG: 8 of 8 values differ"
    assert sentences[2] == "exp float32[100], null/dead on null:0, hot FAILED: no"
    assert sentences[3].startswith("exp float32[100000000], null/lazy on null:0, hot IMPLAUSIBLE: ")
    assert [e.text for e in page.all("ul", **{"class": "tiles"})[0].all("li")] == [
        *("11 calls", "27 times", "1 WRONG", "1 FAILED", "1 IMPLAUSIBLE"),
        "3.000 mean regret of placement, hot",
    ]


def test_the_head_says_where_and_how():
    run = replace(
        sample_run(),
        load=1.5,
        absent=("cuda has no device",),
        devices=(ROOF, replace(OTHER, caches=(("L1", 1 << 15), ("L2", 1 << 20)))),
        interrupted=True,
    )
    page = parse(to_html(run))
    assert page.all("title")[0].text == page.all("h1")[0].text == "opyard bench: Z80, 1976-07-01"
    machine = page.one("machine").text
    for part in (
        "CP/M",
        "load before1.50",
        "cuda has no device",
        "numpy2",
        "seed0",
        "null:1gpu",
        "1e+03500 (10 kB)",
        "L1 32.8 kB, L2 1.05 MB",
    ):
        assert part in machine
    assert "interrupted" in page.all("header")[0].text


def test_images_can_be_read_aloud():
    page = parse(to_html(sample_run((HOT, COLD, HOST, END_TO_END))))
    identities = Counter(e.attributes["id"] for e in page._below() if e.attributes.get("id"))
    assert set(identities.values()) == {1}
    images = page.all("svg", role="img")
    assert len(images) == 3 * (2 + 1 + 3) + 3, "times with copies have no roofs, and no regret here"
    for image in images:
        title, description = (image.all(name)[0] for name in ("title", "desc"))
        assert (
            image.attributes["aria-labelledby"] == f"{title.attributes['id']} {description.attributes['id']}"
        )
        assert title.text
        assert description.text.endswith(".")
    assert all(e.attributes.get("aria-hidden") == "true" for e in page.all("svg") if e not in images)
    assert all(e.attributes["tabindex"] == "0" for e in page.all("div", **{"class": "scroll"}))


def test_a_page_asks_the_network_for_nothing():
    page = to_html(sample_run())
    tree = parse(page)
    assert not re.search(r"https?:|url\(|@import|[< ]src=|fetch\(|XMLHttpRequest", page)
    assert all(
        e.attributes["href"][0] == "#" for e in tree._below() if e.name != "link" and "href" in e.attributes
    )
    assert [e.attributes["href"] for e in tree.all("link")] == ["data:,"]
    (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy.attributes["content"] or "").startswith("default-src 'none';")


def test_the_same_record_gives_the_same_bytes():
    run = sample_run((HOT, COLD))
    assert to_html(run) == to_html(from_text(to_text(run), "run.json"))


def test_a_thousand_calls_take_less_than_a_megabyte():
    run = many(1000)
    assert sum(len(c.rows) for c in run.cells) >= 2900
    assert len(to_html(run).encode()) <= 1_000_000


def test_the_first_charts_are_open_and_the_others_folded():
    page = parse(to_html(many(90)))
    times = page.one("hot-times")
    (folded,) = times.all("details")
    assert len(times.all("svg", role="img")) == 30
    assert len(folded.all("svg", role="img")) == 30 - FIRST_CHARTS
    assert folded.all("summary")[0].text == "18 more ops"


def test_no_more_bars_than_can_be_read():
    cells = [
        cell(
            timed("a/a", 1e-6), timed("a/b", 2e-6 + number * 1e-9), size=1000 + number, chosen="a/b on null:0"
        )
        for number in range(100)
    ]
    regret = parse(to_html(run_of(*cells))).one("hot-regret")
    assert len(marks(regret)) == MOST_BARS
    assert "60 smaller ones are in the table." in regret.text
    widths = [int(e.attributes["width"] or "") for e in regret.all("rect")]
    assert widths == sorted(widths, reverse=True)


def test_ops_of_several_dtypes_have_a_chart_for_each():
    cells = [replace(cell(timed("a/a", 1e-6)), dtypes=(name,)) for name in ("float32", "float64")]
    page = parse(to_html(run_of(*cells)))
    assert [c.text for c in page.one("hot-times").all("figcaption")] == ["exp float32", "exp float64"]


def test_a_line_joins_sizes_that_differ_and_nothing_else():
    def strokes(sizes: tuple[int, ...]) -> list[str]:
        cells = [
            replace(cell(timed("a/a", 1e-6 * (n + 1)), size=s), case=str(n)) for n, s in enumerate(sizes)
        ]
        paths = parse(to_html(run_of(*cells))).one("hot-times").all("path", **{"class": "l"})
        return [e.attributes["d"] or "" for e in paths]

    assert re.fullmatch(r"M\d+ \d+ \d+ \d+ \d+ \d+", strokes((1, 100, 10_000))[0])
    assert re.fullmatch(r"(M\d+ \d+V\d+){3}", strokes((1, 100, 100))[0])
    assert re.fullmatch(r"M\d+ \d+V\d+", strokes((1,))[0])


# Odd records ----------------------------------------------------------------------------------------------------

ODD: dict[str, tuple[Callable[[], Run], str]] = {
    "empty": (lambda: run_of(devices=()), "Nothing was timed."),
    "interrupted at once": (lambda: run_of(interrupted=True), "The run was interrupted"),
    "one row": (lambda: run_of(cell(timed("a/a", 1e-3))), "1 calls"),
    "one sample": (lambda: run_of(cell(row("a/a", [1e-3]))), "1 times"),
    "no roof": (
        lambda: run_of(cell(timed("a/a", 1e-3)), devices=(OTHER, replace(ROOF, flops=None, bandwidth=()))),
        "a/a",
    ),
    "only operations measured": (
        lambda: run_of(cell(timed("a/a", 1e-3)), devices=(replace(ROOF, bandwidth=()),)),
        "a/a",
    ),
    "only bytes measured": (
        lambda: run_of(cell(timed("a/a", 1e-3)), devices=(replace(ROOF, flops=None),)),
        "a/a",
    ),
    "device not described": (lambda: run_of(cell(timed("a/a", 1e-3, "gone:0")), devices=()), "gone:0"),
    "only the reference": (
        lambda: run_of(cell(reference(1e-3)), devices=(Roof(REFERENCE, "cpu", "", ""),)),
        "reference",
    ),
    "zero times": (lambda: run_of(cell(row("a/a", [0.0] * 9))), "0 ns"),
    "a quartile of zero": (lambda: run_of(cell(row("a/a", [0.0, 0.0, 0.0, 1e-3, 1e-3, 1e-3, 1e-3]))), "1 ms"),
    "endless times": (
        lambda: run_of(cell(row("a/a", [1e300] * 9), reference(1e-3), chosen="a/a on null:0")),
        "1e+300 s",
    ),
    "no numbers": (lambda: run_of(cell(row("a/a", [math.nan] * 9), flops=math.nan)), "nan s"),
    "no bytes": (lambda: run_of(replace(cell(timed("a/a", 1e-3)), bytes=0.0)), "a/a"),
    "no work": (lambda: run_of(replace(cell(timed("a/a", 1e-3)), bytes=0.0, flops=0.0)), "a/a"),
    "all wrong": (
        lambda: run_of(*(cell(row("a/a", status=WRONG, reason="zeros"), size=n) for n in range(1, 300))),
        f"{299 - MOST_DOUBTS} more are in the tables below.",
    ),
    "no machine": (lambda: replace(run_of(cell(timed("a/a", 1e-3))), machine={}), "an unknown processor"),
    "a thousandfold regret": (
        lambda: run_of(cell(timed("a/a", 1e-9), timed("a/b", 1e3), chosen="a/b on null:0"), devices=()),
        "1e+12",
    ),
    "a good choice": (
        lambda: run_of(cell(timed("a/a", 1e-3), chosen="a/a on null:0")),
        "geometric mean 1.000",
    ),
    "many kernels": (lambda: run_of(cell(*(timed(f"a/{n}", 1e-3 + n * 1e-9) for n in range(60)))), "a/59"),
    "long names": (
        lambda: run_of(replace(cell(timed("a/" + "k" * 3000, 1e-3), op="o" * 3000), case="c" * 3000)),
        "ooo",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_records_have_pages(name: str):
    make, sentence = ODD[name]
    run = make()
    page = to_html(run)
    tree = parse(page)
    assert sentence in tree.text
    assert len(
        [e for t in tree.all("table") if "rows" in (t.attributes["class"] or "").split() for e in body(t)]
    ) == sum(len(c.rows) for c in run.cells)
    for e in tree._below():
        for key in ("d", "x", "y", "width", "height", "viewbox"):
            assert not re.search("nan|inf", e.attributes.get(key) or ""), (
                f"{e.name} {key}={e.attributes[key]}"
            )


def test_labels_do_not_leave_their_charts():
    run = ODD["long names"][0]()
    chosen = replace(
        run.cells[0],
        rows=(*run.cells[0].rows, timed("b/b", 1e-9)),
        chosen=f"{run.cells[0].rows[0].kernel} on null:0",
    )
    page = parse(to_html(replace(run, cells=(chosen,))))
    assert max(len(e.text) for e in page.all("text")) <= 64


# Escaping -------------------------------------------------------------------------------------------------------

NASTY = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)> \" ' & ]]> --> \x00 \ud800"


def nasty_run(words: str) -> Run:
    facts = dict.fromkeys(("description", "fingerprint", "kind"), words)
    rows = (
        timed(words, 1e-3),
        timed("a/a", 1e-4, words),
        row(words + "!", status=WRONG, reason=words),
        reference(1e-3),
    )
    made = Cell(words, words, 1e6, 1e6, (words,), f"{words} on null:0", "", rows)
    run = run_of(
        made, replace(made, dtypes=("float32",), note=words), devices=(ROOF, Roof(device=words, **facts))
    )
    return replace(
        run,
        machine={words: words},
        versions={words: words},
        options={words: [words]},
        started=words,
        absent=(words,),
    )


def skeleton(page: str) -> list[str]:
    """The names of elements, in order, and of their attributes."""
    return [" ".join([e.name, *e.attributes]) for e in parse(page)._below()]


def test_nothing_of_a_record_is_taken_for_a_tag():
    page = to_html(nasty_run(NASTY))
    page.encode("utf-8")
    assert skeleton(page) == skeleton(to_html(nasty_run("x" * len(NASTY))))
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), min_size=1, max_size=12).filter(str.strip))
def test_any_names_make_the_same_page(words: str):
    assert skeleton(to_html(nasty_run(words))) == skeleton(to_html(nasty_run("x" * len(words))))


def test_markup():
    assert tag("td", "a<b", None, 3) == "<td>a&lt;b3"
    assert tag("p", Markup("<b>x</b>"), class_="a b", id=None) == '<p class="a b"><b>x</b></p>'
    assert tag("use", href="#m1", x=3) == "<use href=#m1 x=3 />"
    assert tag("a", "b", aria_label='"') == '<a aria-label="&quot;">b</a>'
    assert tag("a", title="") == '<a title=""></a>'
    assert text("\x00\ud800\n") == "\ufffd\ufffd\n"


# Scales ---------------------------------------------------------------------------------------------------------

POSITIVE = st.floats(1e-12, 1e15)


@given(st.lists(POSITIVE, min_size=1, max_size=8), st.sampled_from([(0.0, 300.0), (250.0, 10.0)]))
def test_scales_keep_the_order_and_stay_inside(values: list[float], ends: tuple[float, float]):
    scale = log_scale(values, *ends)
    low, high = sorted(ends)
    places = [scale(value) for value in sorted(values)]
    assert all(low <= p <= high for p in places)
    assert places == sorted(places, reverse=ends[0] > ends[1])


@given(POSITIVE, st.floats(1.05, 1e12), st.floats(10, 60))
@example(31.0, 1.25, 59.0)
def test_ticks_are_round_apart_and_inside(low: float, factor: float, gap: float):
    scale = LogScale(low, low * factor, 0.0, 240.0)
    ticks = scale.ticks(gap)
    assert ticks
    assert all(low <= tick <= low * factor for tick in ticks)
    places = list(map(scale, ticks))
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))


def test_ticks_of_usual_scales():
    assert LogScale(1e-6, 2e-3, 0.0, 100.0).ticks(20) == [1e-6, 1e-5, 1e-4, 1e-3]
    assert LogScale(2e3, 8e4, 0.0, 200.0).ticks(36) == [2e3, 5e3, 1e4, 2e4, 5e4]
    assert 1.0 in LogScale(0.97, 1.05, 0.0, 100.0).ticks(28)


@given(st.lists(st.floats(0, 100), max_size=9))
def test_labels_are_spread_out_in_their_order(wanted: list[float]):
    found = spread_out(wanted, 11, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [found[i] for i in order]
    assert all(b - a >= 11 - 1e-9 for a, b in pairwise(places))
    assert all(-1e-9 <= p <= 100 + 1e-9 for p in places)


def test_kernels_of_one_op_differ_in_colour():
    cells = [cell(*(timed(f"{b}/{n}", 1e-3) for b in "abcd"), reference(1e-3), size=n + 1) for n in range(12)]
    run = run_of(*cells)
    known = styles(run)
    for made in run.cells:
        assert len({known[r.kernel, r.device].colour for r in made.rows}) == 5
    two = styles(run_of(cell(timed("a/a", 1.0), timed("a/a", 1.0, "null:1"))))
    assert [style.name for style in two.values()] == ["a/a null:0", "a/a null:1"]


# Comparisons ----------------------------------------------------------------------------------------------------


def test_a_comparison_has_an_interval_for_every_ratio():
    rows = [timed(f"a/{n}", 1e-3) for n in range(5)]
    base = run_of(cell(*rows, row("a/late", status=WRONG)))
    head = run_of(
        cell(
            timed("a/0", 1.5e-3),
            timed("a/1", 0.5e-3),
            rows[2],
            row("a/3", status=FAILED, reason="<no>"),
            timed("a/4", 1e-3),
        )
    )
    verdicts = compare([base] * 3, [head] * 3)
    page = parse(comparison.to_html([base] * 3, [head] * 3, verdicts))
    plotted = [v for v in verdicts if v.low]
    assert len(plotted) == 4
    assert sum(len(e.all("use", href="#m1")) for e in page.all("figure")) == 4
    assert sum(len(e.all("path", **{"class": "l"})) for e in page.all("figure")) == 4
    assert [e.text for e in page.one("broken").all("li")] == [
        "BROKEN: exp float32[1000], a/3 on null:0, hot failed: <no>"
    ]
    assert page.one("slower").all("text", **{"class": "e"})[0].text == "1.500"
    assert [t.text for t in page.one("faster").all("text", **{"class": "faint"})] == ["a/1 on null:0, hot"]
    assert len(body(page.one("rows"))) == 5
    for image in page.all("svg", role="img"):
        assert image.all("title")[0].text
        assert image.all("desc")[0].text


def test_a_comparison_shows_what_differs_between_the_sides():
    base = replace(sample_run(), options={"seed": 0, "side": "HEAD~1"})
    head = replace(sample_run(), versions={"numpy": "3"}, started="1977-01-01", options={"side": "here"})
    page = parse(comparison.to_html([base, base], [head], []))
    differing = {e.all("th")[0].text for e in page.all("tr", **{"class": "differs"})}
    assert differing == {"numpy", "started", "side"}
    assert "nothing in common" in page.text


@pytest.mark.parametrize("ratio", [None, 1.0, 1e-9, 1e9])
def test_odd_verdicts_have_pages(ratio: float | None):
    verdict = Verdict(NASTY, NASTY, NASTY, NASTY, NASTY, "AMBIGUOUS", ratio=ratio, reason=NASTY)
    page = comparison.to_html([], [], [verdict] * 45)
    tree = parse(page)
    assert len(tree.all("use", href="#m1")) == (45 if ratio else 0)
    assert len(tree.all("details")) == (1 if ratio else 0)
    assert not re.search(r"\b[xyd]=[^ >]*(nan|inf)", page)
    assert "<script>alert" not in page
