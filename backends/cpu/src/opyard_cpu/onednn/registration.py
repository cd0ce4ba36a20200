"""What the provider registers: data only, so that nothing is loaded at discovery."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from opyard.registry import Registry

NHWC, PACKED, DTYPES = "nhwc", "packed", ("float32",)
HERE = "opyard_cpu.onednn"

IMAGES = {"x": NHWC, "weight": PACKED, "residual": NHWC, "output": NHWC}
"""Layouts of the ports of convolutions; operands that are not named are plain."""

DENSE = ("relu", "gelu", "silu", "quick_gelu", "sigmoid", "tanh")
"""Activations behind matrix products."""

IMAGE = (*DENSE, "relu6", "leaky_relu", "elu", "mish", "hard_swish", "hard_sigmoid", "hard_tanh")
"""Activations behind convolutions; chains.py knows what they are to oneDNN."""

Pattern = Callable[..., Any]


def register(registry: Registry) -> None:
    """Registers the kernels, patterns and layouts of oneDNN with the backend "cpu"."""
    _conversions(registry)
    _convolutions(registry)
    _products(registry)
    _gradients(registry)


def _conversions(registry: Registry) -> None:
    layouts = f"{HERE}.layouts"
    for name, prepare, accepts, ports in (
        ("to_nhwc", "prepare_to_channels_last", "accepts_images", {"output": NHWC}),
        ("from_nhwc", "prepare_from_channels_last", "accepts_images", {"x": NHWC}),
        ("to_packed", "prepare_packed", "accepts_weights", {"output": PACKED}),
    ):
        registry.kernel(
            "identity",
            backend="cpu",
            name=name,
            prepare=f"{layouts}:{prepare}",
            accepts=f"{layouts}:{accepts}",
            cost=f"{layouts}:conversion_seconds",
            dtypes=DTYPES,
            layouts=ports,
        )


def _convolutions(registry: Registry) -> None:
    module = f"{HERE}.convolution"
    shared: dict[str, Any] = {"dtypes": DTYPES, "accepts": f"{module}:accepts"}
    registry.kernel(
        "conv",
        backend="cpu",
        name="onednn",
        prepare=f"{module}:prepare_plain",
        cost=f"{module}:plain_cost",
        out=True,
        **shared,
    )
    ports = {port: layout for port, layout in IMAGES.items() if port != "residual"}
    ready: dict[str, Any] = {**shared, "prepare": f"{module}:prepare", "cost": f"{module}:cost"}
    registry.kernel("conv", backend="cpu", name="onednn_nhwc", layouts=ports, **ready)
    for name, pattern in _chains("conv"):
        layouts = IMAGES if "_add" in name else ports
        registry.pattern(pattern, backend="cpu", name=f"onednn_{name}", layouts=layouts, **ready)


def _products(registry: Registry) -> None:
    module = f"{HERE}.products"
    cost = f"{module}:cost"
    registry.kernel(
        "matmul",
        backend="cpu",
        name="onednn",
        prepare=f"{module}:prepare",
        accepts=f"{module}:accepts",
        cost=cost,
        dtypes=DTYPES,
        out=True,
    )
    ready: dict[str, Any] = {
        "prepare": f"{module}:prepare_packed",
        "accepts": f"{module}:accepts_packed",
        "cost": cost,
        "dtypes": DTYPES,
        "out": True,
    }
    for op, weight in {"matmul": "x2", "linear": "weight"}.items():
        registry.kernel(op, backend="cpu", name="onednn_packed", layouts={weight: PACKED}, **ready)
        for name, pattern in _chains(op):
            ports = {"weight": PACKED}
            registry.pattern(pattern, backend="cpu", name=f"onednn_{name}", layouts=ports, **ready)


GRADIENTS = {
    "conv_weight_gradient": {"x": NHWC, "g": NHWC},
    "conv_transpose": {"x": NHWC, "output": NHWC},
    "max_pool_gradient": {"x": NHWC, "g": NHWC, "output": NHWC},
}
"""Ops of training, and the ports that are images."""

BETWEEN = {"relu_gradient": {"y": NHWC, "g": NHWC, "output": NHWC}, "sum": {"x": NHWC}}
"""Ops between them."""


def _gradients(registry: Registry) -> None:
    module, between = f"{HERE}.gradients", f"{HERE}.between"
    for op, ports in GRADIENTS.items():
        for suffix, layouts in (("", {}), ("_nhwc", ports)):
            registry.kernel(
                op,
                backend="cpu",
                name=f"onednn{suffix}",
                prepare=f"{module}:prepare_{op}{suffix}",
                accepts=f"{module}:accepts{suffix}",
                cost=f"{module}:cost{suffix}",
                dtypes=DTYPES,
                layouts=layouts,
                out=not layouts,
            )
    shared: dict[str, Any] = {"backend": "cpu", "name": "nhwc", "dtypes": DTYPES}
    for op, ports in BETWEEN.items():
        functions: dict[str, Any] = {fact: f"{between}:{fact}" for fact in ("prepare", "accepts", "cost")}
        registry.kernel(op, **shared, **functions, layouts=ports)
    registry.kernel(
        "max_pool",
        **shared,
        prepare="opyard_cpu.pooling:prepare_max_pool_nhwc",
        accepts=f"{HERE}.layouts:accepts_images",
        efficiency=0.4,
        layouts={"x": NHWC, "output": NHWC},
    )


def _chains(base: str) -> Iterator[tuple[str, Pattern]]:
    """Names and functions of the patterns that begin with an op, and go on with sums and activations."""
    convolution = base == "conv"
    yield from ((f"{base}_{name}", _chain(base, name)) for name in (IMAGE if convolution else DENSE))
    yield f"{base}_add", _chain(base, "", added=True)
    if not convolution:
        return
    yield f"{base}_add_relu", _chain(base, "relu", added=True)
    for name in ("", *IMAGE):
        yield f"{base}_scale{'_' * bool(name)}{name}", _chain(base, name, scaled=True)
    for name in ("", "relu"):
        yield f"{base}_scale_add{'_' * bool(name)}{name}", _chain(base, name, scaled=True, added=True)


def _chain(base: str, activation: str, *, scaled: bool = False, added: bool = False) -> Pattern:
    """The pattern of a base op, whose result is scaled, added to, and activated, as wanted; matmul has no bias."""

    def steps(x: Any, weight: Any, *rest: Any) -> Any:
        import opyard

        others = list(rest)
        result = getattr(opyard, base)(x, weight, *([] if base == "matmul" else [others.pop(0)]))
        if scaled:
            result = opyard.add(opyard.multiply(result, others.pop(0)), others.pop(0))
        if added:
            result = opyard.add(result, others.pop(0))
        return getattr(opyard, activation)(result) if activation else result

    names = [
        *("x", "weight"),
        *([] if base == "matmul" else ["bias"]),
        *(["factor", "offset"] if scaled else []),
        *(["residual"] if added else []),
    ]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    steps.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return steps
