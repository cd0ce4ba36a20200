"""OpenCL C 1.2."""

from __future__ import annotations

from ..dialect import Dialect
from ..helpers import ARITHMETIC, POLYNOMIALS, ROUNDING, STORAGE
from . import family

TYPES = {
    "bool": "uchar",
    "int8": "char",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "uchar",
    "uint16": "ushort",
    "uint32": "uint",
    "uint64": "ulong",
    "float32": "float",
    "float64": "double",
}

# PoCL's compiler knows AVX-512, and tells it, but tuned for such processors it would use vectors of half the size
_VECTORS = """#ifdef __AVX512F__
#define kernel __kernel __attribute__((target("tune=haswell")))
#endif
#ifdef __clang__
#define LOOP _Pragma("clang loop interleave_count(4)")
#else
#define LOOP
#endif
#if defined(__clang__) && defined(__OPTIMIZE__)  // prefetch() is empty on PoCL, and a call that saves all registers on Intel's runtime
#define READ_AHEAD(p, count) { \\
    const char *ahead = (const char *)(size_t)((p) + 256); \\
    for (long byte = 0; byte < (count) * (long)sizeof(*(p)); byte += 64) __builtin_prefetch(ahead + byte); \\
}
#else
#define READ_AHEAD(p, count) prefetch((p) + 256, (size_t)(count))
#endif
"""

# A value is several of the processor's vectors, whose calculations take turns: one would wait for itself. A simulator does not know such types
_WIDE = """
#define WIDE_ALIGNED __attribute__((aligned(64)))
#if defined(__clang__) && defined(__OPTIMIZE__)
typedef float WIDE __attribute__((ext_vector_type({lanes})));
typedef int WIDE_INT __attribute__((ext_vector_type({lanes})));
typedef WIDE WIDE_PLACE __attribute__((aligned(4)));
#define LANES {lanes}
#define AS_WIDE(x) __builtin_astype(x, WIDE)
#define AS_WIDE_INT(x) __builtin_astype(x, WIDE_INT)
#define AT_WIDE(space, p) (*(space WIDE_PLACE *)(p))
#endif
"""

OPENCL = Dialect(
    name="OpenCL C",
    formats=family.formats(TYPES, wide_feature="fp64"),
    operations=family.operations(family.POLYNOMIAL_OPERATIONS),
    literals={"float32": "{0}f", "int64": "{0}L", "uint64": "{0}UL", "uint32": "{0}u"},
    special={
        **{f"nan {name}": f"(({TYPES[name]})NAN)" for name in ("float32", "float64")},
        **{f"inf {name}": f"(({TYPES[name]})INFINITY)" for name in ("float32", "float64")},
        **{f"-inf {name}": f"(-({TYPES[name]})INFINITY)" for name in ("float32", "float64")},
        f"{-(2**63)} int64": "LONG_MIN",
        f"{-(2**31)} int32": "INT_MIN",
    },
    helpers={**ARITHMETIC, **ROUNDING, **POLYNOMIALS},
    macros={
        "KERNEL": "kernel void",
        "FUNCTION": "static inline",
        "GLOBAL": "global",
        "LOCAL": "local",
        "RESTRICT": "restrict",
        "INDEX": "long",
        "ITEM": "((long)get_global_id(0))",
        "ITEMS": "((long)get_global_size(0))",
        "GROUP": "((long)get_group_id(0))",
        "GROUPS": "((long)get_num_groups(0))",
        "GROUP_ITEM": "((int)get_local_id(0))",
        "GROUP_ITEMS": "((int)get_local_size(0))",
        "BARRIER": "barrier(CLK_LOCAL_MEM_FENCE)",
        "WORK_ITEM": "",
        "AS_INT(x)": "as_int(x)",
        "AS_UINT(x)": "as_uint(x)",
        "AS_FLOAT(x)": "as_float(x)",
    },
    prelude=_VECTORS + "#pragma OPENCL FP_CONTRACT ON\n" + STORAGE,
    wide=_WIDE,
)
