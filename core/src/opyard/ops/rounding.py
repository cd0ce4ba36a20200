"""Elementwise rounding to whole numbers, in the same dtype; integers stay as they are.

Source: Python array API standard 2024.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases import Case
from ..infer import elementwise
from ..opfunction import op
from ._cases import unary_cases
from .arithmetic import EXACT, Array

__all__ = ["ceil", "floor", "round", "trunc"]


def _cases() -> list[Case]:
    return unary_cases(-9, 9, "int32", "uint8")


def _unless_integer(function: Callable[..., Any], x: Any) -> Any:
    x = np.asarray(x)
    return x.copy() if x.dtype.kind in "iu" else function(x)


@op("floor", scalar="floor(x)", infer=elementwise("real"), cases=_cases, tolerance=EXACT)
def floor(x: Array) -> Array:
    """The greatest whole number that is not above, elementwise. ``[...] -> [...]``."""
    return _unless_integer(np.floor, x)


@op("ceil", scalar="ceil(x)", infer=elementwise("real"), cases=_cases, tolerance=EXACT)
def ceil(x: Array) -> Array:
    """The least whole number that is not below, elementwise. ``[...] -> [...]``."""
    return _unless_integer(np.ceil, x)


@op("trunc", scalar="trunc(x)", infer=elementwise("real"), cases=_cases, tolerance=EXACT)
def trunc(x: Array) -> Array:
    """The nearest whole number that is not further from zero, elementwise. ``[...] -> [...]``."""
    return _unless_integer(np.trunc, x)


@op("round", scalar="round(x)", infer=elementwise("real"), cases=_cases, tolerance=EXACT)
def round(x: Array) -> Array:
    """The nearest whole number, elementwise; the even one of two equally near. ``[...] -> [...]``."""
    return _unless_integer(np.rint, x)
