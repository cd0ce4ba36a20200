"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, IMAGES, chains

HERE = "opyard_cpu.direct.convolution"


def register(registry: Registry) -> None:
    """Registers the convolutions, with what may follow them."""
    facts: dict[str, Any] = {fact: f"{HERE}:{fact}" for fact in ("prepare", "accepts", "cost")}
    facts |= {"backend": "cpu", "dtypes": DTYPES}
    ports = {port: layout for port, layout in IMAGES.items() if port != "residual"}
    registry.kernel("conv", name="direct_nhwc", layouts=ports, **facts)
    for name, pattern in chains("conv"):
        layouts = IMAGES if "_add" in name else ports
        registry.pattern(pattern, name=f"direct_{name}", layouts=layouts, constants=True, **facts)
