"""Subscripts of graph values mean what they mean in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

import opyard as oy

X = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def evaluate(array: np.ndarray[Any, Any], key: Any) -> Any:
    return oy.compile(lambda x: x[key], devices="reference")(array)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        (slice(None), 1),
        (Ellipsis, -1),
        (0, 1, 2),
        (slice(None, None, -1), slice(2, 0, -1)),
        (None, slice(1, 2), None, Ellipsis, 3),
        slice(5, 9),
        (slice(-9, None, -1),),
        Ellipsis,
        (),
        np.int64(1),
        (slice(np.int32(0), np.uint8(2), np.int16(1)), np.intp(-1)),
    ],
)
def test_agrees_with_numpy(key: Any) -> None:
    np.testing.assert_array_equal(evaluate(X, key), X[key])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_basic_index_agrees_with_numpy(data: st.DataObject) -> None:
    key = data.draw(basic_indices((3, 1, 4), max_dims=6, allow_newaxis=True))
    array = np.arange(12, dtype=np.int32).reshape(3, 1, 4)
    np.testing.assert_array_equal(evaluate(array, key), array[key])


def test_symbolic_axes_are_sliced_when_they_are_bound() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("batch", 3)))
        graph.output("y", x[1:, 0])
    found = oy.Session(graph, devices="reference").run("y", {"x": X[0, :, :3]})
    np.testing.assert_array_equal(found, X[0, 1:, 0])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (np.array([0, 1]), "takes integers, slices, ... and None as subscripts, not ndarray; use gather"),
        (True, "not bool"),
        ((Ellipsis, Ellipsis), "holds '...' at most once"),
        ((0, 0, 0, 0), "4 subscripts were given for a tensor of rank 3"),
        (
            slice("a", None),
            r"the start, stop and step of a slice are integers or None, the step not 0; found slice\('a'",
        ),
        (slice(None, 1.5), "are integers or None.*found slice.* use gather"),
        (slice(True, None), "are integers or None"),
        (slice(None, None, 0), "the step not 0"),
        (2, "subscript 2 is out of range for axis 0 of size 2"),
    ],
)
def test_errors_say_what_to_write(key: Any, text: str) -> None:
    with pytest.raises(
        oy.errors.SpecError, match=text.replace(", ...", r", \.\.\.").replace("'...'", r"'\.\.\.'")
    ):
        evaluate(X, key)


def test_a_value_is_no_part_of_a_slice() -> None:
    with pytest.raises(oy.errors.SpecError, match=r"are integers or None.*use gather"):
        oy.trace(lambda x, n: x[n:], oy.TensorSpec((4,)), oy.TensorSpec((), "int64"))
