"""The checks of one kernel on one trial: its numbers, and what kernels promise besides (docs/conformance.md has the list)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Kernel, broken_promise
from opyard.operation import Call, Op
from opyard_conformance.families import Trial
from opyard_conformance.memory import Guarded, guarded, leave_behind, output, same_bits
from opyard_conformance.oracle import Expected, expect

Array = np.ndarray[Any, Any]

PATTERNS = (0xA5, 0x5A)
"""Bytes that stand in an output before the first and the second run."""


class Broken(Exception):
    """A promise that a kernel broke; the text is a sentence without its end."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A kernel bound to the call of a trial."""

    kernel: Kernel
    device: Device
    call: Call
    trial: Trial
    tolerance: Any
    run: Callable[..., Any]

    @property
    def on_numpy(self) -> bool:
        """Whether the device's arrays are NumPy's, so that memory around them can be watched."""
        return self.device.array_type is np.ndarray


def refusal(kernel: Kernel, call: Call, device: Device) -> str | None:
    """Why the kernel does not take the call. Raises Broken where it fails to say."""
    reason = kernel.refusal(call, device)
    if reason is not None and reason.startswith(("its accepts function", "its facts cannot be read")):
        raise Broken(f"it cannot say whether it takes the call: {reason}")
    if reason is None and kernel.layouts:
        return f"takes arrays in layouts of its own ({', '.join(sorted(set(kernel.layouts.values())))})"
    return reason


def check(kernel: Kernel, device: Device, op: Op, call: Call, trial: Trial, expected: Expected) -> None:
    """Runs a kernel that accepted a call. Raises Broken with the first promise that it breaks."""
    try:
        run = kernel.bind(call, device)
    except Exception as error:
        raise Broken(f"it accepts the call and cannot be prepared: {_described(error)}") from error
    bench = Bench(kernel, device, call, trial, op.tolerance, run)
    places = [None if a is None else _place(bench, a) for a in expected.inputs]
    kept, first = _once(bench, places, expected, PATTERNS[0])
    _, second = _once(bench, places, expected, PATTERNS[1])
    if kernel.deterministic:
        for index, (one, two) in enumerate(zip(first, second, strict=True)):
            if not same_bits(one, two):
                raise Broken(
                    f"output {index} of two runs on the same inputs differs in bits, though it is declared deterministic, or it is not written everywhere"
                )
    if trial.own:
        _other_inputs(bench, op, places, kept, first)


def _other_inputs(bench: Bench, op: Op, places: list[Any], kept: list[Any], first: list[Array]) -> None:
    """Runs on other numbers in the same memory: nothing may be remembered, and earlier results stay as they are."""
    expected = expect(op, bench.call, bench.trial, seed=1)
    if expected.problem:
        return
    renewed: list[Any] = []
    for place, contents in zip(places, expected.inputs, strict=True):
        if isinstance(place, Guarded) and contents is not None:
            views = [r for r in kept if isinstance(r, np.ndarray) and np.shares_memory(r, place.buffer)]
            if not views:  # a view of an input changes with it, as it may
                place.array[...] = contents
                place.before[:] = place.buffer
                renewed.append(place)
                continue
        renewed.append(None if contents is None else _place(bench, contents))
    try:
        _once(bench, renewed, expected, PATTERNS[0])
    except Broken as error:
        raise Broken(f"in a second call with other numbers: {error}") from None
    for index, (result, copy) in enumerate(zip(kept, first, strict=True)):
        if not same_bits(np.asarray(bench.device.download(result)), copy):
            raise Broken(f"output {index} of an earlier call changed when the kernel ran again")


def _place(bench: Bench, contents: Array) -> Any:
    """An input where the kernel reads it: guarded memory, or a native array."""
    if bench.on_numpy:
        return guarded(contents, bench.trial.layout)
    return bench.device.upload(contents.copy())


def _once(bench: Bench, places: list[Any], expected: Expected, pattern: int) -> tuple[list[Any], list[Array]]:
    """One run: the native results, and copies of them. Raises Broken."""
    natives = [place.array if isinstance(place, Guarded) else place for place in places]
    options, written = _out(bench, pattern)
    for spec in bench.call.outputs:
        leave_behind(spec.nbytes, pattern)
    try:
        with np.errstate(all="ignore"):
            result = bench.run(*natives, **options)
    except Exception as error:
        raise Broken(f"it accepts the call and raises {_described(error)}") from error
    results = _results(bench, result)
    copies = [np.array(bench.device.download(found)) for found in results]
    _check_out(bench, written, results[0] if results else None, copies)
    for position, (place, contents) in enumerate(zip(places, expected.inputs, strict=True)):
        if contents is not None:
            _check_input(bench, place, contents, position)
    for index, (found, wanted) in enumerate(zip(copies, expected.outputs, strict=True)):
        difference = bench.tolerance.violation(found, wanted)
        if difference is not None:
            raise Broken(f"output {index}: {difference}")
    return results, copies


def _out(bench: Bench, pattern: int) -> tuple[dict[str, Any], Any]:
    """The keyword ``out`` for kernels that take it, full of a pattern."""
    if not bench.kernel.out:
        return {}, None
    spec = bench.call.output
    made = output(tuple(map(int, spec.shape)), spec.dtype, pattern)
    if bench.on_numpy:
        return {"out": made.array}, made
    native = bench.device.upload(made.array.copy())
    return {"out": native}, native


def _results(bench: Bench, result: Any) -> list[Any]:
    call = bench.call
    if call.is_tuple and not isinstance(result, (tuple, list)):
        raise Broken(f"it returns {type(result).__name__}, the op gives {len(call.outputs)} outputs")
    results = list(result) if call.is_tuple else [result]
    if len(results) != len(call.outputs):
        raise Broken(f"it returns {len(results)} outputs, the op gives {len(call.outputs)}")
    for index, found in enumerate(results):
        broken = broken_promise(call, found, index)
        if broken is not None:
            raise Broken(f"output {index}: it {broken}")
    return results


def _check_out(bench: Bench, written: Any, result: Any, copies: list[Array]) -> None:
    if written is None:
        return
    if isinstance(written, Guarded):
        if not written.guards_intact():
            raise Broken("it writes outside of the array given as out")
        same = same_bits(written.array, copies[0]) and (
            not written.array.size or np.shares_memory(result, written.array)
        )
    else:
        same = same_bits(np.asarray(bench.device.download(written)), copies[0])
    if not same:
        raise Broken("it is declared with out=True and does not give back the array given as out")


def _check_input(bench: Bench, place: Any, contents: Array, position: int) -> None:
    if isinstance(place, Guarded):
        if not same_bits(place.array, contents):
            raise Broken(f"it changes its input {position}")
        if not place.is_intact():
            raise Broken(f"it writes outside of its input {position}")
    elif not same_bits(np.asarray(bench.device.download(place)), contents):
        raise Broken(f"it changes its input {position}")


def _described(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
