"""Taking times: batches of calls with one wait at the end, candidates in turns, medians.

Candidates of one call take turns in random order within each round, so that a change of the machine's mood meets all
of them alike. Times of batches are what a plan sees: the host starts kernel after kernel and waits once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple

import numpy as np

from ..driver import Device
from ..errors import KernelError
from ..kernels import Kernel, Work
from ..operation import Call
from ..registry import Registry
from ..spec import TensorSpec
from .store import Measurement

BATCH_SECONDS = 5e-4
"""A batch lasts about this long, so that the clock and the wait do not count."""

MOST_CALLS = 1000
LEAST_ROUNDS, MOST_ROUNDS = 5, 60
STEADY = 0.05
"""A range between the quartiles of this fraction of the median is steady enough."""

HOPELESS = 8.0
"""A candidate this many times slower than the best is measured once: more rounds would tell nothing."""

Array = np.ndarray[Any, Any]


Clock = Callable[[Callable[[], None]], float]
"""Gives the seconds that the work takes which a function starts."""


def host_clock(device: Device) -> Clock:
    """Seconds on the host from an idle device to its end of the work."""

    def seconds(work: Callable[[], None]) -> float:
        device.synchronize()
        begin = time.perf_counter()
        work()
        device.synchronize()
        return time.perf_counter() - begin

    return seconds


def device_clock(device: Device) -> Clock | None:
    """Seconds on the device between a mark before the work and one behind it; None where it has no clock."""
    if device.record() is None:
        return None

    def seconds(work: Callable[[], None]) -> float:
        device.synchronize()
        begin = device.record()
        work()
        return device.elapsed(begin, device.record())

    return seconds


class Batch:
    """A function of no arguments that starts work on a device, timed in batches; the first batches settle their size.

    clock       the host's unless given
    most_calls  of one batch
    """

    def __init__(
        self,
        start: Callable[[], Any],
        device: Device,
        clock: Clock | None = None,
        most_calls: int = MOST_CALLS,
    ) -> None:
        self._start = start
        self._clock = clock or host_clock(device)
        self._most_calls = most_calls
        self.calls = 1
        self.samples: list[float] = []

    def warm(self) -> float:
        """Runs without keeping times until a batch is long enough; gives the seconds of one call."""
        while True:
            seconds = self._once()
            if seconds * self.calls >= BATCH_SECONDS or self.calls >= self._most_calls:
                return seconds
            wanted = BATCH_SECONDS / max(seconds, 1e-9)
            self.calls = min(self._most_calls, max(2 * self.calls, int(wanted)))

    def sample(self) -> None:
        """Keeps the time of one batch."""
        self.samples.append(self._once())

    def _once(self) -> float:
        return self._clock(self._work) / self.calls

    def _work(self) -> None:
        start = self._start
        for _ in range(self.calls):
            start()

    @property
    def steady(self) -> bool:
        """Whether the samples agree."""
        median, spread = self.statistics()
        return len(self.samples) >= LEAST_ROUNDS and spread <= STEADY * median

    def statistics(self) -> tuple[float, float]:
        """Median, and the range between the quartiles."""
        low, median, high = np.quantile(self.samples, (0.25, 0.5, 0.75))
        return float(median), float(high - low)

    def result(self) -> Measurement:
        """What the samples say."""
        median, spread = self.statistics()
        return Measurement(median, spread, len(self.samples))


def interleave(
    batches: Sequence[Batch],
    random: Random,
    deadline: float,
    *,
    enough: Callable[[Batch], bool] = attrgetter("steady"),
    most_rounds: int = MOST_ROUNDS,
    patience: float = 0.0,
) -> None:
    """Samples all batches in turns: each at least once, and until there is enough of all of them or the time is up.

    deadline  the value of ``time.perf_counter()`` after which no round begins
    enough    whether a batch has enough samples; five or more that agree, unless given
    patience  seconds: a batch that takes no longer is sampled in every round, however slow it is beside the best
    """
    first = [batch.warm() for batch in batches]
    for batch in batches:
        batch.sample()
    racing = [
        batch
        for batch, seconds in zip(batches, first, strict=True)
        if seconds <= HOPELESS * min(first) or seconds * batch.calls <= patience
    ]
    for _ in range(most_rounds - 1):
        if all(map(enough, racing)) or time.perf_counter() >= deadline:
            return
        for batch in random.sample(racing, len(racing)):
            batch.sample()


def make_start(
    kernel: Kernel,
    work: Work,
    device: Device,
    arrays: Sequence[Any],
    registry: Registry,
    fixed: Collection[int] = (),
) -> Callable[[], Any]:
    """A function that starts the kernel as a plan does: on native arrays in its layouts, into a buffer where it takes one.

    ``fixed`` are the positions of inputs that are constants.
    """
    native = make_inputs(kernel, work, device, arrays, registry)
    constants = tuple(array if position in fixed else None for position, array in enumerate(native))
    return bind_start(kernel.bind(work, device, constants), native, kernel, work, device)


def make_inputs(
    kernel: Kernel, work: Work, device: Device, arrays: Sequence[Any], registry: Registry
) -> list[Any]:
    """The arrays as a kernel takes them: native to the device and in its layouts; None for inputs that are left out."""
    return [
        None
        if array is None or spec is None
        else convert(device.upload(array), spec, "", kernel.input_layout(work, position), device, registry)
        for position, (array, spec) in enumerate(zip(arrays, work.inputs, strict=True))
    ]


def bind_start(
    run: Callable[..., Any], native: Sequence[Any], kernel: Kernel, work: Work, device: Device
) -> Callable[[], Any]:
    """A function that starts a bound kernel on these arrays, into a buffer of its own where it takes one."""
    if writes_into(kernel, work):
        buffer = device.empty(work.outputs[0])
        return lambda: run(*native, out=buffer)
    return lambda: run(*native)


def writes_into(kernel: Kernel, work: Work) -> bool:
    """Whether the kernel takes a buffer for the output."""
    return kernel.out and len(work.outputs) == 1


def convert(
    array: Any, spec: TensorSpec, source: str, target: str, device: Device, registry: Registry
) -> Any:
    """A native array in another layout, by the device's kernels of ``identity``. Raises KernelError where none does it."""
    if source == target:
        return array
    call = registry.get_op("identity").call(spec)
    for kernel in registry.kernels("identity"):
        layouts = (kernel.input_layout(call, 0), kernel.output_layout(0))
        if (
            kernel.backend == device.backend
            and layouts == (source, target)
            and not kernel.refusal(call, device)
        ):
            return kernel.bind(call, device)(array)
    raise KernelError(
        f"no kernel of the op 'identity' on {device.name} brings {spec!r} from layout {source!r} to {target!r}; its backend has to register one."
    )


