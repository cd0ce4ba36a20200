"""Resampling against one output pixel at a time, and worked examples of the ONNX specification."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.ops.image import resize
from opyard.spec import TensorSpec
from opyard.testing import violation

GENERATOR = np.random.default_rng(23)
MODES = ("nearest", "linear", "cubic")
TRANSFORMATIONS = ("half_pixel", "align_corners", "asymmetric")


def run(x: Any, **attributes: Any) -> Any:
    """The reference's result, once the decomposition has been found equal to it."""
    call = resize.op.call(TensorSpec.of(x), **attributes)
    (result,) = call.reference(x)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    assert resize.op.decompose is not None
    assert violation(call, [x], [resize.op.decompose(x, **call.attrs)]) is None
    return result


def place(i: int, before: int, after: int, transformation: str) -> float:
    if transformation == "half_pixel":
        return (i + 0.5) * before / after - 0.5
    if transformation == "asymmetric":
        return i * before / after
    return i * (before - 1) / (after - 1) if after > 1 else 0.0


def pixel(row: Any, at: float, mode: str) -> float:
    """One pixel of a row, by interpolating polynomials in the distance from the pixel below."""
    start, t = math.floor(at), at - math.floor(at)
    if mode == "nearest":
        nearest = start if t <= 0.5 else start + 1
        return float(row[min(max(nearest, 0), len(row) - 1)])
    points = [row[min(max(start + k, 0), len(row) - 1)] for k in (-1, 0, 1, 2)]
    if mode == "linear":
        return float((1 - t) * points[1] + t * points[2])
    a = -0.75
    weights = (
        a * t**3 - 2 * a * t**2 + a * t,
        (a + 2) * t**3 - (a + 3) * t**2 + 1,
        -(a + 2) * t**3 + (2 * a + 3) * t**2 - a * t,
        -a * t**3 + a * t**2,
    )
    return float(sum(w * p for w, p in zip(weights, points, strict=True)))


@pytest.mark.parametrize(("mode", "transformation"), list(product(MODES, TRANSFORMATIONS)))
@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 10])
def test_rows_by_pixels(mode: str, transformation: str, after: int) -> None:
    row = GENERATOR.uniform(-2, 2, 5)
    found = run(row[None, None], sizes=(after,), mode=mode, coordinate_transformation=transformation)
    expected = [pixel(row, place(i, 5, after, transformation), mode) for i in range(after)]
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_axes_one_after_the_other(mode: str) -> None:
    x = GENERATOR.uniform(-2, 2, (2, 3, 4, 5))
    rows = run(x.reshape(6, 4, 5), sizes=(7,), mode=mode).reshape(2, 3, 4, 7)
    columns = run(np.swapaxes(rows, 2, 3).reshape(6, 7, 4), sizes=(3,), mode=mode).reshape(2, 3, 7, 3)
    np.testing.assert_allclose(run(x, sizes=(3, 7), mode=mode), np.swapaxes(columns, 2, 3), atol=1e-12)


def test_examples_of_the_specification() -> None:
    x = np.array([[[[1, 2], [3, 4]]]], np.float32)
    np.testing.assert_array_equal(
        run(x, sizes=(4, 4), mode="linear")[0, 0],
        [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]],
    )
    np.testing.assert_allclose(
        run(x, sizes=(4, 4), mode="linear", coordinate_transformation="align_corners")[0, 0, 1],
        [5 / 3, 2, 7 / 3, 8 / 3],
        rtol=1e-6,
    )
    large = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(
        run(large, sizes=(8, 8), mode="cubic")[0, 0, 0],
        [0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875, 3.68359375],
    )


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("round_prefer_floor", [0, 1, 3]),
        ("round_prefer_ceil", [0, 2, 3]),
        ("floor", [0, 1, 3]),
        ("ceil", [0, 2, 3]),
    ],
)
def test_nearest_rounding(rounding: str, expected: list[int]) -> None:
    x = np.arange(4).reshape(1, 1, 4)  # the middle pixel lies at 1.5
    found = run(x, sizes=(3,), nearest_rounding=rounding, coordinate_transformation="align_corners")
    np.testing.assert_array_equal(found[0, 0], expected)


def test_same_size_changes_nothing() -> None:
    x = GENERATOR.uniform(-2, 2, (1, 2, 4, 5, 3)).astype(np.float32)
    for mode, transformation in product(MODES, TRANSFORMATIONS):
        np.testing.assert_array_equal(
            run(x, sizes=(4, 5, 3), mode=mode, coordinate_transformation=transformation), x
        )


def test_nearest_takes_any_dtype() -> None:
    x = np.array([[[True, False]]])
    np.testing.assert_array_equal(run(x, sizes=(4,)), [[[True, True, False, False]]])


def test_cubic_coefficient() -> None:
    x = np.array([[[0.0, 0.0, 1.0, 0.0, 0.0]]])
    sharp, soft = (run(x, sizes=(10,), mode="cubic", cubic_coefficient=a)[0, 0, 2] for a in (-0.75, -0.5))
    assert sharp == pytest.approx(1.5 * soft)


def test_cost_and_symbolic_sizes() -> None:
    call = resize.op.call(TensorSpec((1, 2, 4, 4)), sizes=(8, 8), mode="linear")
    assert call.cost.flops == 2 * 2 * 2 * 128
    assert resize.op.call(TensorSpec(("batch", 3, "height", 4)), sizes=(8, 8)).output == TensorSpec(
        ("batch", 3, 8, 8)
    )


IMAGE = TensorSpec((1, 2, 4, 4))


@pytest.mark.parametrize(
    ("spec", "attributes", "text"),
    [
        (TensorSpec((4, 4)), {"sizes": (8, 8)}, r"with 1 to 3 spatial axes"),
        (IMAGE, {}, r"needs the attribute 'sizes'"),
        (IMAGE, {"sizes": (8,)}, r"sizes needs 2 entries; found 1"),
        (IMAGE, {"sizes": (8, 0)}, r"sizes\[1\] is at least 1; found 0"),
        (IMAGE, {"sizes": (8, 8), "mode": "bilinear"}, r"mode is one of 'nearest', 'linear', 'cubic'; found 'bilinear'"),
        (IMAGE, {"sizes": (8, 8), "coordinate_transformation": "pytorch"}, r"coordinate_transformation is one of 'half_pixel'"),
        (IMAGE, {"sizes": (8, 8), "nearest_rounding": "even"}, r"nearest_rounding is one of 'round_prefer_floor'"),
        (IMAGE, {"sizes": (8, 8), "cubic_coefficient": None}, r"cubic_coefficient is a real number; found None"),
        (TensorSpec((1, 2, 4, 4), "uint8"), {"sizes": (8, 8), "mode": "linear"}, r"must be real floating.*cast it first"),
        (TensorSpec((1, 2, 0, 4)), {"sizes": (8, 8)}, r"float32\[1, 2, 0, 4\] has no pixel to resample"),
    ],
)  # fmt: skip
def test_errors(spec: TensorSpec, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        resize.op.call(spec, **attributes)
