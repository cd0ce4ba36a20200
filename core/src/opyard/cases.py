"""Cases, tolerances and costs: the facts about an op that checks, benchmarks and placement share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .spec import TensorSpec, as_dtype

_EPSILON = {"bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}


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
    to the largest absolute value of the reference output (right for sums, where cancellation is no kernel's fault).
    Integers and booleans must be equal, NaN and infinities must stand where the reference has them.
    ``check_values=False`` leaves only shape and dtype to be compared.
    """

    ulp: float = 4.0
    scaled: bool = False
    check_values: bool = True

    def violation(self, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str | None:
        """None if ``found`` is near enough to ``expected``, else a sentence that says where and by how much it is not."""
        if found.shape != expected.shape:
            return f"shape is {found.shape}, the reference has {expected.shape}"
        if found.dtype != expected.dtype:
            return f"dtype is {found.dtype.name}, the reference has {expected.dtype.name}"
        if not self.check_values or not expected.size:
            return None
        if expected.dtype.kind in "biu":
            wrong = found != expected
            return _worst(wrong, np.asarray(wrong, np.float64), found, expected, 0.0) if wrong.any() else None
        return self._floating_violation(found, expected)

    def _floating_violation(self, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str | None:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        a, b = found.astype(wide), expected.astype(wide)
        finite = np.isfinite(b)
        special = np.where(np.isnan(b), ~np.isnan(a), (a != b) & ~finite)
        if special.any():
            return _worst(special, np.asarray(special, np.float64), found, expected, 0.0)
        unit = _EPSILON.get(expected.dtype.name) or float(np.finfo(expected.dtype).eps)
        magnitude = np.abs(np.where(finite, b, 0))
        if self.scaled:
            magnitude = np.full_like(magnitude, magnitude.max())
        smallest = 0.0 if expected.dtype.name in _EPSILON else float(np.finfo(expected.dtype).smallest_normal)
        with np.errstate(all="ignore"):  # the difference may overflow, and a magnitude may be zero
            error = np.where(finite, np.abs(a - b), 0)
            wrong = ~(error <= self.ulp * unit * magnitude + smallest)
            units = error / (unit * magnitude + smallest)
        return _worst(wrong, units, found, expected, self.ulp) if wrong.any() else None


def _worst(wrong: Any, error: Any, found: Any, expected: Any, allowed: float) -> str:
    index = np.unravel_index(
        int(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1))), wrong.shape
    )
    place = tuple(int(i) for i in index)
    count = int(np.count_nonzero(wrong))
    beyond = f" ({error[index]:.3g} ulp, allowed {allowed:g})" if allowed else ""
    return f"{count} of {wrong.size} values differ; at {place} it is {found[index]}, the reference has {expected[index]}{beyond}"
