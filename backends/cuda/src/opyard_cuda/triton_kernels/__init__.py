"""Kernels in Triton's language, which are compiled by Triton where it is installed, and launched by CuPy.

Neither PyTorch nor Triton's own launcher takes part: what Triton compiles is loaded as any other CUDA module, and runs on
CuPy's current stream.
"""

from __future__ import annotations

from typing import Any

from .patterns import PATTERNS

FLOATS = ("float32", "float16", "bfloat16")
HALVES = ("float16", "bfloat16")


def register(registry: Any) -> None:
    """Registers the kernels. Efficiencies are estimates: none has been measured."""
    for ops, module, part, dtypes, efficiency in (
        (("softmax", "log_softmax"), "rows", "softmax", FLOATS, 0.8),
        (("layer_normalization", "rms_normalization"), "rows", "normalization", FLOATS, 0.8),
        (("matmul", "linear"), "products", "product", HALVES, 0.5),
    ):
        for op in ops:
            registry.kernel(op, **_facts(module, part, dtypes, efficiency))
    for pattern in PATTERNS:
        facts = _facts("products", "product", HALVES, 0.5)
        registry.pattern(pattern, **{**facts, "name": f"triton_{pattern.__name__}"})


def _facts(module: str, part: str, dtypes: tuple[str, ...], efficiency: float) -> dict[str, Any]:
    return {
        "backend": "cuda",
        "name": "triton",
        "prepare": f"{__name__}.{module}:prepare_{part}",
        "accepts": f"{__name__}.{module}:accepts_{part}",
        "dtypes": dtypes,
        "out": True,
        "efficiency": efficiency,
    }
