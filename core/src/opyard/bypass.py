"""Ops that pass values on: they mark a place in a graph for the gradients, and are gone before anything is placed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .operation import Op, Signature
from .spec import TensorSpec


@dataclass(frozen=True, slots=True)
class PassOn:
    """A decomposition into no ops at all: the outputs are the first ``count`` inputs."""

    count: int

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return inputs[: self.count]


def make_bypass(name: str, count: int, grad: Callable[..., Any]) -> Op:
    """An op that gives its first ``count`` inputs, and whose gradient is what ``grad`` says.

    ``grad`` takes the cotangents of the outputs, the outputs, and all inputs.
    """
    pass_on = PassOn(count)

    def infer(*specs: TensorSpec) -> tuple[TensorSpec, ...]:
        return pass_on(*specs)

    signature = Signature(("values",), frozenset(), True, ())
    return Op(name, signature, infer, pass_on, decompose=pass_on, grad=grad)
