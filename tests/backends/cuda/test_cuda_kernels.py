"""Every kernel of array functions against its op's reference, with NumPy in the place of CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.cases import Draw
from opyard.driver import Capabilities
from opyard.kernels import Kernel
from opyard.operation import Op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cuda import plugin
from opyard_cuda.array_module import OnDevice


def _kernels() -> list[Kernel]:
    registry = Registry()
    registry.ops_from(STANDARD)
    plugin.opyard_register(registry)
    return list(registry.all_kernels())


KERNELS = _kernels()
ON_ARRAYS = [kernel for kernel in KERNELS if kernel.name in ("ufunc", "cupy", "constant")]


def _name(kernel: Kernel) -> str:
    return f"{kernel.op}-{kernel.name}"


def _call(op: Op, case: Any) -> Any:
    return op.call(
        *(draw.spec if isinstance(draw, Draw) else None for draw in case.inputs), **case.attributes
    )


def test_every_kernel_names_an_op(ops: dict[str, Op]) -> None:
    assert {kernel.op for kernel in KERNELS if kernel.op} <= set(ops)  # patterns and regions have none


def test_every_op_with_a_scalar_expression_has_a_generated_kernel(ops: dict[str, Op]) -> None:
    generated = {kernel.op for kernel in KERNELS if kernel.name == "generated"}
    assert {op.name for op in ops.values() if op.scalar is not None} | {"clip", "gelu"} == generated


def test_every_primitive_op_has_a_kernel(ops: dict[str, Op]) -> None:
    primitive = {op.name for op in ops.values() if op.decompose is None}
    assert not primitive - {kernel.op for kernel in KERNELS}


@pytest.mark.parametrize("kernel", ON_ARRAYS, ids=_name)
def test_array_kernels_agree_with_the_reference(
    kernel: Kernel, numpy_for_cupy: Any, ops: dict[str, Op]
) -> None:
    op, ran = ops[kernel.op], 0
    for case in op.cases():
        call = _call(op, case)
        if kernel.refusal(call, numpy_for_cupy) is not None:
            continue
        arrays = case.arrays()
        with np.errstate(all="ignore"):
            result = kernel.bind(call, numpy_for_cupy)(*arrays)
        found = result if call.is_tuple else (result,)
        assert violation(call, arrays, found) is None, case.id
        for array, untouched in zip(arrays, case.arrays(), strict=True):
            np.testing.assert_array_equal(array, untouched)
        ran += 1
    assert ran


@pytest.mark.parametrize(
    "name", ["argmax", "argmin", "max", "min", "sum", "logsumexp", "sort", "argsort", "softmax"]
)
def test_special_values_stand_where_the_reference_has_them(
    name: str, numpy_for_cupy: Any, ops: dict[str, Op]
) -> None:
    (kernel,) = (kernel for kernel in ON_ARRAYS if kernel.op == name)
    values = np.array(
        [[1, np.nan, 3, np.nan], [np.inf, 1, np.inf, 2], [-np.inf] * 4, [-np.inf, 2, 0, -0.0]], np.float32
    )
    call = ops[name].call(TensorSpec.of(values), axis=1)
    with np.errstate(all="ignore"):
        found = kernel.bind(call, numpy_for_cupy)(values)
    assert violation(call, [values], [found]) is None


def test_strided_inputs_are_read_in_order(numpy_for_cupy: Any, ops: dict[str, Op]) -> None:
    values = np.arange(96, dtype=np.float32).reshape(1, 2, 6, 8)[:, :, ::2, ::-1]
    cases: dict[str, dict[str, Any]] = {
        "conv": {},
        "max_pool": {"kernel": 2},
        "space_to_depth": {"block_size": 1},
    }
    for name, attributes in cases.items():
        weights = (np.ones((1, 2, 2, 2), np.float32),) if name == "conv" else ()
        call = ops[name].call(TensorSpec.of(values), *(TensorSpec.of(w) for w in weights), **attributes)
        (kernel,) = (kernel for kernel in ON_ARRAYS if kernel.op == name)
        found = kernel.bind(call, numpy_for_cupy)(values, *weights, *(() if name != "conv" else (None,)))
        assert violation(call, [values, *weights], [found]) is None


def _refusal(
    name: str, kernel: str, device: Any, ops: dict[str, Op], *specs: TensorSpec, **attributes: Any
) -> str | None:
    (found,) = (k for k in KERNELS if (k.op, k.name) == (name, kernel))
    return found.refusal(ops[name].call(*specs, **attributes), device)


def test_refusals_say_what_was_found(numpy_for_cupy: Any, ops: dict[str, Op]) -> None:
    device = numpy_for_cupy
    x, narrow = TensorSpec((3, 4)), TensorSpec((3, 4), "bfloat16")
    rows = TensorSpec((3, 4), "int64")
    assert "takes x of" in (_refusal("sum", "cupy", device, ops, narrow) or "")
    assert "not complex64" in (_refusal("cast", "cupy", device, ops, x, dtype="complex64") or "")
    assert "not bfloat16" in (_refusal("zeros", "constant", device, ops, shape=(2,), dtype="bfloat16") or "")
    assert "overwrites or adds, reduction='mul' is neither" in (
        _refusal("scatter", "cupy", device, ops, x, rows, x, reduction="mul") or ""
    )
    half = x.with_dtype("float16")
    assert "adds float32, float64, int32, uint32 and uint64, not float16" in (
        _refusal("scatter", "cupy", device, ops, half, rows, half, reduction="add") or ""
    )
    device.capabilities = Capabilities()
    assert _refusal("matmul", "cupy", device, ops, x, TensorSpec((4, 5))) == "cuda:0 lacks cublas"


@pytest.mark.parametrize(
    ("start", "stop", "step"),
    [(-100, -200, -1), (100, -100, -2), (None, None, -3), (-1, 0, -1), (-100, 3, 2)],
)
def test_slices_are_clamped_to_the_axis(
    start: int | None, stop: int | None, step: int, numpy_for_cupy: Any, ops: dict[str, Op]
) -> None:
    values = np.arange(7)
    call = ops["slice"].call(TensorSpec.of(values), starts=(start,), stops=(stop,), steps=(step,))
    (kernel,) = (kernel for kernel in ON_ARRAYS if kernel.op == "slice")
    np.testing.assert_array_equal(kernel.bind(call, numpy_for_cupy)(values), call.reference(values)[0])


def test_one_shift_in_a_tuple_rolls_all_elements(numpy_for_cupy: Any, ops: dict[str, Op]) -> None:
    values = np.arange(6).reshape(2, 3)
    call = ops["roll"].call(TensorSpec.of(values), shift=(2,), axis=None)
    (kernel,) = (kernel for kernel in ON_ARRAYS if kernel.op == "roll")
    np.testing.assert_array_equal(kernel.bind(call, numpy_for_cupy)(values), call.reference(values)[0])


def test_created_arrays_are_new_each_time(numpy_for_cupy: Any, ops: dict[str, Op]) -> None:
    (kernel,) = (kernel for kernel in ON_ARRAYS if kernel.op == "zeros")
    run = kernel.bind(ops["zeros"].call(shape=(3,)), numpy_for_cupy)
    run()[:] = 1
    np.testing.assert_array_equal(run(), [0, 0, 0])


def test_a_kernel_runs_on_the_device_of_its_arrays(fake_cupy: Any) -> None:
    class Array:
        device = fake_cupy.cuda.Device(1)

        def __repr__(self) -> str:
            return f"current device: {fake_cupy.cuda.Device.current[-1]}"

    assert OnDevice("builtins:repr")(Array()) == "current device: 1"
