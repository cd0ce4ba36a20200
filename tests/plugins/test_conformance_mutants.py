"""Wrong kernels, each caught by ``opyard conformance`` at level core, and the right ones that they were made of, which pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from conforming import checked
from opyard_conformance import Report, run_conformance

# Right kernels ---------------------------------------------------------------------------------------------------


def exp_into(x: Any, *, out: Any = None) -> Any:
    return np.exp(x, out=out)


def add_into(x1: Any, x2: Any, *, out: Any = None) -> Any:
    return np.add(x1, x2, out=out)


def softmax(x: Any, *, axis: int = -1) -> Any:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return e / np.sum(e, axis=axis, keepdims=True)


def total(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


RIGHT = [
    ("exp", np.exp, {}),
    ("exp", exp_into, {"out": True}),
    ("add", add_into, {"out": True}),
    ("add", np.add, {"dtypes": None}),
    ("softmax", softmax, {}),
    ("sum", total, {}),
    ("relu", lambda x: np.maximum(x, 0), {}),
    ("identity", np.asarray, {}),
    ("flip", np.flip, {}),
    ("argmax", lambda x, *, axis, keepdims: np.argmax(x, axis=axis, keepdims=keepdims), {"dtypes": None}),
    ("matmul", np.matmul, {}),
]


@pytest.mark.parametrize(("op", "load", "facts"), RIGHT)
def test_a_right_kernel_passes(op: str, load: Any, facts: dict[str, Any]) -> None:
    report = checked(op, load, **facts)
    assert [(o.case, o.detail) for o in report.failures] == []
    assert report.counts["passed"] >= 20


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize(("op", "load", "facts"), RIGHT)
def test_a_right_kernel_passes_whatever_the_numbers(
    op: str, load: Any, facts: dict[str, Any], seed: int
) -> None:
    first, report = checked(op, load, **facts), checked(op, load, seed=seed, **facts)
    assert [(o.case, o.detail) for o in report.failures] == []
    assert [o.case for o in report.outcomes] == [o.case for o in first.outcomes]


# Wrong numbers ---------------------------------------------------------------------------------------------------


def missed_tail(x: Any) -> Any:
    result = np.exp(np.ascontiguousarray(x))
    flat = result.reshape(-1)
    flat[flat.size // 8 * 8 :] = 0
    return result


def unwritten_tail(x: Any, *, out: Any) -> Any:
    flat, source = out.reshape(-1), np.ascontiguousarray(x).reshape(-1)
    whole = flat.size if flat.size % 31 else flat.size - 1
    np.exp(source[:whole], out=flat[:whole])
    return out


def without_maximum(x: Any, *, axis: int = -1) -> Any:
    e = np.exp(x)
    return e / np.sum(e, axis=axis, keepdims=True)


def naive_variance(x: Any, *, axis: Any, keepdims: bool, correction: float) -> Any:
    axes = axis if axis is not None else tuple(range(x.ndim))
    count = x.size // max(np.mean(x, axis=axes).size, 1) if x.size else 0
    squares, mean = np.mean(x * x, axis=axes, keepdims=keepdims), np.mean(x, axis=axes, keepdims=keepdims)
    scale = count / (count - correction) if count != correction else np.nan
    return np.asarray((squares - mean * mean) * scale, x.dtype)


def ignores_strides(x: Any) -> Any:
    """Reads the memory from the first element on as if it were dense."""
    reverse = x[(slice(None, None, -1),) * x.ndim] if x.ndim and min(x.strides, default=0) < 0 else x
    return np.exp(np.lib.stride_tricks.as_strided(reverse, x.shape, np.empty(x.shape, x.dtype).strides))


def cheap_exp(x: Any) -> Any:
    return np.exp(x) * x.dtype.type(1 + 1e-5)


def half_away(x: Any) -> Any:
    return np.trunc(x + np.copysign(x.dtype.type(0.5), x))


def last_of_equal(x: Any, *, axis: Any, keepdims: bool) -> Any:
    if axis is None:
        found = x.size - 1 - np.argmax(x.reshape(-1)[::-1])
        return np.full((1,) * x.ndim if keepdims else (), found, np.int64)
    return x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=keepdims)


def saturated(x: Any) -> Any:
    return np.minimum(np.exp(x), np.finfo(x.dtype).max)


def saturating_sum(x1: Any, x2: Any) -> Any:
    limits = np.iinfo(x1.dtype)
    return np.clip(x1.astype(object) + x2.astype(object), limits.min, limits.max).astype(x1.dtype)


def wrong_broadcast(x1: Any, x2: Any) -> Any:
    if x1.shape[-1:] == (1,) and x2.ndim > 1:
        x1 = np.zeros_like(x1) + x1.reshape(-1)[0] if x1.size else x1
    return x1 + x2


def single_in_disguise(x: Any) -> Any:
    return np.exp(x.astype(np.float32)).astype(x.dtype)


def single_products(x1: Any, x2: Any) -> Any:
    """Rounds the factors to the 10 bits of TF32."""

    def rounded(x: Any) -> Any:
        bits = np.ascontiguousarray(x).view(np.uint32)
        return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)

    return np.matmul(rounded(x1), rounded(x2))


def without_the_last_column(x1: Any, x2: Any) -> Any:
    short = x1.shape[-1] // 4 * 4 if x1.shape[-1] > 32 else x1.shape[-1]
    return np.matmul(x1[..., :short], x2[..., :short, :] if x2.ndim > 1 else x2[:short])


def chopped_sum(x: Any, *, axis: Any, keepdims: bool) -> Any:
    """Adds up in float16, in steps."""
    return np.sum(x.astype(np.float16), axis=axis, keepdims=keepdims).astype(x.dtype)


def softmax_of_the_last_axis(x: Any, *, axis: int) -> Any:
    return softmax(x, axis=-1)


def triangle_by_product(x: Any, *, k: int = 0) -> Any:
    return x * np.tri(*x.shape[-2:], k, dtype=x.dtype)


def unstable_softplus(x: Any) -> Any:
    return np.log(1 + np.exp(x))


NUMBERS = [
    ("exp", missed_tail, {}, "differ"),
    ("relu", lambda x: np.fmax(x, x.dtype.type(0)), {}, "the reference has nan"),
    ("max", lambda x, *, axis, keepdims: np.fmax.reduce(x, axis=axis, keepdims=keepdims), {}, "nan"),
    ("softmax", without_maximum, {}, "it is nan"),
    ("variance", naive_variance, {}, "(143 ulp, allowed 19.5)"),
    ("exp", ignores_strides, {}, "differ"),
    ("exp", cheap_exp, {}, "allowed 4"),
    ("exp", saturated, {}, "the reference has inf"),
    ("round", half_away, {}, "differ"),
    ("argmax", last_of_equal, {}, "differ"),
    ("add", saturating_sum, {"dtypes": ("int32",)}, "differ"),
    ("add", wrong_broadcast, {}, "differ"),
    ("exp", single_in_disguise, {"dtypes": ("float64",)}, "allowed 4"),
    ("log1p", lambda x: np.log(1 + x), {}, "differ"),
    ("reciprocal", lambda x: 1 / (x + x.dtype.type(0)), {}, "the reference has -inf"),
    ("negative", lambda x: 0 - x, {}, "it is 0.0, the reference has -0.0"),
    ("abs", lambda x: np.where(x < 0, -x, x), {}, "it is -0.0, the reference has 0.0"),
    ("copysign", lambda x1, x2: np.where(x2 < 0, -abs(x1), abs(x1)), {}, "differ"),
    ("signbit", lambda x: x < 0, {}, "differ"),
    ("identity", lambda x: x + x.dtype.type(0), {}, "it is 0.0, the reference has -0.0"),
    ("flip", lambda x, *, axis: np.flip(x + x.dtype.type(0), axis), {}, "it is 0.0, the reference has -0.0"),
    ("tril", triangle_by_product, {}, "differ"),
    ("matmul", single_products, {"dtypes": ("float32",)}, "differ"),
    ("matmul", without_the_last_column, {}, "differ"),
    ("sum", chopped_sum, {"dtypes": ("float32",)}, "differ"),
    ("softmax", softmax_of_the_last_axis, {}, "differ"),
    ("softplus", unstable_softplus, {}, "differ"),
]


@pytest.mark.parametrize(("op", "load", "facts", "text"), NUMBERS)
def test_wrong_numbers_are_found(op: str, load: Any, facts: dict[str, Any], text: str) -> None:
    found = checked(op, load, **facts)
    assert found.failures
    assert any(text in failure.detail for failure in found.failures), [f.detail for f in found.failures]


# Broken promises -------------------------------------------------------------------------------------------------


def modifies(x: Any) -> Any:
    x += 1
    return np.exp(x - 1)


def writes_behind_its_input(x: Any) -> Any:
    result = np.exp(x)
    if x.size and x.base is not None:
        beyond = np.ndarray(x.size + 1, x.dtype, x.base, 64) if x.base.nbytes >= 128 + x.nbytes else None
        if beyond is not None and x.flags.c_contiguous:
            beyond[x.size] = 0
    return result


def writes_behind_its_output(x: Any, *, out: Any) -> Any:
    np.exp(x, out=out)
    if out.base is not None:
        np.ndarray(out.size + 1, out.dtype, out.base, 64)[out.size] = 0
    return out


def leaves_out_the_last(x: Any, *, out: Any) -> Any:
    source = np.ascontiguousarray(x).reshape(-1)
    np.exp(source[:-1], out=out.reshape(-1)[: source.size - 1 if source.size else 0])
    return out


def prepare_cached(call: Any, device: Any) -> Any:
    results: list[Any] = []

    def run(x: Any) -> Any:
        results.append(np.exp(x))
        return results[0]

    return run


def prepare_same_buffer(call: Any, device: Any) -> Any:
    buffer = np.empty(call.output.shape, call.output.dtype)
    return lambda x: np.exp(x, out=buffer)


def prepare_second_run_wrong(call: Any, device: Any) -> Any:
    runs: list[int] = []

    def run(x: Any) -> Any:
        runs.append(1)
        return np.exp(x) if len(runs) == 1 else np.nextafter(np.exp(x), x.dtype.type(np.inf))

    return run


def wipes_first(x: Any, *, out: Any = None) -> Any:
    result = np.empty_like(x) if out is None else out
    result[...] = 0
    return np.exp(x, out=result)


def refuses_its_input(x: Any, *, out: Any = None) -> Any:
    if out is x:
        raise ValueError("out is x")
    return np.exp(x, out=out)


PROMISES = [
    (
        "exp",
        {"load": wipes_first, "out": True, "inplace": True},
        "with input 0 as out, which inplace=True allows, output 0: ",
    ),
    (
        "exp",
        {"load": refuses_its_input, "out": True, "inplace": True},
        "with input 0 as out, which inplace=True allows, it raises ValueError: out is x",
    ),
    ("exp", {"load": modifies}, "it changes its input 0"),
    ("exp", {"load": writes_behind_its_input}, "it writes outside of its input 0"),
    ("exp", {"load": writes_behind_its_output, "out": True}, "it writes outside of the array given as out"),
    ("exp", {"load": leaves_out_the_last, "out": True}, "differ"),
    ("exp", {"load": unwritten_tail, "out": True}, "differ"),
    ("exp", {"prepare": prepare_cached}, "in a second call with other numbers: output 0: "),
    (
        "exp",
        {"prepare": prepare_same_buffer},
        "output 0 of an earlier call changed when the kernel ran again",
    ),
    ("exp", {"prepare": prepare_second_run_wrong}, "differs in bits, though it is declared deterministic"),
    ("exp", {"load": lambda x: np.exp(x).astype(np.float64)}, "output 0: it returned float64 where "),
    ("exp", {"load": lambda x: np.atleast_1d(np.exp(x))}, "output 0: it returned shape (1,) where "),
    ("exp", {"load": lambda x: None}, "output 0: it returned NoneType where "),
    ("exp", {"load": lambda x, *, out: np.exp(x), "out": True}, "does not give back the array given as out"),
    ("exp", {"load": lambda x: x[(0,) * 9]}, "it accepts the call and raises IndexError: "),
    ("exp", {"prepare": lambda call, device: 1 // 0}, "it accepts the call and cannot be prepared: ZeroDiv"),
    (
        "exp",
        {"load": np.exp, "accepts": lambda call, device: True},
        "it cannot say whether it takes the call",
    ),
    ("unstack", {"load": lambda x, *, axis: x}, "it returns ndarray, the op gives 3 outputs"),
    ("unstack", {"load": lambda x, *, axis: (x,)}, "it returns 1 outputs, the op gives 3"),
]


@pytest.mark.parametrize(("op", "facts", "text"), PROMISES)
def test_broken_promises_are_found(op: str, facts: dict[str, Any], text: str) -> None:
    failures = checked(op, **facts).failures
    assert any(text in failure.detail for failure in failures), [f.detail for f in failures]


def test_what_is_not_declared_deterministic_may_differ_within_the_tolerance() -> None:
    assert not checked("exp", prepare=prepare_second_run_wrong, deterministic=False).failures


# Refusals --------------------------------------------------------------------------------------------------------


def test_what_a_kernel_refuses_is_unsupported_and_never_passed() -> None:
    report = checked("exp", np.exp, accepts=lambda call, device: "takes nothing at all", dtypes=None)
    assert set(report.counts) == {"unsupported"}
    (summary,) = report.summaries()
    assert summary.reasons == ("takes nothing at all",)


# Devices with arrays of their own --------------------------------------------------------------------------------


def null_report(prepare: Any = None, **facts: Any) -> Report:
    registry = oy.standard_registry()
    if prepare is None:
        oy.testing.add_null_backend(registry, ops=["exp"])
    else:
        oy.testing.add_null_backend(registry)
        registry.kernel("exp", backend="null", name="null", prepare=prepare, **facts)
    return run_conformance("null", registry=registry)


def prepare_null(change: Callable[[Any, Any, Any], Any]) -> Any:
    def prepare(call: Any, device: Any) -> Any:
        def run(x: Any, out: Any = None) -> Any:
            return change(device, x, device.upload(call.reference(device.download(x))[0]))

        return run

    return prepare


def test_arrays_that_are_not_numpys_are_checked() -> None:
    report = null_report()
    assert not report.failures
    assert report.counts["passed"] >= 20
    assert not any("@reversed" in outcome.case for outcome in report.outcomes)


def test_wrong_kernels_on_other_arrays_are_found() -> None:
    def clear_input(device: Any, x: Any, result: Any) -> Any:
        x._contents[...] = 0
        return result

    assert "it changes its input 0" in {f.detail for f in null_report(prepare_null(clear_input)).failures}
    wrong = null_report(prepare_null(lambda device, x, result: x)).failures
    assert any("differ" in failure.detail for failure in wrong)
    unused = null_report(prepare_null(lambda device, x, result: result), out=True).failures
    assert any("does not give back the array given as out" in failure.detail for failure in unused)
