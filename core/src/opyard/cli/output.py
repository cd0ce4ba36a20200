"""What commands print: a rich table for people, or JSON with ``--json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds ``--json`` to a command, as the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def print_json(data: Any) -> None:
    """Prints plain data as JSON with stable key order."""
    click.echo(json.dumps(data, indent=2))


def console() -> Console:
    """The console for people. When the output is no terminal, lines are as long as they need to be."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made = Console(highlight=False, width=200)
    return made


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", styles: Sequence[str] = ()) -> None:
    """Prints a table; text is taken literally, never as markup."""
    table = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False, box=None)
    for number, column in enumerate(columns):
        table.add_column(column, style=styles[number] if number < len(styles) else "", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(table)


def state_text(state: str) -> Text:
    """A state coloured by how good it is."""
    colours = {"ok": "green", "inactive": "yellow", "blocked": "yellow"}
    return Text(state, style=colours.get(state, "red"))
