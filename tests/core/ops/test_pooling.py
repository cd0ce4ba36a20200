"""Pooling against loops over every window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.ops.pooling import average_pool, global_average_pool, global_max_pool, lp_pool, max_pool
from opyard.spec import TensorSpec

GENERATOR = np.random.default_rng(13)


def run(op: Any, *arrays: Any, **attributes: Any) -> Any:
    call = op.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    return result


def draw(*shape: int, dtype: str = "float64") -> Any:
    return GENERATOR.uniform(-2, 2, shape).astype(dtype)


def elements(
    x: Any, start: int, kernel: int, dilation: int, before: int, after: int
) -> tuple[list[float], int]:
    """The elements of a 1-d window that starts at ``start`` in the padded ``x``, and how many of its taps are padding."""
    places = [start - before + i * dilation for i in range(kernel)]
    return [x[p] for p in places if 0 <= p < len(x)], sum(
        -before <= p < 0 or len(x) <= p < len(x) + after for p in places
    )


ATTRIBUTES = [
    (8, 2, 2, 1, (0, 0), False),
    (8, 3, 2, 1, (1, 1), False),
    (9, 3, 2, 2, (2, 1), False),
    (8, 3, 2, 1, (0, 0), True),
    (8, 3, 2, 1, (1, 1), True),
    (6, 2, 4, 1, (0, 1), True),
    (7, 2, 3, 1, (1, 1), True),
    (5, 1, 3, 1, (0, 0), True),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "pair", "ceil_mode"), ATTRIBUTES)
def test_pools_by_loops(
    size: int, kernel: int, stride: int, dilation: int, pair: tuple[int, int], ceil_mode: bool
) -> None:
    x = draw(size)
    end = pair[0] + size + pair[1]
    extent = (kernel - 1) * dilation + 1
    starts = range(0, end - extent + 1, stride)
    if ceil_mode:  # one more, if it starts inside the input or the padding before it
        starts = range(0, max(starts[-1] + 1, min(end - extent + stride, pair[0] + size)), stride)
    found = [elements(x, start, kernel, dilation, *pair) for start in starts]
    geometry: Any = {
        "kernel": kernel,
        "strides": stride,
        "dilations": dilation,
        "padding": (pair,),
        "ceil_mode": ceil_mode,
    }
    data = x[None, None]
    np.testing.assert_array_equal(run(max_pool, data, **geometry)[0, 0], [max(e) for e, _ in found])
    np.testing.assert_allclose(run(average_pool, data, **geometry)[0, 0], [np.mean(e) for e, _ in found])
    with_padding = [np.sum(e) / (len(e) + padding) for e, padding in found]
    np.testing.assert_allclose(
        run(average_pool, data, count_include_pad=True, **geometry)[0, 0], with_padding
    )
    for p in (1, 2, 3.5):
        norms = [np.linalg.norm(e, ord=p) for e, _ in found]
        np.testing.assert_allclose(run(lp_pool, data, p=p, **geometry)[0, 0], norms)
        np.testing.assert_allclose(lp_pool.op.decompose(data, p=p, **geometry)[0, 0], norms)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (1, 2, 4, 5, 6)])
def test_pools_are_separable(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    expected_max, expected_mean = x, x
    for axis in range(2, x.ndim):
        pairs = [np.take(x_, range(x.shape[axis] // 2 * 2), axis) for x_ in (expected_max, expected_mean)]
        split = [p.reshape(*p.shape[:axis], -1, 2, *p.shape[axis + 1 :]) for p in pairs]
        expected_max, expected_mean = split[0].max(axis + 1), split[1].mean(axis + 1)
    np.testing.assert_array_equal(run(max_pool, x, kernel=2), expected_max)
    np.testing.assert_allclose(run(average_pool, x, kernel=2), expected_mean)


@pytest.mark.parametrize(("padding", "first"), [("same_upper", 0.5), ("same_lower", 0.0)])
def test_same_padding(padding: str, first: float) -> None:
    x = np.arange(6.0).reshape(1, 1, 6)
    found = run(average_pool, x, kernel=2, strides=1, padding=padding)
    assert found.shape == (1, 1, 6)
    assert found[0, 0, 0] == first


def test_max_pool_keeps_nan_and_dtype() -> None:
    x = np.array([[[1.0, np.nan, -np.inf, -np.inf]]])
    np.testing.assert_array_equal(run(max_pool, x, kernel=2), [[[np.nan, -np.inf]]])
    negative = np.full((1, 1, 4), -100, np.int8)
    np.testing.assert_array_equal(run(max_pool, negative, kernel=2, padding=1), [[[-100] * 3]])


def test_windows_of_nothing_but_dilation_and_padding() -> None:
    x = np.full((1, 1, 1), 7.0)
    attributes: Any = {"kernel": 2, "dilations": 2, "padding": 1}
    assert run(max_pool, x, **attributes)[0, 0, 0] == -np.inf
    assert run(average_pool, x, **attributes)[0, 0, 0] == 0


def test_pool_of_other_memory_order() -> None:
    x = draw(5, 6, 3, 2).T[:, :, ::-1]
    np.testing.assert_array_equal(run(max_pool, x, kernel=(2, 3)), run(max_pool, x.copy(), kernel=(2, 3)))


def test_pools_with_symbolic_sizes() -> None:
    call = max_pool.op.call(TensorSpec(("batch", "channels", "height", 8)), kernel=2)
    assert call.output.bind({"batch": 2, "channels": 3, "height": 9}) == TensorSpec((2, 3, 4, 4))
    assert global_average_pool.op.call(TensorSpec(("batch", 3, "height"))).output == TensorSpec(
        ("batch", 3, 1)
    )
    with pytest.raises(SpecError, match="cannot be compared"):
        max_pool.op.call(TensorSpec((1, 1, "height")), kernel=3, strides=2, ceil_mode=True)


def test_global_pools() -> None:
    x = draw(2, 3, 4, 5)
    assert run(global_average_pool, x)[1, 2, 0, 0] == pytest.approx(sum(x[1, 2].ravel()) / 20)
    assert run(global_max_pool, x)[1, 2, 0, 0] == max(x[1, 2].ravel())
    np.testing.assert_array_equal(run(global_max_pool, np.array([[[1.0, np.nan]]])), [[[np.nan]]])
    assert run(global_average_pool, np.full((1, 1, 70000), 1, np.float16))[0, 0, 0] == 1


def test_costs() -> None:
    assert max_pool.op.call(TensorSpec((1, 2, 8, 8)), kernel=(2, 4)).cost.flops == (2 * 4 * 2) * 8
    assert global_max_pool.op.call(TensorSpec((1, 2, 8, 8))).cost.flops == 128


IMAGE = TensorSpec((1, 2, 8, 8))


@pytest.mark.parametrize(
    ("op", "spec", "attributes", "text"),
    [
        (max_pool, IMAGE, {}, r"needs the attribute 'kernel'"),
        (max_pool, TensorSpec((8, 8)), {"kernel": 2}, r"with 1 to 3 spatial axes"),
        (max_pool, TensorSpec((1, 2, 8), "bool"), {"kernel": 2}, r"must be real, it is bool"),
        (average_pool, TensorSpec((1, 2, 8), "int32"), {"kernel": 2}, r"must be real floating"),
        (
            max_pool,
            IMAGE,
            {"kernel": (2, 2, 2)},
            r"kernel is an integer or 2 integers, each at least 1; found \(2, 2, 2\)",
        ),
        (max_pool, IMAGE, {"kernel": 9}, r"the window spans 9 elements along spatial axis 0, which has 8"),
        (
            max_pool,
            IMAGE,
            {"kernel": 2, "padding": 2},
            r"padding=2 leaves windows that span \(2, 2\) elements nothing but padding; pad less",
        ),
        (max_pool, IMAGE, {"kernel": 2, "padding": "full"}, r"'same_lower'; found 'full'"),
        (
            lp_pool,
            IMAGE,
            {"kernel": 2, "p": 0},
            r"p is above 0; found 0. For the largest absolute value use max_pool\(abs\(x\)\)",
        ),
        (lp_pool, IMAGE, {"kernel": 2, "p": "2"}, r"p is a real number; found '2'"),
        (
            global_max_pool,
            TensorSpec((1, 2, 0)),
            {},
            r"float32\[1, 2, 0\] has no element to pool in each channel",
        ),
        (global_average_pool, TensorSpec((1, 2)), {}, r"with 1 to 3 spatial axes"),
        (global_average_pool, TensorSpec((1, 2, 3), "int32"), {}, r"must be real floating"),
    ],
)
def test_errors(op: Any, spec: TensorSpec, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        op.op.call(spec, **attributes)
