"""Device scopes: ``with device("opencl:0"):`` pins the ops that are recorded inside to a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from .errors import GraphError


@dataclass(frozen=True, slots=True)
class Scope:
    """The device that ops are pinned to: by its name, or by its backend's. A soft pin gives way where no kernel is there."""

    device: str
    soft: bool = False

    def admits(self, name: str) -> bool:
        """Whether a device of this name is meant."""
        return self.device in (name, name.partition(":")[0])


class Mark(NamedTuple):
    """Where a node comes from: the user's line as "file:line", the scope that was open there, and its colocation group.

    Nodes of one group run on one device; the number means nothing else.
    """

    source: str
    scope: Scope | None = None
    group: int | None = None


current_scope: ContextVar[Scope | None] = ContextVar("opyard_scope", default=None)
current_group: ContextVar[int | None] = ContextVar("opyard_group", default=None)


@contextmanager
def device(name: str, *, soft: bool = False) -> Iterator[Scope]:
    """Within the block, ops that are recorded in graphs are pinned to the device ``name``, such as "opencl:0" or "cpu".

    Placement puts them there and nowhere else; with ``soft`` it does so only where a kernel accepts them. The innermost
    scope counts. Eager calls run where their arrays live, whatever the scope.
    """
    if not isinstance(name, str) or not name:
        raise GraphError(
            f"a device scope takes a device's name, such as 'cpu:0'; found {name!r}. `opyard devices` lists them."
        )
    scope = Scope(name, soft)
    token = current_scope.set(scope)
    try:
        yield scope
    finally:
        current_scope.reset(token)
