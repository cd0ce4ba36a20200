"""Kernels of convolutions as compiled loops, with what follows, on channels-last images. See source.py."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.settings import num_threads

from ..gemm.pointwise import given_places, noting, tail_behind
from ..gemm.tail import Tail
from ..geometry import Geometry, conv_geometry
from ..jit import machine, scalars
from ..jit.pool_source import CHUNKS
from ..jit.teams import held, on_threads
from ..onednn.addresses import Array, address, aligned, dense, images_maker
from ..onednn.chains import Run, chain_of
from ..onednn.checks import Constants
from ..onednn.convolution import is_product, refusal
from .source import Loops, Source, loops

MOST_DEPTH = 1024
"""Products that make a result at most: the weights for some vectors of outputs stay in the caches."""

MOST_CHANNELS = 64
"""Of x or of the result of a product of matrices: with more, tiles of products are as quick, and read weights in better order."""

MOST_PLAIN = 4
"""Channels of plain images at most: so many rows of memory are read at once."""

PRODUCTS_PER_SECOND, DEPTHWISE_PER_SECOND = 6e9, 5.5e9
"""Products of vectors on one thread, measured with AVX-512, where 2 in a cycle is all there is."""

RESULT_SECONDS, DEPTHWISE_SECONDS = 1e-9, 2.2e-9
"""What a vector of results takes beside them: its way to memory, and in depthwise convolutions what is read for it."""

INSTRUCTIONS_PER_SECOND = 4.5e9
"""Of vectors, in what follows: silu took 0.25 nanoseconds for each number, most of them for the division."""

HELD_SECONDS = 1e-4
"""Up to here the interpreter's lock is held; Python itself keeps it for 5 milliseconds."""

CALL_SECONDS = 1e-6
"""What a call takes beside the arithmetic."""

THREAD_SECONDS = 5e-6
"""What a thread must have to do at least."""


@lru_cache(maxsize=1024)
def _described(work: Work, threads: int, plain: bool = False) -> tuple[Loops, Tail] | str:
    """How a convolution is cut, and what follows it; or why it is not compiled."""
    g = conv_geometry(chain_of(work).base)
    if len(g.counts) > 2:
        return f"takes images of one or two axes, not {len(g.counts)}"
    if is_product(g) and min(g.channels, g.outputs) > MOST_CHANNELS:
        return (
            f"takes {MOST_CHANNELS} channels of x or of the result at most where the kernel has one element,"
            f" not {g.channels} and {g.outputs}"
        )
    if g.groups > 1 and not (g.is_depthwise and g.outputs == g.channels):
        return "takes one group, or as many as there are channels of x and of the result"
    if g.depth > MOST_DEPTH:
        return f"takes {MOST_DEPTH} products for a result at most, not {g.depth}"
    cut = loops(g, machine.host(), threads, plain)
    if cut is None:
        return f"has too few registers for a kernel of {g.kernel[-1]} columns"
    tail = tail_behind(work, g)
    return tail if isinstance(tail, str) else (cut, tail)


def accepts(work: Work, device: Device) -> str | None:
    """Why this convolution is not compiled, or None."""
    base = chain_of(work).base
    if reason := machine.missing() or refusal(base):
        return reason
    found = _described(work, 1)
    return found if isinstance(found, str) else None


def accepts_plain(work: Work, device: Device) -> str | None:
    """Why this convolution of plain images is not compiled, or None."""
    g = conv_geometry(chain_of(work).base)
    if g.channels > MOST_PLAIN:
        return f"takes images of {MOST_PLAIN} channels at most, as they come into a network, not {g.channels}"
    if g.groups > 1:
        return "takes one group"
    return accepts(work, device)


def _seconds(g: Geometry, tail: Tail) -> float:
    """About what one thread takes."""
    lanes = machine.host().vector_bytes // 4
    results = g.batch * g.area * -(-g.outputs // lanes)
    if g.is_depthwise:
        each = g.depth / DEPTHWISE_PER_SECOND + DEPTHWISE_SECONDS
    else:
        each = g.depth / PRODUCTS_PER_SECOND + RESULT_SECONDS
    after = sum(scalars.weight(node.call) for node in tail.nodes) / INSTRUCTIONS_PER_SECOND
    return results * (each + after)


def _threads(seconds: float) -> int:
    return max(1, min(num_threads(), int(seconds / THREAD_SECONDS)))


def _known(work: Work, plain: bool = False) -> tuple[Geometry, float, int, Loops, Tail]:
    """The sizes, the seconds on one thread, how many threads have enough to do, the loops, and what follows."""
    g, found = conv_geometry(chain_of(work).base), _described(work, 1)
    assert not isinstance(found, str)
    seconds = _seconds(g, found[1])
    threads = _threads(seconds)
    found = _described(work, threads, plain)
    assert not isinstance(found, str)
    return g, seconds, threads, *found


def prepare(work: Work, device: Device, constants: Constants = None) -> Run:
    """``run(x, weight, bias, *operands)`` on channels-last images and packed weights."""
    return _prepared(work, constants, plain=False)


def prepare_plain(work: Work, device: Device, constants: Constants = None) -> Run:
    """The same with x as a plain image; what follows has no images among its operands."""
    return _prepared(work, constants, plain=True)


def _prepared(work: Work, constants: Constants, *, plain: bool) -> Run:
    g, seconds, threads, cut, tail = _known(work, plain)
    places = given_places(work)
    operands = [places[place] for _, _, place in tail.operands]
    module, count = machine.compiler().function(Source(cut, tail).text()), len(operands) + 3
    on_all, words = on_threads(module, cut.units, threads), ctypes.c_void_p * (count + 1)
    make, key = images_maker((g.batch, *g.counts, g.outputs)), ("direct", cut.lanes, cut.vectors)

    def compute(*arrays: Array) -> Array:
        # kept by this name until all is done: what is dense already is not copied
        given = [*map(dense, arrays[:-1]), arrays[-1]]
        on_all(words(*map(address, given), 0), None)
        return arrays[-1]

    if seconds <= HELD_SECONDS:
        compute = held(module, count, cut.units, threads, CHUNKS, 0, compute)

    def run(*inputs: Any) -> Any:
        weight = inputs[1]
        form = weight.forms.get(key)
        if form is None:
            form = weight.forms[key] = _packed(weight.array, cut)
        return compute(inputs[0], form, *[inputs[place] for place in operands], make())

    return noting(run, work, constants)


def _packed(weight: Array, cut: Loops) -> Array:
    """``[o, i, *kernel]`` as ``[groups, kernel, i, kernel, vectors, lanes]``; weights beyond the last output are zeros."""
    outputs = cut.groups * cut.vectors * cut.lanes
    padded = np.zeros((outputs, cut.depth, *cut.kernel), np.float32)
    padded[: cut.outputs] = weight.reshape(cut.outputs, cut.depth, *cut.kernel)
    parts = padded.reshape(cut.groups, cut.vectors, cut.lanes, cut.depth, *cut.kernel)
    made: Array = aligned(padded.nbytes).view(np.float32)
    made.reshape(cut.groups, cut.kernel[0], cut.depth, cut.kernel[1], cut.vectors, cut.lanes)[...] = (
        parts.transpose(0, 4, 3, 5, 1, 2)
    )
    return made


def cost(work: Work, device: Device) -> float:
    """Estimated seconds on channels-last images, with packed weights."""
    _, seconds, threads, _, _ = _known(work)
    return max(seconds / threads, work.cost.bytes / device.capabilities.bandwidth) + CALL_SECONDS
