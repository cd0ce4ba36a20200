"""Promises of a kernel that a single run does not show: threads, runs that overlap, and inputs that the op refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np

import opyard
from opyard.errors import OpyardError
from opyard.operation import Call
from opyard.ops import STANDARD
from opyard.spec import TensorSpec
from opyard_conformance.checking import OtherInputs
from opyard_conformance.memory import Guarded
from opyard_conformance.oracle import Expected
from opyard_conformance.running import Array, Bench, Broken, NotChecked, described

CONTRACTS = ("threads", "overlap", "errors")

THREADS, CALLS = 4, 4
"""Threads that run one prepared kernel at once, and calls of each."""

SWITCH_SECONDS = 1e-4
"""How long a thread runs before another one gets its turn, while threads are checked; otherwise 5 ms."""


def honour(contract: str, bench: Bench, expected: Expected, others: OtherInputs) -> None:
    """Raises Broken where the kernel does not keep one of CONTRACTS."""
    if contract == "errors":
        _refuses_errors(bench, expected)
        return
    inputs = [expected, *(others(number) for number in range(1, THREADS))]
    judged = [wanted for wanted in inputs if not wanted.problem]
    {"threads": _takes_threads, "overlap": _overlaps}[contract](bench, judged)


def _takes_threads(bench: Bench, inputs: list[Expected]) -> None:
    """One prepared kernel, run by several threads at once, each with numbers of its own."""
    places = [bench.places(wanted.inputs) for wanted in inputs]
    barrier = Barrier(len(inputs))

    def work(number: int) -> list[list[Any]]:
        barrier.wait()
        return [bench.start(places[number])[0] for _ in range(CALLS)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with ThreadPoolExecutor(len(inputs)) as pool:
            results = list(pool.map(work, range(len(inputs))))
    except Broken as error:
        raise Broken(f"run by {len(inputs)} threads at once: {error}") from None
    finally:
        sys.setswitchinterval(interval)
    bench.device.synchronize()
    for wanted, calls in zip(inputs, results, strict=True):
        for call in calls:
            _judge(f"run by {len(inputs)} threads at once", bench, wanted, call)


def _overlaps(bench: Bench, inputs: list[Expected]) -> None:
    """Runs of two preparations started in turns, waited for once, and looked at in reverse, after the inputs have changed."""
    twin = replace(bench, run=Bench.of(bench.kernel, bench.device, bench.registry, bench.work).run)
    started = []
    for number, wanted in enumerate((*inputs, *inputs)):
        places = bench.places(wanted.inputs)
        started.append((wanted, places, (bench, twin)[number % 2].start(places)[0]))
    bench.device.synchronize()
    for _, places, results in started:
        for place in places:
            if isinstance(place, Guarded) and not any(
                isinstance(r, np.ndarray) and np.shares_memory(r, place.buffer) for r in results
            ):
                place.buffer[:] = 0x3F
    for wanted, _, results in reversed(started):
        _judge("several runs started before the device was waited for", bench, wanted, results)


def _judge(what: str, bench: Bench, wanted: Expected, results: list[Any]) -> None:
    difference = wanted.difference("", bench.copies(results))
    if difference:
        raise Broken(f"{what}, a result is wrong{difference}")


def _refuses_errors(bench: Bench, expected: Expected) -> None:
    """Inputs and attributes that the op refuses must end in an OpyardError, after a right call, too."""
    call, registry = bench.work, bench.registry
    if not isinstance(call, Call) or call.op.name not in STANDARD:
        raise NotChecked("the function of an op that is not standard is not known here")
    if bench.kernel.layouts:
        raise NotChecked("programs do not call kernels with layouts of their own")
    function: Any = STANDARD[call.op.name]
    with opyard.using(registry=registry, pin={call.op.name: bench.kernel.id}, strict=True):
        try:
            function(*_natives(bench, expected.inputs), **call.attrs)
        except Exception as error:
            raise Broken(f"called by a program, it raises {described(error)}") from error
        for what, arrays, attributes in _refused(call, expected.inputs):
            natives = _natives(bench, arrays)
            try:
                function(*natives, **attributes)
            except OpyardError:
                continue
            except Exception as error:
                raise Broken(f"{what}, which the op refuses, it raises {described(error)}") from error
            raise Broken(f"{what}, which the op refuses, it gives a result")


def _natives(bench: Bench, arrays: Any) -> list[Any]:
    return [None if array is None else bench.device.upload(array.copy()) for array in arrays]


def _refused(call: Call, arrays: Any) -> Iterator[tuple[str, list[Array | None], dict[str, Any]]]:
    """Changes of a call that its op refuses, as a sentence begins, with all inputs and attributes."""
    variants: list[tuple[str, list[Array | None], dict[str, Any]]] = []
    for position, array in enumerate(arrays):
        if array is None:
            continue
        other = np.int32 if array.dtype.kind in "fV" else np.float32
        for what, new in (
            ("of rank 7", np.zeros((2,) * 7, array.dtype)),
            ("of other sizes", np.zeros(tuple(n + 1 for n in array.shape), array.dtype)),
            ("of bool", np.zeros(array.shape, bool)),
            (f"of {np.dtype(other).name}", np.zeros(array.shape, other)),
        ):
            changed = [new if i == position else a for i, a in enumerate(arrays)]
            variants.append((f"given an input {position} {what}", changed, call.attrs))
    for key in call.attrs:
        variants += [
            (f"given {key}={value!r}", list(arrays), {**call.attrs, key: value}) for value in (99, "nonsense")
        ]
    for what, changed, attributes in variants:
        try:
            call.op.call(*(None if a is None else TensorSpec.of(a) for a in changed), **attributes)
        except OpyardError:
            yield what, changed, attributes
