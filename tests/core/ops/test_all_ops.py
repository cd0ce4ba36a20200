"""What holds for every standard op: its documentation, its cases, its reference, its scalar expression, its decomposition."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import opyard.ops
from opyard.cases import Case, Tolerance
from opyard.dim import Dim
from opyard.eager import using
from opyard.errors import SpecError
from opyard.operation import Call, Op
from opyard.runtime import standard_registry
from opyard.spec import TensorSpec
from opyard.testing import violation

Arrays = tuple[np.ndarray[Any, Any] | None, ...]

NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def modules() -> Iterator[Any]:
    for found in pkgutil.iter_modules(opyard.ops.__path__):
        module = import_module(f"opyard.ops.{found.name}")
        if any(hasattr(getattr(module, name), "op") for name in getattr(module, "__all__", ())):
            yield module


FUNCTIONS = [
    (module, name) for module in modules() for name in module.__all__ if hasattr(getattr(module, name), "op")
]
OPS: list[Op] = [getattr(module, name).op for module, name in FUNCTIONS]
CASES = [pytest.param(op, case, id=f"{op.name}-{case.id}") for op in OPS for case in op.cases()]

REFERENCES = standard_registry()
"""No plugins: what is checked here are the ops."""

every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
every_case = pytest.mark.parametrize(("op", "case"), CASES)


def call_of(op: Op, case: Case) -> tuple[Call, Arrays]:
    arrays = case.arrays()
    specs = [None if array is None else TensorSpec.of(array) for array in arrays]
    return op.call(*specs, **case.attributes), arrays


def assert_near(tolerance: Tolerance, found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    assert len(found) == len(expected)
    violations = [tolerance.violation(np.asarray(f), e) for f, e in zip(found, expected, strict=True)]
    assert violations == [None] * len(expected)


def assert_spec(array: np.ndarray[Any, Any], spec: TensorSpec) -> None:
    """A size that depends on the data is symbolic in the spec, and any number in the array."""
    assert array.dtype == spec.dtype
    assert array.ndim == spec.ndim
    assert all(isinstance(n, Dim) or n == found for found, n in zip(array.shape, spec.shape, strict=True))


def test_names() -> None:
    names = [op.name for op in OPS]
    assert len(set(names)) == len(names)
    assert names == [name for _, name in FUNCTIONS]


@every_op
def test_documentation(op: Op) -> None:
    first_paragraph = op.doc.strip().split("\n\n")[0]
    assert len(first_paragraph) > 10
    assert first_paragraph.endswith((".", "``", ":"))


@every_op
def test_cases(op: Op) -> None:
    identifiers = [case.id for case in op.cases()]
    assert len(identifiers) >= 3 or not op.signature.inputs
    assert sorted(set(identifiers)) == sorted(identifiers)


@every_op
def test_unknown_attribute(op: Op) -> None:
    specs = [TensorSpec((2,))] * len(op.signature.inputs)
    with pytest.raises(SpecError, match=r"has no attribute 'no_such_thing'.*Known: "):
        op.call(*specs, no_such_thing=1)


@every_case
def test_reference(op: Op, case: Case) -> None:
    call, arrays = call_of(op, case)
    copies = [None if array is None else array.copy() for array in arrays]
    results = call.reference(*arrays)
    for result, spec in zip(results, call.outputs, strict=True):
        assert_spec(result, spec)
    for array, copy in zip(arrays, copies, strict=True):
        assert array is copy is None or (
            array is not None and copy is not None and array.tobytes() == copy.tobytes()
        )


@every_case
def test_cost(op: Op, case: Case) -> None:
    call, _ = call_of(op, case)
    if any(isinstance(n, Dim) for spec in call.outputs for n in spec.shape):
        pytest.skip("the size of the result depends on the data")
    assert all(math.isfinite(number) and number >= 0 for number in call.cost)


@every_case
def test_the_number_of_terms(op: Op, case: Case) -> None:
    call, arrays = call_of(op, case)
    assert math.isfinite(call.tolerance.terms) and call.tolerance.terms >= 0
    for spec, magnitude in zip(call.outputs, call.magnitudes(*arrays), strict=True):
        assert magnitude is None or magnitude.shape == spec.shape


def _computed(array: Any) -> Any:
    """Narrow floats in float32, as code generators compute with them."""
    return array.astype(np.float32) if array is not None and array.dtype.name in NARROW else array


@pytest.mark.parametrize(("op", "case"), [p for p in CASES if p.values[0].scalar is not None])  # type: ignore[union-attr]
def test_scalar(op: Op, case: Case) -> None:
    call, arrays = call_of(op, case)
    values = dict(zip(op.signature.inputs, map(_computed, arrays), strict=True)) | call.attrs
    evaluate: Callable[..., Any] = op.scalar  # type: ignore[assignment]
    with np.errstate(all="ignore"):
        found = np.asarray(evaluate(**values)).astype(call.output.dtype)
    assert violation(call, arrays, (found,)) is None


@pytest.mark.parametrize(("op", "case"), [p for p in CASES if p.values[0].decompose is not None])  # type: ignore[union-attr]
def test_decomposition(op: Op, case: Case) -> None:
    call, arrays = call_of(op, case)
    decompose: Callable[..., Any] = op.decompose  # type: ignore[assignment]
    with using(registry=REFERENCES), np.errstate(all="ignore"):
        result = decompose(*arrays, **call.attrs)
    results = result if call.is_tuple else (result,)
    is_narrow = any(spec.dtype.name in NARROW for spec in (*call.inputs, *call.outputs) if spec is not None)
    # in a narrow dtype every op of the decomposition rounds, where the reference rounds once
    if is_narrow:
        tolerance = replace(call.tolerance, ulp=4 * op.tolerance.ulp + 2, scaled=True)
        assert_near(tolerance, results, call.reference(*arrays))
    else:
        assert violation(call, arrays, results) is None
