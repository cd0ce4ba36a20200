"""CUDA C++, as NVRTC compiles it: types are the language's own, and no header is needed."""

from __future__ import annotations

from ..dialect import Dialect
from ..helpers import ARITHMETIC, ROUNDING, STORAGE
from . import family

CUDA = Dialect(
    name="CUDA C++",
    formats=family.formats({**family.TYPES, "bool": "bool"}),
    operations=family.operations(
        {
            "isnan": {"f": "(isnan({0}) != 0)", "iub": "false"},
            "isinf": {"f": "(isinf({0}) != 0)", "iub": "false"},
            "isfinite": {"f": "(isfinite({0}) != 0)", "iub": "true"},
        }
    ),
    literals={
        "bool": "bool({0})",
        "float32": "{0}f",
        "int64": "{0}LL",
        "uint64": "{0}ULL",
        "uint32": "{0}u",
    },
    special={
        "nan float32": "AS_FLOAT(0x7fc00000)",
        "inf float32": "AS_FLOAT(0x7f800000)",
        "-inf float32": "(-AS_FLOAT(0x7f800000))",
        "nan float64": "__longlong_as_double(0x7ff8000000000000LL)",
        "inf float64": "__longlong_as_double(0x7ff0000000000000LL)",
        "-inf float64": "(-__longlong_as_double(0x7ff0000000000000LL))",
        f"{-(2**63)} int64": "(-9223372036854775807LL - 1)",
        f"{-(2**31)} int32": "(-2147483647 - 1)",
    },
    helpers={**ARITHMETIC, **ROUNDING},
    macros={
        "KERNEL": 'extern "C" __global__ void',
        "FUNCTION": "__device__ inline",
        "GLOBAL": "",
        "LOCAL": "__shared__",
        "RESTRICT": "__restrict__",
        "INDEX": "long long",
        "ITEM": "((long long)blockIdx.x * blockDim.x + threadIdx.x)",
        "ITEMS": "((long long)gridDim.x * blockDim.x)",
        "GROUP": "((long long)blockIdx.x)",
        "GROUPS": "((long long)gridDim.x)",
        "GROUP_ITEM": "((int)threadIdx.x)",
        "GROUP_ITEMS": "((int)blockDim.x)",
        "BARRIER": "__syncthreads()",
        "WORK_ITEM": "",
        "AS_INT(x)": "__float_as_int(x)",
        "AS_UINT(x)": "__float_as_uint(x)",
        "AS_FLOAT(x)": "__int_as_float(x)",
    },
    prelude=STORAGE,
)
