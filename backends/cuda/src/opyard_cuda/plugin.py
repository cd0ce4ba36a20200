"""What this package registers: data only. CuPy is imported when the first device is opened."""

from __future__ import annotations

from typing import Any

from opyard.hookspecs import hookimpl
from opyard.registry import EVERY_SCALAR

from . import native, triton_kernels
from .array_module import OnDevice
from .patterns import PATTERNS

OPYARD_API = (1, 1)

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REAL = (*FLOATS, *INTEGERS)
ALL = ("bool", *REAL)

ARRAYS = ("cupy:ndarray", "cupy._core.core:ndarray")
"""Names of the array class: that of CuPy 9 and later, and the one before."""

# op: the ufunc of CuPy that computes the same, where one does
_SAME_NAME = (
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "cbrt",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
)
UFUNCS = {
    FLOATS: {
        **{
            name: name
            for name in (*_SAME_NAME, "hypot", "logaddexp", "copysign", "signbit", "floor", "ceil", "trunc")
        },
        "asin": "arcsin",
        "acos": "arccos",
        "atan": "arctan",
        "asinh": "arcsinh",
        "acosh": "arccosh",
        "atanh": "arctanh",
        "divide": "true_divide",
        "atan2": "arctan2",
        "round": "rint",
        "nextafter": "nextafter",
    },
    REAL: {
        **{
            name: name
            for name in (
                "add",
                "subtract",
                "multiply",
                "maximum",
                "minimum",
                "negative",
                "positive",
                "square",
            )
        },
        **{
            name: name
            for name in (
                "equal",
                "not_equal",
                "less",
                "less_equal",
                "greater",
                "greater_equal",
                "isnan",
                "isinf",
                "isfinite",
            )
        },
        "abs": "absolute",
    },
    ("bool",): {name: name for name in ("logical_and", "logical_or", "logical_xor", "logical_not")},
    ("bool", *INTEGERS): {
        **{name: name for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
        "bitwise_invert": "invert",
    },
}
"""Ops that are one ufunc of CuPy, by the dtypes that it computes as the reference does."""

GENERATED = (EVERY_SCALAR, "clip", "gelu")
"""Ops whose kernel is generated from a scalar expression: their own, or one that ``elementwise.COMPOSITES`` has for them."""

CREATED = (
    "arange",
    "eye",
    "full",
    "full_like",
    "iota",
    "linspace",
    "ones",
    "ones_like",
    "shape_of",
    "size_of",
    "zeros",
    "zeros_like",
)
"""Ops whose result follows from attributes and shapes alone."""

RANDOM = ("philox_bits", "random_bernoulli", "random_normal", "random_uniform", "split_key")

MATRIX_PRODUCT = {"dtypes": FLOATS, "requires": ("cublas",)}
INDICES = {"indices": INTEGERS}

# module of kernels, op, facts; the function has the op's name
ARRAY_KERNELS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    (
        "reductions",
        ("sum", "prod", "max", "min", "argmax", "argmin", "cumulative_sum"),
        {"dtypes": REAL, "efficiency": 0.6},
    ),
    ("reductions", ("any", "all"), {"dtypes": ALL, "efficiency": 0.5}),
    ("reductions", ("mean",), {"dtypes": FLOATS, "efficiency": 0.5}),
    ("reductions", ("variance", "standard_deviation", "logsumexp"), {"dtypes": FLOATS, "efficiency": 0.25}),
    ("normalization", ("softmax", "log_softmax"), {"dtypes": FLOATS, "efficiency": 0.25}),
    ("normalization", ("layer_normalization", "rms_normalization"), {"dtypes": FLOATS, "efficiency": 0.2}),
    ("normalization", ("batch_normalization",), {"dtypes": FLOATS, "efficiency": 0.4}),
    ("products", ("matmul", "linear"), {**MATRIX_PRODUCT, "efficiency": 0.8}),
    ("products", ("einsum",), {**MATRIX_PRODUCT, "efficiency": 0.4}),
    ("windows", ("conv",), {**MATRIX_PRODUCT, "efficiency": 0.3}),
    ("windows", ("conv_transpose",), {**MATRIX_PRODUCT, "efficiency": 0.1}),
    ("windows", ("max_pool", "global_max_pool"), {"dtypes": REAL, "efficiency": 0.3}),
    ("windows", ("average_pool", "global_average_pool"), {"dtypes": FLOATS, "efficiency": 0.3}),
    (
        "movement",
        (
            "identity",
            "reshape",
            "flatten",
            "permute_dims",
            "matrix_transpose",
            "moveaxis",
            "expand_dims",
            "squeeze",
        ),
        {"dtypes": ALL},
    ),
    ("movement", ("broadcast_to", "split", "unstack", "slice", "flip"), {"dtypes": ALL}),
    (
        "movement",
        ("concat", "stack", "roll", "tile", "repeat", "depth_to_space", "space_to_depth"),
        {"dtypes": ALL, "efficiency": 0.6},
    ),
    ("movement", ("pad",), {"dtypes": ALL, "efficiency": 0.4}),
    ("movement", ("cast",), {"accepts": "opyard_cuda.kernels.creation:accepts_dtypes", "efficiency": 0.8}),
    ("movement", ("nan_to_num",), {"dtypes": FLOATS, "efficiency": 0.8}),
    (
        "indexing",
        ("gather", "gather_nd", "take_along_axis"),
        {"dtypes": {"x": ALL, **INDICES}, "efficiency": 0.5},
    ),
    ("indexing", ("embedding",), {"dtypes": {"table": ALL, **INDICES}, "efficiency": 0.5}),
    ("indexing", ("tril", "triu"), {"dtypes": ALL, "efficiency": 0.5}),
    ("indexing", ("one_hot",), {"accepts": "opyard_cuda.kernels.creation:accepts_dtypes", "efficiency": 0.5}),
    (
        "indexing",
        ("scatter", "scatter_nd"),
        {
            "dtypes": {"x": ALL, "updates": ALL, **INDICES},
            "accepts": "opyard_cuda.kernels.indexing:accepts_scatter",
            "efficiency": 0.2,
            "deterministic": False,
        },
    ),
    ("sorting", ("sort", "argsort", "top_k"), {"dtypes": REAL, "efficiency": 0.1}),
)
"""Kernels that are functions of arrays, by the module of ``opyard_cuda.kernels`` that holds them."""


