"""Chains: a product or a convolution with what is done to its result on the way to memory, as a region of a pattern.

oneDNN does these steps, its post-ops, on tiles that are still in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard import gelu
from opyard.driver import Device
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

    @property
    def is_guarded(self) -> bool:
        """Whether the last step gives NaN for numbers that are infinite or nearly so, where it should not: see ``guarded``."""
        return bool(self.steps) and self.steps[-1] == Eltwise("gelu_erf")


def _gelu(call: Call) -> tuple[Eltwise, ...]:
    return (Eltwise("gelu_tanh" if call.attrs["approximate"] == "tanh" else "gelu_erf"),)


_RELU = Eltwise("elu", 0.0)
"""oneDNN's own relu makes zeros of NaN; with a slope below zero of nothing the other function is the same, and keeps them."""

_SIX_LESS = Eltwise("linear", -1.0, 6.0)

ACTIVATIONS: dict[str, Callable[[Call], tuple[Eltwise, ...]]] = {
    "relu": lambda call: (_RELU,),
    # the smaller of x and 6 is 6 - relu(6 - x), which keeps NaN as well
    "relu6": lambda call: (_RELU, _SIX_LESS, _RELU, _SIX_LESS),
    "leaky_relu": lambda call: (Eltwise("relu", call.attrs["alpha"]),),
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

CHEAP = ("relu", "linear", "hardswish")
"""Post-ops that take next to nothing; the others have an exponential in them."""

STEP_FLOPS = 50.0
"""What a post-op with an exponential takes for each element, in operations of a product that would take as long."""

SECONDS = 3e-6
"""What a call of a kernel takes beside its work, Python included."""

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


def extra_seconds(chain: Chain, device: Device) -> float:
    """Estimated seconds of the steps, and of the call itself."""
    dear = sum(isinstance(step, Eltwise) and step.algorithm not in CHEAP for step in chain.steps)
    return dear * STEP_FLOPS * int(chain.base.output.size) / device.capabilities.flops + SECONDS


def guarded(run: Run, without_last: Callable[[], Run]) -> Run:
    """A function that computes gelu as oneDNN does, and anew where that gave numbers that are not finite.

    oneDNN makes NaN of infinity, and infinity of the largest numbers. One sum over the result, which is in the cache, tells:
    a twentieth of what a further pass with the function would take. ``without_last`` gives the kernel without gelu.
    """
    others: list[Run] = []

    def checked(*inputs: Any, **keywords: Any) -> Any:
        result = run(*inputs, **keywords)
        if np.isfinite(np.add.reduce(result, axis=None)):
            return result
        if not others:
            others.append(without_last())
        result[...] = gelu.op.reference(others[0](*inputs))
        return result

    return checked
