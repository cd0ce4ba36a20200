"""Every kernel of the OpenCL backend against the reference of its op."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from opyard.cases import Case
from opyard.errors import KernelError
from opyard.kernels import Kernel
from opyard.operation import Call
from opyard.opfunction import op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_opencl import plugin

_REGISTRY = Registry()
_REGISTRY.ops_from(STANDARD)
plugin.opyard_register(_REGISTRY)
KERNELS = tuple(kernel for kernel in _REGISTRY.all_kernels() if kernel.op)


def _cases(kernel: Kernel, device: Any) -> Iterator[tuple[Case, Call]]:
    """The cases of the kernel's op that it accepts."""
    declared = STANDARD[kernel.op].op
    for case in declared.cases():
        call = declared.call(
            *(None if draw is None else draw.spec for draw in case.inputs), **case.attributes
        )
        if kernel.refusal(call, device) is None:
            yield case, call


def _check(kernel: Kernel, case: Case, call: Call, device: Any) -> None:
    arrays = case.arrays()
    kept = [None if array is None else array.copy() for array in arrays]
    native = [None if array is None else device.upload(array) for array in arrays]
    result = kernel.bind(call, device)(*native)
    found = [device.download(array) for array in (result if call.is_tuple else (result,))]
    assert violation(call, arrays, found) is None, f"{kernel} on {call}"
    for array, before in zip(arrays, kept, strict=True):
        assert array is None or before is None or array.tobytes() == before.tobytes(), (
            f"{kernel} changed an input of {call}"
        )


def _bounded(kernel: Kernel, device: Any) -> Iterator[tuple[Case, Call]]:
    """Cases that need few programs: one for float32, one for broadcasting, one for some other dtype."""
    chosen: dict[str, Any] = {}
    for case, call in _cases(kernel, device):
        specs = [spec for spec in (*call.inputs, *call.outputs) if spec is not None]
        dtypes = tuple(spec.dtype.name for spec in specs)
        broadcast = len({spec.shape for spec in specs}) > 1
        aspect = "broadcast" if broadcast else "float32" if dtypes[0] == "float32" else "other"
        program = (dtypes, call.attributes, [spec.shape for spec in specs] if broadcast else None)
        if chosen.setdefault(aspect, program) == program:
            yield case, call


def _id(kernel: Kernel) -> str:
    return f"{kernel.op}-{kernel.name}"


@pytest.mark.parametrize("kernel", KERNELS, ids=_id)
def test_kernel_computes_what_the_reference_does(kernel: Kernel, opencl: Any) -> None:
    cases = list((_bounded if kernel.name == "generated" else _cases)(kernel, opencl))
    assert cases, f"{kernel} accepts no case of its op"
    for case, call in cases:
        _check(kernel, case, call, opencl)


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.name == "generated"], ids=_id)
def test_generated_kernel_on_all_cases(kernel: Kernel, opencl: Any) -> None:
    for case, call in _cases(kernel, opencl):
        _check(kernel, case, call, opencl)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.op}-{k.name}")
def test_every_refusal_is_a_decision(kernel: Kernel, opencl: Any) -> None:
    declared = STANDARD[kernel.op].op
    for case in declared.cases():
        specs = [draw and draw.spec for draw in case.inputs]
        reason = kernel.refusal(declared.call(*specs, **case.attributes), opencl) or ""
        assert "its accepts function failed" not in reason, case.id


def test_every_kernel_names_an_op_and_every_scalar_op_has_one() -> None:
    assert {kernel.op for kernel in KERNELS} <= set(STANDARD)
    generated = {kernel.op for kernel in KERNELS if kernel.name == "generated"}
    assert generated >= {name for name, function in STANDARD.items() if function.op.scalar is not None}
    assert not _REGISTRY.orphans()


_SEPARATE = (
    "add",
    "tanh",
    "sum",
    "max",
    "argmin",
    "matmul",
    "conv",
    "max_pool",
    "softmax",
    "layer_normalization",
    "permute_dims",
    "concat",
    "gather",
    "conv_transpose",
    "cumulative_sum",
    "pad",
    "random_uniform",
    "scatter",
    "scatter_nd",
    "take_along_axis",
    "top_k",
)


