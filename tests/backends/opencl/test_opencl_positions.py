"""Reading, writing, sorting and summing up by position on an OpenCL device, where rows are long and work is divided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_opencl import plugin

_REGISTRY = Registry()
_REGISTRY.ops_from(STANDARD)
plugin.opyard_register(_REGISTRY)


def _run(device: Any, name: str, *arrays: np.ndarray[Any, Any], **attributes: Any) -> Any:
    """What the op's one kernel gives for NumPy arrays, and what its reference gives."""
    call = STANDARD[name].op.call(*map(TensorSpec.of, arrays), **attributes)
    (kernel,) = _REGISTRY.kernels(name)
    assert kernel.refusal(call, device) is None
    result = kernel.bind(call, device)(*map(device.upload, arrays))
    if call.is_tuple:
        return tuple(device.download(part) for part in result), call.reference(*arrays)
    return device.download(result), call.reference(*arrays)[0]


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_updates_of_one_element_come_in_their_order(
    reduction: str, workers: int, opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits are those of one sequence of updates, however the work is divided."""
    monkeypatch.setattr(opencl, "workers", workers)
    generator = np.random.default_rng(workers)
    x = generator.normal(size=97).astype(np.float32)
    indices = generator.integers(-97, 97, size=40_000)
    updates = generator.uniform(0.99, 1.01, size=40_000).astype(np.float32)
    updates[77] = np.nan if reduction in ("max", "min") else 1
    for name, where in (("scatter", indices), ("scatter_nd", indices[:, None])):
        found, expected = _run(opencl, name, x, where, updates, reduction=reduction)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_wide_updates_are_cut_into_columns(opencl: Any) -> None:
    generator = np.random.default_rng(0)
    x, updates = np.zeros((5, 1500), np.float32), generator.normal(size=(9, 1500)).astype(np.float32)
    indices = generator.integers(0, 5, size=(9, 1))
    found, expected = _run(opencl, "scatter_nd", x, indices, updates, reduction="add")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_sums_are_rounded_once(dtype: str, opencl: Any) -> None:
    from opyard.spec import as_dtype

    x, updates = np.zeros(2, as_dtype(dtype)), np.full(4096, 1.0, as_dtype(dtype))
    found, _ = _run(opencl, "scatter", x, np.zeros(4096, np.int64), updates, reduction="add")
    assert found.astype(np.float64).tolist() == [4096, 0]


def test_updates_out_of_range_are_left_out(opencl: Any) -> None:
    x, updates = np.zeros((2, 2), np.float32), np.ones(4, np.float32)
    indices = np.array([[0, 2], [-3, 0], [1, -1], [5, 5]])
    (kernel,) = _REGISTRY.kernels("scatter_nd")
    call = STANDARD["scatter_nd"].op.call(*map(TensorSpec.of, (x, indices, updates)), reduction="add")
    result = kernel.bind(call, opencl)(*map(opencl.upload, (x, indices, updates)))
    np.testing.assert_array_equal(opencl.download(result), [[0, 0], [0, 1]])


@pytest.mark.parametrize("name", ["gather_nd", "take_along_axis"])
def test_positions_out_of_range_give_nan(name: str, opencl: Any) -> None:
    x = np.ones((3, 1), np.float32)
    indices = np.array([[0], [3], [-4], [-3]])
    attributes = {"axis": 0} if name == "take_along_axis" else {}
    (kernel,) = _REGISTRY.kernels(name)
    call = STANDARD[name].op.call(TensorSpec.of(x), TensorSpec.of(indices), **attributes)
    found = opencl.download(kernel.bind(call, opencl)(opencl.upload(x), opencl.upload(indices)))
    np.testing.assert_array_equal(np.isnan(found).reshape(-1), [False, True, True, False])


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("shape", [(100_003,), (3, 1025, 5), (1, 33), (64, 2)])
def test_long_rows_are_sorted_stably(shape: tuple[int, ...], descending: bool, opencl: Any) -> None:
    generator = np.random.default_rng(1)
    x = np.round(generator.normal(size=shape) * 9).astype(
        np.float32
    )  # equal elements, and zeros of both signs
    x.reshape(-1)[::7] = np.nan
    axis = 1 if len(shape) > 1 else 0
    for name in ("argsort", "sort"):
        found, expected = _run(opencl, name, x, axis=axis, descending=descending)
        np.testing.assert_array_equal(found, expected)
    for k in (1, 5, 32, 33):  # few are selected, more are sorted
        found, expected = _run(opencl, "top_k", x, k=min(shape[axis], k), axis=axis, largest=descending)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["uint64", "int64", "int8"])
def test_limits_of_integers_are_sorted(dtype: str, opencl: Any) -> None:
    limits = np.iinfo(dtype)
    x = np.array([limits.max, 1, limits.min, limits.max - 1, 0] * 20, dtype)
    found, expected = _run(opencl, "sort", x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("attributes", [{}, {"exclusive": True}, {"reverse": True, "exclusive": True}])
def test_long_sums_keep_their_digits(
    workers: int, attributes: dict[str, Any], opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "workers", workers)
    x = np.random.default_rng(2).uniform(0.5, 1.5, 200_003).astype(np.float32)
    found, expected = _run(opencl, "cumulative_sum", x, **attributes)
    np.testing.assert_allclose(found, expected, rtol=3e-7)
    whole = np.arange(200_003, dtype=np.int64)
    found, expected = _run(opencl, "cumulative_sum", whole, **attributes)
    np.testing.assert_array_equal(found, expected)


_SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(sizes=_SIZES, data=st.data())
def test_padding_and_rolling_are_those_of_numpy(sizes: list[int], data: st.DataObject, opencl: Any) -> None:
    x = np.arange(np.prod(sizes), dtype=np.int32).reshape(sizes)
    mode = data.draw(st.sampled_from(["edge", "reflect", "wrap"]))
    most = [{"edge": 4, "reflect": n - 1, "wrap": n}[mode] for n in sizes]
    pads = tuple((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))) for n in most)
    found, expected = _run(opencl, "pad", x, pads=pads, mode=mode)
    np.testing.assert_array_equal(found, expected)
    shifts = tuple(data.draw(st.integers(-9, 9)) for _ in sizes)
    found, expected = _run(opencl, "roll", x, shift=shifts, axis=tuple(range(len(sizes))))
    np.testing.assert_array_equal(found, expected)
