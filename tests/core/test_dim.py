"""Symbolic dimensions: arithmetic is that of the integers that they stand for."""

from __future__ import annotations

import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.dim import Dim
from opyard.errors import SpecError

BATCH, LENGTH = Dim.symbol("batch"), Dim.symbol("length")

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}

Expression = Any
"""An int, a name, or an operator between two expressions."""

expressions: st.SearchStrategy[Expression] = st.recursive(
    st.one_of(st.integers(-3, 5), st.sampled_from(["batch", "length"])),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*"]), inner, inner),
    max_leaves=6,
)


def compute(expression: Expression, leaf: Callable[[str], Any]) -> Any:
    if isinstance(expression, str):
        return leaf(expression)
    if isinstance(expression, tuple):
        name, left, right = expression
        return OPERATORS[name](compute(left, leaf), compute(right, leaf))
    return expression


def number(size: Any, sizes: dict[str, int]) -> int:
    return size.evaluate(sizes) if isinstance(size, Dim) else size


@settings(max_examples=60, deadline=None)
@given(expressions, st.integers(1, 9), st.integers(1, 9))
def test_arithmetic_commutes_with_evaluation(expression: Expression, batch: int, length: int) -> None:
    sizes = {"batch": batch, "length": length}
    assert number(compute(expression, Dim.symbol), sizes) == compute(expression, sizes.__getitem__)


@settings(max_examples=60, deadline=None)
@given(
    expressions,
    st.sampled_from([-3, 1, 2, 4, "batch", ("+", "length", 1)]),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_floor_division_commutes_with_evaluation(
    expression: Expression, divisor: Expression, batch: int, length: int
) -> None:
    sizes = {"batch": batch, "length": length}
    for name in ("//", "%"):
        whole = (name, expression, divisor)
        if isinstance(compute(whole[1], Dim.symbol), Dim) or name == "//":
            assert number(compute(whole, Dim.symbol), sizes) == compute(whole, sizes.__getitem__)


@settings(max_examples=30, deadline=None)
@given(expressions, expressions)
def test_equal_polynomials_are_equal_and_hash_alike(left: Expression, right: Expression) -> None:
    a, b = compute(left, Dim.symbol), compute(right, Dim.symbol)
    assert a + b == b + a
    assert a * b == b * a
    assert hash(a * b + a) == hash(a * (b + 1))
    assert (a + b) - b == a


def test_numbers_come_back_as_plain_integers() -> None:
    assert type(BATCH - BATCH) is int
    assert type((BATCH + 3) - BATCH) is int
    assert BATCH * 0 == 0
    assert (2 * BATCH * LENGTH) // (2 * BATCH) == LENGTH
    assert (6 * BATCH + 4) // 2 == 3 * BATCH + 2
    assert BATCH // 1 == BATCH


def test_division_that_is_not_exact_stays_a_quotient() -> None:
    half = (BATCH + 1) // 2
    assert [number(half, {"batch": n}) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert number(7 // BATCH, {"batch": 2}) == 3
    assert half == (1 + BATCH) // 2
    assert half != BATCH // 2


def test_equality_with_numbers_is_false() -> None:
    assert BATCH != 3
    assert BATCH != "batch"
    assert Dim.symbol("batch") == BATCH
    assert len({Dim.symbol("batch"), BATCH, LENGTH}) == 2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (BATCH, "batch"),
        (2 * BATCH + 1, "2*batch + 1"),
        (BATCH * LENGTH, "batch*length"),
        (BATCH // 2, "((batch) // (2))"),
    ],
)
def test_text(size: Any, text: str) -> None:
    assert repr(size) == text


def test_name_of_a_plain_symbol() -> None:
    assert BATCH.name == "batch"
    for size in (2 * BATCH, BATCH + 1, BATCH * LENGTH, BATCH // 2, -BATCH):
        assert isinstance(size, Dim)
        assert size.name is None


def test_numpy_integers_are_integers() -> None:
    two: Any = np.int64(2)
    assert two * BATCH == 2 * BATCH == BATCH * two
    assert type((BATCH + two) - BATCH) is int


def test_pickle_is_equal_in_a_process_that_hashes_differently() -> None:
    size = (BATCH + LENGTH) // 2
    program = "import pickle, sys; size = pickle.load(sys.stdin.buffer); from opyard.dim import Dim; assert hash(size) == hash((Dim.symbol('batch') + Dim.symbol('length')) // 2)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(size), env=environment, check=True, timeout=60
    )
    assert pickle.loads(pickle.dumps(size)) == size


@pytest.mark.parametrize("name", ["", "2x", "a b", "a-b"])
def test_a_name_is_an_identifier(name: str) -> None:
    with pytest.raises(SpecError, match=r"named by an identifier; .* is not one. Write for example 'batch'"):
        Dim.symbol(name)


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge])
def test_order_is_unknown(compare: Callable[[Any, Any], bool]) -> None:
    with pytest.raises(SpecError, match="batch cannot be compared with 3 before it is bound"):
        compare(BATCH, 3)


@pytest.mark.parametrize("convert", [int, range, float])
def test_a_symbol_is_no_number(convert: Callable[[Any], Any]) -> None:
    with pytest.raises(SpecError, match="dimension batch has no number yet; bind it by feeding an array"):
        convert(BATCH)


def test_evaluate_names_what_is_missing() -> None:
    with pytest.raises(SpecError, match="'length' is not bound by any feed; known: batch"):
        number(BATCH + LENGTH, {"batch": 2})
    with pytest.raises(SpecError, match="'batch' is not bound by any feed; known: none"):
        BATCH.evaluate({})


@pytest.mark.parametrize("combine", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("other", [1.5, "length", None], ids=str)
def test_sizes_combine_with_integers_only(combine: Callable[[Any, Any], Any], other: Any) -> None:
    with pytest.raises((SpecError, TypeError)):
        combine(BATCH, other)


def test_a_fraction_is_not_rounded_in_silence() -> None:
    with pytest.raises(SpecError, match=r"cannot be combined with 0.5; write for example n \* 3 // 2"):
        BATCH * 0.5  # type: ignore[operator]
