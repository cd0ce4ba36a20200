"""ONNX types and tensors as opyard's: element types by number, TensorProto as arrays, shapes with symbolic sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

import opyard as oy
from opyard.spec import as_dtype
from opyard_onnx.errors import ModelError, UnsupportedModel

STRING = 8

DTYPE_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}
"""Names of dtypes by the numbers of TensorProto.DataType. Strings (8) are no tensors of a graph."""

NUMBERS = {name: number for number, name in DTYPE_NAMES.items()}

_PER_BYTE = {"uint4": 2, "int4": 2, "float4_e2m1fn": 2, "uint2": 4, "int2": 4}
"""Elements that ONNX packs into one byte."""

_IN_INT32 = {"int8", "uint8", "int16", "uint16", "int32", "bool"}
_AS_BITS = {"float16": np.uint16, "bfloat16": np.uint16}


def dtype_of(number: int) -> np.dtype[Any]:
    """The dtype of a TensorProto.DataType; that of Python objects for strings. Raises UnsupportedModel."""
    if number == STRING:
        return np.dtype(object)
    if number not in DTYPE_NAMES:
        raise UnsupportedModel(
            f"the ONNX element type {number} is not imported; known are {min(DTYPE_NAMES)} to {max(DTYPE_NAMES)}."
        )
    return as_dtype(DTYPE_NAMES[number])


def to_array(tensor: Any, external: Callable[[Any, int], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The array of a TensorProto, a view of its bytes where they are stored so.

    external  gives the bytes of a tensor that lie in another file, as uint8 ``[n]``, for the tensor and their number
    """
    dtype, shape = dtype_of(tensor.data_type), tuple(tensor.dims)
    if any(n < 0 for n in shape):
        raise ModelError(f"the tensor {tensor.name!r} has the shape {shape}; sizes are not negative.")
    count = math.prod(shape)
    if tensor.data_type == STRING:
        found: Any = np.array([text.decode("utf-8") for text in tensor.string_data], object)
    elif tensor.data_location == tensor.EXTERNAL:
        found = _unpack(external(tensor, _stored_bytes(dtype, count)), dtype, count)
    elif tensor.HasField("raw_data"):
        found = _unpack(np.frombuffer(tensor.raw_data, np.uint8), dtype, count)
    else:
        found = _typed(tensor, dtype, count)
    if found.size != count:
        raise ModelError(
            f"the tensor {tensor.name!r} has the shape {shape} and {found.size} elements; the file is damaged."
        )
    try:
        return np.reshape(found, shape)
    except ValueError:  # without elements, and with sizes whose product no array has
        raise ModelError(f"the tensor {tensor.name!r} has the shape {shape}, which is too large.") from None


def _stored_bytes(dtype: np.dtype[Any], count: int) -> int:
    per_byte = _PER_BYTE.get(dtype.name, 1)
    return -(-count // per_byte) if per_byte > 1 else count * dtype.itemsize


def _unpack(data: np.ndarray[Any, Any], dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
    """Elements out of bytes, uint8 ``[n]``: little-endian, the first element in the low bits of its byte."""
    per_byte = _PER_BYTE.get(dtype.name, 1)
    if data.size != _stored_bytes(dtype, count):
        raise ModelError(
            f"a tensor of {count} elements of {dtype.name} takes {_stored_bytes(dtype, count)} bytes; found {data.size}."
        )
    if per_byte == 1:
        return data.view(dtype.newbyteorder("<")).astype(dtype, copy=False) if count else np.empty(0, dtype)
    bits = 8 // per_byte
    parts = (data[:, None] >> (np.arange(per_byte, dtype=np.uint8) * bits)) & ((1 << bits) - 1)
    codes = parts.reshape(-1)[:count]
    if dtype.name in ("int4", "int2"):
        codes = (codes.astype(np.int8) ^ (1 << (bits - 1))) - (1 << (bits - 1))
        return codes.astype(dtype)
    return codes.astype(dtype) if "int" in dtype.name else codes.view(dtype)


def _typed(tensor: Any, dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
    """Elements out of the field of the tensor that holds its type. Source: onnx.proto, TensorProto."""
    name = dtype.name
    if name in ("float32", "complex64"):
        return np.array(tensor.float_data, np.float32).view(dtype)
    if name in ("float64", "complex128"):
        return np.array(tensor.double_data, np.float64).view(dtype)
    if name == "int64":
        return np.array(tensor.int64_data, np.int64)
    if name in ("uint32", "uint64"):
        return np.array(tensor.uint64_data, np.uint64).astype(dtype)
    data = np.array(tensor.int32_data, np.int64)
    if name in _IN_INT32:
        return data.astype(dtype)
    if name in _AS_BITS:
        return data.astype(_AS_BITS[name]).view(dtype)
    return _unpack(data.astype(np.uint8), dtype, count)


def spec_of_type(tensor_type: Any, name: str) -> oy.TensorSpec:
    """The spec of a TypeProto.Tensor; sizes without a number get a name, which is the model's own if it has one."""
    if tensor_type.elem_type == STRING:
        raise UnsupportedModel(
            f"{name!r} holds strings, which are no tensors of a graph; use opyard_onnx.Model, whose run() takes them."
        )
    dtype = dtype_of(tensor_type.elem_type)
    if not tensor_type.HasField("shape"):
        raise UnsupportedModel(
            f"the model does not say how many dimensions {name!r} has; give its spec: specs={{{name!r}: TensorSpec(...)}}."
        )
    sizes: list[int | str] = []
    for axis, size in enumerate(tensor_type.shape.dim):
        if size.HasField("dim_value"):
            sizes.append(size.dim_value)
        else:
            sizes.append(_identifier(size.dim_param or f"{name}_{axis}"))
    return oy.TensorSpec(sizes, dtype)


def _identifier(text: str) -> str:
    word = re.sub(r"\W", "_", text)
    return word if word.isidentifier() else f"size_{word}"
