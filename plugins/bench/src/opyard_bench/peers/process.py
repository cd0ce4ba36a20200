"""The process of one contestant: it makes one model ready, and runs and times it when it is asked.

As a program it answers requests, see opyard_bench/worker.py.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

SAMPLE_SECONDS = 0.05
"""A sample is the mean of as many runs as take about so long, one at least."""

SETTLE_SECONDS = 0.02
"""Before a sample, so that threads of others that wait busily for more work go to sleep."""

TOP = 8
"""Rows of the profile that are kept."""


class Process:
    """One contestant with one model."""

    def __init__(self) -> None:
        self._run: Any = None
        self._model: Any = None
        self._seconds = 0.0

    def start(self, threads: int) -> None:
        """Leaves this process so many processors; must come before anything that makes threads."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def build(self, name: str, batch: int, scale: str) -> tuple[int, int]:
        """Builds the model; gives the numbers of its nodes and of its weights."""
        from opyard_bench.models.suite import build

        self._model = build(name, batch, scale)
        graph = self._model.graph
        return len(graph.nodes), sum(array.size for array in graph.constants.values())

    def tune(self, seconds: float) -> tuple[float, str]:
        """Tunes ours for about so long; gives the seconds that it took, and what came of it."""
        import opyard as oy
        from opyard_bench.peers.contestants import DEVICE

        session = oy.Session(self._model.graph, devices=DEVICE)
        report = session.tune(list(self._model.graph.outputs), self._model.feeds, budget_seconds=seconds)
        state = "stable" if report.stable else "the time was up"
        return report.elapsed_seconds, f"{len(report.measured)} measurements, {state}"

    def prepare(self, contestant: str, threads: int) -> tuple[float, list[Any]]:
        """Makes the model ready; gives the seconds to the end of its first run, what was compiled included, and the outputs."""
        from opyard_bench.peers.contestants import CONTESTANTS

        begin = time.perf_counter()
        self._run = CONTESTANTS[contestant].prepare(self._model, threads)
        outputs = self._run()
        seconds = time.perf_counter() - begin
        found = [np.array(np.asarray(output)) for output in outputs]
        for _ in range(2):
            begin = time.perf_counter()
            self._run()
            self._seconds = time.perf_counter() - begin
        return seconds, found

    def sample(self) -> tuple[float, float]:
        """Wall seconds and processor seconds of one run, as the means of some."""
        time.sleep(SETTLE_SECONDS)
        run = self._run
        if self._seconds < SAMPLE_SECONDS:
            run()
        calls = max(1, round(SAMPLE_SECONDS / max(self._seconds, 1e-7)))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            run()
        wall, cpu = (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls
        self._seconds = wall
        return wall, cpu

    def profile(self) -> list[tuple[str, float]]:
        """The kernels of ours that take the most time, with the share that each has of all."""
        import opyard as oy
        from opyard_bench.peers.contestants import DEVICE

        session = oy.Session(self._model.graph, devices=DEVICE)
        found = session.profile(list(self._model.graph.outputs), self._model.feeds, runs=3)
        sums: dict[str, float] = {}
        for node in found.nodes:
            name = f"{node.op} by {node.kernel}"
            sums[name] = sums.get(name, 0.0) + node.share
        return sorted(sums.items(), key=lambda row: -row[1])[:TOP]


if __name__ == "__main__":
    from opyard_bench.worker import main

    main(Process)