@pytest.mark.parametrize("name", _SEPARATE)
def test_device_with_its_own_memory(name: str, separate: Any) -> None:
    for kernel in _REGISTRY.kernels(name):
        for case, call in list(_bounded(kernel, separate))[:4]:
            _check(kernel, case, call, separate)


def test_position_out_of_range_gives_nan(opencl: Any) -> None:
    (kernel,) = _REGISTRY.kernels("gather")
    x, indices = np.ones((3, 2), np.float32), np.array([1, 3, -4, -1])
    call = STANDARD["gather"].op.call(TensorSpec.of(x), TensorSpec.of(indices))
    found = opencl.download(kernel.bind(call, opencl)(opencl.upload(x), opencl.upload(indices)))
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, True, False])


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("reshape", {"shape": (6, 2)}),
        ("flatten", {"axis": 1}),
        ("squeeze", {"axis": ()}),
        ("expand_dims", {"axis": 0}),
    ],
)
def test_views_copy_nothing(name: str, attributes: dict[str, Any], opencl: Any) -> None:
    x = opencl.upload(np.arange(12, dtype=np.float32).reshape(3, 4))
    call = STANDARD[name].op.call(TensorSpec.of(x), **attributes)
    (kernel,) = _REGISTRY.kernels(name)
    assert kernel.bind(call, opencl)(x).buffer is x.buffer


@pytest.mark.parametrize(
    ("name", "specs", "attributes", "reason"),
    [
        ("add", [TensorSpec((2,), "complex64")] * 2, {}, "takes bool, int8, .* not complex64"),
        ("concat", [TensorSpec((2,), "int32"), TensorSpec((2,), "int64")], {}, "joins arrays of one dtype"),
        (
            "nextafter",
            [TensorSpec((2,), "float16")] * 2,
            {},
            "steps from one float32 or float64 to the next, not between those of float16",
        ),
        (
            "scatter",
            [TensorSpec((2,), "complex64"), TensorSpec((2,), "int64"), TensorSpec((2,), "complex64")],
            {"reduction": "add"},
            "takes bool, int8, .* not complex64",
        ),
        (
            "sort",
            [TensorSpec((2**31,), "int8")],
            {},
            r"sorts rows of fewer than 2\*\*31 elements; int8\[2147483648\] has longer ones",
        ),
        (
            "layer_normalization",
            [TensorSpec((2, 3)), TensorSpec((1,))],
            {},
            r"takes scale of shape \(3,\), not float32\[1\]",
        ),
        (
            "reshape",
            [TensorSpec((2,), "complex128")],
            {"shape": (2, 1)},
            "moves elements of 1, 2, 4, 8 bytes, not of 16",
        ),
    ],
)
def test_reasons_for_refusing(
    name: str, specs: list[TensorSpec], attributes: dict[str, Any], reason: str, opencl: Any
) -> None:
    (kernel,) = _REGISTRY.kernels(name)
    refusal = kernel.refusal(STANDARD[name].op.call(*specs, **attributes), opencl)
    assert refusal is not None
    assert re.search(reason, refusal)


