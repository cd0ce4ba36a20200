"""Explanation: why which kernel runs one call, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable

from .driver import Device
from .operation import Call, Op
from .registry import Registry
from .selection import Candidate


class Explanation(tuple[Candidate, ...]):
    """Candidates for a call, best first; prints as a table of one line each.

    ``absent`` has a sentence for each kernel whose backend has no device here.
    """

    call: Call
    absent: tuple[str, ...]

    def __new__(cls, call: Call, rows: Iterable[Candidate], absent: tuple[str, ...] = ()) -> Explanation:
        made = super().__new__(cls, rows)
        made.call, made.absent = call, absent
        return made

    def __str__(self) -> str:
        marks = [
            "chosen " if number == 0 and row.refusal is None else "refused" if row.refusal else "       "
            for number, row in enumerate(self)
        ]
        rows = [f"  {mark} {row}" for mark, row in zip(marks, self, strict=True)]
        return "\n".join([str(self.call), *rows, *(f"  absent  {sentence}" for sentence in self.absent)])


def elsewhere(call: Call, devices: tuple[Device, ...], registry: Registry) -> list[Candidate]:
    """The kernels on devices that cannot use the arrays where they are."""
    return [
        Candidate(
            kernel, device, None, f"the arrays are not there; opyard.to_device(x, {device.name!r}) copies one"
        )
        for device in registry.devices()
        if device not in devices
        for kernel in registry.kernels(call.op.name)
        if kernel.backend == device.backend
    ]


def absent(op: Op, registry: Registry) -> tuple[str, ...]:
    """A sentence for each kernel whose backend has no device here."""
    kernels = [(kernel, registry.open(kernel.backend)) for kernel in registry.kernels(op.name)]
    return tuple(f"{kernel.id}: {status.reason}" for kernel, status in kernels if not status.devices)
