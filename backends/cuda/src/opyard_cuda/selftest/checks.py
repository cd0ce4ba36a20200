"""Checks: what each measures, its goal, and how it came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from opyard.driver import Device
from opyard.registry import describe_error

PASS, FAIL, NOT_RUN, MEASURED = "PASS", "FAIL", "NOT RUN", "MEASURED"
"""How a check came out; MEASURED is one without a goal."""


class NotRun(Exception):
    """A check cannot be done here; the text says why, and what would be needed."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the work is.

    elements  of the arrays that bandwidth is measured with; they are larger than any cache
    matrix    rows and columns of the matrices of a product
    calls     of what takes microseconds
    nodes     of the plan that is replayed
    seconds   for tuning each program
    batch     seconds that one sample of a time lasts at least
    """

    elements: int = 1 << 28
    matrix: int = 8192
    calls: int = 500
    nodes: int = 200
    seconds: float = 20.0
    batch: float = 0.02


@dataclass(frozen=True, slots=True)
class Bench:
    """The GPU that is measured: the device, CuPy, the sizes, and ceilings that were measured before, by name."""

    device: Device
    cupy: Any
    sizes: Sizes = Sizes()
    ceilings: dict[str, float] = field(default_factory=dict)

    def seconds(self, run: Callable[[], Any], samples: int = 7) -> float:
        """The median time of ``run`` on the GPU's own clock, over batches of runs without a pause."""
        run()
        self.device.synchronize()
        count, least = 1, 0.0
        while True:
            least = self._batch(run, count)
            if least * count >= self.sizes.batch or count >= 1 << 16:
                break
            count *= 2
        return statistics.median([least, *(self._batch(run, count) for _ in range(samples - 1))])

    def _batch(self, run: Callable[[], Any], count: int) -> float:
        begin = self.device.record()
        for _ in range(count):
            run()
        return self.device.elapsed(begin, self.device.record()) / count

    def host_seconds(self, run: Callable[[], Any], samples: int = 9) -> float:
        """The median time that ``run`` takes of the host, which does not wait for the GPU in between."""
        found = []
        for _ in range(samples + 1):
            self.device.synchronize()
            begin = time.perf_counter()
            for _ in range(self.sizes.calls):
                run()
            found.append((time.perf_counter() - begin) / self.sizes.calls)
        return statistics.median(found[1:])  # the first one warms up


@dataclass(frozen=True, slots=True)
class Check:
    """One line: ``measure`` gives a number in ``unit``, which must be at least, or at most, ``limit``; None: it is only told."""

    name: str
    unit: str
    measure: Callable[[Bench], float]
    limit: float | None = None
    at_least: bool = True

    @property
    def goal(self) -> str:
        """The goal as text; empty where there is none."""
        return "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Line:
    """How a check came out. ``value`` is None where it was not run, or raised; ``reason`` says why."""

    name: str
    goal: str
    state: str
    value: float | None
    unit: str
    reason: str = ""

    def as_data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def run_checks(checks: Iterable[Check], bench: Bench) -> Iterator[Line]:
    """The line of each check, as it is done. A check that raises has failed, and the next one runs."""
    for check in checks:
        try:
            value = check.measure(bench)
        except NotRun as error:
            yield Line(check.name, check.goal, NOT_RUN, None, check.unit, str(error))
        except Exception as error:
            yield Line(check.name, check.goal, FAIL, None, check.unit, describe_error(error))
        else:
            yield Line(check.name, check.goal, _state(check, value), value, check.unit)


def not_run(checks: Iterable[Check], reason: str) -> list[Line]:
    """The lines where nothing can be run."""
    return [Line(check.name, check.goal, NOT_RUN, None, check.unit, reason) for check in checks]


def _state(check: Check, value: float) -> str:
    if check.limit is None:
        return MEASURED
    # written so that NaN fails
    return PASS if (value >= check.limit if check.at_least else value <= check.limit) else FAIL
