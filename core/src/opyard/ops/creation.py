"""New tensors of given shape, and shapes as tensors. Source of names and meaning: Python array API standard 2024.12.

Where the standard leaves the default dtype open it is float32, and int64 for integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, as_dtype
from ._attributes import require_integer, require_real, require_shape, require_value
from .arithmetic import BITWISE, Array

__all__ = [
    "arange",
    "eye",
    "full",
    "full_like",
    "iota",
    "linspace",
    "ones",
    "ones_like",
    "shape_of",
    "size_of",
    "zeros",
    "zeros_like",
]


def _writes(call: Call) -> Cost:
    """Cost of an op that does not look at the elements of its inputs."""
    return Cost(0.0, float(call.output.nbytes))


def _infer_full(*, shape: Any, value: Any, dtype: Any = "float32") -> TensorSpec:
    spec = TensorSpec(require_shape(shape), dtype)
    require_value(value, spec.dtype)
    return spec


def _full_cases() -> list[Case]:
    return [
        *(
            case(shape=(3, 4), value=1.5),
            case(shape=(), value=-2.0),
            case(shape=(0, 3), value=0.0),
            case(shape=(5,), value=math.inf),
        ),
        *(
            case(shape=(5,), value=7, dtype="int32"),
            case(shape=(2, 3), value=True, dtype="bool"),
            case(shape=(2,), value=0.1, dtype="bfloat16"),
        ),
    ]


@op("full", infer=_infer_full, cost=_writes, cases=_full_cases, tolerance=BITWISE)
def full(*, shape: tuple[int, ...], value: complex, dtype: str = "float32") -> Array:
    """A tensor of one value."""
    return np.full(shape, np.asarray(value).astype(as_dtype(dtype)))


def _infer_constant(*, shape: Any, dtype: Any = "float32") -> TensorSpec:
    return _infer_full(shape=shape, value=0, dtype=dtype)


def _constant_cases() -> list[Case]:
    return [
        *(
            case(shape=(3, 4)),
            case(shape=()),
            case(shape=(0, 3)),
            case(shape=(5,), dtype="int32"),
            case(shape=(5,), dtype="bool"),
        ),
        case(shape=(2, 3), dtype="bfloat16"),
    ]


@op(
    "zeros",
    infer=_infer_constant,
    cost=_writes,
    decompose=lambda *, shape, dtype: full(shape=shape, value=0, dtype=dtype),
    cases=_constant_cases,
    tolerance=BITWISE,
)
def zeros(*, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """A tensor of zeros."""
    return np.zeros(shape, as_dtype(dtype))


@op(
    "ones",
    infer=_infer_constant,
    cost=_writes,
    decompose=lambda *, shape, dtype: full(shape=shape, value=1, dtype=dtype),
    cases=_constant_cases,
    tolerance=BITWISE,
)
def ones(*, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """A tensor of ones."""
    return np.ones(shape, as_dtype(dtype))


def _infer_full_like(x: TensorSpec, *, value: Any, dtype: Any = None) -> TensorSpec:
    spec = x if dtype is None else x.with_dtype(dtype)
    require_value(value, spec.dtype)
    return spec


def _decompose_full_like(x: Array, *, value: complex, dtype: str | None = None) -> Array:
    return full(shape=tuple(x.shape), value=value, dtype=np.dtype(x.dtype).name if dtype is None else dtype)


def _full_like_cases() -> list[Case]:
    return [
        *(
            case((3, 4), value=1.5),
            case((), value=2.0),
            case((0, 3), value=0.0),
            case((5,), value=7, dtype="int32"),
        ),
        *(case(Draw((2,), "int8"), value=-7), case(Draw((2, 3), "bfloat16"), value=0.1)),
    ]


@op(
    "full_like",
    infer=_infer_full_like,
    cost=_writes,
    decompose=_decompose_full_like,
    cases=_full_like_cases,
    tolerance=BITWISE,
)
def full_like(x: Array, *, value: complex, dtype: str | None = None) -> Array:
    """A tensor of one value in the shape of ``x``, and in its dtype unless another is given."""
    target = x.dtype if dtype is None else as_dtype(dtype)
    return np.full(x.shape, np.asarray(value).astype(target))


def _infer_constant_like(x: TensorSpec, *, dtype: Any = None) -> TensorSpec:
    return _infer_full_like(x, value=0, dtype=dtype)


def _constant_like_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case(()),
            case((0, 3)),
            case((5,), dtype="bool"),
            case(Draw((2,), "int8")),
            case(Draw((2, 3), "float16")),
        ),
    ]


@op(
    "zeros_like",
    infer=_infer_constant_like,
    cost=_writes,
    decompose=lambda x, *, dtype=None: full_like(x, value=0, dtype=dtype),
    cases=_constant_like_cases,
    tolerance=BITWISE,
)
def zeros_like(x: Array, *, dtype: str | None = None) -> Array:
    """A tensor of zeros in the shape of ``x``, and in its dtype unless another is given."""
    return np.zeros(x.shape, x.dtype if dtype is None else as_dtype(dtype))


@op(
    "ones_like",
    infer=_infer_constant_like,
    cost=_writes,
    decompose=lambda x, *, dtype=None: full_like(x, value=1, dtype=dtype),
    cases=_constant_like_cases,
    tolerance=BITWISE,
)
def ones_like(x: Array, *, dtype: str | None = None) -> Array:
    """A tensor of ones in the shape of ``x``, and in its dtype unless another is given."""
    return np.ones(x.shape, x.dtype if dtype is None else as_dtype(dtype))


def _infer_iota(*, size: Any, dtype: Any = "int64") -> TensorSpec:
    spec = TensorSpec(require_shape((size,), "size"), dtype)
    require_kind(spec, "numeric", "the output")
    if not isinstance(size, Dim):
        require_value(max(size - 1, 0), spec.dtype, "the last value")
    return spec


def _iota_cases() -> list[Case]:
    return [
        *(
            case(size=5),
            case(size=0),
            case(size=1),
            case(size=300, dtype="float32"),
            case(size=256, dtype="uint8"),
        ),
        case(size=9, dtype="bfloat16"),
    ]


@op("iota", infer=_infer_iota, cost=_writes, cases=_iota_cases, tolerance=BITWISE)
def iota(*, size: int, dtype: str = "int64") -> Array:
    """The numbers 0, 1, ... size - 1: ``[size]``. Unlike arange it takes a symbolic size."""
    return np.arange(size).astype(as_dtype(dtype))


def _arange_dtype(start: Any, stop: Any, step: Any, dtype: Any) -> np.dtype[Any]:
    if dtype is not None:
        return as_dtype(dtype)
    return as_dtype("float32" if any(isinstance(v, float) for v in (start, stop, step)) else "int64")


def _arange_range(start: Any, stop: Any, step: Any) -> tuple[float, float, int]:
    """First value, step and count."""
    first, last = (0, start) if stop is None else (start, stop)
    for name, value in (("start", first), ("stop", last), ("step", step)):
        if not math.isfinite(require_real(value, name)):
            raise SpecError(f"{name} is finite; found {value!r}.")
    if step == 0:
        raise SpecError("step is 0; give a step that leads from start to stop.")
    # integers are divided as such: floats do not hold the large ones
    exact = all(isinstance(value, int) for value in (first, last, step))
    count = -((first - last) // step) if exact else math.ceil((last - first) / step)
    return first, step, max(0, int(count))


def _infer_arange(*, start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> TensorSpec:
    first, step, count = _arange_range(start, stop, step)
    spec = TensorSpec((count,), _arange_dtype(start, stop, step, dtype))
    require_kind(spec, "numeric", "the output")
    for value in (first, first + step, first + step * (count - 1)) if count else ():
        require_value(value, spec.dtype, "the value")
    return spec


def _arange_cases() -> list[Case]:
    return [
        *(
            case(start=5),
            case(start=2, stop=9, step=3),
            case(start=9, stop=2, step=-2),
            case(start=3, stop=3),
            case(start=3, stop=1),
        ),
        *(
            case(start=0.0, stop=1.0, step=0.25),
            case(start=0, stop=1, step=0.1, dtype="float64"),
            case(start=300, dtype="float32"),
        ),
        *(case(start=-3, stop=4, dtype="int8"), case(start=0, stop=2, step=0.5, dtype="bfloat16")),
    ]


@op("arange", infer=_infer_arange, cost=_writes, cases=_arange_cases, tolerance=Tolerance(2, scaled=True))
def arange(*, start: float, stop: float | None = None, step: float = 1, dtype: str | None = None) -> Array:
    """The numbers start, start + step, ... before stop: ``[ceil((stop - start) / step)]``; ``start`` alone means 0 to start.

    ``dtype`` is int64 for integers and float32 otherwise, unless given.
    """
    first, step, count = _arange_range(start, stop, step)
    return (first + np.arange(count) * step).astype(_arange_dtype(start, stop, step, dtype))


def _infer_eye(*, rows: Any, columns: Any = None, k: Any = 0, dtype: Any = "float32") -> TensorSpec:
    height = require_integer(rows, "rows", 0)
    width = height if columns is None else require_integer(columns, "columns", 0)
    require_integer(k, "k")
    return TensorSpec((height, width), dtype)


def _eye_cases() -> list[Case]:
    return [
        *(
            case(rows=3),
            case(rows=3, columns=5),
            case(rows=4, k=1),
            case(rows=4, columns=3, k=-2),
            case(rows=2, k=9),
            case(rows=0),
        ),
        *(case(rows=3, dtype="int32"), case(rows=3, dtype="bool"), case(rows=3, dtype="bfloat16")),
    ]


@op("eye", infer=_infer_eye, cost=_writes, cases=_eye_cases, tolerance=BITWISE)
def eye(*, rows: int, columns: int | None = None, k: int = 0, dtype: str = "float32") -> Array:
    """Ones on diagonal ``k`` (0 is the main one, positive ones lie above), zeros elsewhere: ``[rows, columns]``."""
    return np.eye(rows, columns, k).astype(as_dtype(dtype))


def _infer_linspace(
    *, start: Any, stop: Any, num: Any, endpoint: bool = True, dtype: Any = "float32"
) -> TensorSpec:
    spec = TensorSpec((require_integer(num, "num", 0),), dtype)
    require_real(start, "start")
    require_real(stop, "stop")
    require_kind(spec, "floating", "the output")
    return spec


def _linspace_cases() -> list[Case]:
    return [
        *(
            case(start=0, stop=1, num=5),
            case(start=-1.5, stop=2.0, num=7, endpoint=False),
            case(start=3, stop=1, num=3),
        ),
        *(
            case(start=2, stop=5, num=1),
            case(start=0, stop=1, num=0),
            case(start=0, stop=1, num=11, dtype="float64"),
        ),
        case(start=0, stop=1, num=4, dtype="bfloat16"),
    ]


@op(
    "linspace",
    infer=_infer_linspace,
    cost=_writes,
    cases=_linspace_cases,
    tolerance=Tolerance(2, scaled=True),
)
def linspace(*, start: float, stop: float, num: int, endpoint: bool = True, dtype: str = "float32") -> Array:
    """``num`` numbers at equal distances from start to stop: ``[num]``; ``endpoint=False`` leaves stop out."""
    return np.linspace(start, stop, num, endpoint=endpoint).astype(as_dtype(dtype))


def _shape_cases() -> list[Case]:
    return [case((3, 4)), case(()), case((0, 3)), case(Draw((2, 3, 5), "int8")), case(Draw((7,), "bfloat16"))]


@op("shape_of", infer=lambda x: TensorSpec((x.ndim,), "int64"), cost=_writes, cases=_shape_cases)
def shape_of(x: Array) -> Array:
    """The sizes of ``x`` as a tensor: int64 ``[rank]``. Source: ONNX Shape."""
    return np.array(x.shape, np.int64)


@op("size_of", infer=lambda x: TensorSpec((), "int64"), cost=_writes, cases=_shape_cases)
def size_of(x: Array) -> Array:
    """The number of elements of ``x`` as a tensor: int64 ``[]``. Source: ONNX Size."""
    return np.array(math.prod(x.shape), np.int64)