@hookimpl
def opyard_register(registry: Any) -> None:
    """Registers the backend ``cuda`` and its kernels."""
    registry.backend("cuda", load="opyard_cuda.backend:CUDABackend", arrays=ARRAYS)
    for dtypes, ufuncs in UFUNCS.items():
        for op, ufunc in ufuncs.items():
            registry.kernel(
                op,
                backend="cuda",
                name="ufunc",
                load=OnDevice(f"cupy:{ufunc}"),
                dtypes=dtypes,
                out=True,
                inplace=True,
                efficiency=0.8,
            )
    elementwise = "opyard_cuda.elementwise"
    for op in GENERATED:
        registry.kernel(
            op,
            backend="cuda",
            name="generated",
            prepare=f"{elementwise}:prepare",
            accepts=f"{elementwise}:accepts",
            out=True,
            efficiency=0.8,
        )
    for module, ops, facts in ARRAY_KERNELS:
        for op in ops:
            registry.kernel(
                op, backend="cuda", name="cupy", load=OnDevice(f"opyard_cuda.kernels.{module}:{op}"), **facts
            )
    for op in CREATED:
        creation = "opyard_cuda.kernels.creation"
        registry.kernel(
            op,
            backend="cuda",
            name="constant",
            prepare=f"{creation}:prepare",
            accepts=f"{creation}:accepts_dtypes",
        )
    for op in RANDOM:
        random = "opyard_cuda.kernels.random"
        registry.kernel(
            op,
            backend="cuda",
            name="philox",
            prepare=f"{random}:prepare",
            accepts="opyard_cuda.kernels.creation:accepts_dtypes",
            out=True,
        )
    native.register(registry)
    triton_kernels.register(registry)
    _register_cublaslt(registry)
    _register_fused(registry)


def _register_cublaslt(registry: Any) -> None:
    epilogues = "opyard_cuda.kernels.epilogues"
    facts: dict[str, Any] = {
        "backend": "cuda",
        "prepare": f"{epilogues}:prepare",
        "accepts": f"{epilogues}:accepts",
        "dtypes": ("float16", "bfloat16", "float32"),
        "requires": ("cublaslt",),
        "out": True,
        "efficiency": 0.85,
    }
    for op in ("matmul", "linear"):
        registry.kernel(op, name="cublaslt", **facts)
    for pattern in PATTERNS:
        registry.pattern(pattern, name=f"cublaslt_{pattern.__name__}", **facts)


def _register_fused(registry: Any) -> None:
    fusion = "opyard_cuda.fusion"
    for name, part, facts in (
        ("fused", "", {"efficiency": 0.8}),
        ("fused_rows", "_rows", {"cost": f"{fusion}:cost_rows"}),
        ("fused_product", "_product", {"efficiency": 0.05}),  # no tensor cores; nothing else takes integers
    ):
        registry.region_compiler(
            backend="cuda",
            name=name,
            claims=f"{fusion}:claims{part}",
            accepts=f"{fusion}:accepts{part}",
            prepare=f"{fusion}:prepare{part}",
            out=True,
            **facts,
        )
