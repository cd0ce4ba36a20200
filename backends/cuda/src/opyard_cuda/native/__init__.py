"""Kernels written in CUDA C++ by hand: the texts are ``kernels/*.cu``; here is which instance a call takes, and how it is launched."""

from __future__ import annotations

from typing import Any

FLOATS = ("float32", "float64", "float16", "bfloat16")
"""The dtypes that the kernels compute with."""

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
ANY = ("bool", *FLOATS, *INTEGERS)

# ops; name of the kernel; module, function that prepares and function that accepts; dtypes; efficiency
KERNELS: tuple[tuple[tuple[str, ...], str, tuple[str, str, str], Any, float], ...] = (
    (
        ("softmax", "log_softmax"),
        "rows",
        ("rows", "prepare_softmax", "accepts_softmax"),
        FLOATS,
        0.85,
    ),
    (
        ("layer_normalization", "rms_normalization"),
        "rows",
        ("rows", "prepare_normalization", "accepts_normalization"),
        FLOATS,
        0.85,
    ),
    (("sum", "mean", "prod", "max", "min"), "reduce", ("reduce", "prepare", "accepts"), FLOATS, 0.8),
    (
        ("permute_dims", "matrix_transpose"),
        "tiles",
        ("move", "prepare_transpose", "accepts_transpose"),
        ANY,
        0.7,
    ),
    (("gather",), "rows", ("move", "prepare_gather", "accepts_gather"), {"x": ANY, "indices": INTEGERS}, 0.7),
    (
        ("embedding",),
        "rows",
        ("move", "prepare_gather", "accepts_gather"),
        {"table": ANY, "indices": INTEGERS},
        0.7,
    ),
    (("conv",), "implicit", ("windows", "prepare_conv", "accepts_conv"), FLOATS, 0.35),
    (("max_pool", "average_pool"), "direct", ("windows", "prepare_pool", "accepts_pool"), FLOATS, 0.6),
    (("scaled_dot_product_attention",), "flash", ("attention", "prepare", "accepts"), None, 0.2),
)
"""Kernels of single ops. Efficiencies are estimates: none has been measured."""


def register(registry: Any) -> None:
    """Registers the kernels, and the patterns of a sum and its normalization."""
    from . import patterns

    for ops, name, (module, prepare, accepts), dtypes, efficiency in KERNELS:
        place = f"{__name__}.{module}"
        for op in ops:
            registry.kernel(
                op,
                backend="cuda",
                name=name,
                prepare=f"{place}:{prepare}",
                accepts=f"{place}:{accepts}",
                dtypes=dtypes,
                out=True,
                efficiency=efficiency,
            )
    for pattern in (patterns.add_layer_normalization, patterns.add_rms_normalization):
        registry.pattern(
            pattern,
            backend="cuda",
            name=pattern.__name__,
            prepare=f"{__name__}.rows:prepare_residual",
            accepts=f"{__name__}.rows:accepts_residual",
            efficiency=0.85,
        )
