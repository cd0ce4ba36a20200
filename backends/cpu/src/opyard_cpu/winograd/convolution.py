"""Convolutions of 3x3 as 36 matrix products for each block of tiles, which stays in the second-level cache.

A block of tiles is transformed, multiplied by the transformed weights by oneDNN, transformed back, and what follows the
convolution is done on the way out. That takes a quarter of the multiplications.

Errors are relative to whole tiles: mostly below 8 units of 1.2e-7 of the largest sum of absolute values of terms that an output of
the tile has, and at most 21 in some ten million outputs that were measured. Where all numbers are of one size that is within the tolerance of ``conv``. Beside large inputs of the
same 6x6 tile, an output of small or zero terms is off by as much as its neighbours: ``magnitudes`` says so, and conformance
judges these kernels by it. Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks. Libraries of the
field take the method for float32 without being asked (cuDNN, ncnn); who wants each output as exact as its own terms allow
sets OPYARD_WINOGRAD=0.

What is not finite would spread over its tile, so where a result is not, all is computed anew by oneDNN's own convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.operation import Call
from opyard.settings import num_threads

from ..geometry import Geometry, conv_geometry
from ..jit import machine
from ..jit.launch import KERNEL
from ..onednn import convolution as direct
from ..onednn.addresses import Array, address, dense
from ..onednn.chains import SECONDS, Operand, Run, chain_of
from ..onednn.checks import extra_seconds
from ..onednn.execution import Execution, reordered
from ..onednn.layouts import Packed, concrete
from ..onednn.library import library
from ..onednn.library import missing as no_products
from ..onednn.memory import Descriptor, any_layout, strided
from ..onednn.plain import room, room_for
from ..onednn.primitives import Primitive, matmul
from ..threads import in_parts
from . import transforms
from .transforms import POINTS, TILE

GROWTH = 2.0
"""How much larger errors may be than those of a sum of so many terms: the transforms add and subtract multiples up to 8 of what they take."""

FEATURE = "winograd"
"""What a device has unless the user forbids these kernels."""

BLOCK_BYTES = 1 << 20
"""What the products of a block take, in and out; the weights want to stay in the cache beside them."""

LEAST_TILES = 64
"""Tiles of a block: with fewer, the weights are fetched from further away too often."""

PEAK = 0.9
"""Fraction of the device's peak that the products reach."""

NEAR = 0.5
"""What a byte in the second-level cache takes, beside one in memory."""

LEAST_CHANNELS, LEAST_OUTPUTS = 16, 8
"""Channels below which vectors and products are too short for any gain, and sums for the errors of tiles to average out."""


@dataclass(eq=False, slots=True)
class Transformed:
    """Weights ``[o, c, 3, 3]`` as ``[36, c, o]``, in the forms that products want; and as they were, for oneDNN's convolution."""

    packed: Packed
    forms: dict[int, Array] = field(default_factory=dict)

    def form(self, target: Descriptor) -> Array:
        """The transformed weights in a layout."""
        found = self.forms.get(target.number)
        if found is None:
            plain = transformed(self.packed.array)
            found = self.forms[target.number] = reordered(plain, strided(plain.shape), target)
        return found