# Checking --------------------------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """Arrays to run some work on, what its outputs must be, and what their errors are measured against."""

    arrays: tuple[Array | None, ...]
    outputs: tuple[Array, ...]
    magnitudes: tuple[Array | None, ...]


def expect(work: Work, known: Sequence[Array | None], seed: int) -> Expected:
    """Arrays for the work and the outputs of the reference on them; ``known`` has arrays that are given already.

    Integers may be positions, sizes or labels: where the reference cannot take the ones drawn, zeros are tried. Raises
    what the reference raises on those.
    """
    generator = np.random.default_rng(seed)
    for zeros in (False, True):
        arrays = tuple(
            found if found is not None or spec is None else _draw(work, position, spec, generator, zeros)
            for position, (spec, found) in enumerate(zip(work.inputs, known, strict=True))
        )
        try:
            return Expected(arrays, work.reference(*arrays), work.magnitudes(*arrays))
        except Exception:
            if zeros:
                raise
    raise AssertionError("unreachable")


def disagreement(
    expected: Expected, kernel: Kernel, work: Work, device: Device, result: Any, registry: Registry
) -> str | None:
    """None if the native outputs of a kernel are near enough to what is expected, else a sentence that says how not."""
    results = result if work.is_tuple else (result,)
    if not isinstance(results, (tuple, list)) or len(results) != len(expected.outputs):
        return f"it gives {len(results) if isinstance(results, (tuple, list)) else 'no tuple'}, not {len(expected.outputs)} outputs"
    magnitudes = expected.magnitudes
    if kernel.magnitudes is not None:
        magnitudes = kernel.magnitudes_of(work, expected.arrays)
    for number, (found, wanted) in enumerate(zip(results, expected.outputs, strict=True)):
        plain = convert(found, work.outputs[number], kernel.output_layout(number), "", device, registry)
        plain = np.asarray(device.download(plain))
        difference = work.tolerance.violation(plain, wanted, magnitudes[number])
        if difference is not None:
            where = f"output {number}: " if len(results) > 1 else ""
            return f"{where}{difference}"
    return None


def _draw(work: Work, position: int, spec: Any, generator: np.random.Generator, zeros: bool) -> Array:
    """An array of the spec, in the range that the cases of the op have at this input."""
    low, high = (0.0, 0.0) if zeros and spec.dtype.kind in "iu" else _range(work, position, spec.dtype.kind)
    if spec.dtype.kind == "b":
        return np.asarray(generator.integers(0, 2, spec.shape), bool)
    if spec.dtype.kind in "iu":
        return np.asarray(generator.integers(int(low), int(high), spec.shape, endpoint=True), spec.dtype)
    values = generator.random(spec.shape, np.float32) * (high - low) + low
    if spec.dtype.kind == "c":
        values = values + 1j * (generator.random(spec.shape, np.float32) * (high - low) + low)
    return np.asarray(values).astype(spec.dtype)


def _range(work: Work, position: int, kind: str) -> tuple[float, float]:
    if isinstance(work, Call):
        for case in work.op.cases():
            draw = case.inputs[min(position, len(case.inputs) - 1)] if case.inputs else None
            if draw is not None and draw.spec.dtype.kind == kind:
                return max(draw.low, 0) if kind == "u" else draw.low, draw.high
    return (0.0, 1.0) if kind in "iu" else (-1.0, 1.0)
