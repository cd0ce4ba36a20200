"""What commands print: tables for people, or JSON with ``--json``. Commands of plugins use it, too.

In a terminal, text wraps between words. Anywhere else a row is one line, so that ``grep`` and ``cut`` work; nothing is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from textwrap import shorten
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from ..driver import Device

Command = TypeVar("Command", bound=Callable[..., Any])

_GAP = 2
_INDENT = 4
_READABLE = 48
"""A last column narrower than this many characters goes below its row instead."""
_DESCRIPTION = 90
_ENDLESS = 1_000_000
_STATE_STYLES = {"ok": "green", "note": "yellow", "inactive": "yellow", "blocked": "yellow"}


def json_option(command: Command) -> Command:
    """Adds ``--json`` to a command, as the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def print_json(data: Any) -> None:
    """Prints plain data as JSON with stable key order. Raises ValueError for a number that JSON cannot write."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def console(*, stderr: bool = False) -> Console:
    """The console for people: coloured in a terminal (unless NO_COLOR is set), and as wide as COLUMNS or the terminal."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _ENDLESS
    return made


def print_text(text: str, *, hanging: int = 0) -> None:
    """Prints lines of text, wrapped in a terminal: what wraps stays ``hanging`` columns to the right of its line's start."""
    screen = console()
    for line in text.split("\n"):
        body = line.lstrip(" ")
        start = len(line) - len(body)
        _print_lines(screen, Text(body), Text(" " * start), start + hanging)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Prints a table whose last column may hold sentences: one that does not fit beside its row goes below it.

    Text is taken literally, never as markup; a cell may be a rich ``Text`` with a style.
    """
    screen = console()
    body = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    cells = [[Text(column, style="bold") for column in columns], *body]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    left = sum(widths[:-1]) + _GAP * (len(widths) - 1)
    if title:
        _print_lines(screen, Text(title))
    for row in cells:
        line = Text()
        for cell, width in zip(row[:-1], widths, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len + _GAP))
        if not row[-1] or screen.width - left >= min(row[-1].cell_len, _READABLE):
            _print_lines(screen, row[-1], line, left)
        else:
            _print_lines(screen, line)
            _print_lines(screen, row[-1], Text(" " * _INDENT), _INDENT)


def print_devices(devices: Iterable[Device]) -> None:
    """Prints a table of devices, their descriptions shortened: drivers are wordy. ``--json`` has them whole."""
    print_table(
        ["device", "kind", "memory", "description"],
        [
            [d.name, d.kind, d.memory, shorten(d.description, _DESCRIPTION, placeholder=" ...")]
            for d in devices
        ],
    )


def state_text(state: str) -> Text:
    """A state coloured by how good it is."""
    return Text(state, style=_STATE_STYLES.get(state, "red"))


def _print_lines(screen: Console, text: Text, start: Text | None = None, indent: int = 0) -> None:
    """Prints ``text`` behind ``start``; further lines of it are indented."""
    for number, line in enumerate(text.wrap(screen, max(screen.width - indent, 1))):
        whole = Text.assemble(start or "" if number == 0 else " " * indent, line)
        whole.rstrip()
        screen.print(whole, soft_wrap=True)
