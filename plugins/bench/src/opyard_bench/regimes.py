"""Regimes: what is timed of a kernel. Times of different regimes answer different questions and are never mixed.

hot         batches of calls on the same arrays, one wait at the end: what a plan sees, with warm caches
cold        one call for each sample, on arrays that take turns, so that caches hold none of them
host        the eager call until it is done, choosing the kernel included: what a user of an eager op sees
end-to-end  with uploads of all inputs before the call and downloads of all outputs behind it
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import opyard as oy
from opyard.kernels import Work
from opyard.operation import Call
from opyard.placement.measuring import (
    Batch,
    Clock,
    convert,
    device_clock,
    host_clock,
    make_inputs,
    writes_into,
)
from opyard.units import format_bytes
from opyard_bench import machine
from opyard_bench.record import COLD, END_TO_END, HOST, HOT

TURNS = 2
"""Arrays that take turns have this many times the bytes of the cache."""

UNKNOWN_CACHE = 64 << 20
"""Bytes that a cache is taken to have where nobody tells its size."""

MOST_SETS = 1 << 14
MEMORY_SHARE = 4
"""No more than this part of the free memory is taken for arrays that take turns."""


class Ready(NamedTuple):
    """A kernel that computes its work rightly, on native arrays.

    arrays  the inputs on the host; ``inputs``: as the kernel takes them; ``run``: the bound kernel
    start   starts one call on ``inputs``
    first   seconds of binding it and of its first call
    shares  whether its output may lie in the memory of an input
    """

    kernel: oy.Kernel
    device: oy.Device
    work: Work
    arrays: Sequence[Any]
    inputs: Sequence[Any]
    run: Callable[..., Any]
    start: Callable[[], Any]
    first: float
    shares: bool


class Timer(NamedTuple):
    """A batch in some regime, the clock that it is timed with, and what has to be known about its times."""

    batch: Batch
    clock: str
    note: str = ""


Sets = dict[Any, list[list[Any]]]
"""Arrays that take turns, by device and layouts: kernels that take the same ones share them."""


def make_timer(regime: str, ready: Ready, registry: oy.Registry, sets: Sets) -> Timer:
    """The kernel in a regime. Raises what uploads and eager calls raise."""
    if regime == HOT:
        clock, name = _best_clock(ready.device)
        return Timer(Batch(ready.start, ready.device, clock), name)
    if regime == COLD:
        return _cold(ready, registry, sets)
    if regime == HOST:
        return _host(ready, registry)
    assert regime == END_TO_END
    return Timer(Batch(_with_copies(ready, registry), ready.device), "host")


def _best_clock(device: oy.Device) -> tuple[Clock, str]:
    own = device_clock(device)
    return (own, "device") if own is not None else (host_clock(device), "host")


# Cold ------------------------------------------------------------------------------------------------------------


def _cold(ready: Ready, registry: oy.Registry, sets: Sets) -> Timer:
    kernel, device, work, run = ready.kernel, ready.device, ready.work, ready.run
    clock, name = _best_clock(device)
    wanted, note = _turns(ready)
    place = np.ndarray if device.array_type is np.ndarray else device
    inputs = sets.setdefault((place, *(kernel.input_layout(work, i) for i in range(len(work.inputs)))), [])
    while len(inputs) < wanted:
        copies = [None if array is None else np.array(array) for array in ready.arrays]
        inputs.append(make_inputs(kernel, work, device, copies, registry))
    starts = [partial(run, *arrays) for arrays in inputs[:wanted]]
    if writes_into(kernel, work):
        outputs = sets.setdefault((place, "output"), [])
        while len(outputs) < wanted:  # of ones, for memory that was never written to is no memory yet
            outputs.append([device.upload(np.ones(work.outputs[0].shape, work.outputs[0].dtype))])
        starts = [partial(start, out=output) for start, (output,) in zip(starts, outputs, strict=False)]
    turns = itertools.cycle(starts)
    return Timer(Batch(lambda: next(turns)(), device, clock, most_calls=1), name, note)


def _turns(ready: Ready) -> tuple[int, str]:
    """How many sets of arrays take turns, and why their caches may be warm all the same."""
    specs = [spec for spec in ready.work.inputs if spec is not None]
    if writes_into(ready.kernel, ready.work):
        specs += ready.work.outputs
    each = sum(spec.nbytes for spec in specs)
    if not each:
        return 1, "not cold: it takes no arrays that could take turns"
    caches = machine.caches(ready.device)
    cache = caches[-1][1] if caches else UNKNOWN_CACHE
    guess = "" if caches else f"the size of the cache is not known; {format_bytes(cache)} were assumed"
    free = machine.free_bytes(ready.device)
    most = MOST_SETS if free is None else min(MOST_SETS, free // MEMORY_SHARE // each)
    wanted = max(2, -(-TURNS * cache // each))
    if wanted <= most:
        return wanted, guess
    count = max(int(most), 2)
    return (
        count,
        f"perhaps not cold: {format_bytes(count * each)} take turns, beside a cache of {format_bytes(cache)}",
    )


# Host and end-to-end ---------------------------------------------------------------------------------------------


def _host(ready: Ready, registry: oy.Registry) -> Timer:
    """The eager call with the kernel pinned, and a wait behind each."""
    device, inputs, work = ready.device, tuple(ready.inputs), ready.work
    function = _eager_function(ready)
    if function is None or not isinstance(work, Call):

        def call() -> None:
            ready.start()
            device.synchronize()

        return Timer(Batch(call, device), "host", "without the choice of a kernel: no eager call uses it")
    attributes, pins = work.attrs, {work.op.name: ready.kernel.id}
    clock = host_clock(device)

    def eager() -> None:
        function(*inputs, **attributes)
        device.synchronize()

    def pinned(run: Callable[[], None]) -> float:
        with oy.using(pin=pins, registry=registry):
            return clock(run)

    pinned(eager)  # what it raises is told before anything is timed
    return Timer(Batch(eager, device, pinned), "host")


def _eager_function(ready: Ready) -> Callable[..., Any] | None:
    """The function of the op; None for a kernel that eager calls do not use, and for ops that are no name of opyard's."""
    if not isinstance(ready.work, Call) or ready.kernel.layouts:
        return None
    function: Any = getattr(oy, ready.work.op.name, None)
    return function if getattr(function, "op", None) is ready.work.op else None


def _with_copies(ready: Ready, registry: oy.Registry) -> Callable[[], Any]:
    kernel, work, device = ready.kernel, ready.work, ready.device
    layouts = [kernel.output_layout(number) for number in range(len(work.outputs))]

    def run() -> None:
        result = ready.run(*make_inputs(kernel, work, device, ready.arrays, registry))
        for found, spec, layout in zip(
            result if work.is_tuple else (result,), work.outputs, layouts, strict=True
        ):
            device.download(convert(found, spec, layout, "", device, registry))

    return run
