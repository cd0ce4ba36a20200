"""One side of ``opyard bench ab``: a program that prepares, times and checks kernels as its standard input says.

It runs in the Python of that side, whose opyard may be older than this file: so it imports nothing of opyard-bench, and of
opyard only what is named below. Requests and answers are pickled; a request is the name of a function of ``Worker`` and its
arguments, an answer ("ok", result) or ("error", sentence). It ends when its input does.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, BinaryIO

PLACES = 4
"""Small calls are prepared so many times, on copies of their arrays at other addresses: time may depend on those alone."""

SMALL_BYTES = 2**20
ALIGNMENT, SPAN = 16, 256
"""Addresses are multiples of the first, as those of NumPy are, and begin anywhere in the second."""

Ready = tuple[Any, Any, Any, Any, list[Callable[[], Any]]]


class Worker:
    """The kernels that were prepared, each under a number."""

    def __init__(self) -> None:
        import numpy as np

        import opyard as oy
        from opyard.placement import measuring

        self._np, self._oy, self._measuring = np, oy, measuring
        self._registry = oy.default_registry()
        self._devices: list[Any] = []
        self._ready: list[Ready] = []
        self._random = Random()
        self._turn = 0

    def open(self, names: Sequence[str]) -> dict[str, Any]:
        """Opens the devices of these names, or all but the reference; tells what there is."""
        self._devices = [self._registry.device(name) for name in names]
        if not names:
            every = self._registry.devices()
            self._devices = [d for d in every if d.backend != "reference"] or list(every)
        versions = {"python": platform.python_version(), "numpy": self._np.__version__}
        for plugin in self._oy.plugins():
            if plugin.entry.distribution:
                versions[plugin.entry.distribution] = plugin.entry.version
        return {
            "versions": {**versions, "opyard": self._oy.__version__},
            "devices": [(d.name, d.kind, d.description) for d in self._devices],
        }

    def forget(self) -> None:
        """Drops all kernels with their arrays."""
        self._ready.clear()

    def prepare(
        self,
        op: str,
        specs: Sequence[tuple[tuple[int, ...], str] | None],
        attributes: dict[str, Any],
        arrays: Sequence[Any],
    ) -> list[tuple[int, str, str, str, str]]:
        """(number, kernel, device, status, reason) of each kernel; only the number of one that is "ok" counts.

        "ok" are those whose result agrees with the reference of this side.
        """
        measuring, registry, rows = self._measuring, self._registry, []
        inputs = [spec and self._oy.TensorSpec(*spec) for spec in specs]
        call = registry.get_op(op).call(*inputs, **attributes)
        with self._np.errstate(all="ignore"):
            expected = measuring.expect(call, list(arrays), 0)
            places = PLACES if call.bytes <= SMALL_BYTES else 1
            moved = [[self._moved(array) for array in expected.arrays] for _ in range(places)]
            for candidate in self._oy.candidates(call, self._devices, registry, any_layout=True):
                kernel, device = candidate.kernel, candidate.device
                status, reason, number = "refused", candidate.refusal, len(self._ready)
                if reason is None:
                    try:
                        starts = [
                            measuring.make_start(kernel, call, device, inputs, registry) for inputs in moved
                        ]
                        ready = expected, kernel, call, device, starts
                        status, reason = self._judge(ready)
                    except Exception as error:
                        status, reason = "failed", f"{type(error).__name__}: {error}"
                    if status == "ok":
                        self._ready.append(ready)
                rows.append((number, kernel.id, device.name, status, reason))
        return rows

    def time(self, number: int, calls: int) -> float:
        """Seconds of one call of a kernel, of so many in a batch with one wait at its end."""
        *_, device, starts = self._ready[number]
        self._turn += 1
        start = starts[self._turn % len(starts)]
        device.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            start()
        device.synchronize()
        return (time.perf_counter() - begin) / calls

    def check(self, number: int) -> tuple[str, str]:
        """Status and reason of a kernel after it was timed."""
        try:
            with self._np.errstate(all="ignore"):
                return self._judge(self._ready[number])
        except Exception as error:
            return "failed", f"{type(error).__name__}: {error}"

    def _judge(self, ready: Ready) -> tuple[str, str]:
        expected, kernel, call, device, starts = ready
        for start in starts:
            difference = self._measuring.disagreement(expected, kernel, call, device, start(), self._registry)
            if difference is not None:
                return "wrong", difference
        return "ok", ""

    def _moved(self, array: Any) -> Any:
        """A copy of an array at an address of its own."""
        if array is None:
            return None
        memory = self._np.empty(array.nbytes + SPAN, self._np.uint8)
        begin = self._random.randrange(0, SPAN, ALIGNMENT)
        copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy


def serve(requests: BinaryIO, answers: BinaryIO, make: Callable[[], Any]) -> None:
    """Answers requests until they end: each names a method of what ``make`` gives, and its arguments."""
    worker: Any = None
    while True:
        try:
            name, *arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            worker = worker or make()
            answer = ("ok", getattr(worker, name)(*arguments))
        except Exception as error:
            answer = ("error", f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers, protocol=4)
        answers.flush()


def main(make: Callable[[], Any]) -> None:
    """Answers on the standard output. What kernels and drivers print must not meet the answers."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, output, make)


if __name__ == "__main__":
    main(Worker)
