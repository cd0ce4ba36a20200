"""The oracle: an op's own reference, evaluated in float64 where the inputs are narrower floats, within the op's own tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from opyard.operation import Call, Op
from opyard.spec import TensorSpec
from opyard_conformance.families import Trial
from opyard_conformance.values import arrays_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """Inputs of a trial and the outputs that are right. ``problem`` says why no kernel can be judged by them, or is empty."""

    inputs: tuple[Array | None, ...]
    outputs: tuple[Array, ...]
    problem: str = ""


def call_of(op: Op, trial: Trial) -> Call:
    """The call that a trial makes. Raises SpecError when the op does not take it."""
    specs = [draw.spec if draw else None for draw in trial.case.inputs]
    return op.call(*specs, **trial.case.attributes)


def expect(op: Op, call: Call, trial: Trial, seed: int = 0) -> Expected:
    """What a trial must give.

    The reference in the inputs' own dtypes has to meet the tolerance, too, and where an op combines elements the outputs have
    to stay within it when every input moves by one epsilon. Where they do not, as with sums that overflow on the way or cancel,
    the numbers are more than the tolerance was made for: an own case of the op then expects what the reference gives in these
    dtypes, a derived one judges nobody.
    """
    arrays = arrays_of(trial.case, trial.values, seed)
    try:
        plain = call.reference(*arrays)
    except Exception as error:  # a reference may raise anything for numbers that the op has no meaning for
        return Expected(arrays, (), f"the reference raises {type(error).__name__}: {error}")
    outputs = plain
    if op.tolerance.check_values and op.tolerance.ulp:
        wide = [array if array is None else _widened(array) for array in arrays]
        outputs = _in_float64(op, call, wide, plain)
        problem = _difference(op, "the reference in its own dtypes misses float64", plain, outputs)
        combines = op.scalar is None and op.tolerance.ulp > 1  # others move or convert single elements
        if not problem and not trial.own and combines:
            moved = _in_float64(op, call, _moved(wide, arrays, plain), plain)
            problem = _difference(op, "one epsilon in every input moves the outputs", moved, outputs)
        if problem:
            return Expected(arrays, plain, problem)
    return Expected(arrays, outputs)


def _difference(op: Op, what: str, found: tuple[Array, ...], expected: tuple[Array, ...]) -> str:
    for one, other in zip(found, expected, strict=True):
        difference = op.tolerance.violation(one, other)
        if difference is not None:
            return f"{what}: {difference}"
    return ""


def _in_float64(op: Op, call: Call, wide: list[Array | None], plain: tuple[Array, ...]) -> tuple[Array, ...]:
    """The outputs for widened inputs, rounded; ``plain`` where the op does not take them, and for outputs that are no floats."""
    try:
        specs = [array if array is None else TensorSpec.of(array) for array in wide]
        found = op.call(*specs, **call.attrs).reference(*wide)
    except (
        Exception
    ):  # the op or its reference may not take them: inputs of one dtype with an attribute, for instance
        return plain
    with np.errstate(all="ignore"):
        return tuple(
            new.astype(old.dtype) if old.dtype.kind in "fcV" and new.shape == old.shape else old
            for new, old in zip(found, plain, strict=True)
        )


def _widened(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=False)
    is_narrow = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64, copy=False) if is_narrow else array


def _moved(
    wide: list[Array | None], arrays: tuple[Array | None, ...], plain: tuple[Array, ...]
) -> list[Array | None]:
    """Every float and complex number one epsilon, of its own dtype or a more precise output's, away from where it was."""
    finest = min((_epsilon(array) for array in plain if array.dtype.kind in "fcV"), default=1.0)
    generator = np.random.default_rng(0)
    moved: list[Array | None] = []
    for new, old in zip(wide, arrays, strict=True):
        if new is not None and old is not None and new.dtype.kind in "fc":
            signs = generator.choice([-1.0, 1.0], new.shape)
            new = new * (1 + min(finest, _epsilon(old)) * signs)
        moved.append(new)
    return moved


def _epsilon(array: Array) -> float:
    return float(ml_dtypes.finfo(array.real.dtype).eps)