def test_float64_needs_fp64(opencl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard.driver import Capabilities

    monkeypatch.setattr(opencl, "capabilities", Capabilities())
    (kernel,) = _REGISTRY.kernels("add")
    call = STANDARD["add"].op.call(*[TensorSpec((2,), "float64")] * 2)
    assert kernel.refusal(call, opencl) == "opencl:0 lacks fp64, which float64 needs"


def test_out_is_written_and_given_back(opencl: Any) -> None:
    x = np.arange(6, dtype=np.float32)
    call = STANDARD["multiply"].op.call(TensorSpec.of(x), TensorSpec.of(x))
    (kernel,) = _REGISTRY.kernels("multiply")
    out = opencl.empty(call.output)
    assert kernel.bind(call, opencl)(opencl.upload(x), opencl.upload(x), out=out) is out
    np.testing.assert_array_equal(opencl.download(out), x * x)


def test_op_of_another_distribution(opencl: Any) -> None:
    @op("acme.swish", scalar="x / (1 + exp(-beta * x))")
    def swish(x: Any, *, beta: float = 1.0) -> Any: ...

    registry = Registry()
    plugin.opyard_register(registry)
    registry.op(swish)  # after the kernels
    x = np.linspace(-5, 5, 11, dtype=np.float32)
    call = swish.op.call(TensorSpec.of(x), beta=2.0)
    (kernel,) = registry.kernels("acme.swish")
    found = opencl.download(kernel.bind(call, opencl)(opencl.upload(x)))
    np.testing.assert_allclose(found, x / (1 + np.exp(-2 * x)), rtol=1e-6)


def test_threads_share_prepared_kernels(opencl: Any) -> None:
    x = np.random.default_rng(3).normal(size=(64, 48)).astype(np.float32)
    w = np.random.default_rng(4).normal(size=(48, 32)).astype(np.float32)
    calls = {
        "matmul": STANDARD["matmul"].op.call(TensorSpec.of(x), TensorSpec.of(w)),
        "softmax": STANDARD["softmax"].op.call(TensorSpec((64, 32))),
    }
    runs = {name: _REGISTRY.kernels(name)[0].bind(call, opencl) for name, call in calls.items()}

    def work(number: int) -> bool:
        factor = np.float32(number + 1)
        for _ in range(20):
            found = opencl.download(
                runs["softmax"](runs["matmul"](opencl.upload(x * factor), opencl.upload(w)))
            )
            product = (x.astype(np.float64) * factor) @ w
            expected = np.exp(product - product.max(axis=1, keepdims=True))
            expected /= expected.sum(axis=1, keepdims=True)
            if not np.allclose(found, expected, atol=1e-4):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_temporary_arrays_live_until_the_queue_is_done(opencl: Any) -> None:
    """Nothing but the queue knows these arrays and kernels: their memory must not be freed under a running kernel."""
    (kernel,) = _REGISTRY.kernels("add")
    spec = TensorSpec((64, 1024))
    for _ in range(30):
        run = kernel.bind(STANDARD["add"].op.call(spec, TensorSpec((64, 1))), opencl)
        last = run(
            opencl.upload(np.ones((64, 1024), np.float32)), opencl.upload(np.ones((64, 1), np.float32))
        )
        for _ in range(3):
            last = run(last, opencl.upload(np.ones((64, 1), np.float32)))
        del run
    assert math.isclose(float(opencl.download(last).sum()), 5 * 64 * 1024)


@pytest.mark.parametrize(
    ("name", "specs", "attributes"),
    [
        ("exp", ["float32[1000]"], {}),
        ("sum", ["float32[40, 50]"], {"axis": 1}),
        ("matmul", ["float32[16, 16]", "float32[16, 16]"], {}),
        ("softmax", ["float32[40, 50]"], {}),
        ("permute_dims", ["float32[40, 50]"], {"axes": (1, 0)}),
        ("max_pool", ["float32[1, 2, 8, 8]"], {"kernel": (2, 2)}),
    ],
)
def test_a_prepared_kernel_takes_nothing_else(
    opencl: Any, opencl_registry: Registry, name: str, specs: list[str], attributes: dict[str, Any]
) -> None:
    inputs = [TensorSpec(map(int, text[8:-1].split(", "))) for text in specs]
    call = STANDARD[name].op.call(*inputs, **attributes)
    kernel = next(k for k in opencl_registry.kernels(name) if k.backend == "opencl")
    run = kernel.bind(call, opencl)
    arrays = [opencl.upload(np.zeros([int(n) for n in spec.shape], np.float32)) for spec in inputs]
    run(*arrays)
    small, other = (
        opencl.upload(np.zeros((2, 2), np.float32)),
        opencl.upload(np.zeros(inputs[0].shape, np.int32)),
    )
    text = r"this kernel was prepared for .*, and its inputs are .*; call the op itself, or resolve it for these arrays"
    for wrong in (small, other):
        with pytest.raises(KernelError, match=text):
            run(wrong, *arrays[1:])
    with pytest.raises(KernelError, match="its inputs are missing; call the op itself"):
        run()
    if kernel.out:
        with pytest.raises(KernelError, match=r"and its out is float32\[2, 2\]; call"):
            run(*arrays, out=small)
