"""What C, OpenCL C and CUDA C++ have in common."""

from __future__ import annotations

from collections.abc import Mapping

from ..dialect import Format, Templates

Types = Mapping[str, str]
"""The type of each dtype in the language, by the name of the dtype."""

TYPES: Types = {
    "bool": "unsigned char",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}
"""Those of C and C++. C++ has a type for bool."""


def formats(types: Types, wide_feature: str = "") -> dict[str, Format]:
    """Formats of all dtypes; float16 and bfloat16 are bits in memory, and float32 in calculations."""
    truth, short, single, wide = (types[name] for name in ("bool", "uint16", "float32", "float64"))
    found = {name: Format(text, text, name[0]) for name, text in types.items() if "float" not in name}
    found["bool"] = Format(
        "unsigned char" if truth == "bool" else truth,
        truth,
        "b",
        f"(({truth})((p)[i] != 0))",
        f"((p)[i] = ({truth})((v) != 0))",
    )
    for name, stem in (("float16", "half"), ("bfloat16", "bfloat16")):
        found[name] = Format(short, single, "f", f"{stem}_value((p)[i])", f"((p)[i] = {stem}_bits(v))")
    found["float32"] = Format(single, single, "f")
    found["float64"] = Format(wide, wide, "f", feature=wide_feature)
    return found


OPERATIONS: dict[str, Templates] = {
    "add": {"fiu": "({0} + {1})", "b": "({0} | {1})"},
    "subtract": {"fiu": "({0} - {1})"},
    "multiply": {"fiu": "({0} * {1})", "b": "({0} & {1})"},
    "true_divide": {"f": "({0} / {1})"},
    "floor_divide": {"f": "@floor_divide_float({0}, {1})", "iu": "@floor_divide_integer({0}, {1})"},
    "remainder": {"f": "@remainder_float({0}, {1})", "iu": "@remainder_integer({0}, {1})"},
    "power": {"iu": "@power_integer({0}, {1})"},
    "fmod": {"iu": "@fmod_integer({0}, {1})"},
    "left_shift": {"iu": "@shift_left({0}, {1})"},
    "right_shift": {"iu": "@shift_right({0}, {1})"},
    "bitwise_and": {"iub": "({0} & {1})"},
    "bitwise_or": {"iub": "({0} | {1})"},
    "bitwise_xor": {"iub": "({0} ^ {1})"},
    "invert": {"iu": "(~{0})", "b": "(!{0})"},
    "negative": {"fiu": "(-{0})"},
    "positive": {"fiu": "{0}"},
    "logical_not": {"b": "(!{0})"},
    "logical_and": {"b": "({0} && {1})"},
    "logical_or": {"b": "({0} || {1})"},
    "equal": {"fiub": "({0} == {1})"},
    "not_equal": {"fiub": "({0} != {1})"},
    "less": {"fiub": "({0} < {1})"},
    "less_equal": {"fiub": "({0} <= {1})"},
    "greater": {"fiub": "({0} > {1})"},
    "greater_equal": {"fiub": "({0} >= {1})"},
    "absolute": {"i": "@magnitude({0})", "ub": "{0}"},
    "sign": {"fiu": "@sign({0})"},
    "minimum": {"fiub": "@minimum({0}, {1})"},
    "maximum": {"fiub": "@maximum({0}, {1})"},
    "isnan": {"f": "@is_nan({0})", "iub": "0"},
    "isinf": {"f": "@is_infinite({0})", "iub": "0"},
    "isfinite": {"f": "@is_finite({0})", "iub": "1"},
    "signbit": {"f": "(signbit({0}) != 0)"},
    "logaddexp": {"f": "@logaddexp({0}, {1})"},
}
"""Operations that are written alike; functions of floating numbers are the language's own."""

FLOATING = {
    **{name: name for name in ("sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10")},
    **{
        name: name
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "floor", "ceil", "trunc", "rint")
    },
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "absolute": "fabs",
}
FLOATING_PAIRS = {
    **{name: name for name in ("hypot", "copysign", "nextafter", "fmod")},
    "arctan2": "atan2",
    "power": "pow",
}
"""Functions of <math.h> by the name of the ufunc."""


def operations(changed: Mapping[str, Templates], single: str = "{0}") -> dict[str, Templates]:
    """All operations; ``single`` is the name of a function of <math.h> for float. ``changed`` come first."""
    found: dict[str, dict[str, str]] = {}
    for names, operands in ((FLOATING, "({0})"), (FLOATING_PAIRS, "({0}, {1})")):
        for name, function in names.items():
            found[name] = {"float32": single.format(function) + operands, "float64": function + operands}
    for name, templates in (*OPERATIONS.items(), *changed.items()):
        found[name] = {**found.get(name, {}), **templates}
    return dict(found)


POLYNOMIAL_OPERATIONS: dict[str, Templates] = {
    "absolute": {"float32": "@without_sign({0})"},
    "exp": {"float32": "@exponential({0})"},
    "expm1": {"float32": "@exponential_minus_one({0})"},
    "log": {"float32": "@logarithm({0})"},
    "logistic": {"float32": "@logistic({0})"},
    "log1p": {"float32": "@logarithm_of_one_plus({0})"},
    "tanh": {"float32": "@hyperbolic_tangent({0})"},
    "erf": {"float32": "@error_function({0})"},
}
"""For processors: loops over these become vector code."""
