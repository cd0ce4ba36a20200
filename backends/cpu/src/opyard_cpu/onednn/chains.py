"""Chains: a product or a convolution with what is done to its result on the way to memory, as a region of a pattern.

oneDNN does these steps, its post-ops, on tiles that are still in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opyard.graph import Node, Value
from opyard.kernels import Work
from opyard.operation import Call
from opyard.spec import TensorSpec

from .primitives import Eltwise

Run = Callable[..., Any]
"""A prepared kernel, as a function of arrays."""


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


def _gelu(call: Call) -> tuple[Eltwise, ...]:
    return (Eltwise("gelu_tanh" if call.attrs["approximate"] == "tanh" else "gelu_erf"),)


RELU = (Eltwise("elu", 0.0),)
"""oneDNN's own relu makes zeros of NaN; with a slope below zero of nothing the other function is the same, and keeps them."""

_SIX_LESS = Eltwise("linear", -1.0, 6.0)

RELU6 = (*RELU, _SIX_LESS, *RELU, _SIX_LESS)
"""The smaller of x and 6 is 6 - relu(6 - x), which keeps NaN as well."""

STEEP = Eltwise("hardswish", 3e38, 1.0)
"""x times what 3e38 x + 1 is within [0, 1]: relu, up to numbers next to nothing, but NaN for minus infinity."""

ACTIVATIONS: dict[str, Callable[[Call], tuple[Eltwise, ...]]] = {
    "relu": lambda call: RELU,
    "relu6": lambda call: RELU6,
    # without a slope oneDNN makes zeros of NaN; hard swish does not, and makes NaN of minus infinity as well, as zero times it is
    "leaky_relu": lambda call: (Eltwise("relu", alpha) if (alpha := call.attrs["alpha"]) else STEEP,),
    "elu": lambda call: (Eltwise("elu", call.attrs["alpha"]),),
    "sigmoid": lambda call: (Eltwise("logistic"),),
    "silu": lambda call: (Eltwise("swish", 1.0),),
    "quick_gelu": lambda call: (Eltwise("swish", call.attrs["alpha"]),),
    "tanh": lambda call: (Eltwise("tanh"),),
    "gelu": _gelu,
    "mish": lambda call: (Eltwise("mish"),),
    "hard_swish": lambda call: (Eltwise("hardswish", 1.0 / 6.0, 0.5),),
}
"""Post-ops of oneDNN that are these ops."""

SECONDS = 3e-6
"""What a call of a kernel takes beside its work, Python included."""

IMAGES, PER_CHANNEL = ("x", "residual"), ("factor", "offset")
"""Names of operands in patterns: tensors like the result, in its layout, and plain ones with a number for each channel."""

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
        steps += _steps(node, last.outputs[0], positions, work.input_names)
        last = node
    return Chain(first.call, tuple(steps))


def _steps(
    node: Node, result: Value, positions: dict[Value, int], names: tuple[str, ...]
) -> tuple[Step, ...]:
    name = node.op.name
    if name in ACTIVATIONS:
        return ACTIVATIONS[name](node.call)
    (operand,) = (value for value in node.inputs if value is not None and value is not result)
    position = positions[operand]
    return (Operand(OPERATIONS[name], position, names[position], operand.spec),)


def elements_in(chain: Chain) -> int:
    """How many elements the activations have that go into a chain, so without weights."""
    given = [chain.base.inputs[0], *(step.spec for step in chain.steps if isinstance(step, Operand))]
    return sum(int(spec.size) for spec in given if spec is not None)
