"""Registers the CPU backend and its kernels: data only.

Efficiencies are fractions of the device's roofline, measured in float32 with NumPy 2.4 on two AVX-512 cores. NumPy's loops
run on one thread and BLAS on all, so on more cores the former are further from the roof.
"""

from __future__ import annotations

from typing import Any

from opyard import hookimpl
from opyard.registry import Registry

from .direct import registration as direct
from .gemm import registration as gemm
from .onednn import registration
from .winograd import registration as winograd

OPYARD_API = (1, 1)

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REALS = (*FLOATS, *INTEGERS)

STREAMING = """
    add subtract multiply divide maximum minimum negative positive square abs sqrt sign signbit copysign conj reciprocal
    equal not_equal less less_equal greater greater_equal isnan isinf isfinite
    logical_and logical_or logical_xor logical_not
    bitwise_and bitwise_or bitwise_xor bitwise_invert bitwise_left_shift bitwise_right_shift
"""
TRANSCENDENTAL = """
    exp exp2 expm1 log log1p log2 log10 sin cos tan tanh sinh cosh asinh acosh atan atanh atan2 cbrt pow
"""
SLOW = "asin acos floor_divide remainder fmod hypot logaddexp nextafter"

UFUNCS = {
    **dict.fromkeys(STREAMING.split(), 0.8),
    **dict.fromkeys(TRANSCENDENTAL.split(), 0.6),
    **dict.fromkeys(SLOW.split(), 0.06),
}
"""Ops that are one ufunc of NumPy, of the same name, and their efficiencies. The bare ufunc is the kernel."""

ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint"}
"""Ops and ufuncs of rounding, for floats: before NumPy 2.1 they make floats of integers."""

ELEMENTWISE = {
    "leaky_relu": 0.6,
    "rsqrt": 0.5,
    "hard_tanh": 0.5,
    "hard_sigmoid": 0.4,
    "hard_swish": 0.3,
    "prelu": 0.3,
    "thresholded_relu": 0.3,
    "softsign": 0.3,
    "sigmoid": 0.25,
    "silu": 0.25,
    "quick_gelu": 0.25,
    "elu": 0.25,
    "selu": 0.2,
    "celu": 0.2,
    "softplus": 0.17,
    "log_sigmoid": 0.17,
    "mish": 0.14,
    "gelu": 0.1,
    "erf": 0.1,
}
"""Ops of several passes over blocks in the cache, for FLOATS, and their efficiencies."""

REDUCTIONS = {
    **dict.fromkeys(("sum", "prod", "max", "min"), (REALS, 0.7)),
    **dict.fromkeys(("any", "all"), ((*REALS, "bool"), 0.5)),
    "mean": (FLOATS, 0.7),
    "variance": (FLOATS, 0.14),
    "standard_deviation": (FLOATS, 0.14),
    "logsumexp": (FLOATS, 0.1),
}

VIEWS = {
    "identity": "numpy:asarray",
    **{op: f"opyard_cpu.movement:{op}" for op in ("reshape", "permute_dims", "unstack")},
    **{
        op: f"numpy:{op}"
        for op in ["expand_dims", "squeeze", "broadcast_to", "matrix_transpose", "moveaxis", "flip"]
    },
}
"""Ops that NumPy answers with a view, whatever the size, and their functions."""

AS_REFERENCE = {
    "rearrange": {
        "roll": 0.5,
        "tile": 0.5,
        "repeat": 0.3,
        "pad": 0.5,
        "depth_to_space": 0.7,
        "space_to_depth": 0.5,
    },
    "indexing": {"gather_nd": 0.1, "one_hot": 0.1, "tril": 0.2, "triu": 0.2},
}
"""Ops, by the module of their reference, which already is the NumPy code that suits the CPU and keeps the dtype."""

RANKS = {"depth_to_space": (4, 4), "space_to_depth": (4, 4)}
"""Ops of images, the code of which gives something for other arrays, too."""

NORMALIZATIONS = {
    "softmax": 0.18,
    "log_softmax": 0.18,
    "layer_normalization": 0.2,
    "rms_normalization": 0.35,
    "batch_normalization": 0.35,
    "group_normalization": 0.25,
    "instance_normalization": 0.18,
}

COMPILED = """
    softmax log_softmax layer_normalization rms_normalization lp_normalization batch_normalization
    gelu erf mish softplus log_sigmoid selu celu elu silu sigmoid quick_gelu
    variance standard_deviation logsumexp
"""
"""Ops that take NumPy several passes, and are compiled by LLVM where the package is installed."""

