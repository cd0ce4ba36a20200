"""The checks of one kernel on one trial: its numbers, and what kernels promise besides (docs/conformance.md has the list)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Kernel, Work
from opyard_conformance.memory import Guarded, same_bits
from opyard_conformance.oracle import Expected
from opyard_conformance.running import Array, Bench, Broken

PATTERNS = (0xA5, 0x5A)
"""Bytes that stand in an output before the runs, in turns."""

RUNS, RUNS_OF_OWN = 2, 5
"""Runs on the same inputs, of a derived case and of one that the op states."""

OtherInputs = Callable[[int], Expected]
"""What must come out for other numbers of the same case: those of a number above 0."""


def refusal(kernel: Kernel, work: Work, device: Device) -> str | None:
    """Why the kernel does not take the work. Raises Broken where it fails to say."""
    reason = kernel.refusal(work, device)
    if reason is not None and reason.startswith(("its accepts function", "its facts cannot be read")):
        raise Broken(f"it cannot say whether it takes the call: {reason}")
    return reason


def check(bench: Bench, expected: Expected, others: OtherInputs | None = None) -> None:
    """Runs a kernel that accepted a call. Raises Broken with the first promise that it breaks.

    With ``others`` it runs more often, and on other numbers, too.
    """
    places = bench.places(expected.inputs)
    kept, first = bench.once(places, expected, PATTERNS[0])
    for number in range(1, RUNS if others is None else RUNS_OF_OWN):
        _, again = bench.once(places, expected, PATTERNS[number % len(PATTERNS)])
        if bench.kernel.deterministic:
            _require_same_bits(first, again)
    if others is not None:
        _other_inputs(bench, places, kept, first, others(1))
    if bench.kernel.inplace and not bench.layout and not bench.kernel.layouts:
        for position, spec in enumerate(bench.work.inputs):
            if spec == bench.work.outputs[0] and len(bench.work.outputs) == 1:
                bench.over(expected, position)


def _require_same_bits(first: list[Array], again: list[Array]) -> None:
    for index, (one, two) in enumerate(zip(first, again, strict=True)):
        if not same_bits(one, two):
            raise Broken(
                f"output {index} of two runs on the same inputs differs in bits, though it is declared deterministic, or it is not written everywhere"
            )


def _other_inputs(
    bench: Bench, places: list[Any], kept: list[Any], first: list[Array], expected: Expected
) -> None:
    """Runs on other numbers in the same memory: nothing may be remembered, and earlier results stay as they are."""
    if expected.problem:
        return
    renewed: list[Any] = []
    for position, (place, contents) in enumerate(zip(places, expected.inputs, strict=True)):
        if isinstance(place, Guarded) and contents is not None:
            views = [r for r in kept if isinstance(r, np.ndarray) and np.shares_memory(r, place.buffer)]
            if not views:  # a view of an input changes with it, as it may
                place.array[...] = contents
                place.before[:] = place.buffer
                renewed.append(place)
                continue
        renewed.append(bench.place(contents, position))
    try:
        bench.once(renewed, expected, PATTERNS[0])
    except Broken as error:
        raise Broken(f"in a second call with other numbers: {error}") from None
    for index, (result, copy) in enumerate(zip(bench.copies(kept), first, strict=True)):
        if not same_bits(result, copy):
            raise Broken(f"output {index} of an earlier call changed when the kernel ran again")
