"""What the provider registers: data only."""

from __future__ import annotations

from typing import Any

from opyard.registry import Registry

from ..onednn.registration import DTYPES, NHWC

WINOGRAD = "winograd"
"""The layout of transformed weights."""

HERE = "opyard_cpu.winograd.convolution"


def register(registry: Registry) -> None:
    """Registers the convolutions, and the conversion of weights."""
    registry.kernel(
        "identity",
        backend="cpu",
        name="to_winograd",
        prepare=f"{HERE}:prepare_weights",
        accepts=f"{HERE}:accepts_weights",
        cost=f"{HERE}:weights_seconds",
        dtypes=DTYPES,
        layouts={"output": WINOGRAD},
    )
    facts: dict[str, Any] = {
        "backend": "cpu",
        "dtypes": DTYPES,
        **{fact: f"{HERE}:{fact}" for fact in ("prepare", "accepts", "cost")},
    }
    ports = {"x": NHWC, "weight": WINOGRAD, "output": NHWC}
    registry.kernel("conv", name="winograd", layouts=ports, magnitudes=f"{HERE}:magnitudes", **facts)
    registry.pattern(_relu, name="winograd_conv_relu", layouts=ports, **facts)
    for pattern in (_add, _add_relu):
        layouts = {**ports, "residual": NHWC}
        registry.pattern(pattern, name=f"winograd_conv{pattern.__name__}", layouts=layouts, **facts)


def _relu(x: Any, weight: Any, bias: Any) -> Any:
    import opyard

    return opyard.relu(opyard.conv(x, weight, bias))


def _add(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
    import opyard

    return opyard.conv(x, weight, bias) + residual


def _add_relu(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
    import opyard

    return opyard.relu(opyard.conv(x, weight, bias) + residual)
