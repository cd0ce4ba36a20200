"""Constants and signatures of oneDNN's C API, version 3. The wheel has the library without its headers.

Source: oneDNN developer guide, API reference, v3.2. The library names its own constants (``dnnl_alg_kind2str`` and others),
and a test compares them.
"""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint,
    c_void_p,
)
from typing import Any

MAX_DIMENSIONS = 12
Dims = c_int64 * MAX_DIMENSIONS
"""``dnnl_dims_t``."""

DATA_TYPES = {"float16": 1, "bfloat16": 2, "float32": 3, "int32": 4, "int8": 5, "uint8": 6, "float64": 7}
"""``dnnl_data_type_t`` by the names of NumPy and ml_dtypes."""

PROPAGATION = {
    "forward_training": 64,
    "forward_inference": 96,
    "backward": 128,
    "backward_data": 160,
    "backward_weights": 192,
}

ALGORITHMS = {
    "convolution_direct": 0x1,
    "convolution_winograd": 0x2,
    "convolution_auto": 0x3,
    "deconvolution_direct": 0xA,
    "eltwise_relu": 0x20,
    "eltwise_tanh": 0x21,
    "eltwise_elu": 0x22,
    "eltwise_square": 0x23,
    "eltwise_abs": 0x24,
    "eltwise_sqrt": 0x25,
    "eltwise_linear": 0x26,
    "eltwise_soft_relu": 0x27,
    "eltwise_hardsigmoid": 0x28,
    "eltwise_logistic": 0x29,
    "eltwise_exp": 0x2A,
    "eltwise_gelu_tanh": 0x2B,
    "eltwise_swish": 0x2C,
    "eltwise_clip": 0x2E,
    "eltwise_clip_v2": 0x2F,
    "eltwise_gelu_erf": 0x31,
    "eltwise_mish": 0x33,
    "eltwise_hardswish": 0x34,
    "pooling_max": 0x1FF,
    "pooling_avg_include_padding": 0x2FF,
    "pooling_avg_exclude_padding": 0x3FF,
    "binary_add": 0x1FFF0,
    "binary_mul": 0x1FFF1,
    "binary_max": 0x1FFF2,
    "binary_min": 0x1FFF3,
    "binary_div": 0x1FFF4,
    "binary_sub": 0x1FFF5,
    "softmax_accurate": 0x30000,
    "softmax_log": 0x30001,
}
"""``dnnl_alg_kind_t``."""

ARGUMENTS = {
    "src": 1,
    "src_1": 2,
    "dst": 17,
    "weights": 33,
    "bias": 41,
    "mean": 49,
    "variance": 50,
    "scale": 51,
    "shift": 52,
    "workspace": 64,
    "scratchpad": 80,
    "diff_src": 129,
    "diff_dst": 145,
    "diff_weights": 161,
    "diff_bias": 169,
    "diff_scale": 255,
    "diff_shift": 256,
}
"""``DNNL_ARG_*``: what a memory is to a primitive."""

SECOND_SOURCE = 2
POST_OP = 32768
"""``DNNL_ARG_ATTR_MULTIPLE_POST_OP(index) | DNNL_ARG_SRC_1`` is the second operand of a binary post-op."""

QUERY_IMPLEMENTATION = 8
QUERY_STRIDES = 14
QUERY_EXECUTION_ARGUMENT = 255
QUERY_RANK = 256
QUERY_DIMS = 257
QUERY_DATA_TYPE = 258
QUERY_PADDED_DIMS = 260
QUERY_FORMAT_KIND = 262
QUERY_BLOCKS = 263
QUERY_BLOCK_SIZES = 264
QUERY_BLOCK_AXES = 265

FORMAT_ANY = 1
"""``dnnl_format_tag_any``: the primitive chooses the layout."""

FORMAT_BLOCKED = 2
"""``dnnl_blocked``: the format kind of a layout of strides and blocks."""

CPU = 1
IN_ORDER = 1
USER_SCRATCHPAD = 1
USE_SCALE, USE_SHIFT, USE_GLOBAL_STATISTICS = 2, 4, 1

STATUS = (
    "success",
    "out of memory",
    "invalid arguments",
    "unimplemented",
    "last implementation reached",
    "runtime error",
    "not required",
)
UNIMPLEMENTED = 3


class Argument(Structure):
    """``dnnl_exec_arg_t``: a memory, and what it is to the primitive."""

    _fields_ = (("kind", c_int), ("memory", c_void_p))


