"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, IMAGES, chains

HERE = "opyard_cpu.direct.convolution"


FIRST = ("conv_relu", "conv_relu6", "conv_silu", "conv_hard_swish", "conv_scale_relu")
"""What networks begin with."""


def register(registry: Registry) -> None:
    """Registers the convolutions, with what may follow them."""
    facts: dict[str, Any] = {fact: f"{HERE}:{fact}" for fact in ("prepare", "accepts", "cost")}
    facts |= {"backend": "cpu", "dtypes": DTYPES}
    ports = {port: layout for port, layout in IMAGES.items() if port != "residual"}
    registry.kernel("conv", name="direct_nhwc", layouts=ports, **facts)
    for name, pattern in chains("conv"):
        layouts = IMAGES if "_add" in name else ports
        registry.pattern(pattern, name=f"direct_{name}", layouts=layouts, constants=True, **facts)
    _plain(registry, {port: layout for port, layout in ports.items() if port != "x"})


def _plain(registry: Registry, ports: dict[str, str]) -> None:
    """The first convolution of a network, which takes images as they come."""
    facts: dict[str, Any] = {fact: f"{HERE}:{fact}_plain" for fact in ("prepare", "accepts")}
    facts |= {"backend": "cpu", "dtypes": DTYPES, "cost": f"{HERE}:cost", "layouts": ports}
    registry.kernel("conv", name="direct_plain", **facts)
    for name, pattern in chains("conv"):
        if name in FIRST:
            registry.pattern(pattern, name=f"direct_plain_{name}", constants=True, **facts)
