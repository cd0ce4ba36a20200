"""TensorSpec: the shape and dtype of a tensor, and the rules for broadcasting and promotion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .dim import Dim
from .errors import SpecError, did_you_mean

Shape = tuple["int | Dim", ...]

_EXTENDED = (
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float4_e2m1fn", "int4", "uint4", "int2", "uint2"),
)
_NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
DTYPE_NAMES = _NATIVE + _EXTENDED
"""The names of all dtypes that tensors may have."""

SHORT_NAMES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
}
"""What command lines understand for dtypes beside their names."""

_BY_NAME: dict[str, np.dtype[Any]] = {}


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype for a name, a NumPy type or a dtype; bfloat16 and smaller come from ml_dtypes.

    Raises SpecError for anything that is not a numeric or boolean dtype.
    """
    if isinstance(dtype, str):
        if dtype not in _BY_NAME:
            _BY_NAME[dtype] = _dtype_called(dtype)
        return _BY_NAME[dtype]
    try:
        found: np.dtype[Any] = np.dtype("" if dtype is None else dtype)  # for NumPy, None is float64
    except TypeError:
        raise SpecError(f"{dtype!r} is not a dtype; write a name such as 'float32' or 'int64'.") from None
    if found.kind not in "biufcV" or found.type is np.void or not found.isnative:
        wanted = found.newbyteorder("=").name if found.kind in "iufc" else "float32"
        raise SpecError(
            f"tensors hold numbers and booleans in native byte order, not {found.str if wanted == found.name else found.name!r}; convert it: x.astype({wanted!r})."
        )
    return found


def _dtype_called(name: str) -> np.dtype[Any]:
    if name in _NATIVE:
        return np.dtype(name)
    if name in _EXTENDED:
        import ml_dtypes  # 20 ms: only when somebody asks for such a dtype

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended
    raise SpecError(
        f"there is no dtype called {name!r}.{did_you_mean(name, DTYPE_NAMES)} Known: {', '.join(DTYPE_NAMES)}."
    )


