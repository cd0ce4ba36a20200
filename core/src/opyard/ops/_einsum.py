"""Einsum equations: reading them, and carrying them out with other ops.

An axis label is a letter, or ``...1``, ``...2`` for the axes under an ellipsis, counted from the right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..dim import Dim
from ..errors import SpecError
from ..spec import Shape, broadcast
from .arithmetic import multiply
from .reduction import sum as sum_over
from .selection import where
from .shape import permute_dims, reshape

Labels = tuple[str, ...]

_TERM = re.compile(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*")


def parse(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """The axis labels of each operand and of the output. Raises SpecError for what is no equation of these operands."""
    if not isinstance(equation, str):
        raise SpecError(f"equation is a string such as 'ij,jk->ik'; found {equation!r}.")
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    texts = inputs.split(",")
    for text in (*texts, output):
        if not _TERM.fullmatch(text):
            raise SpecError(
                f"{text!r} in equation={equation!r} is not letters with at most one '...'; write for example 'ij,jk->ik'."
            )
    if len(texts) != len(ranks):
        raise SpecError(
            f"equation={equation!r} describes {len(texts)} operands, {len(ranks)} were given; separate them by commas."
        )
    terms = tuple(
        _labels(text, rank, position, equation)
        for position, (text, rank) in enumerate(zip(texts, ranks, strict=True))
    )
    under_ellipsis = max((sum(label.startswith(".") for label in term) for term in terms), default=0)
    ellipsis = tuple(f"...{n}" for n in range(under_ellipsis, 0, -1))
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        return terms, (*ellipsis, *sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return terms, _output_labels(output, ellipsis, terms, equation)


def _labels(text: str, rank: int, position: int, equation: str) -> Labels:
    before, dots, after = text.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise SpecError(
            f"{text!r} in equation={equation!r} has {len(before) + len(after)} indices, operand {position} has rank {rank}; "
            "give every axis an index, or write '...' for the others."
        )
    return (*before, *(f"...{n}" for n in range(hidden, 0, -1)), *after)


def _output_labels(text: str, ellipsis: Labels, terms: tuple[Labels, ...], equation: str) -> Labels:
    before, dots, after = text.partition("...")
    if ellipsis and not dots:
        raise SpecError(
            f"the output of equation={equation!r} lacks '...', which stands for {len(ellipsis)} axes; write '->...{text}'."
        )
    known = {label for term in terms for label in term}
    letters = (*before, *after)
    for letter in letters:
        if letter not in known:
            raise SpecError(
                f"the output index {letter!r} of equation={equation!r} is in no operand; leave it out."
            )
        if letters.count(letter) > 1:
            raise SpecError(
                f"the output index {letter!r} of equation={equation!r} occurs twice there; write it once."
            )
    return (*before, *ellipsis, *after)


def label_sizes(terms: tuple[Labels, ...], shapes: tuple[Shape, ...]) -> dict[str, int | Dim]:
    """The size that each label has after broadcasting. Raises SpecError where operands disagree."""
    sizes: dict[str, int | Dim] = {}
    for position, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        own: dict[str, int | Dim] = {}
        for label, size in zip(term, shape, strict=True):
            if own.setdefault(label, size) != size:
                raise SpecError(
                    f"the diagonal over index {label!r} of operand {position} needs equal sizes, it has {own[label]} and {size}."
                )
        for label, size in own.items():
            try:
                (sizes[label],) = broadcast((sizes.get(label, 1),), (size,))
            except SpecError:
                raise SpecError(
                    f"index {label!r} has size {size} in operand {position} and {sizes[label]} before; they must be equal or 1."
                ) from None
    return sizes


def contraction_flops(terms: tuple[Labels, ...], output: Labels, sizes: Mapping[str, int]) -> float:
    """Operations of contracting from left to right: one product and one sum for each combination of indices met."""
    total = 0.0
    running = set(terms[0])
    for position, term in enumerate(terms[1:], 1):
        met = running | set(term)
        total += 2.0 * math.prod(sizes[label] for label in met)
        running = met & _needed_after(position, terms, output)
    return total or float(math.prod(sizes[label] for label in running))


def _needed_after(position: int, terms: tuple[Labels, ...], output: Labels) -> set[str]:
    return set(output).union(*terms[position + 1 :])


def contract(operands: tuple[Any, ...], equation: str, matmul: Callable[[Any, Any], Any]) -> Any:
    """Carries out ``equation`` with diagonals, sums, matrix products and transpositions."""
    terms, output = parse(equation, tuple(len(x.shape) for x in operands))
    sizes = label_sizes(terms, tuple(tuple(x.shape) for x in operands))
    first, *others = [_simplified(x, term, sizes) for x, term in zip(operands, terms, strict=True)]
    result, labels = _sum_out(*first, _needed_after(0, terms, output))
    for position, (x, term) in enumerate(others, 1):
        needed = _needed_after(position, terms, output)
        x, term = _sum_out(x, term, needed | set(labels))
        result, labels = _sum_out(result, labels, needed | set(term))
        result, labels = _pair(result, labels, x, term, needed, matmul)
    return permute_dims(result, axes=tuple(labels.index(label) for label in output))


def _simplified(x: Any, term: Labels, sizes: Mapping[str, int | Dim]) -> tuple[Any, Labels]:
    """``x`` without repeated labels, and without axes of size 1 that broadcast against a greater size."""
    for label in term:
        while term.count(label) > 1:
            x, term = _diagonal(x, term, label)
    stretched = tuple(axis for axis, label in enumerate(term) if x.shape[axis] == 1 != sizes[label])
    if not stretched:
        return x, term
    kept = tuple(axis for axis in range(len(term)) if axis not in stretched)
    return reshape(x, shape=tuple(x.shape[axis] for axis in kept)), tuple(term[axis] for axis in kept)


def _diagonal(x: Any, term: Labels, label: str) -> tuple[Any, Labels]:
    """The diagonal over the first two axes called ``label``; it keeps the place of the second."""
    first = term.index(label)
    second = term.index(label, first + 1)
    size = x.shape[first]
    between = tuple(1 for _ in term[first + 1 : second])
    on_diagonal = np.eye(size, dtype=bool).reshape(size, *between, size, *(1 for _ in term[second + 1 :]))
    # selected and not multiplied by 0, for an infinity beside the diagonal must not reach it
    selected = where(on_diagonal, x, np.zeros((), x.dtype))
    return sum_over(selected, axis=first), (*term[:first], *term[first + 1 :])


def _sum_out(x: Any, term: Labels, needed: set[str]) -> tuple[Any, Labels]:
    axes = tuple(axis for axis, label in enumerate(term) if label not in needed)
    if not axes:
        return x, term
    return sum_over(x, axis=axes), tuple(label for label in term if label in needed)


def _pair(
    x: Any, x_term: Labels, y: Any, y_term: Labels, needed: set[str], matmul: Callable[[Any, Any], Any]
) -> tuple[Any, Labels]:
    """The product of two operands, summed over the common labels that are not ``needed`` any more."""
    common = tuple(label for label in x_term if label in y_term)
    batch = tuple(label for label in common if label in needed)
    summed = tuple(label for label in common if label not in needed)
    left = tuple(label for label in x_term if label not in common)
    right = tuple(label for label in y_term if label not in common)
    sizes = dict(zip((*x_term, *y_term), (*x.shape, *y.shape), strict=True))
    x = permute_dims(x, axes=tuple(x_term.index(label) for label in (*batch, *left, *summed)))
    y = permute_dims(y, axes=tuple(y_term.index(label) for label in (*batch, *summed, *right)))

    def shape(*groups: Labels) -> tuple[int, ...]:
        return tuple(math.prod(sizes[label] for label in group) for group in groups)

    def size_of(labels: Labels) -> tuple[int, ...]:
        return tuple(sizes[label] for label in labels)

    if not summed:
        product = multiply(
            reshape(x, shape=(*size_of(batch), *size_of(left), *(1 for _ in right))),
            reshape(y, shape=(*size_of(batch), *(1 for _ in left), *size_of(right))),
        )
        return product, (*batch, *left, *right)
    product = matmul(
        reshape(x, shape=(*size_of(batch), *shape(left, summed))),
        reshape(y, shape=(*size_of(batch), *shape(summed, right))),
    )
    return reshape(product, shape=(*size_of(batch), *size_of(left), *size_of(right))), (*batch, *left, *right)