LARGE = {
    **dict.fromkeys(STREAMING.split(), 1 << 18),
    **dict.fromkeys(ROUNDING, 1 << 18),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "hard_swish"), 1 << 16),
    **dict.fromkeys(("prelu", "thresholded_relu", "softsign", "rsqrt"), 1 << 16),
    **dict.fromkeys(("expm1", "log", "log1p", "log2", "log10", "tanh", "logaddexp"), 1 << 16),
    **dict.fromkeys(("exp", "exp2"), 1 << 13),
}
"""Ops that one loop of NumPy, or a few, compute on one thread, and the elements from which on a compiled loop pays."""


@hookimpl
def opyard_register(registry: Registry) -> None:
    """Registers the backend "cpu" and its kernels."""
    registry.backend("cpu", load="opyard_cpu.backend:CPUBackend", arrays=("numpy:ndarray", "numpy:generic"))
    _elementwise(registry)
    _fused(registry)
    _reductions(registry)
    _movement(registry)
    _products(registry)
    _neighbourhoods(registry)
    registration.register(registry)
    gemm.register(registry)
    direct.register(registry)
    winograd.register(registry)


def _numpy(registry: Registry, op: str, **facts: Any) -> None:
    registry.kernel(op, backend="cpu", name="numpy", **facts)


def _elementwise(registry: Registry) -> None:
    for op, efficiency in UFUNCS.items():
        inplace = op != "pow"  # which raises for integers to negative powers
        _numpy(registry, op, load=f"numpy:{op}", efficiency=efficiency, out=True, inplace=inplace)
    for op, ufunc in ROUNDING.items():
        _numpy(registry, op, load=f"numpy:{ufunc}", dtypes=FLOATS, efficiency=0.8, out=True, inplace=True)
    for op, efficiency in ELEMENTWISE.items():
        load = f"opyard_cpu.elementwise:{op}"
        _numpy(registry, op, load=load, dtypes=FLOATS, efficiency=efficiency, out=True)
    _numpy(registry, "relu", load="opyard_cpu.elementwise:relu", dtypes=REALS, efficiency=0.8, out=True)
    _numpy(registry, "relu6", load="opyard_cpu.elementwise:relu6", dtypes=REALS, efficiency=0.5, out=True)
    _numpy(registry, "where", prepare="opyard_cpu.selection:prepare_where", efficiency=0.6, out=True)
    for op, facts in {"random_bernoulli": {}, "dropout": {"dtypes": {"x": FLOATS}}}.items():
        _numpy(registry, op, prepare=f"opyard_cpu.random:prepare_{op}", efficiency=0.02, out=True, **facts)
    for op, more in {"softmax_cross_entropy": {}, "softmax_cross_entropy_gradient": {"g": FLOATS}}.items():
        dtypes = {"logits": FLOATS, "labels": INTEGERS, **more}
        _numpy(registry, op, load=f"opyard_cpu.loss:{op}", dtypes=dtypes, efficiency=0.2)
    _numpy(registry, "clip", load="opyard_cpu.selection:clip", efficiency=0.5, out=True)
    prepare = "opyard_cpu.selection:prepare_cast"
    _numpy(registry, "cast", prepare=prepare, efficiency=0.8, out=True, inplace=True)


def _fused(registry: Registry) -> None:
    fusion = "opyard_cpu.fusion"
    registry.region_compiler(
        backend="cpu",
        name="blocks",
        claims=f"{fusion}:claims",
        prepare=f"{fusion}:prepare",
        cost=f"{fusion}:cost",
        out=True,
    )
    region = "opyard_cpu.jit.region"
    registry.region_compiler(
        backend="cpu",
        name="jit",
        claims=f"{region}:claims",
        accepts=f"{region}:accepts",
        prepare=f"{region}:prepare",
        cost=f"{region}:cost",
        out=True,
        inplace=True,
    )
    parts = "opyard_cpu.jit.parts"
    functions: dict[str, Any] = {fact: f"{parts}:{fact}" for fact in ("claims", "accepts", "prepare", "cost")}
    registry.region_compiler(backend="cpu", name="jit_parts", **functions)
    single = "opyard_cpu.jit.single"
    functions = {fact: f"{single}:{fact}" for fact in ("accepts", "prepare", "cost")}
    for op, least in {**dict.fromkeys(COMPILED.split(), 0), **LARGE}.items():
        registry.kernel(op, backend="cpu", name="jit", least_size=least, out=True, inplace=True, **functions)