class TensorSpec:
    """Shape and dtype of a tensor: immutable and hashable.

    ``shape`` holds ints, or names for sizes that are bound when arrays are fed: ``TensorSpec(("batch", 64), "float32")``.
    """

    __slots__ = ("_hash", "dtype", "shape")
    _hash: int
    shape: Shape
    dtype: np.dtype[Any]

    def __init__(self, shape: Iterable[int | str | Dim], dtype: Any = "float32") -> None:
        object.__setattr__(self, "shape", _as_shape(shape))
        object.__setattr__(self, "dtype", as_dtype(dtype))
        object.__setattr__(self, "_hash", hash((self.shape, self.dtype)))

    @staticmethod
    def of(array: Any) -> TensorSpec:
        """The spec of anything that has ``shape`` and ``dtype``."""
        return TensorSpec(array.shape, array.dtype)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a TensorSpec is immutable; make a new one instead of setting {name!r}.")

    def __reduce__(self) -> tuple[type[TensorSpec], tuple[Shape, str]]:
        return TensorSpec, (self.shape, self.dtype.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSpec) and self.shape == other.shape and self.dtype == other.dtype

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int | Dim:
        """Number of elements."""
        total: int | Dim = 1
        for n in self.shape:
            total = total * n
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of a dense array. Raises SpecError while a dimension is symbolic."""
        return int(self.size) * self.dtype.itemsize

    @property
    def is_concrete(self) -> bool:
        """Whether every dimension is a number."""
        return not any(isinstance(n, Dim) for n in self.shape)

    def with_shape(self, shape: Iterable[int | str | Dim]) -> TensorSpec:
        """The same dtype with another shape."""
        return TensorSpec(shape, self.dtype)

    def with_dtype(self, dtype: Any) -> TensorSpec:
        """The same shape with another dtype."""
        return TensorSpec(self.shape, dtype)

    def bind(self, sizes: Mapping[str, int]) -> TensorSpec:
        """The spec with its symbolic dimensions replaced by numbers."""
        return (
            self
            if self.is_concrete
            else self.with_shape(n.evaluate(sizes) if isinstance(n, Dim) else n for n in self.shape)
        )


def _as_shape(shape: Iterable[int | str | Dim]) -> Shape:
    if isinstance(shape, (str, int, Dim)):
        raise SpecError(f"a shape is a tuple of sizes; {shape!r} is not one. Write ({shape!r},).")
    sizes: list[int | Dim] = []
    for size in shape:
        if isinstance(size, str):
            size = Dim.symbol(size)
        elif not isinstance(size, Dim):
            try:
                size = size.__index__()
            except AttributeError:
                raise SpecError(
                    f"a size is an integer or a name; {size!r} in shape {tuple(shape)!r} is neither."
                ) from None
            if size < 0:
                raise SpecError(f"sizes are not negative; found {size} in shape {tuple(shape)!r}.")
        sizes.append(size)
    return tuple(sizes)


def is_real(spec: TensorSpec) -> bool:
    """Whether the numbers of a tensor are real and floating, so that it can have a gradient."""
    return spec.dtype.kind == "f" or (spec.dtype.kind == "V" and "int" not in spec.dtype.name)


def spec_of(array: Any, what: str) -> TensorSpec:
    """The spec of an array. Raises SpecError, naming ``what`` it is, for a dtype that no tensor has."""
    try:
        return TensorSpec(array.shape, array.dtype)
    except SpecError as error:
        raise SpecError(f"{what}: {error}") from None


def parse_spec(text: str) -> TensorSpec | None:
    """A spec as people write it: ``float32[2,3]``, ``f32[2, 3]``, ``float32[]`` for 0-d, ``none`` for an input left out."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\w+)\[((?:\s*\d+\s*,)*(?:\s*\d+\s*)?)\]", text)
    if match is None:
        raise SpecError(
            f"an input is written as dtype[sizes] with numbers, such as 'float32[32,4096]'; found {text!r}."
        )
    sizes = [int(size) for size in match[2].split(",") if size.strip()]
    return TensorSpec(sizes, SHORT_NAMES.get(match[1], match[1]))


def broadcast(*shapes: Shape) -> Shape:
    """The common shape by NumPy's broadcasting rules; raises SpecError when there is none.

    A symbolic size broadcasts with itself and with 1, not with another symbolic one; against another number the number
    is taken, and the sizes are checked again once they are bound.
    """
    rank = max(map(len, shapes), default=0)
    return tuple(
        _common([shape[axis] for shape in shapes if len(shape) >= -axis], axis, shapes)
        for axis in range(-rank, 0)
    )


def _common(sizes: list[int | Dim], axis: int, shapes: tuple[Shape, ...]) -> int | Dim:
    numbers = list(dict.fromkeys(n for n in sizes if not isinstance(n, Dim) and n != 1))
    names = list(dict.fromkeys(n for n in sizes if isinstance(n, Dim)))
    if len(numbers) > 1 or (len(names) > 1 and not numbers):
        first, second = (numbers or names)[:2]
        reason = (
            f"sizes {first} and {second} differ at axis {axis}"
            if numbers
            else f"the symbolic sizes {first} and {second} at axis {axis} may differ; give both the same name, or numbers"
        )
        raise SpecError(f"shapes {' and '.join(map(str, shapes))} do not broadcast: {reason}.")
    return (numbers or names or [1])[0]


def promote(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """The common dtype by NumPy's promotion; raises SpecError when there is none."""
    first = dtypes[0]
    if all(d == first for d in dtypes):
        return first
    try:
        return np.result_type(*dtypes)
    except TypeError:
        names = ", ".join(d.name for d in dtypes)
        raise SpecError(
            f"the dtypes {names} have no common dtype; cast one of them first: cast(x, dtype='float32')."
        ) from None
