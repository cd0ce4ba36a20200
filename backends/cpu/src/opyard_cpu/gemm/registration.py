"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, IMAGES, PACKED, chains

HERE = "opyard_cpu.gemm.products"


def register(registry: Registry) -> None:
    """Registers products with packed weights, and those of one row, with what may follow them."""
    forms = {
        "gemm": ("prepare_packed", "accepts_packed", "cost", True),
        "gemv": ("prepare_row", "accepts_row", "row_cost", False),
    }
    for kind, (prepare, accepts, cost, packed) in forms.items():
        facts: dict[str, Any] = {
            "backend": "cpu",
            "prepare": f"{HERE}:{prepare}",
            "accepts": f"{HERE}:{accepts}",
            "cost": f"{HERE}:{cost}",
            "dtypes": DTYPES,
            "out": True,
        }
        for op, weight in {"matmul": "x2", "linear": "weight"}.items():
            registry.kernel(op, name=kind, layouts={weight: PACKED} if packed else {}, **facts)
            for name, pattern in chains(op):
                ports = {"weight": PACKED} if packed else {}
                registry.pattern(pattern, name=f"{kind}_{name}", layouts=ports, **facts)
    _pointwise(registry)
    attention: dict[str, Any] = {
        fact: f"opyard_cpu.gemm.attention:{fact}" for fact in ("prepare", "accepts", "cost")
    }
    registry.kernel("scaled_dot_product_attention", backend="cpu", name="gemm", **attention)


def _pointwise(registry: Registry) -> None:
    """1x1 convolutions of channels-last images, with what may follow them."""
    module = "opyard_cpu.gemm.pointwise"
    facts: dict[str, Any] = {fact: f"{module}:{fact}" for fact in ("prepare", "accepts", "cost")}
    facts |= {"backend": "cpu", "dtypes": DTYPES}
    ports = {port: layout for port, layout in IMAGES.items() if port != "residual"}
    registry.kernel("conv", name="gemm_nhwc", layouts=ports, **facts)
    for name, pattern in chains("conv"):
        layouts = IMAGES if "_add" in name else ports
        registry.pattern(pattern, name=f"gemm_{name}", layouts=layouts, constants=True, **facts)