def _reductions(registry: Registry) -> None:
    for op, (dtypes, efficiency) in REDUCTIONS.items():
        load = f"opyard_cpu.reduction:{op}"
        _numpy(registry, op, load=load, dtypes=dtypes, efficiency=efficiency, out=True)
    for op in ("argmax", "argmin"):
        _numpy(registry, op, load=f"numpy:{op}", dtypes=REALS, efficiency=0.7, out=True)
    _numpy(
        registry, "cumulative_sum", load="opyard_cpu.reduction:cumulative_sum", dtypes=REALS, efficiency=0.08
    )
    for op, efficiency in {"sort": 0.15, "argsort": 0.01, "top_k": 0.03}.items():
        _numpy(registry, op, load=f"opyard_cpu.sorting:{op}", dtypes=REALS, efficiency=efficiency)


def _movement(registry: Registry) -> None:
    cost = "opyard_cpu.movement:view_cost"
    for op, load in VIEWS.items():
        _numpy(registry, op, load=load, cost=cost)
    for op in ("flatten", "split", "slice"):
        _numpy(registry, op, prepare=f"opyard_cpu.movement:prepare_{op}", cost=cost)
    for op in ("concat", "stack"):
        _numpy(registry, op, load=f"opyard_cpu.movement:{op}", efficiency=0.8, out=True)
    for op, efficiency in {"gather": 0.6, "embedding": 0.6, "take_along_axis": 0.15}.items():
        _numpy(registry, op, load=f"opyard_cpu.indexing:{op}", efficiency=efficiency)
    for module, ops in AS_REFERENCE.items():
        for op, efficiency in ops.items():
            load = f"opyard.ops.{module}:{op}.op.reference"
            _numpy(registry, op, load=load, ranks=RANKS.get(op), efficiency=efficiency)


def _products(registry: Registry) -> None:
    attention = "opyard_cpu.attention:scaled_dot_product_attention"
    loads = {
        "matmul": ("numpy:matmul", 0.7),
        "linear": ("opyard_cpu.linear_algebra:linear", 0.6),
        "einsum": ("opyard_cpu.linear_algebra:einsum", 0.3),
    }
    for op, (load, efficiency) in loads.items():
        registry.kernel(
            op, backend="cpu", name="blas", load=load, dtypes=FLOATS, efficiency=efficiency, out=True
        )
    row = "opyard_cpu.jit.row"
    functions: dict[str, Any] = {fact: f"{row}:{fact}" for fact in ("accepts", "prepare", "cost")}
    for op in ("matmul", "linear"):
        registry.kernel(op, backend="cpu", name="jit_row", dtypes=("float32",), out=True, **functions)
    registry.pattern(
        _dense_relu, backend="cpu", name="jit_row_relu", dtypes=("float32",), out=True, **functions
    )
    registry.kernel(
        "scaled_dot_product_attention",
        backend="cpu",
        name="blas",
        load=attention,
        accepts="opyard_cpu.attention:accepts",
        efficiency=0.25,
        out=True,
    )


def _dense_relu(x: Any, weight: Any, bias: Any) -> Any:
    from opyard import linear, relu

    return relu(linear(x, weight, bias))


def _neighbourhoods(registry: Registry) -> None:
    cost = "opyard_cpu.convolution:cost"
    prepare = "opyard_cpu.convolution:prepare_conv"
    registry.kernel("conv", backend="cpu", name="im2col", prepare=prepare, dtypes=FLOATS, cost=cost, out=True)
    prepare = "opyard_cpu.convolution_transpose:prepare_conv_transpose"
    registry.kernel(
        "conv_transpose",
        backend="cpu",
        name="col2im",
        prepare=prepare,
        dtypes=FLOATS,
        efficiency=0.4,
        out=True,
    )
    prepare = "opyard_cpu.convolution_gradient:prepare_conv_weight_gradient"
    registry.kernel(
        "conv_weight_gradient",
        backend="cpu",
        name="im2col",
        prepare=prepare,
        dtypes=FLOATS,
        efficiency=0.35,
        out=True,
    )
    prepare = "opyard_cpu.pooling_gradient:prepare_max_pool_gradient"
    # its parts are views that look cheaper than what reads them finds: measured, they take three times as long
    _numpy(registry, "max_pool_gradient", prepare=prepare, dtypes=FLOATS, efficiency=0.9, out=True)
    for op, dtypes in {"max_pool": REALS, "average_pool": FLOATS}.items():
        prepare = f"opyard_cpu.pooling:prepare_{op}"
        _numpy(registry, op, prepare=prepare, dtypes=dtypes, efficiency=0.2, out=True)
    for op, dtypes in {"global_max_pool": REALS, "global_average_pool": FLOATS}.items():
        load = f"opyard_cpu.pooling:{op}"
        _numpy(registry, op, load=load, dtypes=dtypes, ranks=(3, 5), efficiency=0.5, out=True)
    for op, efficiency in NORMALIZATIONS.items():
        load = f"opyard_cpu.normalization:{op}"
        _numpy(registry, op, load=load, dtypes=FLOATS, efficiency=efficiency, out=True)
