"""A page: one HTML file with its style and its script in it, which asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from opyard_bench.markup import Content, Markup, join, tag

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing. Browsers hold it to that."""


def document(title: str, *contents: Markup) -> str:
    """The whole page."""
    folder = files("opyard_bench") / "assets"
    style, script = (
        Markup(folder.joinpath(name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    head = tag(
        "head",
        Markup('<meta charset="utf-8">\n'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Markup('<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", join(contents, "\n"), tag("script", script))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def section(identity: str, heading: str, *contents: Markup, level: int = 2) -> Markup:
    """A part of the page, to which links lead."""
    return tag("section", tag(f"h{level}", heading), *contents, id=identity)


def paragraph(*contents: Content, class_: str | None = None) -> Markup:
    """A paragraph."""
    return tag("p", *contents, class_=class_)


def folded(summary: str, *contents: Markup) -> Markup:
    """What is shown when it is asked for, and on paper."""
    return tag("details", tag("summary", summary), *contents)


def figures(drawings: Iterable[Markup | None], class_: str) -> Markup:
    """Charts side by side, as many as the screen is wide; nothing for those that there are not."""
    return tag("div", *(drawing for drawing in drawings if drawing), class_=f"figures {class_}")


def facts(values: Mapping[str, Any]) -> Markup:
    """Names and values, as the record has them."""
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", _shown(value))) for name, value in values.items()),
    )


def tiles(values: Mapping[str, str]) -> Markup:
    """The numbers that matter most, each with what it is."""
    return tag(
        "ul", *(tag("li", tag("b", value), f" {name}") for name, value in values.items()), class_="tiles"
    )


def table(
    caption: str,
    headings: Sequence[Content],
    rows: Iterable[Markup],
    class_: str = "",
) -> Markup:
    """A table that scrolls in its own box, also by keyboard, and that the script can sort."""
    head = tag("tr", *(tag("th", heading, scope="col") for heading in headings))
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", join(rows, "\n")),
        class_=f"sortable {class_}".strip(),
    )
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
