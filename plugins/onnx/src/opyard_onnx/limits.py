"""Limits of what is imported. A small file can stand for more work than any machine does; it is refused before that is begun."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import opyard as oy
from opyard.errors import OpyardError
from opyard.registry import describe_error
from opyard_onnx.errors import ModelError
from opyard_onnx.evaluation import NeedsValue

DEEPEST = 64
"""Levels of subgraphs and functions inside of each other beyond which a model is refused."""

MOST_NODES = 100_000
"""Nodes that a model may consist of once functions are written out and loops unrolled."""

MOST_PARTS = 10_000
"""Values that one node may split into, and steps of a recurrent layer."""

MOST_BYTES = 2**47
"""The address space of a process on today's 64-bit processors."""

LARGEST = 2**24
"""Elements of a tensor that an operator makes while it is imported, such as a window or the positions of a resize."""


def require_size(count: Any, what: str) -> None:
    """Raises ModelError for a tensor of too many elements, before it is made."""
    if count > LARGEST:
        raise ModelError(
            f"{what} has {count} elements; no more than {LARGEST} are computed when a model is imported."
        )


def require_tensor(spec: oy.TensorSpec, maker: str) -> None:
    """Raises ModelError for a tensor that no computer can address."""
    if spec.is_concrete and spec.nbytes > MOST_BYTES:
        raise ModelError(f"{maker} makes {spec!r}, which no memory holds.")


def require_parts(count: Any, what: str) -> None:
    """Raises ModelError for too many values that a node takes apart or puts together."""
    if count > MOST_PARTS:
        raise ModelError(f"{what}: {count} parts; no more than {MOST_PARTS} are imported.")


def too_many_nodes(title: str) -> ModelError:
    """The error of a model with more than MOST_NODES nodes."""
    return ModelError(
        f"{title} has more than {MOST_NODES} nodes once its functions are written out and its loops unrolled."
    )


@contextmanager
def guarded(title: str) -> Iterator[None]:
    """Makes a ModelError of what else goes wrong inside: what is met in a damaged file can be anything."""
    try:
        yield
    except (OpyardError, NeedsValue):
        raise
    except Exception as error:
        raise ModelError(f"{title} cannot be imported: {describe_error(error)}.") from error


def check_expansion(proto: Any, title: str) -> None:
    """Raises ModelError where functions call themselves, or call each other so often that the model has no end.

    The nodes are counted and not written out, so this takes time in proportion to the file.
    """
    functions: dict[Any, Any] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(
                f"{title} has two functions {function.name!r} of the domain {function.domain!r}."
            )
        functions[key] = function
    counted: dict[Any, int | None] = {}

    def count(nodes: Iterable[Any], depth: int) -> int:
        if depth > DEEPEST:
            raise ModelError(
                f"{title}: subgraphs and functions lie in each other more than {DEEPEST} levels deep."
            )
        total = 0
        for node in nodes:
            total += 1
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                total += called(key, depth)
            for attribute in node.attribute:
                for graph in (
                    (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs
                ):
                    total += count(graph.node, depth + 1)
        return total

    def called(key: Any, depth: int) -> int:
        if key not in counted:
            counted[key] = None
            counted[key] = count(functions[key].node, depth + 1)
        found = counted[key]
        if found is None:
            raise ModelError(f"{title}: the function {key[1]!r} of the domain {key[0]!r} calls itself.")
        return found

    for key in functions:
        called(key, 0)
    if count(proto.graph.node, 0) > MOST_NODES:
        raise too_many_nodes(title)
