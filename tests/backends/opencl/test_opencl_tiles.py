"""Products and convolutions by tiles, and rows in vectors: sizes that no tile divides, several chunks, numbers that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.kernels import Kernel
from opyard.ops import STANDARD
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_opencl import tiles


def _kernel(registry: Registry, op: str, name: str) -> Kernel:
    (found,) = [kernel for kernel in registry.kernels(op) if kernel.id == f"opencl/{name}"]
    return found


def _run(
    device: Any, registry: Registry, op: str, *arrays: Any, kernel: str = "tiles", **attributes: Any
) -> Any:
    specs = [None if array is None else TensorSpec.of(array) for array in arrays]
    call = STANDARD[op].op.call(*specs, **attributes)
    run = _kernel(registry, op, kernel).bind(call, device)
    found = device.download(run(*(None if array is None else device.upload(array) for array in arrays)))
    return found, call.reference(*arrays)[0]


def _opencl() -> tuple[Any, Registry]:
    registry = oy.default_registry()
    return registry.device("opencl:0"), registry


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 70),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from(["float32", "float64"]),
)
def test_products_of_any_size(rows: int, depth: int, width: int, bias: bool, dtype: str) -> None:
    generator = np.random.default_rng(rows * depth + width)
    a, b, c = (
        generator.standard_normal(shape).astype(dtype) for shape in ((rows, depth), (depth, width), (width,))
    )
    found, expected = _run(*_opencl(), "linear", a, b, c if bias else None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_products_in_several_blocks_chunks_and_runs(
    opencl: Any, opencl_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_BLOCK", 32)
    monkeypatch.setattr(tiles, "_LEAST_CHUNK", 6)
    monkeypatch.setattr(tiles, "_LEAST_BLOCK", 16)
    monkeypatch.setattr(opencl, "workers", 5)
    generator = np.random.default_rng(1)
    a, b = (
        generator.standard_normal((3, 50, 600), np.float32),
        generator.standard_normal((3, 600, 70), np.float32),
    )
    found, expected = _run(opencl, opencl_registry, "matmul", a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_numbers_that_are_not_finite_stay_where_they_are(opencl: Any, opencl_registry: Registry) -> None:
    """Tiles stand out beyond the matrix: what is computed there must not come back."""
    a, b = np.ones((7, 3), np.float32), np.ones((3, 19), np.float32)
    a[6, 0], b[1, 18] = np.inf, np.nan
    found, expected = _run(opencl, opencl_registry, "matmul", a, b)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_convolutions_of_any_size(data: Any) -> None:
    rank = data.draw(st.integers(1, 3))
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    sizes = [data.draw(st.integers(5, 11)) for _ in range(rank)]
    padding, dilation = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 2))
    groups, rows = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 8))
    generator = np.random.default_rng(sum(sizes))
    x = generator.standard_normal((2, 3 * groups, *sizes), np.float32)
    weight = generator.standard_normal((rows * groups, 3, *kernel), np.float32)
    bias = generator.standard_normal(rows * groups, np.float32) if data.draw(st.booleans()) else None
    attributes = {"padding": padding, "dilations": dilation, "groups": groups}
    found, expected = _run(*_opencl(), "conv", x, weight, bias, **attributes)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _packed(*arrays: Any, **attributes: Any) -> tuple[Kernel, Any]:
    """The kernel for weights that are constants, and its work for a convolution of these arrays."""
    kernel = next(k for k in oy.default_registry().patterns if k.id == "opencl/packed_tiles")
    graph = oy.trace(lambda *inputs: oy.conv(*inputs, **attributes), *map(TensorSpec.of, arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match.work


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_constant_weights_are_packed_once(groups: int, bias: bool, opencl: Any) -> None:
    generator = np.random.default_rng(3)
    shapes = [(2, 6, 9, 7), (26, 6 // groups, 3, 2), *([(26,)] if bias else [])]
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    kernel, work = _packed(*arrays, groups=groups, padding=1)
    assert kernel.refusal(work, opencl) is None
    expected = work.reference(*arrays)[0]
    x, weight, *rest = map(opencl.upload, arrays)
    left_out = [] if bias else [None]
    known = kernel.bind(work, opencl, (None, weight, *rest, *left_out))
    unknown = kernel.bind(work, opencl)
    for run in (known, unknown, known):  # what one writes to the scratch memory is not what the other reads
        np.testing.assert_allclose(
            opencl.download(run(x, weight, *rest, *left_out)), expected, rtol=1e-5, atol=1e-4
        )
    arrays[1][...] = 0  # the memory of the weights
    np.testing.assert_allclose(
        opencl.download(known(x, weight, *rest, *left_out)), expected, rtol=1e-5, atol=1e-4
    )
    changed = opencl.download(unknown(x, weight, *rest, *left_out))
    assert np.array_equal(changed, np.broadcast_to(arrays[2][:, None, None] if bias else 0, changed.shape))


def test_a_plan_packs_the_weights_of_its_convolutions(opencl: Any) -> None:
    generator = np.random.default_rng(4)
    x, weight = (generator.standard_normal(n).astype(np.float32) for n in ((1, 8, 6, 6), (16, 8, 3, 3)))
    block = oy.compile(lambda x: oy.conv(x, weight), devices=["opencl:0"])
    expected = oy.conv.op.call(*map(TensorSpec.of, (x, weight))).reference(x, weight)[0]
    np.testing.assert_allclose(oy.to_numpy(block(x)), expected, rtol=1e-5, atol=1e-4)
    assert "opencl/packed_tiles" in str(block.explain(x))


def test_a_product_has_no_weights_to_pack(opencl: Any) -> None:
    kernel, work = _packed(np.zeros((1, 4, 5, 5), np.float32), np.zeros((6, 4, 1, 1), np.float32))
    assert kernel.refusal(work, opencl) == "has no weights to pack"


def test_what_tiles_refuse(opencl: Any, separate: Any, opencl_registry: Registry) -> None:
    matmul, conv = (_kernel(opencl_registry, op, "tiles") for op in ("matmul", "conv"))
    square = TensorSpec((4, 4))
    call = STANDARD["matmul"].op.call(square, square)
    assert matmul.refusal(call, opencl) is None
    assert "keeps operands in the caches of a few processors; opencl:9 has many" in str(
        matmul.refusal(call, separate)
    )
    mixed = STANDARD["matmul"].op.call(square, TensorSpec((4, 4), "float64"))
    assert "takes operands of one dtype, not float32, float64" in str(matmul.refusal(mixed, opencl))
    image, weight = TensorSpec((1, 2, 8, 8)), TensorSpec((3, 2, 3, 3))
    strided = STANDARD["conv"].op.call(image, weight, None, strides=2)
    assert "takes strides of 1, not (2, 2)" in str(conv.refusal(strided, opencl))
    large = STANDARD["conv"].op.call(TensorSpec((65, 16, 256, 256)), TensorSpec((3, 16, 3, 3)), None)
    assert "copies images with their padding, up to 256 MiB; float32[65, 16, 256, 256] has more" in str(
        conv.refusal(large, opencl)
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 1200), st.sampled_from(["softmax", "log_softmax", "rms_normalization"])
)
def test_rows_of_any_length(rows: int, length: int, op: str) -> None:
    x = np.random.default_rng(length).standard_normal((rows, length), np.float32) * 3
    inputs = (x,) if "softmax" in op else (x, np.linspace(1, 2, length, dtype=np.float32))
    found, expected = _run(*_opencl(), op, *inputs, kernel="rows")
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 33, 100])
def test_softmax_of_rows_that_are_not_finite(length: int, opencl: Any, opencl_registry: Registry) -> None:
    x = np.zeros((5, length), np.float32)
    x[0, -1], x[1, 0], x[2], x[3, : length // 2], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf, 500.0
    with np.errstate(all="ignore"):
        found, expected = _run(opencl, opencl_registry, "softmax", x, kernel="rows")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("large", [1e2, -1e4])
def test_normalizations_lose_no_digits_to_a_mean(
    large: float, opencl: Any, opencl_registry: Registry
) -> None:
    x = np.random.default_rng(0).standard_normal((4, 777)).astype(np.float32) + np.float32(large)
    one = np.ones(777, np.float32)
    found, expected = _run(opencl, opencl_registry, "layer_normalization", x, one, one, kernel="rows")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=4e-3)
