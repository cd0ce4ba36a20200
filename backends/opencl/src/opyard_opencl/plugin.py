"""What opyard-opencl registers: data only; pyopencl is imported when a device is first asked for."""

from __future__ import annotations

from typing import Any

from opyard import hookimpl
from opyard.registry import EVERY_SCALAR

OPYARD_API = (1, 1)

GENERATED = (EVERY_SCALAR, "cast", "clip", "gelu", "nan_to_num", "nextafter")
"""Ops whose kernels are generated from an expression, those of other distributions included."""

# prepare, accepts, efficiency, ops
KERNELS: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    (
        *("reduction:prepare", "formats:refusal", 0.5),
        ("sum", "mean", "prod", "max", "min", "any", "all", "global_average_pool", "global_max_pool"),
    ),
    ("reduction:prepare_position", "formats:refusal", 0.1, ("argmax", "argmin")),
    ("tiles:prepare_matmul", "tiles:accepts", 0.8, ("matmul", "linear")),
    ("tiles:prepare_conv", "tiles:conv_accepts", 0.7, ("conv",)),
    ("tiles:prepare_low", "tiles:low_accepts", 0.6, ("matmul", "conv")),
    ("product:prepare_matmul", "product:accepts", 0.5, ("matmul", "linear")),
    ("product:prepare_conv", "product:conv_accepts", 0.4, ("conv",)),
    ("transposed:prepare", "product:conv_accepts", 0.3, ("conv_transpose",)),
    (
        *("random:prepare", "formats:refusal", 0.3),
        ("philox_bits", "split_key", "random_uniform", "random_normal", "random_bernoulli"),
    ),
    ("pool:prepare", "formats:refusal", 0.1, ("max_pool", "average_pool")),
    ("rows:prepare_softmax", "formats:refusal", 0.4, ("softmax", "log_softmax")),
    ("rows:prepare_trailing", "rows:accepts_trailing", 0.4, ("layer_normalization", "rms_normalization")),
    ("rows:prepare_groups", "formats:refusal", 0.4, ("group_normalization", "instance_normalization")),
    ("rows:prepare_batch", "formats:refusal", 0.6, ("batch_normalization",)),
    (
        *("movement:prepare_view", "movement:accepts", 0.3),
        (
            *(
                "identity",
                "reshape",
                "expand_dims",
                "squeeze",
                "flatten",
                "permute_dims",
                "matrix_transpose",
                "moveaxis",
            ),
            *("broadcast_to", "slice", "flip", "split", "unstack"),
        ),
    ),
    ("movement:prepare_join", "movement:accepts_join", 0.5, ("concat", "stack")),
    ("movement:prepare_pad", "movement:accepts", 0.3, ("pad",)),
    ("movement:prepare_tile", "movement:accepts", 0.3, ("tile",)),
    ("movement:prepare_repeat", "movement:accepts", 0.3, ("repeat",)),
    ("movement:prepare_roll", "movement:accepts", 0.5, ("roll",)),
    ("movement:prepare_blocks", "movement:accepts", 0.3, ("depth_to_space", "space_to_depth")),
    ("movement:prepare_triangle", "movement:accepts", 0.5, ("tril", "triu")),
    (
        *("movement:prepare_constant", "movement:accepts", 0.5),
        (
            *("full", "zeros", "ones", "full_like", "zeros_like", "ones_like"),
            *("iota", "arange", "eye", "linspace", "shape_of", "size_of"),
        ),
    ),
    ("indexing:prepare_gather", "movement:accepts", 0.5, ("gather", "embedding")),
    ("indexing:prepare_tuples", "movement:accepts", 0.2, ("gather_nd",)),
    ("indexing:prepare_along", "movement:accepts", 0.2, ("take_along_axis",)),
    ("indexing:prepare_one_hot", "movement:accepts", 0.5, ("one_hot",)),
    ("scattering:prepare_lanes", "scattering:accepts", 0.05, ("scatter",)),
    ("scattering:prepare_tuples", "scattering:accepts", 0.1, ("scatter_nd",)),
    ("scan:prepare", "formats:refusal", 0.1, ("cumulative_sum",)),
    ("sorting:prepare", "sorting:accepts", 0.02, ("sort", "argsort", "top_k")),
)

FLOATING = {"tiles": ("float32", "float64"), "low_tiles": ("float32",)}
"""Kernels that take certain dtypes alone, by name."""

NAMES = {"tiles:prepare_low": "low_tiles"}
"""Kernels that are not called like their module."""

FUSED = {
    "fused": "opyard_opencl.fusion",
    "fused_rows": "opyard_opencl.row_fusion",
    "fused_product": "opyard_opencl.product_fusion",
}
"""What compiles regions, by name: the module."""

WITHOUT_OUT = frozenset(
    {
        *(f"movement:prepare_{name}" for name in ("view", "tile", "repeat", "blocks")),
        "sorting:prepare",
    }
)
"""Kernels that may return a view of their input, or several arrays, and so cannot write into a given one."""


def convolution(x: Any, weight: Any, bias: Any) -> Any:
    """A convolution alone: of a pattern the kernel is told which inputs are constants."""
    import opyard

    return opyard.conv(x, weight, bias)


@hookimpl
def opyard_register(registry: Any) -> None:
    """Registers the backend and its kernels."""
    registry.backend(
        "opencl", load="opyard_opencl.backend:OpenCLBackend", arrays=("opyard_opencl.array:Array",)
    )
    for op in GENERATED:
        registry.kernel(
            op,
            backend="opencl",
            name="generated",
            prepare="opyard_opencl.elementwise:prepare",
            accepts="opyard_opencl.expressions:accepts",
            efficiency=0.7,
            out=True,
            inplace=True,
        )
    for prepare, accepts, efficiency, ops in KERNELS:
        name = NAMES.get(prepare, prepare.partition(":")[0])
        for op in ops:
            registry.kernel(
                op,
                backend="opencl",
                name=name,
                prepare=f"opyard_opencl.{prepare}",
                accepts=f"opyard_opencl.{accepts}",
                efficiency=efficiency,
                dtypes=FLOATING.get(name),
                out=prepare not in WITHOUT_OUT,
            )
    registry.pattern(
        convolution,
        backend="opencl",
        name="packed_tiles",
        prepare="opyard_opencl.tiles:prepare_packed",
        accepts="opyard_opencl.tiles:packed_accepts",
        efficiency=0.75,
        dtypes=FLOATING["tiles"],
        out=True,
        constants=True,
    )
    for name, module in FUSED.items():
        registry.region_compiler(
            backend="opencl",
            name=name,
            claims=f"{module}:claims",
            prepare=f"{module}:prepare",
            accepts=f"{module}:accepts",
            cost=f"{module}:cost",
            out=True,
        )