def transformed(weight: Array) -> Array:
    """``[36, c, o]`` of weights ``[o, c, 3, 3]``: G w G^T, in float64 until the end."""
    outputs, channels = weight.shape[:2]
    matrix = np.kron(transforms.weight_matrix(), transforms.weight_matrix())
    flat = weight.reshape(outputs * channels, 9).astype(np.float64)
    with np.errstate(all="ignore"):
        points = np.matmul(matrix, flat.T)
        whole = points.reshape(POINTS, outputs, channels).transpose(0, 2, 1)
        return np.ascontiguousarray(whole, np.float32)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the outputs of a convolution are cut: ``rows`` x ``columns`` tiles for each image, ``block`` tiles at a time."""

    rows: int
    columns: int
    count: int
    block: int


@lru_cache(maxsize=1024)
def tiling(g: Geometry, threads: int) -> Tiling:
    """Blocks of equal size but for the last, as many for each thread."""
    rows, columns = (-(-count // TILE) for count in g.counts)
    count = g.batch * rows * columns
    most = max(1, BLOCK_BYTES // (POINTS * 4 * (g.channels + g.outputs)))
    most = max(most, LEAST_TILES)
    blocks = -(-count // most)
    blocks = min(count, -(-blocks // threads) * threads)
    return Tiling(rows, columns, count, -(-count // blocks))


def refusal(call: Call) -> str | None:
    """Why a convolution cannot be computed so, or None."""
    if reason := no_products() or machine.missing():
        return reason
    weight = call.inputs[1]
    assert weight is not None
    if weight.ndim != 4:
        return f"takes images of two axes, not {weight.ndim - 2}"
    g = conv_geometry(call)
    if g.kernel != (3, 3) or g.strides != (1, 1) or g.dilations != (1, 1) or g.groups != 1:
        return "takes kernels of 3x3 with strides and dilations of 1 and one group"
    if max(max(pair) for pair in g.pairs) > 1:
        # what sees little but padding has few terms, beside which the errors of its tile are large
        return "takes padding of 1 at most"
    if g.channels < LEAST_CHANNELS or g.outputs < LEAST_OUTPUTS:
        return f"takes {LEAST_CHANNELS} channels or more and makes {LEAST_OUTPUTS} or more, not {g.channels} and {g.outputs}"
    return None


def not_allowed(device: Device) -> str | None:
    """What to set where the user forbade these kernels, or None."""
    if FEATURE in device.capabilities.features:
        return None
    return "OPYARD_WINOGRAD=0 forbids it; set it to 1, which is the default"


def magnitudes(call: Call, arrays: Sequence[Any]) -> list[Array | None]:
    """``[n, o, h, w]``: GROWTH times the largest sum of absolute values of terms among the outputs of each one's tile of 4x4."""
    (terms,) = call.magnitudes(*arrays)
    assert terms is not None
    finite = GROWTH * np.where(np.isfinite(terms), terms, 0)
    rows, columns = terms.shape[2:]
    padded = np.pad(finite, ((0, 0), (0, 0), (0, -rows % TILE), (0, -columns % TILE)))
    n, o, h, w = padded.shape
    tiles = padded.reshape(n, o, h // TILE, TILE, w // TILE, TILE).max((3, 5), keepdims=True)
    return [
        np.broadcast_to(tiles, (n, o, h // TILE, TILE, w // TILE, TILE)).reshape(padded.shape)[
            :, :, :rows, :columns
        ]
    ]


def accepts(work: Work, device: Device) -> str | None:
    """Why this convolution with the steps behind it is not computed so, or None."""
    if reason := not_allowed(device):
        return reason
    return refusal(chain_of(work).base) or direct.accepts(work, device)


def accepts_weights(call: Call, device: Device) -> str | None:
    """Why a tensor is not transformed, or None."""
    spec = call.inputs[0]
    assert spec is not None
    if reason := not_allowed(device) or no_products() or machine.missing():
        return reason
    shape = concrete(spec.shape)
    fits = len(shape) == 4 and shape[2:] == (3, 3) and spec.size
    return None if fits else f"transforms weights [o, c, 3, 3], not {list(shape)}"


def prepare_weights(call: Call, device: Device) -> Run:
    """Keeps the array for the kernels to ask for."""
    return lambda weight: Transformed(Packed(dense(weight)))


def weights_seconds(call: Call, device: Device) -> float:
    """Estimated seconds of the transform: 36 numbers in float64 for 9."""
    return 20 * call.cost.bytes / device.capabilities.bandwidth + 10 * SECONDS


def _lanes() -> int:
    return machine.host().vector_bytes // 4


def _compiled(source: str) -> tuple[Callable[..., None], object]:
    module = machine.compiler().function(source)
    return KERNEL(module.address), module


@lru_cache(maxsize=1024)
def _product(tiles: int, channels: int, outputs: int) -> Primitive:
    """36 products on one thread: the threads have blocks of their own."""
    with library().on_one_thread():
        made = matmul(
            strided((POINTS, tiles, channels)),
            any_layout((POINTS, channels, outputs)),
            strided((POINTS, tiles, outputs)),
        )
        assert made.handle  # compiled for one thread, too
    return made


def prepare(work: Work, device: Device) -> Run:
    """``run(x, weight, bias, residual)`` on channels-last images and transformed weights."""
    return _Convolution(work, device).run


class _Convolution:
    """What one convolution needs, whatever the arrays."""

    def __init__(self, work: Work, device: Device) -> None:
        chain = chain_of(work)
        g = conv_geometry(chain.base)
        self.residual = next((step.position for step in chain.steps if isinstance(step, Operand)), None)
        self.has_bias = chain.base.inputs[2] is not None
        self.work, self.shape = g.work / 4, (g.batch, *g.counts, g.outputs)
        self.tiles = found = tiling(g, num_threads())
        product = _product(found.block, g.channels, g.outputs)
        self.wanted = product.memories["weights"]
        self.product = Execution(product, ("src", "weights", "dst"))
        lanes = min(_lanes(), 16 if min(g.channels, g.outputs) >= 16 else 8)
        relu = any(not isinstance(step, Operand) for step in chain.steps)
        self.enter = _compiled(transforms.input_source(lanes))
        self.leave = _compiled(
            transforms.output_source(lanes, bias=self.has_bias, residual=self.residual is not None, relu=relu)
        )
        grid = found.rows, found.columns
        before = tuple(pair[0] for pair in g.pairs)
        planes = [found.block * channels * 4 for channels in (g.channels, g.outputs)]
        self.sizes_in = np.array([*g.sizes, g.channels, *grid, *before, planes[0]], np.int64)
        self.sizes_out = np.array([*g.counts, g.outputs, *grid, planes[1]], np.int64)
        self.zeros, self.nbytes = (
            np.zeros(max(g.channels, g.outputs), np.float32),
            [POINTS * plane for plane in planes],
        )
        self.spare = 4 * g.outputs
        self.direct = cache(lambda: direct.prepare(work, device))

    def run(self, *inputs: Any) -> Array:
        """The result, channels last."""
        x, weight = inputs[0], inputs[1]
        result = np.empty(self.shape, np.float32)
        form = weight.form(self.wanted)
        bias = dense(inputs[2]) if self.has_bias else None
        residual = None if self.residual is None else inputs[self.residual]
        arrays = [0 if array is None else address(array) for array in (bias, residual, result)]
        checks: list[Any] = []

        def part(first: int, last: int) -> None:
            checks.append(self._blocks(first, last, address(x), address(form), arrays))

        in_parts(part, -(-self.tiles.count // self.tiles.block), self.work)
        if all(np.isfinite(check).all() for check in checks):
            return result
        again: Array = self.direct()(x, weight.packed, *inputs[2:])
        return again

    def _blocks(self, first: int, last: int, x: int, form: int, arrays: list[int]) -> Array:
        """Computes blocks; what it gives is finite if all numbers were."""
        check = np.zeros(16, np.float32)
        points, products = (room_for(nbytes) for nbytes in self.nbytes)
        base = room().of(points + products + self.spare)
        data_in = np.array([x, address(self.zeros), base], np.int64)
        spare = base + points + products
        data_out = np.array([base + points, *arrays, spare, address(self.zeros), address(check)], np.int64)
        (enter, _), (leave, _) = self.enter, self.leave
        call_in = address(data_in), address(self.sizes_in)
        call_out = address(data_out), address(self.sizes_out)
        multiply, block, count = self.product.run, self.tiles.block, self.tiles.count
        for begin in range(first * block, min(last * block, count), block):
            end = min(begin + block, count)
            enter(*call_in, begin, end)
            multiply(base, form, base + points)
            leave(*call_out, begin, end)
        return check


def cost(work: Work, device: Device) -> float:
    """Estimated seconds on channels-last images: the products, and what is fetched from beyond the nearest caches."""
    chain, abilities = chain_of(work), device.capabilities
    g = conv_geometry(chain.base)
    tiles = tiling(g, num_threads())
    blocks = -(-tiles.count // tiles.block)
    weights = POINTS * 4 * g.channels * g.outputs
    points = POINTS * 4 * tiles.count * (g.channels + g.outputs)
    nbytes = work.cost.bytes + NEAR * points + (blocks * weights if weights > BLOCK_BYTES else weights)
    products = 2.0 * POINTS * blocks * tiles.block * g.channels * g.outputs
    seconds = products / (PEAK * abilities.flops) + nbytes / abilities.bandwidth
    return seconds + blocks * SECONDS + extra_seconds(chain, device)
