"""Every kernel of the CPU backend against the reference of its op."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import opyard.ops
from opyard.cases import Case
from opyard.kernels import Kernel
from opyard.operation import Call, Op
from opyard.registry import Registry
from opyard.testing import violation
from opyard_cpu import plugin


def _ops() -> dict[str, Op]:
    modules = [
        importlib.import_module(f"opyard.ops.{info.name}")
        for info in pkgutil.iter_modules(opyard.ops.__path__)
    ]
    found = [getattr(value, "op", None) for module in modules for value in vars(module).values()]
    return {declared.name: declared for declared in found if isinstance(declared, Op)}


def _registry() -> Registry:
    registry = Registry()
    plugin.opyard_register(registry)
    return registry


OPS = _ops()
REGISTRY = _registry()
DEVICE = REGISTRY.device("cpu:0")
KERNELS = [  # on cases of few elements all, also those for large arrays
    pytest.param(replace(kernel, least_size=0), id=f"{kernel.op}-{kernel.name}")
    for kernel in REGISTRY.all_kernels()
    if kernel.op and not kernel.layouts  # these are run by conformance, and in plans
]


def _call(case: Case, op: Op) -> Call:
    return op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)


def _accepted(kernel: Kernel) -> list[tuple[Case, Call]]:
    op = OPS[kernel.op]
    calls = [(case, _call(case, op)) for case in op.cases()]
    return [(case, call) for case, call in calls if kernel.refusal(call, DEVICE) is None]


def _run(kernel: Kernel, call: Call, arrays: Any, **keywords: Any) -> tuple[Any, ...]:
    with np.errstate(all="ignore"):
        result = kernel.bind(call, DEVICE)(*arrays, **keywords)
    results = result if call.is_tuple else (result,)
    assert all(DEVICE.owns(array) for array in results)
    return tuple(np.asarray(array) for array in results)


def _check(kernel: Kernel, call: Call, arrays: Any, what: str) -> None:
    before = [None if array is None else array.copy() for array in arrays]
    difference = violation(call, arrays, _run(kernel, call, arrays))
    assert difference is None, f"{what}: {difference}"
    for array, copy in zip(arrays, before, strict=True):
        if array is not None:
            np.testing.assert_array_equal(array, copy, err_msg=f"{what}: an input was changed")


@pytest.mark.parametrize("kernel", KERNELS)
def test_op_exists_and_some_case_is_accepted(kernel: Kernel) -> None:
    assert kernel.op in OPS
    assert _accepted(kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_agrees_with_reference(kernel: Kernel) -> None:
    for case, call in _accepted(kernel):
        _check(kernel, call, case.arrays(), case.id)


def _scattered(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same elements, every other one in memory, in column-major order."""
    if array.ndim == 0:
        return array
    wide = np.empty((*array.shape[::-1], 2), array.dtype)
    view = wide[..., 0].T
    view[...] = array
    return view


@pytest.mark.parametrize("kernel", KERNELS)
def test_takes_inputs_of_any_strides(kernel: Kernel) -> None:
    for case, call in _accepted(kernel):
        arrays = [None if array is None else _scattered(array) for array in case.arrays()]
        _check(kernel, call, arrays, case.id)


@pytest.mark.parametrize("kernel", [p for p in KERNELS if p.values[0].out])
def test_writes_into_out(kernel: Kernel) -> None:
    for case, call in _accepted(kernel):
        arrays = case.arrays()
        for out in (
            np.ones(call.output.shape, call.output.dtype),
            _scattered(np.ones(call.output.shape, call.output.dtype)),
        ):
            with np.errstate(all="ignore"):
                result = kernel.bind(call, DEVICE)(*arrays, out=out)
            assert result is out, case.id
            assert violation(call, arrays, [out]) is None, case.id


@pytest.mark.parametrize("kernel", KERNELS)
def test_special_values(kernel: Kernel) -> None:
    """NaN, infinities and signed zeros stand where the reference has them, for kernels of one float input and its like."""
    op = OPS[kernel.op]
    for case, call in _accepted(kernel):
        arrays = list(case.arrays())
        first = arrays[0] if arrays else None
        if first is None or first.dtype.kind != "f" or first.size < 12 or op.name == "pow":
            continue
        nan = np.nan if op.unspecified is None else 1.0  # where any value is right conformance looks
        first.flat[:4] = (nan, np.inf, -np.inf, -0.0)
        _check(kernel, call, arrays, case.id)
