"""Chains: a product or a convolution with what is done to its result on the way to memory, as a region of a pattern.

oneDNN does these steps, its post-ops, on tiles that are still in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opyard.graph import Node, Value
from opyard.kernels import Work
from opyard.operation import Call
from opyard.spec import TensorSpec

from .primitives import Eltwise

BASES = ("conv", "matmul", "linear")


@dataclass(frozen=True, slots=True)
class Operand:
    """A step that combines the result with a further input: "add" or "mul", and the number, name and spec of the input."""

    algorithm: str
    position: int
    name: str
    spec: TensorSpec


Step = Eltwise | Operand


@dataclass(frozen=True, slots=True)
class Chain:
    """The call of a base, and the steps behind it."""

    base: Call
    steps: tuple[Step, ...]


def _gelu(call: Call) -> Eltwise:
    return Eltwise("gelu_tanh" if call.attrs["approximate"] == "tanh" else "gelu_erf")


ACTIVATIONS: dict[str, Callable[[Call], Eltwise]] = {
    "relu": lambda call: Eltwise("relu"),
    "relu6": lambda call: Eltwise("clip_v2", 0.0, 6.0),
    "leaky_relu": lambda call: Eltwise("relu", call.attrs["alpha"]),
    "elu": lambda call: Eltwise("elu", call.attrs["alpha"]),
    "sigmoid": lambda call: Eltwise("logistic"),
    "silu": lambda call: Eltwise("swish", 1.0),
    "quick_gelu": lambda call: Eltwise("swish", call.attrs["alpha"]),
    "tanh": lambda call: Eltwise("tanh"),
    "gelu": _gelu,
    "mish": lambda call: Eltwise("mish"),
    "hard_swish": lambda call: Eltwise("hardswish", 1.0 / 6.0, 0.5),
    "hard_sigmoid": lambda call: Eltwise("hardsigmoid", call.attrs["alpha"], call.attrs["beta"]),
    "hard_tanh": lambda call: Eltwise("clip_v2", call.attrs["min_value"], call.attrs["max_value"]),
}
"""Post-ops of oneDNN that are these ops."""

OPERATIONS = {"add": "add", "multiply": "mul"}


def chain_of(work: Work) -> Chain:
    """The chain of a call of a base op, or of a region of one of the patterns of patterns.py."""
    if isinstance(work, Call):
        return Chain(work, ())
    first, *rest = work.graph.nodes
    given = [position for position, spec in enumerate(work.inputs) if spec is not None]
    positions = dict(zip(work.graph.inputs.values(), given, strict=True))
    steps: list[Step] = []
    last = first
    for node in rest:
        steps.append(_step(node, last.outputs[0], positions, work.input_names))
        last = node
    return Chain(first.call, tuple(steps))


def _step(node: Node, result: Value, positions: dict[Value, int], names: tuple[str, ...]) -> Step:
    name = node.op.name
    if name in ACTIVATIONS:
        return ACTIVATIONS[name](node.call)
    (operand,) = (value for value in node.inputs if value is not None and value is not result)
    position = positions[operand]
    return Operand(OPERATIONS[name], position, names[position], operand.spec)
