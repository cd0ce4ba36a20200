"""What the provider registers: data only, so that nothing is loaded at discovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

from opyard.registry import Registry

NHWC, PACKED, DTYPES, BFLOAT16 = "nhwc", "packed", ("float32",), ("bfloat16",)
BYTES = ("int8", "uint8")
HERE = "opyard_cpu.onednn"

IMAGES = {"x": NHWC, "weight": PACKED, "residual": NHWC, "output": NHWC}
"""Layouts of the ports of convolutions; operands that are not named are plain."""

DENSE = ("relu", "gelu", "silu", "quick_gelu", "sigmoid", "tanh")
"""Activations behind matrix products."""

ELEMENTWISE = ("relu", "relu6", "sigmoid", "silu", "hard_swish", "hard_sigmoid", "leaky_relu", "elu", "gelu")
"""Functions of elements, which stand between convolutions by themselves where nothing fuses them."""

IMAGE = (*DENSE, "relu6", "leaky_relu", "elu", "mish", "hard_swish")
"""Activations behind convolutions; chains.py knows what they are to oneDNN."""

Pattern = Callable[..., Any]


def register(registry: Registry) -> None:
    """Registers the kernels, patterns and layouts of oneDNN with the backend "cpu"."""
    _conversions(registry)
    _convolutions(registry)
    _products(registry)
    _images(registry)
    _squeeze(registry)
    _gradients(registry)
    _bfloat16(registry)
    _integers(registry)


def _bfloat16(registry: Registry) -> None:
    """Products and convolutions whose inputs are bfloat16; nothing is made bfloat16 for them."""
    module = f"{HERE}.bfloat16"
    ports = {"conv": {"x": NHWC, "weight": PACKED, "output": NHWC}, "linear": {"weight": PACKED}}
    for op in ("matmul", "linear", "conv"):
        plain, kept = ("conv", "conv") if op == "conv" else ("product", "packed")
        ready: dict[str, Any] = {"backend": "cpu", "dtypes": BFLOAT16}
        registry.kernel(
            op,
            **ready,
            name="onednn_bfloat16",
            accepts=f"{module}:accepts_{plain}",
            prepare=f"{module}:prepare_plain",
            cost=f"{module}:plain_cost",
            out=True,
        )
        registry.kernel(
            op,
            **ready,
            name="onednn_bfloat16_nhwc" if op == "conv" else "onednn_bfloat16_packed",
            accepts=f"{module}:accepts_{kept}",
            prepare=f"{module}:prepare_ready",
            cost=f"{module}:cost",
            layouts=ports.get(op, {"x2": PACKED}),
        )


def _conversions(registry: Registry) -> None:
    layouts = f"{HERE}.layouts"
    for name, prepare, accepts, ports in (
        ("to_nhwc", "prepare_to_channels_last", "accepts_images", {"output": NHWC}),
        ("from_nhwc", "prepare_from_channels_last", "accepts_images", {"x": NHWC}),
        ("to_packed", "prepare_packed", "accepts_weights", {"output": PACKED}),
        ("from_packed", "prepare_unpacked", "accepts_weights", {"x": PACKED}),
    ):
        registry.kernel(
            "identity",
            backend="cpu",
            name=name,
            prepare=f"{layouts}:{prepare}",
            accepts=f"{layouts}:{accepts}",
            cost=f"{layouts}:conversion_seconds",
            dtypes=DTYPES + BFLOAT16,
            layouts=ports,
        )


def _integers(registry: Registry) -> None:
    """Sums of products of bytes, as graphs write them: in int32, or for convolutions in float64."""
    module = f"{HERE}.integers"
    functions: dict[str, Any] = {fact: f"{module}:{fact}" for fact in ("prepare", "accepts", "cost")}
    for name, pattern, weights in _byte_patterns():
        dtypes = {"x": ("int32",) if name == "matmul_shared" else BYTES, "weight": weights}
        dtypes.update((zero, ("int32",)) for zero in signature(pattern).parameters if zero not in dtypes)
        registry.pattern(
            pattern, backend="cpu", name=f"onednn_int8_{name}", dtypes=dtypes, constants=True, **functions
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
    for name, pattern in chains("conv"):
        layouts = IMAGES if "_add" in name else ports
        registry.pattern(
            pattern, backend="cpu", name=f"onednn_{name}", layouts=layouts, constants=True, **ready
        )


def _products(registry: Registry) -> None:
    module = f"{HERE}.products"
    cost = f"{module}:cost"
    registry.kernel(
        "matmul",
        backend="cpu",
        name="onednn",
        prepare=f"{module}:prepare",
        accepts=f"{module}:accepts",
        cost=f"{module}:plain_cost",
        dtypes=DTYPES,
        out=True,
    )
    large: dict[str, Any] = {fact: f"{HERE}.gemm:{fact}" for fact in ("prepare", "accepts", "cost")}
    registry.kernel("matmul", backend="cpu", name="onednn_gemm", dtypes=DTYPES, out=True, **large)
    ready: dict[str, Any] = {
        "prepare": f"{module}:prepare_packed",
        "accepts": f"{module}:accepts_packed",
        "cost": cost,
        "dtypes": DTYPES,
        "out": True,
    }
    for op, weight in {"matmul": "x2", "linear": "weight"}.items():
        registry.kernel(op, backend="cpu", name="onednn_packed", layouts={weight: PACKED}, **ready)
        for name, pattern in chains(op):
            ports = {"weight": PACKED}
            registry.pattern(pattern, backend="cpu", name=f"onednn_{name}", layouts=ports, **ready)


def _images(registry: Registry) -> None:
    """What stands between convolutions, on channels-last arrays."""
    module = f"{HERE}.images"
    cost = f"{module}:streaming_seconds"
    facts: dict[str, Any] = {"backend": "cpu", "name": "nhwc", "dtypes": DTYPES, "ranks": (3, 5)}
    same = {"x": NHWC, "output": NHWC}
    alike: dict[str, Any] = {**facts, "accepts": f"{module}:accepts_alike", "cost": cost}
    for op in ELEMENTWISE:
        registry.kernel(op, load=f"opyard_cpu.elementwise:{op}", layouts=same, **alike)
    registry.kernel("tanh", load="numpy:tanh", layouts=same, **alike)
    for op in ("add", "subtract", "multiply"):
        ports = {"x1": NHWC, "x2": NHWC, "output": NHWC}
        registry.kernel(op, load=f"numpy:{op}", layouts=ports, **alike)
    facts["name"], accepts = "nhwc_factors", f"{module}:accepts_channel_factors"
    ports, prepare = {"x1": NHWC, "output": NHWC}, f"{module}:prepare_channel_factors"
    registry.kernel("multiply", prepare=prepare, accepts=accepts, cost=cost, layouts=ports, **facts)
    facts["name"] = "nhwc"
    for op, reason, ports in (
        ("concat", "accepts_concat", {"arrays": NHWC, "output": NHWC}),
        ("max_pool", "accepts_images", same),
        ("average_pool", "accepts_average_pool", same),
        ("global_average_pool", "accepts_global_average_pool", {"x": NHWC}),
    ):
        ready: dict[str, Any] = {"prepare": f"{module}:prepare_{op}", "accepts": f"{module}:{reason}"}
        seconds = cost if op == "concat" else f"{module}:pool_seconds"
        registry.kernel(op, cost=seconds, layouts=ports, **ready, **facts)


def _squeeze(registry: Registry) -> None:
    """Squeeze and excitation."""
    functions: dict[str, Any] = {fact: f"{HERE}.squeeze:{fact}" for fact in ("prepare", "accepts", "cost")}
    layouts = {"x": NHWC, "weight": PACKED, "weight2": PACKED, "output": NHWC}
    for name in ("relu", "silu"):
        registry.pattern(
            excited(name),
            backend="cpu",
            name=f"onednn_squeeze_{name}",
            dtypes=DTYPES,
            layouts=layouts,
            **functions,
        )


def excited(activation: str) -> Pattern:
    """Squeeze and excitation with an activation."""

    def weighted(x: Any, weight: Any, bias: Any, weight2: Any, bias2: Any) -> Any:
        squeezed = _named("conv")(_named("global_average_pool")(x), weight, bias)
        return x * _named("sigmoid")(_named("conv")(_named(activation)(squeezed), weight2, bias2))

    return weighted


GRADIENTS = {
    "conv_weight_gradient": {"x": NHWC, "g": NHWC},
    "conv_transpose": {"x": NHWC, "weight": PACKED, "output": NHWC},
    "max_pool_gradient": {"x": NHWC, "g": NHWC, "output": NHWC},
}
"""Ops of training, and the ports that are images or weights."""

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
    functions: dict[str, Any] = {
        fact: f"{HERE}.contractions:{fact}" for fact in ("prepare", "accepts", "cost")
    }
    registry.kernel("einsum", backend="cpu", name="onednn", dtypes=DTYPES, out=True, **functions)
    shared: dict[str, Any] = {"backend": "cpu", "name": "nhwc", "dtypes": DTYPES}
    for op, ports in BETWEEN.items():
        functions = {fact: f"{between}:{fact}" for fact in ("prepare", "accepts", "cost")}
        registry.kernel(op, **shared, **functions, layouts=ports)


def chains(base: str) -> Iterator[tuple[str, Pattern]]:
    """Names and functions of the patterns that begin with an op: what follows are sums and activations."""
    if base == "matmul":
        yield from ((f"matmul_{name}", _product(name, added=False)) for name in DENSE)
        yield "matmul_add", _product("", added=True)
        return
    yield from (
        (f"{base}_{name}", _biased(base, name, added=False)) for name in (IMAGE if base == "conv" else DENSE)
    )
    yield f"{base}_add", _biased(base, "", added=True)
    if base == "linear":
        return
    yield "conv_add_relu", _biased(base, "relu", added=True)
    for name in ("", *IMAGE):
        yield f"conv_scale{'_' * bool(name)}{name}", _scaled(name, added=False)
    for name in ("", "relu"):
        yield f"conv_scale_add{'_' * bool(name)}{name}", _scaled(name, added=True)


def _named(op: str) -> Pattern:
    """The function of an op, found when a pattern is traced; without a name, one that does nothing."""
    import opyard

    return getattr(opyard, op) if op else lambda x: x


def _product(activation: str, *, added: bool) -> Pattern:
    def alone(x: Any, weight: Any) -> Any:
        return _named(activation)(_named("matmul")(x, weight))

    def with_residual(x: Any, weight: Any, residual: Any) -> Any:
        return _named(activation)(_named("matmul")(x, weight) + residual)

    return with_residual if added else alone


def _biased(base: str, activation: str, *, added: bool) -> Pattern:
    def alone(x: Any, weight: Any, bias: Any) -> Any:
        return _named(activation)(_named(base)(x, weight, bias))

    def with_residual(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        return _named(activation)(_named(base)(x, weight, bias) + residual)

    return with_residual if added else alone


def _scaled(activation: str, *, added: bool) -> Pattern:
    """What a batch normalization behind a convolution becomes: a factor and an offset for each channel."""

    def alone(x: Any, weight: Any, bias: Any, factor: Any, offset: Any) -> Any:
        return _named(activation)(_named("conv")(x, weight, bias) * factor + offset)

    def with_residual(x: Any, weight: Any, bias: Any, factor: Any, offset: Any, residual: Any) -> Any:
        return _named(activation)(_named("conv")(x, weight, bias) * factor + offset + residual)

    return with_residual if added else alone


def _centred(x: Any, zero: Any = None) -> Any:
    whole = _cast(x, "int32")
    return whole if zero is None else _named("subtract")(whole, zero)


def _cast(x: Any, dtype: str) -> Any:
    import opyard

    return opyard.cast(x, dtype=dtype)


def _byte_patterns() -> Iterator[tuple[str, Pattern, tuple[str, ...]]]:
    """Names, functions, and dtypes of the weights. Those that are no bytes are what folding makes of constants."""

    def matmul(x: Any, weight: Any) -> Any:
        return _named("matmul")(x, weight)

    def conv(x: Any, weight: Any) -> Any:
        return _cast(_named("conv")(_cast(x, "float64"), weight), "int32")

    folded, bytes_ = ("int32",), BYTES
    yield "conv", lambda x, weight: conv(_centred(x), weight), ("float64",)
    yield "conv_zero", lambda x, zero, weight: conv(_centred(x, zero), weight), ("float64",)
    yield "matmul_shared", matmul, folded
    yield "matmul", lambda x, weight: matmul(_centred(x), weight), folded
    yield "matmul_zero", lambda x, zero, weight: matmul(_centred(x, zero), weight), folded
    yield "matmul_bytes", lambda x, weight: matmul(_centred(x), _centred(weight)), bytes_
    yield (
        "matmul_zero_bytes",
        lambda x, zero, weight: matmul(_centred(x, zero), _centred(weight)),
        bytes_,
    )
    yield (
        "matmul_bytes_zero",
        lambda x, weight, weight_zero: matmul(_centred(x), _centred(weight, weight_zero)),
        bytes_,
    )
    yield (
        "matmul_zero_bytes_zero",
        lambda x, zero, weight, weight_zero: matmul(_centred(x, zero), _centred(weight, weight_zero)),
        bytes_,
    )
