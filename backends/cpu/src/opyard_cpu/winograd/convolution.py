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

from collections.abc import Sequence
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
from ..onednn import convolution as direct
from ..onednn.addresses import Array, address, aligned, dense
from ..onednn.chains import SECONDS, Operand, Run, chain_of
from ..onednn.checks import extra_seconds
from ..onednn.execution import reordered
from ..onednn.layouts import Packed, concrete
from ..onednn.library import library
from ..onednn.library import missing as no_products
from ..onednn.memory import Descriptor, any_layout, strided
from ..onednn.primitives import Primitive, matmul
from . import transforms
from .blocks import GROUPS, Blocks, Phases, Steps
from .transforms import POINTS, TILE

GROWTH = 2.0
"""How much larger errors may be than those of a sum of so many terms: the transforms add and subtract multiples up to 8 of what they take."""

FEATURE = "winograd"
"""What a device has unless the user forbids these kernels."""

BLOCK_BYTES = 1 << 20
"""What the products of a block take, in and out; the weights want to stay in the cache beside them."""

LEAST_TILES = 64
"""Tiles of a block: with fewer, the weights are fetched from further away too often."""

PARTS = 2
"""Blocks for each thread at least, where they have tiles enough: threads take them as they come."""

LEAST_WORK = 2e6
"""Operations, some ten microseconds of them, below which another thread does not pay."""

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
        """The transformed weights in a layout, group by group where it is that of some of the 36 points."""
        found = self.forms.get(target.number)
        if found is None:
            plain = transformed(self.packed.array)
            count = target.shape[0]
            groups = (plain[first : first + count] for first in range(0, POINTS, count))
            parts = [reordered(group, strided(group.shape), target) for group in groups]
            found = aligned(target.nbytes * len(parts))
            for number, part in enumerate(parts):
                found[number * target.nbytes :][: target.nbytes] = part[: target.nbytes]
            self.forms[target.number] = found
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
    """How the outputs of a convolution are cut: ``rows`` x ``columns`` tiles for each image, ``block`` tiles at a time.

    in_phases  whether the threads divide the points of the products, and not the tiles
    """

    rows: int
    columns: int
    count: int
    block: int
    in_phases: bool = False


def _weights_bytes(g: Geometry) -> int:
    """Of transformed weights."""
    return POINTS * 4 * g.channels * g.outputs


def _points_bytes(g: Geometry, tiles: int) -> int:
    """Of transformed tiles, in and out."""
    return POINTS * 4 * tiles * (g.channels + g.outputs)


@lru_cache(maxsize=1024)
def tiling(g: Geometry, threads: int) -> Tiling:
    """Blocks of equal size but for the last, as many for each thread."""
    rows, columns = (-(-count // TILE) for count in g.counts)
    count = g.batch * rows * columns
    most = max(1, BLOCK_BYTES // _points_bytes(g, 1))
    most = max(most, LEAST_TILES)
    blocks = -(-count // most)
    if _weights_bytes(g) > _points_bytes(g, count) and threads > 1:
        return Tiling(rows, columns, count, count, in_phases=True)
    parts = threads * PARTS if count >= threads * PARTS * LEAST_TILES else threads
    blocks = min(count, -(-blocks // parts) * parts)
    return Tiling(rows, columns, count, -(-count // blocks))


def threads_for(g: Geometry) -> int:
    """As many as have enough to do."""
    return max(1, min(num_threads(), int(g.work / 4 / LEAST_WORK)))


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


@lru_cache(maxsize=1024)
def _product(points: int, tiles: int, channels: int, outputs: int) -> Primitive:
    """As many products as points on one thread: the threads have blocks or points of their own."""
    with library().on_one_thread():
        made = matmul(
            strided((points, tiles, channels)),
            any_layout((points, channels, outputs)),
            strided((points, tiles, outputs)),
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
        self.bias = None if chain.base.inputs[2] is None else 2
        self.shape = (g.batch, *g.counts, g.outputs)
        found = tiling(g, threads_for(g))
        points = POINTS // GROUPS if found.in_phases else POINTS
        product = _product(points, found.block, g.channels, g.outputs)
        self.wanted = product.memories["weights"]
        lanes = min(_lanes(), 16 if min(g.channels, g.outputs) >= 16 else 8)
        relu = any(not isinstance(step, Operand) for step in chain.steps)
        leave = transforms.output_source(
            lanes, bias=self.bias is not None, residual=self.residual is not None, relu=relu
        )
        grid = found.rows, found.columns
        before = tuple(pair[0] for pair in g.pairs)
        planes = [found.block * channels * 4 for channels in (g.channels, g.outputs)]
        steps = Steps(
            enter=machine.compiler().function(transforms.input_source(lanes)),
            leave=machine.compiler().function(leave),
            sizes_in=np.array([*g.sizes, g.channels, *grid, *before, planes[0]], np.int64),
            sizes_out=np.array([*g.counts, g.outputs, *grid, planes[1]], np.int64),
            product=product,
            tiles=found.count,
            block=found.block,
            points=POINTS * planes[0],
            products=POINTS * planes[1],
            spare=4 * g.outputs,
            zeros=np.zeros(max(g.channels, g.outputs), np.float32),
        )
        self.steps = (Phases if found.in_phases else Blocks)(steps, threads_for(g))
        self.direct = cache(lambda: direct.prepare(work, device))

    def run(self, *inputs: Any) -> Array:
        """The result, channels last."""
        # kept by these names until all is done
        x, form, result = dense(inputs[0]), inputs[1].form(self.wanted), np.empty(self.shape, np.float32)
        others = [dense(inputs[place]) if place is not None else None for place in (self.bias, self.residual)]
        bias, residual = (0 if array is None else address(array) for array in others)
        if self.steps.run(address(x), address(form), bias, residual, address(result)):
            return result
        again: Array = self.direct()(x, inputs[1].packed, *inputs[2:])
        return again


def cost(work: Work, device: Device) -> float:
    """Estimated seconds on channels-last images: the products, and what is fetched from beyond the nearest caches."""
    chain, abilities = chain_of(work), device.capabilities
    g = conv_geometry(chain.base)
    tiles = tiling(g, threads_for(g))
    blocks = -(-tiles.count // tiles.block)
    weights, points = _weights_bytes(g), _points_bytes(g, tiles.count)
    nbytes = work.cost.bytes + NEAR * points + (blocks * weights if weights > BLOCK_BYTES else weights)
    products = 2.0 * POINTS * blocks * tiles.block * g.channels * g.outputs
    seconds = products / (PEAK * abilities.flops) + nbytes / abilities.bandwidth
    return seconds + blocks * SECONDS + extra_seconds(chain, device)
