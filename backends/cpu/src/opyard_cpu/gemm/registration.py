"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, PACKED, chains
from .recurrent import lstm_steps

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
    steps: dict[str, Any] = {
        "prepare": f"{HERE}:prepare_packed",
        "accepts": f"{HERE}:accepts_packed",
        "cost": f"{HERE}:cost",
    }
    for name, pattern in lstm_steps():
        registry.pattern(
            pattern, backend="cpu", name=f"gemm_{name}", layouts={"weight": PACKED}, dtypes=DTYPES, **steps
        )
    attention: dict[str, Any] = {
        fact: f"opyard_cpu.gemm.attention:{fact}" for fact in ("prepare", "accepts", "cost")
    }
    registry.kernel("scaled_dot_product_attention", backend="cpu", name="gemm", **attention)
