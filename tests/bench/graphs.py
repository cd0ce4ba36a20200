"""Graphs, devices and costs for measuring placement: shaped like real models, of any size, the same for equal seeds.

Everything is made of sizes and names: no arrays of weights are filled, and no kernel here is meant to be fast. The costs are
a roofline whose efficiency is drawn, by a hash, for each op, shapes, kernel and device, so that no device wins everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard.kernels import Work
from opyard.testing import NullDevice, add_null_backend, prepare_null

UNSUPPORTED = 0.15
"""Part of the pairs of op and device, those of the host aside, for which there is no kernel."""

KERNELS = ("first", "second", "third")

UNARY = ("exp", "tanh", "sigmoid", "relu", "square", "abs", "sqrt", "negative")

OPS = (
    *UNARY,
    *("add", "subtract", "multiply", "divide", "rsqrt", "sum", "max", "matmul", "conv", "conv_transpose"),
    *("max_pool", "concat", "split", "reshape", "permute_dims"),
)

DEVICES = {
    "host": oy.Capabilities(flops=6e11, bandwidth=4e10, launch_seconds=2e-7),
    "large": oy.Capabilities(flops=4e12, bandwidth=2e11, launch_seconds=3e-6),
    "small": oy.Capabilities(flops=3e12, bandwidth=1.5e11, launch_seconds=2e-6),
    "tiny": oy.Capabilities(flops=2e12, bandwidth=1e11, launch_seconds=1e-6),
}
"""Backends with one device each; each but the host has a memory of its own."""


# Graphs ----------------------------------------------------------------------------------------------------------


class Builder:
    """A graph that grows until it has ``ops`` nodes; ``full`` says so, and the shapes ask between two layers.

    filled  whether weights are arrays with memory, so that the graph can be run in earnest
    shared  whether there is one weight for each shape; else each layer has weights of its own
    """

    def __init__(self, ops: int, seed: int, filled: bool = False, shared: bool = True) -> None:
        self.graph = oy.Graph()
        self.ops = ops
        self.filled = filled
        self.shared = shared
        self.random = Random(seed)
        self._weights: dict[tuple[int, ...], oy.Value] = {}

    @property
    def full(self) -> bool:
        """Whether the graph is as large as it should be."""
        return len(self.graph.nodes) >= self.ops

    def input(self, *shape: int) -> oy.Value:
        """A new float32 input."""
        return self.graph.input(f"x{len(self.graph.inputs)}", oy.TensorSpec(shape, "float32"))

    def weight(self, *shape: int) -> oy.Value:
        """A constant; it takes no memory unless the graph is to be filled."""
        if shape not in self._weights or not self.shared:
            array = np.broadcast_to(np.float32(0.01), shape)
            self._weights[shape] = self.graph.constant(array.copy() if self.filled else array, "weight")
        return self._weights[shape]

    def fetch(self, values: Iterable[oy.Value]) -> None:
        """Makes the values outputs."""
        for value in values:
            self.graph.output(f"y{len(self.graph.outputs)}", value)


def _linear(build: Builder, x: Any, width: int) -> Any:
    return oy.add(oy.matmul(x, build.weight(x.shape[-1], width)), build.weight(width))


def _normalized(build: Builder, x: Any) -> Any:
    width = x.shape[-1]
    part = build.weight(1)
    centred = oy.subtract(x, oy.multiply(oy.sum(x, axis=-1, keepdims=True), part))
    variance = oy.multiply(oy.sum(oy.square(centred), axis=-1, keepdims=True), part)
    scaled = oy.multiply(centred, oy.rsqrt(oy.add(variance, part)))
    return oy.add(oy.multiply(scaled, build.weight(width)), build.weight(width))


def _attention(build: Builder, x: Any, mask: Any, heads: int) -> Any:
    tokens, width = x.shape
    shape = (tokens, heads, width // heads)
    query, key, value = (oy.reshape(_linear(build, x, width), shape=shape) for _ in range(3))
    scores = oy.matmul(oy.permute_dims(query, axes=(1, 0, 2)), oy.permute_dims(key, axes=(1, 2, 0)))
    scores = oy.add(oy.multiply(scores, build.weight(1)), mask)
    scores = oy.exp(oy.subtract(scores, oy.max(scores, axis=-1, keepdims=True)))
    scores = oy.divide(scores, oy.sum(scores, axis=-1, keepdims=True))
    mixed = oy.permute_dims(oy.matmul(scores, oy.permute_dims(value, axes=(1, 0, 2))), axes=(1, 0, 2))
    return _linear(build, oy.reshape(mixed, shape=(tokens, width)), width)


def transformer(build: Builder) -> None:
    """Layers of attention and feed-forward; all layers add the same mask."""
    tokens, width = 64, build.random.choice((192, 256))
    x: Any = build.input(tokens, width)
    mask = build.input(tokens, tokens)
    while not build.full:
        x = oy.add(x, _attention(build, _normalized(build, x), mask, heads=build.random.choice((2, 4, 8))))
        hidden = _linear(build, _normalized(build, x), build.random.choice(range(2, 6)) * width)
        x = oy.add(x, _linear(build, oy.multiply(hidden, oy.sigmoid(hidden)), width))
    build.fetch([x])


def _conv(build: Builder, x: Any, channels: int, kernel: int = 3, strides: int = 1) -> Any:
    """A convolution with the scale and shift that a batch normalization has become."""
    y = oy.conv(x, build.weight(channels, x.shape[1], kernel, kernel), padding=kernel // 2, strides=strides)
    return oy.add(oy.multiply(y, build.weight(channels, 1, 1)), build.weight(channels, 1, 1))


def resnet(build: Builder) -> None:
    """Residual blocks in three stages, each with half the extent and twice the channels."""
    channels = build.random.choice((16, 32))
    x: Any = oy.relu(_conv(build, build.input(1, 3, 32, 32), channels))
    for stage in range(3):
        wide = channels << stage
        while len(build.graph.nodes) < build.ops * (stage + 1) // 3 or x.shape[1] != wide:
            strides = wide // x.shape[1]
            narrow = build.random.choice(range(2, 5)) * wide // 4
            y = oy.relu(_conv(build, x, narrow, strides=strides))
            x = x if strides == 1 else _conv(build, x, wide, kernel=1, strides=strides)
            x = oy.relu(oy.add(_conv(build, y, wide), x))
    build.fetch([x])


def inception(build: Builder) -> None:
    """Modules of four branches, some wider than others, that are joined."""
    x: Any = build.input(1, 64, 16, 16)
    while not build.full:
        branches = []
        for convolutions in range(3):
            channels = build.random.choice((8, 16, 24, 32))
            branch = oy.relu(_conv(build, x, channels, kernel=1))
            for _ in range(convolutions):
                branch = oy.relu(_conv(build, branch, channels))
            branches.append(branch)
        pooled = oy.max_pool(x, kernel=3, strides=1, padding=1)
        x = oy.concat(*branches, oy.relu(_conv(build, pooled, channels, kernel=1)), axis=1)
    build.fetch([x])


def unet(build: Builder) -> None:
    """Stacked U-Nets of four levels: what goes down is needed again on the way up."""
    channels = build.random.choice((12, 16))
    x: Any = build.input(1, channels, 32, 32)
    while not build.full:
        kept = []
        for level in range(3):
            x = oy.relu(_conv(build, oy.relu(_conv(build, x, channels << level)), channels << level))
            kept.append(x)
            x = oy.max_pool(x, kernel=2)
        x = oy.relu(_conv(build, x, channels << 3))
        for level in reversed(range(3)):
            wide = channels << level
            x = oy.conv_transpose(x, build.weight(x.shape[1], wide, 2, 2), strides=2)
            x = oy.relu(_conv(build, oy.concat(kept[level], x, axis=1), wide))
            x = oy.relu(_conv(build, x, wide))
    build.fetch([x])


def lstm(build: Builder) -> None:
    """Four layers of LSTM cells, unrolled in time."""
    batch, width = build.random.choice((32, 64)), build.random.choice((128, 192))
    states: list[tuple[Any, Any]] = [(build.input(batch, width), build.input(batch, width)) for _ in range(4)]
    while not build.full:
        x: Any = build.input(batch, width)
        for layer, (hidden, cell) in enumerate(states):
            gates = oy.matmul(x, build.weight(width, 4 * width))
            gates = oy.add(
                oy.add(gates, oy.matmul(hidden, build.weight(width, 4 * width))), build.weight(4 * width)
            )
            keep, write, show, new = oy.split(gates, sections=4, axis=1)
            cell = oy.add(oy.multiply(oy.sigmoid(keep), cell), oy.multiply(oy.sigmoid(write), oy.tanh(new)))
            x = oy.multiply(oy.sigmoid(show), oy.tanh(cell))
            states[layer] = x, cell
    build.fetch([x])


def _random_node(build: Builder, one: Any, other: Any) -> Any:
    """Some op of one or of both values, which have any widths."""
    if build.random.random() < 0.4:
        return getattr(oy, build.random.choice(UNARY))(one)
    if one.shape == other.shape and one is not other:
        return getattr(oy, build.random.choice(("add", "multiply", "subtract", "divide")))(one, other)
    return oy.matmul(one, build.weight(one.shape[-1], build.random.choice((128, 256, 384))))


def window(build: Builder) -> None:
    """A random graph in which every node takes values among the last ten; those that nothing takes are fetched."""
    values: list[Any] = [build.input(64, width) for width in (128, 128, 256)]
    while not build.full:
        values.append(_random_node(build, *build.random.choices(values[-10:], k=2)))
    _fetch_unused(build)


def layered(build: Builder) -> None:
    """A random graph of layers ten nodes wide, each node taking values of the layer before."""
    before: list[Any] = [build.input(64, width) for width in (128, 128, 256)]
    while not build.full:
        nodes = range(min(10, build.ops - len(build.graph.nodes)))
        before = [_random_node(build, *build.random.choices(before, k=2)) for _ in nodes]
    _fetch_unused(build)


def _fetch_unused(build: Builder) -> None:
    used = {value for node in build.graph.nodes for value in node.inputs}
    build.fetch(v for node in build.graph.nodes for v in node.outputs if v not in used)


KINDS: dict[str, Callable[[Builder], None]] = {
    build.__name__: build for build in (transformer, resnet, inception, unet, lstm, window, layered)
}


def make_graph(kind: str, ops: int, seed: int = 0, *, filled: bool = False, shared: bool = True) -> oy.Graph:
    """A graph of one of KINDS with about so many nodes, at least ``ops``."""
    build = Builder(ops, seed, filled, shared)
    KINDS[kind](build)
    return build.graph


# Devices ---------------------------------------------------------------------------------------------------------


def chance(*parts: object) -> float:
    """A number in [0, 1) that looks random and depends on the parts alone: the same in every process."""
    digest = blake2b(" ".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


PATTERNS: dict[str, Callable[..., Any]] = {
    "linear": lambda x, w, b: oy.add(oy.matmul(x, w), b),
    "linear_add": lambda x, w, b, y: oy.add(y, oy.add(oy.matmul(x, w), b)),
    "two_linear": lambda x, w, y, v, b: oy.add(oy.add(oy.matmul(x, w), oy.matmul(y, v)), b),
    "scaled_conv": lambda x, w, s, b: oy.add(oy.multiply(oy.conv(x, w, None), s), b),
    "scaled_conv_relu": lambda x, w, s, b: oy.relu(oy.add(oy.multiply(oy.conv(x, w, None), s), b)),
    "scale_add": lambda x, s, b: oy.add(oy.multiply(x, s), b),
    "scale_add_relu": lambda x, s, b: oy.relu(oy.add(oy.multiply(x, s), b)),
    "add_relu": lambda x, y: oy.relu(oy.add(x, y)),
    "subtract_exp": lambda x, y: oy.exp(oy.subtract(x, y)),
    "square_sum": lambda x: oy.sum(oy.square(x)),
    "add_rsqrt_multiply": lambda x, e, y: oy.multiply(y, oy.rsqrt(oy.add(x, e))),
    "gate": lambda x, y: oy.multiply(oy.sigmoid(x), y),
    "gate_tanh": lambda x, y: oy.multiply(oy.sigmoid(x), oy.tanh(y)),
    "gates_add": lambda x, y, z: oy.add(oy.multiply(oy.sigmoid(x), y), z),
    "matmul_tanh": lambda x, w: oy.tanh(oy.matmul(x, w)),
    "exp_add": lambda x, y: oy.add(oy.exp(x), y),
    "relu_square": lambda x: oy.square(oy.relu(x)),
    "abs_sqrt_negative": lambda x: oy.negative(oy.sqrt(oy.abs(x))),
}


def claims_elementwise(call: oy.Call, device: oy.Device) -> str | None:
    """What a compiler of elementwise regions claims."""
    return None if call.op.scalar is not None else "it is not elementwise"


def claims_most(call: oy.Call, device: oy.Device) -> str | None:
    """What a compiler of whole graphs claims: most ops."""
    return "it is not among its ops" if chance("claims", call.op.name) < UNSUPPORTED else None


REGION_COMPILERS = {"large": claims_elementwise, "small": claims_most}


def make_registry(
    seed: int = 0, *, patterns: bool = False, regions: bool = False, backends: int = len(DEVICES)
) -> tuple[oy.Registry, list[oy.Device]]:
    """The first so many of DEVICES, the host always among them, with three kernels for each op they support.

    patterns  fused kernels of 2 to 4 ops as well
    regions   a compiler of elementwise regions and one of nearly whole graphs, on one device each, as well
    """
    registry = oy.standard_registry()
    devices: list[oy.Device] = []
    for backend, capabilities in list(DEVICES.items())[:backends]:
        memory = "host" if backend == "host" else None
        devices += add_null_backend(
            registry, NullDevice(f"{backend}:0", memory=memory, capabilities=capabilities)
        )
        for op in OPS:
            if backend != "host" and chance("supports", seed, op, backend) < UNSUPPORTED:
                continue
            for name in KERNELS:
                registry.kernel(op, backend=backend, name=name, prepare=prepare_null)
        for name, function in PATTERNS.items() if patterns else ():
            if chance("fuses", seed, name, backend) < 0.6:
                registry.pattern(function, backend=backend, name=f"fused_{name}", prepare=prepare_null)
    for backend, claims in REGION_COMPILERS.items() if regions else ():
        registry.region_compiler(backend=backend, name="regions", claims=claims, prepare=prepare_null)
    return registry, devices


class HashedCosts:
    """Rooflines with efficiencies between 0.03 and 0.9, and transfers with a latency and a bandwidth for each pair."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._pairs: dict[tuple[str, str], tuple[float, float]] = {}

    def kernel_seconds(self, kernel: oy.Kernel, call: Work, device: oy.Device) -> oy.Estimate:
        """The roofline of the device over an efficiency that is drawn for the kernel and the work."""
        can, (flops, nbytes) = device.capabilities, call.cost
        efficiency = 0.03 * 30 ** chance(self.seed, call, kernel.id, device.name)
        seconds = max(flops / can.flops, nbytes / can.bandwidth) / efficiency + can.launch_seconds
        return oy.Estimate(seconds, "drawn")

    def transfer_seconds(self, source: oy.Device, target: oy.Device, nbytes: float) -> float:
        """2 to 6 microseconds, and the bytes at 8 to 32 GB/s; nothing on one device."""
        if source is target:
            return 0.0
        pair = source.name, target.name
        if pair not in self._pairs:
            latency, bandwidth = (chance(self.seed, word, *pair) for word in ("latency", "bandwidth"))
            self._pairs[pair] = 2e-6 + 4e-6 * latency, 8e9 + 2.4e10 * bandwidth
        latency, bandwidth = self._pairs[pair]
        return latency + nbytes / bandwidth
