"""Conversion to floating types of eight and four bits, and to integers of four and two bits, as ONNX Cast rounds and limits."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy


def cast_exponent(x: Any, rounding: str = "up") -> Any:
    """Powers of two, float8_e8m0fnu: the exponent alone, of the next higher, next lower or nearest power."""
    from opyard_onnx.operators.signals import bitcast_op

    bits = bitcast_op(oy.cast(x, dtype="float32"), dtype="int32")
    exponent = oy.bitwise_and(oy.bitwise_right_shift(bits, 23), 255)
    mantissa = oy.bitwise_and(bits, 0x7FFFFF)
    least = {"up": 1, "nearest": 0x400000, "down": 0x800000}[rounding]
    raised = oy.add(exponent, oy.cast(oy.greater_equal(mantissa, least), dtype="int32"))
    code = oy.where(oy.isnan(oy.cast(x, dtype="float32")), 255, oy.minimum(raised, 254))
    return bitcast_op(oy.cast(code, dtype="uint8"), dtype="float8_e8m0fnu")


def cast_narrow(x: Any, dtype: np.dtype[Any], saturate: bool) -> Any:
    """``x`` in a narrow dtype. Floating numbers beyond the range become the greatest one, unless ``saturate`` is False."""
    if "int" in dtype.name:
        if x.dtype.kind == "V" or x.dtype.kind in "fb":
            x = oy.cast(x, dtype="float32")
            x = oy.cast(x, dtype="int32")
        return oy.cast(x, dtype=dtype.name)
    if x.dtype.name not in ("float32", "float64"):
        x = oy.cast(x, dtype="float32")
    if saturate and dtype.name not in ("bfloat16", "float8_e8m0fnu"):
        import ml_dtypes

        greatest = float(ml_dtypes.finfo(dtype).max)
        # maximum and minimum keep NaN
        x = oy.minimum(oy.maximum(x, -greatest), greatest)
    return oy.cast(x, dtype=dtype.name)


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest integer of a dtype, those of ml_dtypes included."""
    import ml_dtypes

    found = ml_dtypes.iinfo(dtype)
    return int(found.min), int(found.max)
