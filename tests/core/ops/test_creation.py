"""New tensors: values, default dtypes, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops import creation as c
from opyard.spec import TensorSpec, as_dtype


def run(function: Any, *arrays: Any, **attributes: Any) -> Any:
    call = function.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert TensorSpec.of(result) == call.output
    return result


def test_full() -> None:
    np.testing.assert_array_equal(run(c.full, shape=(2, 3), value=1.5), np.full((2, 3), 1.5, np.float32))
    assert run(c.full, shape=(), value=7, dtype="uint8") == 7
    assert run(c.full, shape=[0], value=1 + 2j, dtype="complex64").shape == (0,)
    assert float(run(c.full, shape=(1,), value=0.1, dtype="bfloat16")[0]) == 0.10009765625
    assert run(c.full, shape=(), value=-8, dtype="int4") == -8


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "int32"),
        (256, "uint8"),
        (-1, "uint64"),
        (math.nan, "int8"),
        (math.inf, "int8"),
        (8, "int4"),
        (-1, "uint4"),
        (2, "bool"),
        (1j, "float32"),
    ],
)
def test_values_that_the_dtype_does_not_hold(value: Any, dtype: str) -> None:
    with pytest.raises(SpecError, match=f"is no value of dtype {dtype}; give another value or another dtype"):
        c.full.op.call(shape=(2,), value=value, dtype=dtype)
    with pytest.raises(SpecError, match="is no value of dtype"):
        c.full_like.op.call(TensorSpec((2,), dtype), value=value)


def test_full_refuses() -> None:
    with pytest.raises(SpecError, match="value is a number; found 'one'"):
        c.full.op.call(shape=(2,), value="one")
    with pytest.raises(SpecError, match=r"shape\[1\] is at least 0; found -1"):
        c.full.op.call(shape=(2, -1), value=1)
    with pytest.raises(SpecError, match=r"shape is a tuple of integers; found 3\. Write \(3,\)"):
        c.zeros.op.call(shape=3)
    with pytest.raises(SpecError, match=r"shape\[0\] is an integer; found 2.0"):
        c.ones.op.call(shape=(2.0,))
    with pytest.raises(SpecError, match="there is no dtype called 'float'"):
        c.ones.op.call(shape=(2,), dtype="float")


def test_constants() -> None:
    assert not run(c.zeros, shape=(2, 2)).any()
    assert run(c.ones, shape=(2, 2), dtype="bool").all()
    x = np.zeros((2, 3), as_dtype("bfloat16"))
    assert run(c.ones_like, x).dtype == x.dtype
    assert run(c.zeros_like, x, dtype="int8").dtype == np.int8
    np.testing.assert_array_equal(run(c.full_like, x, value=2, dtype="float32"), np.full((2, 3), 2))


def test_iota() -> None:
    np.testing.assert_array_equal(run(c.iota, size=3), [0, 1, 2])
    assert run(c.iota, size=0).dtype == np.int64
    assert run(c.iota, size=256, dtype="uint8")[-1] == 255
    assert c.iota.op.call(size=Dim.symbol("batch")).output.shape == (Dim.symbol("batch"),)
    with pytest.raises(SpecError, match="the last value=256 is no value of dtype uint8"):
        c.iota.op.call(size=257, dtype="uint8")
    with pytest.raises(SpecError, match=r"the output must be numeric, it is bool\[2\]"):
        c.iota.op.call(size=2, dtype="bool")


@pytest.mark.parametrize(
    ("start", "stop", "step", "expected"),
    [
        (3, None, 1, [0, 1, 2]),
        (2, 9, 3, [2, 5, 8]),
        (2, 8, 3, [2, 5]),
        (9, 2, -3, [9, 6, 3]),
        (2, 9, -1, []),
        (5, 5, 1, []),
        (0.0, 1.0, 0.25, [0, 0.25, 0.5, 0.75]),
        (2**62, 2**62 + 3, 2, [2**62, 2**62 + 2]),
    ],
)
def test_arange(start: Any, stop: Any, step: Any, expected: list[float]) -> None:
    found = run(c.arange, start=start, stop=stop, step=step)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.float32 if isinstance(start, float) else np.int64)


def test_arange_refuses() -> None:
    with pytest.raises(SpecError, match="step is 0; give a step that leads from start to stop"):
        c.arange.op.call(start=0, stop=3, step=0)
    with pytest.raises(SpecError, match="stop is finite; found inf"):
        c.arange.op.call(start=0, stop=math.inf)
    with pytest.raises(SpecError, match="stop is a real number; found nan"):
        c.arange.op.call(start=0, stop=math.nan)
    with pytest.raises(SpecError, match="start is a real number; found 1j"):
        c.arange.op.call(start=1j, stop=3)
    with pytest.raises(SpecError, match="the value=200 is no value of dtype int8"):
        c.arange.op.call(start=0, stop=201, dtype="int8")
    with pytest.raises(SpecError, match=r"the value=0\.5 is no value of dtype int32"):
        c.arange.op.call(start=0, stop=1, step=0.5, dtype="int32")


def test_eye() -> None:
    np.testing.assert_array_equal(run(c.eye, rows=2, columns=3, k=1), [[0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(run(c.eye, rows=2, k=-1, dtype="bool"), [[False, False], [True, False]])
    assert run(c.eye, rows=0).shape == (0, 0)
    with pytest.raises(SpecError, match="rows is at least 0; found -2"):
        c.eye.op.call(rows=-2)
    with pytest.raises(SpecError, match="columns is an integer; found True"):
        c.eye.op.call(rows=2, columns=True)


def test_linspace() -> None:
    np.testing.assert_array_equal(run(c.linspace, start=0, stop=1, num=5), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(run(c.linspace, start=1, stop=0, num=2, endpoint=False), [1, 0.5])
    assert run(c.linspace, start=3, stop=9, num=1) == [3]
    assert run(c.linspace, start=0, stop=1, num=0).shape == (0,)
    with pytest.raises(SpecError, match=r"the output must be floating, it is int32\[3\]"):
        c.linspace.op.call(start=0, stop=1, num=3, dtype="int32")
    with pytest.raises(SpecError, match="num is at least 0; found -1"):
        c.linspace.op.call(start=0, stop=1, num=-1)


def test_shape_and_size() -> None:
    x = np.zeros((2, 0, 3))
    np.testing.assert_array_equal(run(c.shape_of, x), [2, 0, 3])
    assert run(c.shape_of, np.float32(1)).shape == (0,)
    assert run(c.size_of, x) == 0
    assert run(c.size_of, np.float32(1)) == 1
    assert c.shape_of.op.call(TensorSpec(("batch", 3))).output == TensorSpec((2,), "int64")


def test_symbolic_shapes() -> None:
    batch = Dim.symbol("batch")
    assert c.full.op.call(shape=(batch, 3), value=0).output.shape == (batch, 3)
    assert c.zeros_like.op.call(TensorSpec((batch, 3))).output.shape == (batch, 3)


def test_cost_is_what_is_written() -> None:
    assert c.zeros_like.op.call(TensorSpec((4, 4))).cost == (0.0, 64.0)
