"""Colocation: ``with colocate_with(value):`` keeps the ops that are recorded inside where the value is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from .errors import GraphError
from .graph import Value
from .scope import current_group

_groups = count()


@contextmanager
def colocate_with(value: Value) -> Iterator[None]:
    """Within the block, ops that are recorded run on the device, or on one that shares its arrays, where ``value`` is made.

    Which device that is the placement decides, for all of them together. Of several such blocks the innermost counts;
    what is colocated with a value that is colocated itself joins its group. Raises GraphError for anything but a value
    that an op of a graph makes: an input or a constant is on no device of its own.
    """
    if not isinstance(value, Value) or value.node is None:
        what = f"{value.name!r} is an input or a constant" if isinstance(value, Value) else f"found {value!r}"
        raise GraphError(
            f"colocate_with takes a value that an op of a graph makes; {what}. To name a device, write device('cpu:0')."
        )
    node = value.node
    if node.mark.group is None:
        node.mark = node.mark._replace(group=next(_groups))
    token = current_group.set(node.mark.group)
    try:
        yield
    finally:
        current_group.reset(token)
