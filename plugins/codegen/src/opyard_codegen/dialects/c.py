"""C99. A kernel is a function for one of ``items`` items; its caller runs through them, on as many threads as it likes."""

from __future__ import annotations

from ..dialect import Dialect
from ..helpers import ARITHMETIC, POLYNOMIALS, ROUNDING, STORAGE
from . import family

C = Dialect(
    name="C",
    formats=family.formats(family.TYPES),
    operations=family.operations(family.POLYNOMIAL_OPERATIONS, "{0}f"),
    literals={"float32": "{0}f", "int64": "{0}LL", "uint64": "{0}ULL", "uint32": "{0}u"},
    special={
        **{f"nan {name}": f"(({family.TYPES[name]})NAN)" for name in ("float32", "float64")},
        **{f"inf {name}": f"(({family.TYPES[name]})INFINITY)" for name in ("float32", "float64")},
        **{f"-inf {name}": f"(-({family.TYPES[name]})INFINITY)" for name in ("float32", "float64")},
        f"{-(2**63)} int64": "(-9223372036854775807LL - 1)",
        f"{-(2**31)} int32": "(-2147483647 - 1)",
    },
    helpers={**ARITHMETIC, **ROUNDING, **POLYNOMIALS},
    macros={
        "KERNEL": "void",
        "FUNCTION": "static inline",
        "GLOBAL": "",
        "RESTRICT": "restrict",
        "INDEX": "long long",
        "ITEM": "opyard_item",
        "ITEMS": "opyard_items",
        "LOOP": "",
        "READ_AHEAD(p, count)": "",
        "WORK_ITEM": ", long long opyard_item, long long opyard_items",
        "AS_INT(x)": "opyard_as_int(x)",
        "AS_UINT(x)": "((unsigned int)opyard_as_int(x))",
        "AS_FLOAT(x)": "opyard_as_float(x)",
    },
    prelude="""#include <math.h>
static inline int opyard_as_int(float x) { union { float number; int bits; } u = {.number = x}; return u.bits; }
static inline float opyard_as_float(int x) { union { int bits; float number; } u = {.bits = x}; return u.number; }
"""
    + STORAGE,
)
