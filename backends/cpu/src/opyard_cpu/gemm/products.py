"""Kernels of ``matmul`` and ``linear`` with what follows: weights in panels for several rows, as they are for one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.settings import num_threads

from ..jit import machine
from ..jit.pool_source import CHUNKS
from ..jit.region import INSTRUCTIONS_PER_SECOND, THREAD_BANDWIDTH
from ..jit.teams import held, on_threads
from ..onednn.addresses import FLOAT32, Array, address, aligned, dense
from ..onednn.chains import SECONDS, Run
from ..onednn.layouts import concrete
from ..onednn.library import missing as no_onednn
from ..onednn.plain import room
from .row import RowSource
from .source import Blocking, Source, blocking
from .tail import Tail, tail_of

PEAK = 1.1
"""Times the device's peak, which is that of the nominal clock, that these products reach."""

ONE_ROW = 0.95
"""Fraction of the memory's bandwidth that the product of one row reaches."""

LEAST_ROWS = 4
"""Rows below which memory sets the pace, and not arithmetic: packing gains nothing."""

THREAD_FLOPS = 1.7e11
"""Operations per second of one thread, by which threads are counted."""

THREAD_SECONDS = 1e-5
"""What a thread must have to do at least; to tell another one takes about a microsecond, and some more where it sleeps."""

NEIGHBOURS = 8
"""Vectors of columns that one thread takes at least in the product of one row: what lies beside each other is read faster."""

HELD_SECONDS = 1e-4
"""Up to here the interpreter's lock is held; Python itself keeps it for 5 milliseconds."""

HELD_CALL_SECONDS = 1e-6
"""What a call takes then, beside the arithmetic."""


def _tail(work: Work) -> Tail | str:
    return machine.missing() or no_onednn() or tail_of(work)


def accepts_packed(work: Work, device: Device) -> str | None:
    """Why a product with packed weights is not compiled, or None."""
    tail = _tail(work)
    if isinstance(tail, str):
        return tail
    if tail.rows < LEAST_ROWS and tail.sections == 1:
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
    """``[depth, columns]`` in panels, one part of the depth after the other; columns beyond the last of a section are zeros."""
    made: Array = aligned(4 * cut.depth * cut.panels * cut.width).view(np.float32)
    padded = weight.reshape(cut.depth, cut.sections, -1)
    size = padded.shape[2]
    if size % cut.step:
        padded = np.zeros((cut.depth, cut.sections, cut.panels * cut.step), np.float32)
        padded[:, :, :size] = weight.reshape(cut.depth, cut.sections, size)
    begin = 0
    for start in range(0, cut.depth, cut.chunk):
        part = padded[start : start + cut.chunk].reshape(-1, cut.sections, cut.panels, cut.step)
        place = made[begin : begin + part.size].reshape(cut.panels, -1, cut.sections, cut.step)
        place[...] = part.transpose(2, 0, 1, 3)
        begin += part.size
    return made


def _seconds(tail: Tail) -> float:
    """About what one thread takes: for arithmetic, or for reading the weights."""
    numbers = tail.depth * tail.columns
    return max(2 * tail.rows * numbers / THREAD_FLOPS, 4 * numbers / THREAD_BANDWIDTH)


def _threads(tail: Tail) -> int:
    """As many as have enough to do."""
    return max(1, min(num_threads(), int(_seconds(tail) / THREAD_SECONDS)))


def prepare_packed(work: Work, device: Device) -> Run:
    """``run(x, weight, *others)`` with packed weights."""
    tail = _known(work)
    sizes = tail.rows, tail.depth, tail.columns
    cut = blocking(*sizes, machine.host(), _threads(tail), tail.sections)
    module = machine.compiler().function(Source(cut, tail).text())
    key = ("panels", cut.width, cut.sections)

    def weights(weight: Any) -> Array:
        found = weight.forms.get(key)
        if found is None:
            found = weight.forms[key] = panels(weight.array, cut)
        return found  # type: ignore[no-any-return]

    return _bound(work, tail, module, (cut.units, CHUNKS), weights, cut.scratch_bytes)


def prepare_row(work: Work, device: Device) -> Run:
    """``run(x, weight, *others)`` of one row."""
    tail = _known(work)
    lanes = machine.host().vector_bytes // 4
    module = machine.compiler().function(RowSource(tail, lanes).text())
    vectors = -(-tail.columns // lanes)
    chunks = max(_threads(tail), vectors // NEIGHBOURS)
    return _bound(work, tail, module, (vectors, chunks), lambda weight: weight, 0)


def _bound(
    work: Work,
    tail: Tail,
    module: machine.Module,
    units: tuple[int, int],
    weights: Callable[[Any], Array],
    scratch_bytes: int,
) -> Run:
    """The kernel, from the function that computes so many units of it, in so many chunks at most."""
    shapes = [concrete(spec.shape) for spec in work.outputs]
    places = [place for _, _, place in tail.operands]
    inputs, threads, empty = 2 + len(places), _threads(tail), np.empty
    in_order = places == list(range(2, len(work.inputs)))
    words: Any = ctypes.c_void_p * (inputs + len(shapes) + 1)
    on_all = on_threads(module, units[0], threads, units[1])

    def released(*arrays: Array) -> Array:
        """The inputs, and then the results."""
        # kept by this name until all is done: what is dense already is not copied
        given = [*map(dense, arrays[:inputs]), *arrays[inputs:]]
        scratch = room().of(scratch_bytes) if scratch_bytes else 0
        on_all(words(*map(address, given), scratch), None)
        return arrays[-1]

    compute: Callable[..., Array] = released
    if _seconds(tail) <= HELD_SECONDS:
        compute = held(module, inputs + len(shapes), units[0], threads, units[1], scratch_bytes, released)

    def run(x: Array, weight: Any, *others: Any, out: Array | None = None) -> Any:
        result = empty(shapes[0], FLOAT32) if out is None or not out.flags.c_contiguous else out
        compute(x, weights(weight), *[others[place - 2] for place in places], result)
        if out is None or out is result:
            return result
        np.copyto(out, result)
        return out

    def several(x: Array, weight: Any, *others: Any) -> tuple[Array, ...]:
        results = tuple([empty(shape, FLOAT32) for shape in shapes])
        if not in_order:
            others = tuple([others[place - 2] for place in places])
        compute(x, weights(weight), *others, *results)
        return results

    return several if work.is_tuple else run


def _tail_seconds(tail: Tail) -> float:
    vectors = tail.weight * 4 / machine.host().vector_bytes
    return vectors / INSTRUCTIONS_PER_SECOND / _threads(tail)


def cost(work: Work, device: Device) -> float:
    """Estimated seconds with packed weights: of arithmetic, or of reading them."""
    tail, abilities = _known(work), device.capabilities
    arithmetic = 2.0 * tail.rows * tail.depth * tail.columns / (abilities.flops * PEAK)
    call = HELD_CALL_SECONDS if _seconds(tail) <= HELD_SECONDS else SECONDS
    return max(arithmetic, work.cost.bytes / abilities.bandwidth) + _tail_seconds(tail) + call


def row_cost(work: Work, device: Device) -> float:
    """Estimated seconds of one row: of reading the weights."""
    return work.cost.bytes / (device.capabilities.bandwidth * ONE_ROW) + _tail_seconds(_known(work)) + SECONDS