_HANDLE, _OUT, _SIZES = c_void_p, POINTER(c_void_p), POINTER(c_int64)
_DESCRIPTION = [_OUT, _HANDLE]  # primitive descriptor to be made, engine
_MATRIX = [_HANDLE, c_int64]  # address, and elements from one row to the next
_WINDOWS = [_SIZES, _SIZES, _SIZES]

SIGNATURES: dict[str, list[Any]] = {
    "engine_create": [_OUT, c_int, c_size_t],
    "stream_create": [_OUT, _HANDLE, c_uint],
    "stream_wait": [_HANDLE],
    "memory_desc_create_with_strides": [_OUT, c_int, _SIZES, c_int, _SIZES],
    "memory_desc_create_with_tag": [_OUT, c_int, _SIZES, c_int, c_int],
    "memory_desc_clone": [_OUT, _HANDLE],
    "memory_desc_destroy": [_HANDLE],
    "memory_desc_query": [_HANDLE, c_int, c_void_p],
    "memory_create": [_OUT, _HANDLE, _HANDLE, c_void_p],
    "memory_destroy": [_HANDLE],
    "memory_set_data_handle": [_HANDLE, c_void_p],
    "post_ops_create": [_OUT],
    "post_ops_destroy": [_HANDLE],
    "post_ops_append_eltwise": [_HANDLE, c_int, c_float, c_float],
    "post_ops_append_sum": [_HANDLE, c_float, c_int32, c_int],
    "post_ops_append_binary": [_HANDLE, c_int, _HANDLE],
    "primitive_attr_create": [_OUT],
    "primitive_attr_destroy": [_HANDLE],
    "primitive_attr_set_post_ops": [_HANDLE, _HANDLE],
    "primitive_attr_set_scratchpad_mode": [_HANDLE, c_int],
    "primitive_desc_destroy": [_HANDLE],
    "primitive_desc_next_impl": [_HANDLE],
    "primitive_desc_query": [_HANDLE, c_int, c_int, c_void_p],
    "primitive_create": [_OUT, _HANDLE],
    "primitive_destroy": [_HANDLE],
    "primitive_execute": [_HANDLE, _HANDLE, c_int, POINTER(Argument)],
    "sgemm": [c_char, c_char, *[c_int64] * 3, c_float, *_MATRIX, *_MATRIX, c_float, *_MATRIX],
    "reorder_primitive_desc_create": [_OUT, *[_HANDLE] * 5],
    "matmul_primitive_desc_create": [*_DESCRIPTION, *[_HANDLE] * 5],
    "convolution_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, c_int, *[_HANDLE] * 4),
        *(*_WINDOWS, _SIZES, _HANDLE),
    ],
    "convolution_backward_data_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, *[_HANDLE] * 3),
        *(*_WINDOWS, _SIZES, _HANDLE, _HANDLE),
    ],
    "convolution_backward_weights_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, *[_HANDLE] * 4),
        *(*_WINDOWS, _SIZES, _HANDLE, _HANDLE),
    ],
    "deconvolution_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, c_int, *[_HANDLE] * 4),
        *(*_WINDOWS, _SIZES, _HANDLE),
    ],
    "pooling_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, c_int, _HANDLE, _HANDLE),
        *(*_WINDOWS, _SIZES, _SIZES, _HANDLE),
    ],
    "pooling_backward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, _HANDLE, _HANDLE),
        *(*_WINDOWS, _SIZES, _SIZES, _HANDLE, _HANDLE),
    ],
    "softmax_forward_primitive_desc_create": [*_DESCRIPTION, c_int, c_int, _HANDLE, _HANDLE, c_int, _HANDLE],
    "layer_normalization_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, *[_HANDLE] * 3, c_float, c_uint, _HANDLE)
    ],
    "batch_normalization_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, *[_HANDLE] * 2, c_float, c_uint, _HANDLE)
    ],
    "eltwise_forward_primitive_desc_create": [
        *(*_DESCRIPTION, c_int, c_int, *[_HANDLE] * 2, c_float, c_float, _HANDLE)
    ],
    "binary_primitive_desc_create": [*_DESCRIPTION, c_int, *[_HANDLE] * 3, _HANDLE],
}
"""Types of the arguments of the functions that are used, without "dnnl_"; all but those below return a status."""

OTHER_RESULTS = {
    "memory_desc_get_size": ([_HANDLE], c_size_t),
    "primitive_desc_query_md": ([_HANDLE, c_int, c_int], c_void_p),
    "get_effective_cpu_isa": ([], c_int),
    "cpu_isa2str": ([c_int], c_char_p),
}
