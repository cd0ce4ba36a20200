"""For pytest-benchmark: the fixture ``opyard_bench``, which verifies a kernel and times it by the clock of its device.

pytest-benchmark reads a timer before and after the calls of a round. Here that timer waits for the device first, or gives the
time between two of the device's own marks; nothing of pytest-benchmark but its public interface is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import pytest

LEAST_ROUNDS, MOST_ROUNDS = 5, 100
SECONDS = 0.25
"""About so long the rounds of a test take together; each is a batch as ``opyard bench`` makes them."""


class Clock:
    """The timer of a test: monotonic seconds, which the device gives once there is one; what it showed is in ``readings``."""

    def __init__(self) -> None:
        self.readings: list[float] = []
        self._device: Any = None
        self._mark: Any = None
        self._now = 0.0

    def set(self, device: Any) -> str:
        """Shows the time of this device from now on; "device" if that has a clock of its own, else "host"."""
        self._device, self._mark = device, device.record()
        return "host" if self._mark is None else "device"

    def __call__(self) -> float:
        """Seconds from some time on, after all work that was started."""
        if self._mark is None:
            if self._device is not None:
                self._device.synchronize()
            self._now = time.perf_counter()
        else:
            self._now += self._device.elapsed(self._mark, self._device.record())
            self._mark = self._device.record()  # the device is idle now, and the next interval begins
        self.readings.append(self._now)
        return self._now


@pytest.fixture
def opyard_clock(request: pytest.FixtureRequest) -> Clock:
    """The timer of the test, made known to pytest-benchmark before its own fixture is made."""
    clock, marker = Clock(), request.node.get_closest_marker("benchmark")
    facts = {**(marker.kwargs if marker else {}), "timer": clock}
    request.node.add_marker(pytest.mark.benchmark(**facts), append=False)
    return clock


if find_spec("pytest_benchmark") is None:

    @pytest.fixture
    def opyard_bench() -> Callable[..., Any]:
        """Fails with what to install."""
        from opyard.errors import installing

        pytest.fail(
            f"the fixture opyard_bench needs pytest-benchmark. Type: {installing('opyard-bench[pytest]')}",
            pytrace=False,
        )

else:

    @pytest.fixture
    def opyard_bench(opyard_clock: Clock, benchmark: Any) -> Callable[..., Any]:
        """Verifies and times one kernel: ``opyard_bench(op, *inputs, kernel="cpu/blas", device="cpu:0", **attributes)``.

        op        an op function, an Op, the name of one, or a Call: then without attributes, and with arrays or nothing behind it
        inputs    arrays, specs whose arrays are drawn, or None for an optional input that is left out
        kernel    id of the kernel; without it, the best one by what opyard knows
        device    name of the device; without it, any

        Fails where the kernel refuses the call, raises, or differs from the reference, before and after it is timed. Gives the
        kernel's last result. ``benchmark.extra_info`` holds kernel, device, clock, GB/s, GFLOP/s and that it was verified.
        """

        def bench(op: Any, *inputs: Any, kernel: str = "", device: str = "", **attributes: Any) -> Any:
            from opyard_bench.single import Single

            single = Single(op, inputs, kernel, device, attributes)
            if benchmark.group is None:
                benchmark.group = single.title
            calls, seconds = single.warm()
            rounds = round(min(max(SECONDS / max(calls * seconds, 1e-9), LEAST_ROUNDS), MOST_ROUNDS))
            clock = opyard_clock.set(single.device)
            result = benchmark.pedantic(single.start, rounds=rounds, iterations=calls, warmup_rounds=1)
            single.check(result)
            benchmark.extra_info.update(single.facts(), clock=clock, verified=True)
            samples = _samples(opyard_clock.readings, rounds, calls)
            if samples:
                benchmark.extra_info.update(single.rates(samples))
            return result

        return bench


def _samples(readings: Sequence[float], rounds: int, calls: int) -> list[float]:
    """Seconds of one call in each of the last rounds; none where benchmarks are disabled."""
    last = readings[-2 * rounds :] if len(readings) >= 2 * rounds else []
    return [(end - begin) / calls for begin, end in zip(last[::2], last[1::2], strict=True)]
