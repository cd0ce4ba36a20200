"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, IMAGES, NHWC, PACKED, Pattern, chains, excited
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
    _pointwise(registry)
    _projections(registry)
    _attention(registry)


def _attention(registry: Registry) -> None:
    """Attention, and that to keys and values which are joined to those before."""
    module = "opyard_cpu.gemm.attention"
    facts: dict[str, Any] = {"backend": "cpu", "accepts": f"{module}:accepts", "cost": f"{module}:cost"}
    registry.kernel("scaled_dot_product_attention", name="gemm", prepare=f"{module}:prepare", **facts)
    for name, axis in {"gemm_cached_attention": 2, "gemm_cached_attention_last": -2}.items():
        registry.pattern(_cached(axis), name=name, prepare=f"{module}:prepare_cached", **facts)


def _cached(axis: int) -> Pattern:
    """A step of a decoder as a function over ops: keys and values behind those before, and attention to all of them."""

    def step(query: Any, past_key: Any, key: Any, past_value: Any, value: Any, mask: Any) -> Any:
        import opyard

        keys = opyard.concat(past_key, key, axis=axis)
        values = opyard.concat(past_value, value, axis=axis)
        return keys, values, opyard.scaled_dot_product_attention(query, keys, values, mask)

    return step


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


def _projections(registry: Registry) -> None:
    """1x1 convolutions behind squeeze and excitation, with a residual or without."""
    module = "opyard_cpu.gemm.projection"
    facts: dict[str, Any] = {fact: f"{module}:{fact}" for fact in ("prepare", "accepts", "cost")}
    layouts = {"x": NHWC, "weight": PACKED, "weight2": PACKED, "weight3": PACKED, "output": NHWC}
    for activation in ("relu", "silu"):
        for added in (False, True):
            name = f"gemm_squeeze_{activation}_conv{'_add' * added}"
            ports = {**layouts, "residual": NHWC} if added else layouts
            pattern = _projected(activation, added=added)
            registry.pattern(pattern, backend="cpu", name=name, dtypes=DTYPES, layouts=ports, **facts)


def _projected(activation: str, *, added: bool) -> Pattern:
    weighted = excited(activation)

    def alone(x: Any, weight: Any, bias: Any, weight2: Any, bias2: Any, weight3: Any, bias3: Any) -> Any:
        import opyard

        return opyard.conv(weighted(x, weight, bias, weight2, bias2), weight3, bias3)

    def with_residual(
        x: Any, weight: Any, bias: Any, weight2: Any, bias2: Any, weight3: Any, bias3: Any, residual: Any
    ) -> Any:
        return alone(x, weight, bias, weight2, bias2, weight3, bias3) + residual

    return with_residual if added else alone
