"""Cases, tolerances and costs: the facts about an op that checks, benchmarks and placement share."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .spec import TensorSpec, as_dtype

_EPSILON = {"bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}

_SUMMED_IN = float(np.finfo(np.float32).eps)
"""Epsilon of the dtype in which sums of narrower floats are computed."""


class Cost(NamedTuple):
    """Work of one call: arithmetic operations, and bytes that must be read and written at least."""

    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Draw:
    """How one input of a case is made: uniform numbers in [low, high] (integers: both ends included)."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = -2.0
    high: float = 2.0

    def array(self, generator: np.random.Generator) -> np.ndarray[Any, Any]:
        """A new array of this description."""
        dtype = as_dtype(self.dtype)
        if dtype.kind == "b":
            return generator.integers(0, 2, self.shape).astype(dtype)
        if dtype.kind in "iu":
            low = max(self.low, 0) if dtype.kind == "u" else self.low
            return generator.integers(int(low), int(self.high), self.shape, endpoint=True).astype(dtype)
        values = generator.uniform(self.low, self.high, self.shape)
        if dtype.kind == "c":
            values = values + 1j * generator.uniform(self.low, self.high, self.shape)
        return np.asarray(values).astype(dtype)

    @property
    def spec(self) -> TensorSpec:
        """The spec of the arrays made."""
        return TensorSpec(self.shape, self.dtype)


@dataclass(frozen=True, slots=True)
class Case:
    """One call to check and time an op with: its inputs (None for an optional one left out) and its attributes."""

    inputs: tuple[Draw | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A stable name, such as ``float32[3,4]-axis=0``."""
        inputs = [f"{d.dtype}[{','.join(map(str, d.shape))}]" if d else "none" for d in self.inputs]
        return "-".join(
            [*inputs, *(f"{key}={value}".replace(" ", "") for key, value in self.attributes.items())]
        )

    def arrays(self, seed: int = 0) -> tuple[np.ndarray[Any, Any] | None, ...]:
        """The inputs: the same for the same seed, on every machine."""
        generator = np.random.default_rng([seed, zlib.crc32(self.id.encode())])
        return tuple(draw.array(generator) if draw else None for draw in self.inputs)


def case(*inputs: Draw | tuple[int, ...] | None, **attributes: Any) -> Case:
    """A Case; a bare shape stands for float32 numbers in [-2, 2]."""
    return Case(tuple(Draw(i) if isinstance(i, tuple) else i for i in inputs), attributes)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a kernel may be from the reference.

    ``ulp`` counts units of the output dtype's machine epsilon, relative to the reference value, or, with ``scaled``,
    to the largest absolute value of the reference output (right where numbers cancel and nobody knows which).
    ``terms`` is how many numbers an output is the sum of; it adds their square root to the units, of float32 for floats that
    are narrower, for these are summed in float32. Source: N. J. Higham, T. Mary, "A new approach to probabilistic rounding
    error analysis", SIAM J. Sci. Comput. 41 (2019): with high probability a sum of n terms, in any order, is no further
    off than about sqrt(n) units of the sum of their absolute values.
    Integers and booleans must be equal, NaN and infinities must stand where the reference has them. With ``signed_zeros``
    zeros must have the sign that they have in the reference, as where numbers are moved.
    ``check_values=False`` leaves only shape and dtype to be compared.
    """

    ulp: float = 4.0
    scaled: bool = False
    check_values: bool = True
    terms: float = 0.0
    signed_zeros: bool = False

    def violation(
        self,
        found: np.ndarray[Any, Any],
        expected: np.ndarray[Any, Any],
        magnitude: np.ndarray[Any, Any] | None = None,
    ) -> str | None:
        """None if ``found`` is near enough to ``expected``, else a sentence that says where and by how much it is not.

        ``magnitude`` has, for each output of a sum, the sum of the absolute values of its terms; see ``Call.magnitudes``.
        """
        if found.shape != expected.shape:
            return f"shape is {found.shape}, the reference has {expected.shape}"
        if found.dtype != expected.dtype:
            return f"dtype is {found.dtype.name}, the reference has {expected.dtype.name}"
        if not self.check_values or not expected.size:
            return None
        if expected.dtype.kind in "biu" or "int" in expected.dtype.name:
            wrong = found != expected
            return _worst(wrong, np.asarray(wrong, np.float64), found, expected, 0.0) if wrong.any() else None
        return self._floating_violation(found, expected, magnitude)

    def units(self, dtype: np.dtype[Any]) -> float:
        """Allowed units of the machine epsilon of an output's dtype."""
        return self.ulp + math.sqrt(self.terms) * min(1.0, _SUMMED_IN / epsilon(dtype))

    def _floating_violation(
        self,
        found: np.ndarray[Any, Any],
        expected: np.ndarray[Any, Any],
        magnitude: np.ndarray[Any, Any] | None,
    ) -> str | None:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        a, b = found.astype(wide), expected.astype(wide)
        finite = np.isfinite(b)
        special = np.where(np.isnan(b), ~np.isnan(a), (a != b) & ~finite)
        if self.signed_zeros:
            special |= (a == 0) & (b == 0) & _signs_differ(a, b)
        if special.any():
            return _worst(special, np.asarray(special, np.float64), found, expected, 0.0)
        unit, allowed = epsilon(expected.dtype), self.units(expected.dtype)
        scale = np.abs(np.where(finite, b, 0))
        if self.scaled:
            scale = np.full_like(scale, scale.max())
        elif magnitude is not None:
            scale = np.maximum(scale, np.where(np.isfinite(magnitude), np.abs(magnitude), 0))
        smallest = 0.0 if expected.dtype.name in _EPSILON else float(np.finfo(expected.dtype).smallest_normal)
        with np.errstate(all="ignore"):  # the difference may overflow, and a magnitude may be zero
            error = np.where(finite, np.abs(a - b), 0)
            wrong = ~(error <= allowed * unit * scale + smallest)
            units = error / (unit * scale + smallest)
        return _worst(wrong, units, found, expected, allowed) if wrong.any() else None


def _signs_differ(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> Any:
    differ = np.signbit(left.real) != np.signbit(right.real)
    return differ | (np.signbit(left.imag) != np.signbit(right.imag)) if left.dtype.kind == "c" else differ


def epsilon(dtype: np.dtype[Any]) -> float:
    """The machine epsilon of a dtype of real or complex floats."""
    if dtype.isbuiltin == 1:
        return float(np.finfo(dtype).eps)
    if dtype.name not in _EPSILON:
        import ml_dtypes  # for its own dtypes alone: whoever has one has imported it

        return float(ml_dtypes.finfo(dtype).eps)
    return _EPSILON[dtype.name]


def _worst(wrong: Any, error: Any, found: Any, expected: Any, allowed: float) -> str:
    index = np.unravel_index(
        int(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1))), wrong.shape
    )
    place = tuple(int(i) for i in index)
    count = int(np.count_nonzero(wrong))
    beyond = f" ({error[index]:.3g} ulp, allowed {allowed:.3g})" if allowed else ""
    return f"{count} of {wrong.size} values differ; at {place} it is {found[index]}, the reference has {expected[index]}{beyond}"
