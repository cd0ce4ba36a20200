"""What several modules of ops share: checks of attribute values, each raising SpecError with what to write instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim
from ..errors import SpecError, did_you_mean
from ..spec import Shape

SMALL_INTEGERS = ("int4", "uint4")
"""Integer dtypes of ml_dtypes, which NumPy files under the kind V."""


def require_integer(value: Any, name: str, minimum: int | None = None) -> int:
    """``value`` if it is an integer of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise SpecError(f"{name} is an integer; found {value!r}.")
    if minimum is not None and value < minimum:
        raise SpecError(f"{name} is at least {minimum}; found {value}.")
    return value


def require_integers(
    value: Any, name: str, minimum: int | None = None, length: int | None = None
) -> tuple[int, ...]:
    """``value`` if it is a tuple of ``length`` integers of at least ``minimum``."""
    if not isinstance(value, tuple):
        raise SpecError(f"{name} is a tuple of integers; found {value!r}. Write ({value!r},).")
    if length is not None and len(value) != length:
        raise SpecError(f"{name} needs {length} entries; found {len(value)} in {value!r}.")
    return tuple(require_integer(item, f"{name}[{i}]", minimum) for i, item in enumerate(value))


def require_shape(value: Any, name: str = "shape", minimum: int = 0) -> Shape:
    """``value`` if it is a tuple of sizes, numbers of at least ``minimum`` or symbolic."""
    if not isinstance(value, tuple):
        raise SpecError(f"{name} is a tuple of integers; found {value!r}. Write ({value!r},).")
    return tuple(
        n if isinstance(n, Dim) else require_integer(n, f"{name}[{i}]", minimum) for i, n in enumerate(value)
    )


def require_real(value: Any, name: str, low: float = -np.inf, high: float = np.inf) -> float:
    """``value`` if it is a number from ``low`` to ``high``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        raise SpecError(f"{name} is a real number; found {value!r}.")
    if not low <= value <= high:
        raise SpecError(f"{name} is from {low:g} to {high:g}; found {value!r}.")
    return value


def require_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``."""
    if value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise SpecError(f"{name} is one of {', '.join(map(repr, choices))}; found {value!r}.{hint}")
    return str(value)


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` holds integers, those of ml_dtypes included."""
    return dtype.kind in "iu" or dtype.name in SMALL_INTEGERS


def integer_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest integer of an integer dtype."""
    if dtype.name in SMALL_INTEGERS:
        return (-8, 7) if dtype.name == "int4" else (0, 15)
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def require_value(value: Any, dtype: np.dtype[Any], name: str = "value") -> None:
    """Raises SpecError unless an element of ``dtype`` can be ``value``; floating dtypes may round it."""
    if not isinstance(value, (bool, int, float, complex)):
        raise SpecError(f"{name} is a number; found {value!r}.")
    if isinstance(value, complex):
        fits = dtype.kind == "c"
    elif dtype.kind == "b":
        fits = value in (0, 1)
    elif is_integer(dtype):
        low, high = integer_range(dtype)
        fits = low <= value <= high and value == int(value)
    else:
        fits = True
    if not fits:
        raise SpecError(
            f"{name}={value!r} is no value of dtype {dtype.name}; give another value or another dtype."
        )


def replaced(shape: Shape, axis: int, size: int | Dim) -> Shape:
    """``shape`` with another size of one axis, which is counted from the front."""
    return (*shape[:axis], size, *shape[axis + 1 :])
