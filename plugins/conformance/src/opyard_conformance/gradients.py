"""Gradients against finite differences: is what a function's vector-Jacobian product gives the derivative of the function?

A direction d in the space of the inputs and one c in that of the outputs are drawn. The product c . J d is found twice: as
(J^T c) . d with the gradient, and by central differences of the function along d, with steps of several sizes extrapolated
(L. F. Richardson, 1911; C. J. F. Ridders, Advances in Engineering Software 4, 1982). Where they disagree smaller steps are
tried, too: the larger ones may have crossed a kink, such as that of ``abs``. Each input also is checked alone, and
each of its elements where there are few. All is computed in float64; a gradient that is right in float64 and a kernel
that conforms are together a gradient that is right in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from opyard.errors import KernelError

Array = np.ndarray[Any, Any]

DIRECTIONS = 4
"""Random directions, in all inputs together and in each alone."""

FEW = 32
"""Elements of an input up to which each is moved alone."""

LARGEST_STEPS = 1e-3, 1e-5
"""Largest steps, relative to the largest element; the second is tried where the first finds a difference."""

STEPS = 4
"""The largest step, half, a quarter, an eighth of it."""


def check_gradient(
    function: Callable[..., Any],
    vjp: Callable[..., Any],
    arrays: Sequence[Array | None],
    *,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> int:
    """Compares a function's gradient with finite differences; gives the number of directions compared.

    function   (*arrays) -> an array, or a tuple of them
    vjp        (arrays, cotangents) -> for each input an array of its shape: the sum over all outputs of cotangent times
               derivative; None for inputs that have no gradient
    arrays     inputs at which the function is smooth, floats in float64; others, and None, are passed on as they are
    tolerance  of the difference, relative to the sum of the absolute values of the terms of the product

    Raises KernelError, which names the input, the place and both numbers, where they differ by more than the tolerance and
    more than what the finite differences themselves are unsure of.
    """
    inputs = [a if a is None or a.dtype.kind != "f" else a.astype(np.float64) for a in arrays]
    generator = np.random.default_rng(seed)
    outputs = _tuple(function(*inputs))
    cotangents = tuple(generator.uniform(0.5, 1.5, np.shape(o)) for o in outputs)
    gradients = list(vjp(tuple(inputs), cotangents))
    _check_shapes(inputs, gradients)
    compared = 0
    for place, direction in _directions(inputs, gradients, generator):
        terms = [g * d for g, d in zip(gradients, direction, strict=True) if g is not None and d is not None]
        found = sum(float(np.sum(t)) for t in terms)
        scale = sum(float(np.sum(np.abs(t))) for t in terms)
        for largest in LARGEST_STEPS:
            wanted, unsure = _derivative(function, inputs, direction, cotangents, largest)
            if abs(found - wanted) <= tolerance * max(scale, abs(wanted)) + unsure:
                break
        else:
            raise KernelError(
                f"the gradient is wrong {place}: it gives {found:.9g}, finite differences {wanted:.9g} (give or take {unsure:.2g})."
            )
        compared += 1
    return compared


def _check_shapes(inputs: Sequence[Any], gradients: Sequence[Any]) -> None:
    if len(gradients) != len(inputs):
        raise KernelError(f"the gradient has {len(gradients)} arrays, there are {len(inputs)} inputs.")
    for number, (array, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        shape = None if array is None else np.shape(array)
        if gradient is not None and np.shape(gradient) != shape:
            raise KernelError(
                f"the gradient of input {number} has shape {np.shape(gradient)}, the input {shape}."
            )


Direction = list[Array | None]


def _directions(
    inputs: Sequence[Any], gradients: Sequence[Any], generator: np.random.Generator
) -> Iterator[tuple[str, Direction]]:
    """Where to move, with a name for the place."""
    moved = [n for n, g in enumerate(gradients) if g is not None and np.size(g)]

    def drawn(members: Sequence[int]) -> Direction:
        return [generator.uniform(-1, 1, a.shape) if n in members else None for n, a in enumerate(inputs)]

    for _ in range(DIRECTIONS if moved else 0):
        yield "along a direction in all inputs", drawn(moved)
    for number in moved:
        for _ in range(DIRECTIONS):
            yield f"along a direction in input {number}", drawn([number])
        if inputs[number].size <= FEW:
            for index in np.ndindex(inputs[number].shape):
                direction: Direction = [None] * len(inputs)
                single = np.zeros(inputs[number].shape)
                single[index] = 1.0
                direction[number] = single
                yield f"for input {number} at {tuple(map(int, index))}", direction


def _derivative(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    direction: Direction,
    cotangents: tuple[Array, ...],
    largest: float,
) -> tuple[float, float]:
    """The derivative along a direction, weighted by the cotangents, and how unsure it is."""
    sizes = [float(np.max(np.abs(a))) for a, d in zip(inputs, direction, strict=True) if d is not None]
    largest *= max(1.0, *sizes)
    steps = [largest / 2**number for number in range(STEPS)]
    row: list[float] = []
    magnitude = 0.0
    for step in steps:
        ahead, behind = (_weighted(function, inputs, direction, s, cotangents) for s in (step, -step))
        row.append((ahead[0] - behind[0]) / (2 * step))
        magnitude = max(magnitude, ahead[1], behind[1])
    limits = np.finfo(np.float64)
    rounding = (4 * float(limits.eps) * magnitude + float(limits.smallest_normal)) / steps[-1]
    before, power = row[-1], 4.0
    while len(row) > 1:  # central differences have errors of even powers of the step
        before = row[-1]
        row = [(power * fine - coarse) / (power - 1) for coarse, fine in pairwise(row)]
        power *= 4
    return row[0], abs(row[0] - before) + rounding


def _weighted(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    direction: Direction,
    step: float,
    cotangents: tuple[Array, ...],
) -> tuple[float, float]:
    """The outputs times the cotangents, summed up, and the sum of the absolute values."""
    moved = [a if d is None else a + step * d for a, d in zip(inputs, direction, strict=True)]
    terms = [np.asarray(o) * c for o, c in zip(_tuple(function(*moved)), cotangents, strict=True)]
    return sum(float(np.sum(t)) for t in terms), sum(float(np.sum(np.abs(t))) for t in terms)


def _tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
