"""What a graph remembers of the variables that its program uses."""

from __future__ import annotations

from typing import Any


class State:
    """What a graph does with variables; see variables.py.

    reads   for each variable the value that stands for what it holds when a run begins; it is no input of the graph
    now     for each variable the value that it has after all that is recorded so far
    writes  values and the variables that they are assigned to, in order
    """

    def __init__(self) -> None:
        self.reads: dict[Any, Any] = {}
        self.now: dict[Any, Any] = {}
        self.writes: list[tuple[Any, Any]] = []

    @property
    def variables(self) -> tuple[Any, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.reads, *(variable for _, variable in self.writes))))
