"""Optimizers: how variables follow their gradients. Every step is recorded in the graph, with loss and gradients.

optimizer = adam(1e-3)

@opyard.compile
def train(x, labels):
    loss = ...
    optimizer.minimize(loss, variables)
    return loss
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from .errors import GraphError, SpecError
from .graph import Value
from .ops.arithmetic import add, maximum
from .ops.exponential import pow, sqrt
from .ops.reduction import sum
from .ops.selection import cast
from .reverse import gradients
from .variables import Variable

__all__ = ["Optimizer", "adam", "adamw", "clip_by_global_norm", "rmsprop", "sgd"]

Rate = float | Variable | Callable[[Any], Any]
"""A learning rate: a number, a variable, or a function of the number of the step, a float32 of shape [], from 1."""

Rule = Callable[..., tuple[Any, ...]]
"""``rule(value, gradient, rate, step, *slots)`` gives the next value and the next slots."""


class Optimizer:
    """A rule, with its variables: the number of steps, and for each variable the slots that the rule keeps.

    16-bit variables are updated in float32, and so are their slots.
    """

    def __init__(self, name: str, rule: Rule, rate: Rate, slots: Sequence[str] = ()) -> None:
        if isinstance(rate, (int, float)) and not rate >= 0:
            raise SpecError(f"{name}: the learning rate is at least 0; found {rate!r}.")
        self.name = name
        self.rate = rate
        self.step = Variable(np.int64(0), name=f"{name}/step")
        self._rule = rule
        self._slots: dict[Variable, tuple[Variable, ...]] = {}
        self._names = tuple(slots)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """What to keep in a checkpoint beside the variables that are optimized."""
        return (self.step, *(slot for slots in self._slots.values() for slot in slots))

    def prepare(self, variables: Sequence[Variable]) -> None:
        """Makes the slots of variables that have none yet, as before restoring them from a checkpoint."""
        for variable in variables:
            if not isinstance(variable, Variable):
                raise SpecError(f"{self.name}: variables are optimized; found {type(variable).__name__}.")
            if variable not in self._slots:
                self._slots[variable] = tuple(
                    Variable(
                        np.zeros(variable.shape, _wide(variable)), name=f"{self.name}/{variable.name}/{slot}"
                    )
                    for slot in self._names
                )

    def minimize(self, loss: Value, variables: Sequence[Variable]) -> list[Any]:
        """Records the gradients of a loss of shape ``[]``, and a step along them. Gives the gradients."""
        found: list[Any] = gradients(loss, list(variables))
        self.apply(found, variables)
        return found

    def apply(self, found: Sequence[Any], variables: Sequence[Variable]) -> None:
        """Records a step along gradients, one for each variable. Raises SpecError for another number of them."""
        if len(found) != len(variables):
            raise SpecError(
                f"{self.name}: {len(found)} gradients were given for {len(variables)} variables; give one for each."
            )
        self.prepare(variables)
        step = cast(self.step.assign_add(1), dtype="float32")
        rate = self.rate(step) if callable(self.rate) and not isinstance(self.rate, Variable) else self.rate
        for variable, gradient in zip(variables, found, strict=True):
            wide = _wide(variable)
            slots = self._slots[variable]
            value, *kept = self._rule(
                _cast(variable, wide), _cast(gradient, wide), rate, _cast(step, wide), *slots
            )
            variable.assign(_cast(value, variable.dtype))
            for slot, array in zip(slots, kept, strict=True):
                slot.assign(array)


def _cast(x: Any, dtype: np.dtype[Any]) -> Any:
    return x if x.dtype == dtype else cast(x, dtype=dtype.name)


def _wide(variable: Variable) -> np.dtype[Any]:
    return np.dtype(np.float32) if variable.dtype.itemsize < 4 else variable.dtype


def sgd(learning_rate: Rate, *, momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent, ``v = momentum v + g``, ``w = w - rate v``; with ``nesterov``, ``w - rate (g + momentum v)``.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in the form of
    PyTorch.
    """
    if nesterov and not momentum:
        raise SpecError("sgd: nesterov=True needs a momentum, such as momentum=0.9.")

    def rule(value: Any, gradient: Any, rate: Any, step: Any, *slots: Any) -> tuple[Any, ...]:
        if not slots:
            return (value - rate * gradient,)
        velocity = momentum * slots[0] + gradient
        return value - rate * (gradient + momentum * velocity if nesterov else velocity), velocity

    return Optimizer("sgd", rule, learning_rate, ("velocity",) if momentum else ())


def rmsprop(learning_rate: Rate, *, decay: float = 0.9, epsilon: float = 1e-8) -> Optimizer:
    """RMSprop: each gradient by the root of the running mean of its squares.

    Source: Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012.
    """

    _require_decays("rmsprop", decay=decay)
    norm = 1 / math.sqrt(1 - decay)  # the slot is the sum of which (1 - decay) is the mean

    def rule(value: Any, gradient: Any, rate: Any, step: Any, squares: Any) -> tuple[Any, ...]:
        squares = decay * squares + gradient * gradient
        return value - rate * norm * gradient / (sqrt(squares) + epsilon * norm), squares

    return Optimizer("rmsprop", rule, learning_rate, ("squares",))


def adam(
    learning_rate: Rate = 1e-3, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> Optimizer:
    """Adam. Source: Kingma and Ba, arXiv:1412.6980, algorithm 1."""
    return _adam("adam", learning_rate, beta1, beta2, epsilon, 0.0)


def adamw(
    learning_rate: Rate = 1e-3,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2."""
    return _adam("adamw", learning_rate, beta1, beta2, epsilon, weight_decay)


def _adam(
    name: str, learning_rate: Rate, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> Optimizer:
    """The slots are sums, of which (1 - beta) are the paper's means; these factors, and the bias corrections, go into numbers.

    That leaves ten passes over arrays of twelve. Section 2 of the paper, without its change of epsilon.
    """
    _require_decays(name, beta1=beta1, beta2=beta2)
    norm = 1 / math.sqrt(1 - beta2)

    def rule(value: Any, gradient: Any, rate: Any, step: Any, sums: Any, squares: Any) -> tuple[Any, ...]:
        sums = beta1 * sums + gradient
        squares = beta2 * squares + gradient * gradient
        root = sqrt(1 - pow(beta2, step))
        rate_now = rate * ((1 - beta1) * norm) * root / (1 - pow(beta1, step))
        kept = value - rate * weight_decay * value if weight_decay else value
        return kept - rate_now * sums / (sqrt(squares) + epsilon * norm * root), sums, squares

    return Optimizer(name, rule, learning_rate, ("sums", "squares"))


def _require_decays(name: str, **decays: float) -> None:
    for key, decay in decays.items():
        if not 0 <= decay < 1:
            raise SpecError(f"{name}: {key} is at least 0 and less than 1; found {decay!r}.")


def clip_by_global_norm(found: Sequence[Any], limit: float) -> list[Any]:
    """Gradients scaled so that the norm of all together is at most ``limit``.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    if not found:
        raise GraphError("clip_by_global_norm was given no gradients.")
    norm = sqrt(reduce(add, (sum(cast(g, dtype="float32") * cast(g, dtype="float32")) for g in found)))
    scale = limit / maximum(norm, limit)
    return [g * cast(scale, dtype=g.dtype.name) for g in found]
