"""Device scopes: ``with device("opencl:0"):`` pins the ops that are recorded inside to a device."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from .errors import GraphError

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


@dataclass(frozen=True)
class Scope(ContextDecorator):
    """The device that ops are pinned to: by its name, or by its backend's. A soft pin gives way where no kernel is there.

    ``with scope:`` opens it, as often as one likes; as a decorator it is opened for each call of the function.
    """

    device: str
    soft: bool = False

    def admits(self, name: str) -> bool:
        """Whether a device of this name is meant."""
        return self.device in (name, name.partition(":")[0])

    def __enter__(self) -> Scope:
        _open.set((*_open.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        _open.set(_open.get()[:-1])


class Mark(NamedTuple):
    """Where a node comes from: the user's line as "file:line", or the node of a model file; the scope that was open there,
    and its colocation group.

    Nodes of one group run on one device; the number means nothing else. ``segments`` are the calls of functions under
    ``checkpoint`` that the node was recorded in, the outermost first: nodes of different ones are never merged.
    """

    source: str
    scope: Scope | None = None
    group: int | None = None
    segments: tuple[int, ...] = ()


_open: ContextVar[tuple[Scope, ...]] = ContextVar("opyard_scopes", default=())
current_group: ContextVar[int | None] = ContextVar("opyard_group", default=None)
current_segments: ContextVar[tuple[int, ...]] = ContextVar("opyard_segments", default=())
_source: ContextVar[str] = ContextVar("opyard_source", default="")
_segments = count()


def current_scope() -> Scope | None:
    """The innermost scope that is open in this thread or task."""
    return next(reversed(_open.get()), None)


@contextmanager
def segment() -> Iterator[None]:
    """Within the block, nodes that are recorded belong to a new segment, which is computed again for gradients."""
    token = current_segments.set((*current_segments.get(), next(_segments)))
    try:
        yield
    finally:
        current_segments.reset(token)


def device(name: str, *, soft: bool = False) -> Scope:
    """Within the block, ops that are recorded in graphs are pinned to the device ``name``, such as "opencl:0" or "cpu".

    Placement puts them there and nowhere else; with ``soft`` it does so only where a kernel accepts them. The innermost
    scope counts. Eager calls run where their arrays live, whatever the scope. The scope may be kept and opened again, also
    within itself, and it decorates functions.
    """
    if not isinstance(name, str) or not name:
        raise GraphError(
            f"a device scope takes a device's name, such as 'cpu:0'; found {name!r}. `opyard devices` lists them."
        )
    return Scope(name, soft)


@contextmanager
def source(text: str) -> Iterator[None]:
    """Within the block, nodes that are recorded come from ``text``, such as "net.onnx: Conv c", and not from a line of code.

    For importers, whose own lines tell their users nothing.
    """
    token = _source.set(text)
    try:
        yield
    finally:
        _source.reset(token)


def user_line() -> str:
    """File and line of the nearest caller outside this package, or what the block of ``source`` around says."""
    if text := _source.get():
        return text
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename == "<string>"
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
