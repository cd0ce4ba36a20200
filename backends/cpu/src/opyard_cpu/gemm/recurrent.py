"""Steps of recurrent layers as functions over ops: the product with the hidden state, the gates, and the new state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Pattern = Callable[..., Any]

ORDERS = {"ifco": (0, 1, 2, 3), "iofc": (0, 2, 3, 1)}
"""Where the gates input, forget, cell and output are among the columns: as in PyTorch and Keras, and as in ONNX."""


def lstm_steps() -> Iterator[tuple[str, Pattern]]:
    """Names and functions for each order of the gates, without and with a bias of the product.

    Source: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (8), 1997.
    """
    for order in ORDERS:
        yield f"lstm_{order}", _without_bias(order)
        yield f"lstm_bias_{order}", _with_bias(order)


def _without_bias(order: str) -> Pattern:
    def step(hidden: Any, weight: Any, entered: Any, memory: Any) -> Any:
        import opyard

        return _state(order, opyard.matmul(hidden, weight) + entered, memory)

    return step


def _with_bias(order: str) -> Pattern:
    def step(hidden: Any, weight: Any, bias: Any, entered: Any, memory: Any) -> Any:
        import opyard

        return _state(order, opyard.linear(hidden, weight, bias) + entered, memory)

    return step


def _state(order: str, total: Any, memory: Any) -> Any:
    """The new hidden state and memory."""
    import opyard

    gates = opyard.split(total, sections=4)
    entry, forget, content, leave = (gates[place] for place in ORDERS[order])
    memory = opyard.sigmoid(forget) * memory + opyard.sigmoid(entry) * opyard.tanh(content)
    return opyard.sigmoid(leave) * opyard.tanh(memory), memory
