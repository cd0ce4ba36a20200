"""Recurrent layers, unrolled over time. Source: the equations of ONNX RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.limits import require_parts
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator

Function = Callable[[Any], Any]


def _activations(node: OnnxNode, default: tuple[str, ...], directions: int) -> list[list[Function]]:
    """The functions of each direction."""
    names = list(node.attribute("activations", default * directions))
    alphas, betas = list(node.attribute("activation_alpha", ())), list(node.attribute("activation_beta", ()))
    made = []
    for name in names:
        first, second = _PARAMETERS.get(name, (None, None))
        alpha = alphas.pop(0) if alphas and first is not None else first
        beta = betas.pop(0) if betas and second is not None else second
        if name not in _FUNCTIONS:
            raise UnsupportedModel(
                f"{node.op_type} with the activation {name!r}; known are {', '.join(_FUNCTIONS)}."
            )
        made.append(_bound(_FUNCTIONS[name], alpha, beta))
    size = len(default)
    return [made[size * d : size * (d + 1)] for d in range(directions)]


def _bound(function: Callable[..., Any], alpha: float | None, beta: float | None) -> Function:
    given = {key: value for key, value in (("alpha", alpha), ("beta", beta)) if value is not None}
    return lambda x: function(x, **given)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Relu": oy.relu,
    "Tanh": oy.tanh,
    "Sigmoid": oy.sigmoid,
    "Affine": lambda x, alpha, beta: oy.add(oy.multiply(x, alpha), beta),
    "LeakyRelu": oy.leaky_relu,
    "ThresholdedRelu": oy.thresholded_relu,
    "ScaledTanh": lambda x, alpha, beta: oy.multiply(oy.tanh(oy.multiply(x, beta)), alpha),
    "HardSigmoid": oy.hard_sigmoid,
    "Elu": oy.elu,
    "Softsign": oy.softsign,
    "Softplus": oy.softplus,
}
_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (1.0, None),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
}


@dataclass(frozen=True)
class Cell:
    """Weights of one direction: ``weight [gates*h, i]``, ``recurrent [gates*h, h]``, biases ``[gates*h]``, peepholes ``[3*h]``."""

    weight: Any
    recurrent: Any
    input_bias: Any
    recurrent_bias: Any
    peepholes: Any
    functions: list[Function]
    hidden: int
    linear_before_reset: bool
    input_forget: bool
    limit: float | None

    def gates(self, x: Any, count: int) -> list[Any]:
        """``[b, count*h]`` as parts ``[b, h]``."""
        return list(oy.split(x, sections=count, axis=1))

    def bounded(self, x: Any) -> Any:
        """What an activation is given: limited where the model says so."""
        return (
            x
            if self.limit is None
            else oy.clip(x, *(np.asarray(v, x.dtype) for v in (-self.limit, self.limit)))
        )


State = tuple[Any, ...]


def _rnn_step(cell: Cell, x: Any, state: State) -> State:
    (hidden,) = state
    total = oy.add(x, oy.add(oy.matmul(hidden, oy.matrix_transpose(cell.recurrent)), cell.recurrent_bias))
    return (cell.functions[0](cell.bounded(total)),)


def _gru_step(cell: Cell, x: Any, state: State) -> State:
    """Gates z (update), r (reset) and h."""
    (hidden,) = state
    f, g = cell.functions
    size = cell.hidden
    both = oy.slice(cell.recurrent, starts=(0,), stops=(2 * size,), axes=(0,))
    last = oy.slice(cell.recurrent, starts=(2 * size,), stops=(None,), axes=(0,))
    bias = oy.slice(cell.recurrent_bias, starts=(0,), stops=(2 * size,), axes=(0,))
    last_bias = oy.slice(cell.recurrent_bias, starts=(2 * size,), stops=(None,), axes=(0,))
    x_gates = cell.gates(x, 3)
    h_gates = cell.gates(oy.add(oy.matmul(hidden, oy.matrix_transpose(both)), bias), 2)
    update = f(cell.bounded(oy.add(x_gates[0], h_gates[0])))
    reset = f(cell.bounded(oy.add(x_gates[1], h_gates[1])))
    if cell.linear_before_reset:
        inner = oy.multiply(reset, oy.add(oy.matmul(hidden, oy.matrix_transpose(last)), last_bias))
    else:
        inner = oy.add(oy.matmul(oy.multiply(reset, hidden), oy.matrix_transpose(last)), last_bias)
    new = g(cell.bounded(oy.add(x_gates[2], inner)))
    return (oy.add(oy.multiply(oy.subtract(1.0, update), new), oy.multiply(update, hidden)),)


def _lstm_step(cell: Cell, x: Any, state: State) -> State:
    """Gates i (input), o (output), f (forget) and c (cell)."""
    hidden, memory = state
    f, g, h = cell.functions
    total = oy.add(x, oy.add(oy.matmul(hidden, oy.matrix_transpose(cell.recurrent)), cell.recurrent_bias))
    enter, leave, forget, new = cell.gates(total, 4)
    peep = oy.split(cell.peepholes, sections=3, axis=0) if cell.peepholes is not None else None
    if peep is not None:
        enter = oy.add(enter, oy.multiply(peep[0], memory))
        forget = oy.add(forget, oy.multiply(peep[2], memory))
    enter = f(cell.bounded(enter))
    forget = oy.subtract(1.0, enter) if cell.input_forget else f(cell.bounded(forget))
    memory = oy.add(oy.multiply(forget, memory), oy.multiply(enter, g(cell.bounded(new))))
    if peep is not None:
        leave = oy.add(leave, oy.multiply(peep[1], memory))
    return oy.multiply(f(cell.bounded(leave)), h(memory)), memory


@dataclass(frozen=True)
class Kind:
    """A recurrent operator: its gates, its functions, how many states it has, and one step."""

    gates: int
    functions: tuple[str, ...]
    states: int
    step: Callable[[Cell, Any, State], State]


def recurrent(kind: Kind) -> Callable[[OnnxNode], Any]:
    def convert(node: OnnxNode) -> Any:
        batch_first = bool(node.attribute("layout", 0))
        x = oy.permute_dims(node.x, axes=(1, 0, 2)) if batch_first else node.x
        direction = node.attribute("direction", "forward")
        directions = 2 if direction == "bidirectional" else 1
        functions = _activations(node, kind.functions, directions)
        made = [
            _one_direction(node, kind, x, d, functions[d], direction == "reverse" or d == 1, batch_first)
            for d in range(directions)
        ]
        sequence = oy.stack(*(steps for steps, _ in made), axis=1)  # [s, d, b, h]
        ends = [oy.stack(*(end[i] for _, end in made), axis=0) for i in range(kind.states)]
        if batch_first:
            sequence = oy.permute_dims(sequence, axes=(2, 0, 1, 3))
            ends = [oy.permute_dims(end, axes=(1, 0, 2)) for end in ends]
        return (sequence, *ends)

    return convert


def _cell(node: OnnxNode, kind: Kind, d: int, functions: list[Function]) -> Cell:
    weight, repeated = (oy.gather(a, node.constant(np.array(d)), axis=0) for a in node.inputs[1:3])
    hidden = int(repeated.shape[1])
    bias = node.get(3)
    if bias is None:
        zeros = node.constant(np.zeros(kind.gates * hidden, weight.dtype))
        biases = (zeros, zeros)
    else:
        biases = tuple(oy.split(oy.gather(bias, node.constant(np.array(d)), axis=0), sections=2, axis=0))
    peepholes = node.get(7)
    return Cell(
        weight,
        repeated,
        *biases,
        None if peepholes is None else oy.gather(peepholes, node.constant(np.array(d)), axis=0),
        functions,
        hidden,
        bool(node.attribute("linear_before_reset", 0)),
        bool(node.attribute("input_forget", 0)),
        node.attribute("clip", None),
    )


def _one_direction(
    node: OnnxNode, kind: Kind, x: Any, d: int, functions: list[Function], backwards: bool, batch_first: bool
) -> tuple[Any, State]:
    """All hidden states ``[s, b, h]`` and the last state of one direction of ``x [s, b, i]``."""
    cell = _cell(node, kind, d, functions)
    steps, batch = int(x.shape[0]), x.shape[1]
    require_parts(steps, "a recurrent layer over time")
    lengths = node.get(4)
    state = tuple(_initial(node, 5 + i, d, (batch, cell.hidden), batch_first) for i in range(kind.states))
    entered = oy.add(oy.matmul(x, oy.matrix_transpose(cell.weight)), cell.input_bias)  # [s, b, gates*h]
    inputs = oy.unstack(entered, axis=0)
    made: list[Any] = [None] * steps
    for t in reversed(range(steps)) if backwards else range(steps):
        new = kind.step(cell, inputs[t], state)
        made[t] = new[0]
        if lengths is not None:
            # steps after the end of a sequence leave its state as it was, and give zeros
            running = oy.expand_dims(oy.greater(lengths, t), axis=1)
            new = tuple(oy.where(running, a, b) for a, b in zip(new, state, strict=True))
            made[t] = oy.where(running, made[t], 0.0)
        state = new
    return oy.stack(*made, axis=0), state


def _initial(node: OnnxNode, position: int, d: int, shape: tuple[Any, ...], batch_first: bool) -> Any:
    given = node.get(position)
    if given is None:
        return oy.full(shape=shape, value=0.0, dtype=node.x.dtype.name)
    return oy.gather(given, node.constant(np.array(d)), axis=1 if batch_first else 0)


OPERATORS = (
    Operator("GRU", 1, recurrent(Kind(3, ("Sigmoid", "Tanh"), 1, _gru_step))),
    Operator("LSTM", 1, recurrent(Kind(4, ("Sigmoid", "Tanh", "Tanh"), 2, _lstm_step))),
    Operator("RNN", 1, recurrent(Kind(1, ("Tanh",), 1, _rnn_step))),
)
