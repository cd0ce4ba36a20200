"""Removal of trivial calls: those that give back one of their inputs, bit for bit, give way to it.

A NaN stays a NaN, of whatever bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph import Graph, Node, Value
from ..rewrite import Rewrite
from ..spec import TensorSpec, is_real

SMALL = 4096
"""Bytes up to which a constant is looked at."""

Number = Callable[[Value | None], np.float64 | None]
"""The number that all elements of a constant are, signs of zeros included; None for what is no constant, or holds several."""


def skip_trivial(graph: Graph) -> Graph:
    """The graph without calls such as ``cast`` to the dtype that is there, ``x * 1`` and ``permute_dims`` in the same order.

    The op ``identity`` stays where it is pinned to a device: that is what it is there for.
    """
    rewrite = Rewrite(graph)

    def number(value: Value | None) -> np.float64 | None:
        array = rewrite.graph.constants.get(value) if value is not None else None
        if array is None or not is_real(TensorSpec.of(array)) or not 0 < array.nbytes <= SMALL:
            return None
        bits = array.astype(np.float64).reshape(-1).view(np.int64)
        return bits.view(np.float64)[0] if (bits == bits[0]).all() else None

    for node in graph.nodes:
        kept = _kept(node, rewrite.inputs(node), number)
        if kept is None or kept.spec != node.outputs[0].spec:
            rewrite.copy(node)
        else:
            rewrite[node.outputs[0]] = kept
    return rewrite.finish()


def _kept(node: Node, inputs: tuple[Value | None, ...], number: Number) -> Value | None:
    """The input that the node gives back if it has the spec of the output; None for another node."""
    name = node.op.name
    if name == "identity":
        return None if node.mark.scope else inputs[0]
    if name in ("cast", "reshape", "flatten", "broadcast_to", "positive"):
        return inputs[0]
    if name == "permute_dims":
        return inputs[0] if node.call.attrs["axes"] == tuple(range(node.outputs[0].ndim)) else None
    if name == "where":
        return inputs[1] if inputs[1] is inputs[2] else None
    return (
        _beside_neutral(name, inputs, number) if name in _NEUTRAL and is_real(node.outputs[0].spec) else None
    )


_NEUTRAL = {"multiply": 1.0, "divide": 1.0, "pow": 1.0, "subtract": 0.0, "add": -0.0}
"""Ops of two floats, and the second number that leaves the first as it is: 0.0 would make 0.0 of -0.0 where it is added."""


def _beside_neutral(name: str, inputs: tuple[Value | None, ...], number: Number) -> Value | None:
    """The input beside a constant that changes nothing."""
    neutral = np.float64(_NEUTRAL[name])
    pairs = [inputs, inputs[::-1]] if name in ("multiply", "add") else [inputs]
    for kept, other in pairs:
        found = number(other)
        if found is not None and found == neutral and np.signbit(found) == np.signbit(neutral):
            return kept
    return None
