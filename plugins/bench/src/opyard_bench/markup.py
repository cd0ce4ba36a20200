"""HTML and SVG as text. Whatever is no ``Markup`` is escaped, so that nothing of a record is taken for a tag."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_PLAIN = re.compile(r"[\w.#:%-]+")
_OPEN_ENDED = {"tr", "td", "th", "li", "dt", "dd"}
"""Elements whose end tag HTML leaves out: the next one, or the end of their parent, ends them."""
_SHAPES = {"use", "path", "rect", "circle", "line", "polygon"}
"""Elements of SVG that end themselves where they hold nothing."""
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which HTML does not allow, and halves of characters, which no file can hold."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | None


def text(content: Content) -> str:
    """The content as HTML: escaped, if it is no ``Markup``."""
    if isinstance(content, Markup):
        return content
    return "" if content is None else _FORBIDDEN.sub("\ufffd", escape(str(content)))


def tag(name: str, *contents: Content, **attributes: Content) -> Markup:
    """An element. An attribute that is None is left out; ``class_`` is ``class``, ``data_x`` is ``data-x``."""
    head = "".join(
        f" {key.rstrip('_').replace('_', '-')}={_value(value)}"
        for key, value in attributes.items()
        if value is not None
    )
    if name in _SHAPES and not contents:
        return Markup(f"<{name}{head} />")
    end = "" if name in _OPEN_ENDED else f"</{name}>"
    return Markup(f"<{name}{head}>{''.join(map(text, contents))}{end}")


def join(parts: Iterable[Markup], between: str = "") -> Markup:
    """The parts, one after another."""
    return Markup(between.join(parts))


def _value(value: Content) -> str:
    found = text(value)
    return found if _PLAIN.fullmatch(found) else f'"{found}"'
