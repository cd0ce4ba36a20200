"""TensorSpec, dtypes, broadcasting and promotion."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.spec import TensorSpec, as_dtype, broadcast, promote

BATCH = Dim.symbol("batch")

shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("given_dtype", "name"),
    [
        ("float32", "float32"),
        (np.float16, "float16"),
        (float, "float64"),
        (bool, "bool"),
        (np.dtype("complex64"), "complex64"),
        ("bfloat16", "bfloat16"),
        (ml_dtypes.float8_e5m2, "float8_e5m2"),
    ],
)
def test_dtypes(given_dtype: Any, name: str) -> None:
    assert as_dtype(given_dtype).name == name
    assert as_dtype(name) is as_dtype(name)


@pytest.mark.parametrize(
    "wrong",
    [None, "object()", object(), 3, [("a", "i4", 2, 3)]],
    ids=["none", "text", "object", "number", "fields"],
)
def test_what_is_no_dtype(wrong: Any) -> None:
    with pytest.raises(SpecError, match=r"is not a dtype; write a name such as|there is no dtype called"):
        as_dtype(wrong)


def test_unknown_dtype_name() -> None:
    with pytest.raises(
        SpecError, match=r"no dtype called 'flaot32'. Did you mean float32.* Known: bool, int8"
    ):
        as_dtype("flaot32")


@pytest.mark.parametrize("wrong", ["O", "U3", "M8[s]", "V8", ">f4", [("a", "<i4")]], ids=str)
def test_tensors_hold_native_numbers(wrong: Any) -> None:
    with pytest.raises(SpecError, match="tensors hold numbers and booleans in native byte order, not"):
        as_dtype(np.dtype(wrong))


def test_facts() -> None:
    spec = TensorSpec((2, 3, 4), "int16")
    assert (spec.ndim, spec.size, spec.nbytes, spec.is_concrete) == (3, 24, 48, True)
    assert repr(spec) == "int16[2, 3, 4]"
    assert TensorSpec((), "bool").size == 1
    assert TensorSpec((0, 5)).nbytes == 0
    sizes: Any = np.array([2, 3])
    assert [type(n) for n in TensorSpec(sizes).shape] == [int, int]
    assert TensorSpec.of(np.zeros((2, 1), np.complex64)) == TensorSpec((2, 1), "complex64")


def test_equal_specs_hash_alike_and_are_immutable() -> None:
    spec = TensorSpec([2, 3], np.float32)
    assert spec == TensorSpec((2, 3)) and hash(spec) == hash(TensorSpec((2, 3)))
    assert spec != TensorSpec((2, 3), "float64") and spec != TensorSpec((3, 2)) and spec != (2, 3)
    with pytest.raises(
        AttributeError, match="a TensorSpec is immutable; make a new one instead of setting 'shape'"
    ):
        spec.shape = (1,)
    assert spec.with_shape((7,)) == TensorSpec((7,)) and spec.with_dtype("int8") == TensorSpec((2, 3), "int8")


@pytest.mark.parametrize("spec", [TensorSpec((2,), "bfloat16"), TensorSpec(("batch", 2 * BATCH), "bool")])
def test_pickle(spec: TensorSpec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_symbolic_sizes() -> None:
    spec = TensorSpec(("batch", 64, BATCH * 2), "float32")
    assert spec.shape[0] == BATCH and not spec.is_concrete
    assert spec.size == BATCH * BATCH * 128
    assert repr(spec) == "float32[batch, 64, 2*batch]"
    assert spec.bind({"batch": 3}) == TensorSpec((3, 64, 6))
    concrete = TensorSpec((1,))
    assert concrete.bind({}) is concrete
    with pytest.raises(SpecError, match="has no number yet"):
        _ = spec.nbytes
    with pytest.raises(SpecError, match="'batch' is not bound by any feed; known: length"):
        spec.bind({"length": 1})


@pytest.mark.parametrize("shape", ["batch", 3, BATCH], ids=str)
def test_a_shape_is_a_tuple(shape: Any) -> None:
    with pytest.raises(SpecError, match=r"a shape is a tuple of sizes; .* is not one. Write \(.*,\)\."):
        TensorSpec(shape)


def test_sizes_are_integers_that_are_not_negative() -> None:
    with pytest.raises(
        SpecError, match=r"a size is an integer or a name; 2.5 in shape \(1, 2.5\) is neither"
    ):
        TensorSpec((1, 2.5))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"sizes are not negative; found -1 in shape \(4, -1\)"):
        TensorSpec((4, -1))
    with pytest.raises(SpecError, match="named by an identifier"):
        TensorSpec(("two words",))


@settings(max_examples=80, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=3))
def test_broadcast_is_that_of_numpy(given_shapes: list[tuple[int, ...]]) -> None:
    try:
        expected = np.broadcast_shapes(*given_shapes)
    except ValueError:
        with pytest.raises(
            SpecError, match=r"shapes .* do not broadcast: sizes \d and \d differ at axis -\d"
        ):
            broadcast(*given_shapes)
    else:
        assert broadcast(*given_shapes) == expected


def test_broadcast_of_symbolic_sizes() -> None:
    assert broadcast() == ()
    assert broadcast((BATCH, 1), (3,)) == (BATCH, 3)
    assert broadcast((1,), (BATCH,)) == (BATCH,)
    assert broadcast((BATCH,), (4,)) == (4,) == broadcast((4,), (BATCH,))
    assert broadcast((BATCH,), (Dim.symbol("batch"),)) == (BATCH,)
    n, m = Dim.symbol("n"), Dim.symbol("m")
    assert broadcast((n, 1), (1, m)) == (n, m)
    assert broadcast((n,), (m,), (3,)) == broadcast((3,), (n,), (m,)) == (3,)
    for other in (m, n * 2):
        with pytest.raises(
            SpecError,
            match=r"shapes \(n,\) and \(.*,\) do not broadcast: the symbolic sizes n and .* at axis -1 may differ; give both the same name, or numbers\.",
        ):
            broadcast((n,), (other,))
    with pytest.raises(SpecError, match="sizes 2 and 3 differ at axis -1"):
        broadcast((n,), (2,), (3,))
    with pytest.raises(SpecError, match="sizes 4 and 5 differ"):
        broadcast((BATCH,), (4,), (5,))


def test_promotion() -> None:
    assert promote(as_dtype("int8"), as_dtype("float16")) == np.float16
    assert promote(as_dtype("int64"), as_dtype("int64")) == np.int64
    assert promote(as_dtype("bfloat16"), as_dtype("float32")) == np.float32
    with pytest.raises(
        SpecError, match=r"float16, bfloat16 have no common dtype; cast one of them first: cast"
    ):
        promote(as_dtype("float16"), as_dtype("bfloat16"))
