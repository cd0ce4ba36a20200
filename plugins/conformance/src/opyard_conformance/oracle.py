"""The oracle: the reference of an op, or of all ops of a region, evaluated in float64 where the inputs are narrower floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from opyard import trace
from opyard.cases import Tolerance, epsilon
from opyard.kernels import Kernel, Work
from opyard.operation import Call
from opyard.region import Region
from opyard.spec import TensorSpec

Array = np.ndarray[Any, Any]
Arrays = tuple[Array | None, ...]

_MOVES = 3
"""Random directions in which the inputs of an op are moved."""

_SAMPLES = 4
"""Random roundings of a region, or of the parts of a composite op."""

_UNITS = 2.0
"""Units of which the parts of a composite op round: a kernel of the whole computes them in registers."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Inputs and the outputs that are right. ``problem`` says why no kernel can be judged by them, or is empty.

    magnitudes   what errors are measured against, see ``Call.magnitudes``
    unspecified  for each output where any value is right, or None
    slack        gives for each output how far its elements may be off besides, because roundings on the way are amplified
    """

    tolerance: Tolerance
    inputs: Arrays
    outputs: tuple[Array, ...] = ()
    problem: str = ""
    magnitudes: Arrays = ()
    unspecified: Arrays = ()
    slack: Callable[[], Arrays] = tuple

    def violation(self, index: int, found: Array) -> str | None:
        """How an output that was found differs from the right one by more than is allowed, or None."""
        expected, magnitude = self.outputs[index], self.magnitudes[index]
        if found.shape == expected.shape and found.dtype == expected.dtype:
            found = _cleared(found, expected, self.unspecified[index])
        difference = self.tolerance.violation(found, expected, magnitude)
        slack = self.slack() if difference is not None else ()
        if (
            not slack
            or slack[index] is None
            or (found.shape, found.dtype) != (expected.shape, expected.dtype)
        ):
            return difference
        with np.errstate(all="ignore"):
            near = np.abs(_widened(found) - _widened(expected)) <= slack[index]
        return self.tolerance.violation(_cleared(found, expected, near), expected, magnitude)

    def difference(self, what: str, found: Sequence[Array]) -> str:
        """A sentence about the first output that is not near enough, or nothing."""
        for index, one in enumerate(found):
            difference = self.violation(index, one)
            if difference is not None:
                return f"{what}: {difference}"
        return ""


def _cleared(found: Array, expected: Array, where: Array | None) -> Array:
    """What was found, and what is right where anything is."""
    return found if where is None else np.where(where, expected, found).astype(expected.dtype, copy=False)


def expect(work: Work, arrays: Arrays, *, own: bool = False) -> Expected:
    """What some work must give on arrays. ``own`` says that the op itself states these inputs as a case.

    The reference in the inputs' own dtypes has to meet the tolerance, too, and where an op combines elements the outputs have
    to stay within half of it when every input moves by one epsilon. Where they do not, as with sums that overflow on the way or cancel,
    the numbers are more than the tolerance was made for: an own case of the op then expects what the reference gives in these
    dtypes, others judge nobody. In a region, and in a composite op, each part may amplify the roundings of those before it; by
    how much is measured with random roundings, as in Monte Carlo arithmetic (D. S. Parker, UCLA CSD-970002, 1997), and comes
    on top of the tolerance.
    """
    tolerance = work.tolerance
    try:
        plain = work.reference(*arrays)
    except Exception as error:  # a reference may raise anything for numbers that the op has no meaning for
        return Expected(tolerance, arrays, problem=f"the reference raises {type(error).__name__}: {error}")
    nothing = (None,) * len(plain)
    expected = Expected(tolerance, arrays, plain, "", nothing, _unspecified(work, arrays))
    if not tolerance.check_values or not tolerance.ulp:
        return expected
    wide = tuple(None if array is None else _widened(array) for array in arrays)
    magnitudes = _magnitudes(work, wide)
    expected = replace(expected, outputs=_in_float64(work, wide, plain), magnitudes=magnitudes)
    if isinstance(work, Region) or work.op.decompose is not None:
        expected = replace(expected, slack=lru_cache(partial(_slack, work, wide, expected.outputs)))
    if isinstance(work, Region) and any(map(_is_wide, expected.slack(), expected.outputs)):
        return replace(expected, problem="the ops amplify roundings to a tenth of the largest output")
    problem = expected.difference("the reference in its own dtypes misses float64", plain)
    if not problem and not own and _combines(work) and all(m is None for m in magnitudes):
        half = replace(
            expected, tolerance=replace(tolerance, ulp=tolerance.ulp / 2, terms=tolerance.terms / 4)
        )
        generator = np.random.default_rng(0)
        for _ in range(_MOVES):
            moved = _in_float64(work, _moved(wide, arrays, plain, generator), plain)
            problem = problem or half.difference("one epsilon in every input moves the outputs", moved)
    return replace(expected, outputs=plain, problem=problem) if problem else expected


def _combines(work: Work) -> bool:
    """Whether outputs of an op are made of several numbers, which may cancel; others move or convert single ones, or sum."""
    if not isinstance(work, Call) or work.op.decompose is not None:
        return False  # what these amplify comes on top
    return work.op.scalar is None and work.op.tolerance.ulp > 1


def _unspecified(work: Work, arrays: Arrays) -> Arrays:
    if not isinstance(work, Call) or work.op.unspecified is None:
        return (None,) * len(work.outputs)
    found = work.op.unspecified(*arrays, **work.attrs)
    return tuple(found) if work.is_tuple else (found,)


def judged(expected: Expected, kernel: Kernel, work: Work) -> Expected:
    """What is right, with errors measured as the kernel says, where it says so."""
    if kernel.magnitudes is None or not expected.magnitudes:
        return expected
    wide = tuple(None if array is None else _widened(array) for array in expected.inputs)
    return replace(expected, magnitudes=_magnitudes(work, wide, kernel))


def _magnitudes(work: Work, wide: Arrays, kernel: Kernel | None = None) -> Arrays:
    if not isinstance(work, Call):
        return work.magnitudes(*wide)
    try:
        call = _recalled(work, wide)
        return kernel.magnitudes_of(call, wide) if kernel else call.magnitudes(*wide)
    except Exception:  # as in _in_float64
        return (None,) * len(work.outputs)


def _in_float64(work: Work, wide: Arrays, plain: tuple[Array, ...]) -> tuple[Array, ...]:
    """The outputs for widened inputs, rounded; ``plain`` where the op does not take them, and for outputs that are no floats."""
    try:
        found = _recalled(work, wide).reference(*wide) if isinstance(work, Call) else _composed(work, wide)
    except (
        Exception
    ):  # the op or its reference may not take them: inputs of one dtype with an attribute, for instance
        return plain
    with np.errstate(all="ignore"):
        return tuple(
            new.astype(old.dtype) if _is_inexact(old) and new.shape == old.shape else old
            for new, old in zip(found, plain, strict=True)
        )


def _recalled(call: Call, arrays: Arrays) -> Call:
    """The call for arrays of other dtypes."""
    return call.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **call.attrs)


def _composed(
    region: Region, wide: Arrays, generator: np.random.Generator | None = None, most: float = np.inf
) -> tuple[Array, ...]:
    """The outputs of a region, each of its ops in float64.

    With a generator each result is off by what is allowed, but for what is allowed for its terms no more than ``most`` units.
    """
    given = (array for array in wide if array is not None)
    known: dict[Any, Array] = dict(zip(region.graph.inputs.values(), given, strict=True))
    known.update((value, _widened(array)) for value, array in region.graph.constants.items())
    for node in region.graph.nodes:
        inputs = tuple(None if value is None else known[value] for value in node.inputs)
        call = _recalled(node.call, inputs)
        results = call.reference(*inputs)
        if generator is not None:
            if call.op.decompose is not None:
                results = _in_parts(node.call, inputs, results, generator)
            tolerance = replace(call.tolerance, ulp=min(call.tolerance.ulp, most))
            results = tuple(
                _off(result, magnitude, spec.dtype, tolerance, generator)
                for result, magnitude, spec in zip(
                    results, call.magnitudes(*inputs), node.call.outputs, strict=True
                )
            )
        known.update(zip(node.outputs, results, strict=True))
    return tuple(known[value] for value in region.graph.outputs.values())


def _in_parts(
    call: Call, inputs: Arrays, right: tuple[Array, ...], generator: np.random.Generator
) -> tuple[Array, ...]:
    """The outputs of a composite op with an error in each of its parts; ``right`` where it cannot be taken apart for these inputs."""
    try:
        return _composed(_parts(call), inputs, generator, _UNITS)
    except Exception:  # as in _in_float64
        return right


def _off(
    array: Array,
    magnitude: Array | None,
    dtype: Any,
    tolerance: Tolerance,
    generator: np.random.Generator,
) -> Array:
    """An array with an error in each element as large as the tolerance allows."""
    if array.dtype.kind not in "fc" or not array.size:
        return array
    with np.errstate(all="ignore"):
        scale = np.max(np.where(np.isfinite(array), np.abs(array), 0)) if tolerance.scaled else np.abs(array)
        scale = scale if magnitude is None else np.maximum(scale, np.abs(magnitude))
        error = scale * tolerance.units(dtype) * epsilon(dtype) * generator.choice([-1.0, 1.0], array.shape)
        return np.asarray(np.where(np.isfinite(array + error), array + error, array))


def _slack(work: Work, wide: Arrays, exact: tuple[Array, ...]) -> Arrays:
    """For each output of floats four times the largest difference that random roundings on the way made in a few trials."""
    try:
        region, most = (work, np.inf) if isinstance(work, Region) else (_parts(work), _UNITS)
        runs = [_composed(region, wide, np.random.default_rng(number), most) for number in range(_SAMPLES)]
    except Exception:  # as in _in_float64
        return (None,) * len(exact)
    with np.errstate(all="ignore"):
        differences = [
            np.max([np.abs(run[index] - right) for run in runs], axis=0) if _is_inexact(right) else None
            for index, right in enumerate(exact)
        ]
    return tuple(None if d is None else 4 * np.where(np.isfinite(d), d, 0) for d in differences)


def _parts(call: Call) -> Region:
    """The decomposition of a composite."""
    decompose = call.op.decompose
    assert decompose is not None

    def function(*given: Any) -> Any:
        values = iter(given)
        return decompose(*(None if spec is None else next(values) for spec in call.inputs), **call.attrs)

    return Region(trace(function, *(spec for spec in call.inputs if spec is not None)))


def _is_wide(slack: Array | None, right: Array) -> bool:
    if slack is None or not slack.size:
        return False
    finite = np.where(np.isfinite(right), np.abs(_widened(right)), 0)
    return bool(np.max(slack) > 0.1 * np.max(finite) > 0)


def _widened(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=False)
    return array.astype(np.float64, copy=False) if _is_inexact(array) else array


def _moved(wide: Arrays, arrays: Arrays, plain: tuple[Array, ...], generator: np.random.Generator) -> Arrays:
    """Every float and complex number one epsilon, of its own dtype or a more precise output's, away from where it was."""
    finest = min((epsilon(array.dtype) for array in plain if _is_inexact(array)), default=1.0)
    moved: list[Array | None] = []
    for new, old in zip(wide, arrays, strict=True):
        if new is not None and old is not None and new.dtype.kind in "fc":
            signs = generator.choice([-1.0, 1.0], new.shape)
            new = new * (1 + min(finest, epsilon(old.dtype)) * signs)
        moved.append(new)
    return tuple(moved)


def _is_inexact(array: Array) -> bool:
    """Whether an array holds floats or complex numbers, those of ml_dtypes included."""
    return array.dtype.kind in "fc" or "float" in array.dtype.name
