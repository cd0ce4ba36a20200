"""Kernels of ``matmul`` and ``linear`` with what follows: weights in panels for several rows, as they are for one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.settings import num_threads

from ..jit import machine, scalars
from ..jit.region import INSTRUCTIONS_PER_SECOND, THREAD_BANDWIDTH
from ..onednn.addresses import Array, address, aligned, dense
from ..onednn.chains import SECONDS, Run
from ..onednn.layouts import concrete
from ..onednn.library import missing as no_threads
from ..onednn.plain import room
from .row import RowSource
from .source import Blocking, Source, blocking
from .tail import Tail, tail_of
from .teams import on_threads

PEAK = 1.1
"""Times the device's peak, which is that of the nominal clock, that these products reach."""

ONE_ROW = 0.95
"""Fraction of the memory's bandwidth that the product of one row reaches."""

LEAST_ROWS = 4
"""Rows below which memory sets the pace, and not arithmetic: packing gains nothing."""

THREAD_FLOPS = 1.7e11
"""Operations per second of one thread, by which threads are counted."""

THREAD_SECONDS = 4e-5
"""What a thread must have to do at least; another one takes some 10 microseconds to wake."""


def _tail(work: Work) -> Tail | str:
    return machine.missing() or no_threads() or tail_of(work)


def accepts_packed(work: Work, device: Device) -> str | None:
    """Why a product with packed weights is not compiled, or None."""
    tail = _tail(work)
    if isinstance(tail, str):
        return tail
    if tail.rows < LEAST_ROWS:
        return (
            f"takes {LEAST_ROWS} rows or more, not {tail.rows}; fewer wait for the weights, however they lie"
        )
    return None


def accepts_row(work: Work, device: Device) -> str | None:
    """Why the product of one row is not compiled, or None."""
    tail = _tail(work)
    if isinstance(tail, str):
        return tail
    return None if tail.rows == 1 else f"takes one row, not {tail.rows}"


def _known(work: Work) -> Tail:
    tail = tail_of(work)
    assert isinstance(tail, Tail)
    return tail


def panels(weight: Array, cut: Blocking) -> Array:
    """``[depth, columns]`` in panels, one part of the depth after the other; columns beyond the last are zeros."""
    made: Array = aligned(4 * cut.depth * cut.panels * cut.width).view(np.float32)
    padded = weight
    if weight.shape[1] % cut.width:
        padded = np.zeros((cut.depth, cut.panels * cut.width), np.float32)
        padded[:, : weight.shape[1]] = weight
    begin = 0
    for start in range(0, cut.depth, cut.chunk):
        part = padded[start : start + cut.chunk].reshape(-1, cut.panels, cut.width)
        made[begin : begin + part.size].reshape(cut.panels, -1, cut.width)[...] = part.transpose(1, 0, 2)
        begin += part.size
    return made


def _threads(tail: Tail) -> int:
    """As many as have enough to do: arithmetic, or reading the weights."""
    numbers = tail.depth * tail.columns
    seconds = max(2 * tail.rows * numbers / THREAD_FLOPS, 4 * numbers / THREAD_BANDWIDTH)
    return max(1, min(num_threads(), int(seconds / THREAD_SECONDS)))


def prepare_packed(work: Work, device: Device) -> Run:
    """``run(x, weight, *others)`` with packed weights."""
    tail = _known(work)
    threads = _threads(tail)
    cut = blocking(tail.rows, tail.depth, tail.columns, machine.host(), threads)
    module = machine.compiler().function(Source(cut, tail).text())
    key = ("panels", cut.width)

    def weights(weight: Any) -> Array:
        found = weight.forms.get(key)
        if found is None:
            found = weight.forms[key] = panels(weight.array, cut)
        return found  # type: ignore[no-any-return]

    return _bound(work, tail, on_threads(module, cut.units, threads), weights, cut.scratch_bytes)


def prepare_row(work: Work, device: Device) -> Run:
    """``run(x, weight, *others)`` of one row."""
    tail = _known(work)
    lanes = machine.host().vector_bytes // 4
    module = machine.compiler().function(RowSource(tail, lanes).text())
    vectors = -(-tail.columns // lanes)
    return _bound(work, tail, on_threads(module, vectors, _threads(tail)), dense, 0)


def _bound(
    work: Work,
    tail: Tail,
    compute: Callable[[Any, Any], None],
    weights: Callable[[Any], Array],
    scratch_bytes: int,
) -> Run:
    """The kernel: finds the addresses, and computes."""
    shape = concrete(work.outputs[0].shape)
    places = [place for _, _, place in tail.operands]
    words: Any = ctypes.c_void_p * (len(places) + 4)

    def run(*inputs: Any, out: Array | None = None) -> Array:
        result = np.empty(shape, np.float32) if out is None or not out.flags.c_contiguous else out
        # kept by these names until all is done: what is dense already is not copied
        arrays = [dense(inputs[0]), weights(inputs[1]), *(dense(inputs[place]) for place in places), result]
        scratch = room().of(scratch_bytes) if scratch_bytes else 0
        compute(words(*map(address, arrays), scratch), None)
        if out is None or out is result:
            return result
        np.copyto(out, result)
        return out

    return run


def _tail_seconds(tail: Tail) -> float:
    weight = sum(scalars.weight(node.call) for node in tail.nodes)
    vectors = tail.rows * tail.columns * 4 / machine.host().vector_bytes
    return weight * vectors / INSTRUCTIONS_PER_SECOND / _threads(tail) + SECONDS


def cost(work: Work, device: Device) -> float:
    """Estimated seconds with packed weights: of arithmetic, or of reading them."""
    tail, abilities = _known(work), device.capabilities
    arithmetic = 2.0 * tail.rows * tail.depth * tail.columns / (abilities.flops * PEAK)
    return max(arithmetic, work.cost.bytes / abilities.bandwidth) + _tail_seconds(tail)


def row_cost(work: Work, device: Device) -> float:
    """Estimated seconds of one row: of reading the weights."""
    return work.cost.bytes / (device.capabilities.bandwidth * ONE_ROW) + _tail_seconds(_known(work))
