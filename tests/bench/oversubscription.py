"""Runs a session beside PyTorch and ONNX Runtime in one process, and shows whether their threads get in each other's way.

    uv run python tests/bench/oversubscription.py                      ResNet-18, about a minute
    uv run python tests/bench/oversubscription.py --model bert_base --rounds 10 --json

Each runtime is run by itself, in turns of several runs, and then all take turns run by run, so that each finds the idle
threads of the others. For each: the milliseconds by itself and in turns, of wall time and of all processors, and at the end
the threads of the process and of each pool. Where idle threads keep looking for work, the others take longer in turns than
by themselves, and the process takes more processor time during their runs; on a busy machine only that can be seen. Runtimes that are not
installed are left out: `uv pip install torch onnxruntime`. OPYARD_NUM_THREADS is the number of threads of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opyard.settings import num_threads
from opyard_bench.models.suite import NAMES, SCALES, build
from opyard_bench.peers import contestants

PEERS = {
    "opyard": contestants.prepare_opyard,
    "pytorch": contestants.prepare_torch,
    "onnxruntime": contestants.prepare_onnxruntime,
}
PACKAGES = {"opyard": "opyard", "pytorch": "torch", "onnxruntime": "onnxruntime"}
ALONE = 5
"""Runs of one runtime in a row, before it is timed by itself."""


def clock(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall time and of all processors."""
    wall, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - used


def measure(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians and least of milliseconds of wall time, and medians of those of all processors, by itself and in turns."""
    alone: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(ALONE):
                run()
            alone[name].append(clock(run))
        for _ in range(2):  # the first turn follows runs of one runtime alone
            found = {name: clock(run) for name, run in runs.items()}
        for name, times in found.items():
            turns[name].append(times)
    return {name: {**_row("alone", alone[name]), **_row("turns", turns[name])} for name in runs}


def _row(title: str, times: list[tuple[float, float]]) -> dict[str, float]:
    walls, used = zip(*times, strict=True)
    return {
        f"{title}_ms": 1e3 * statistics.median(walls),
        f"{title}_least_ms": 1e3 * min(walls),
        f"{title}_processors_ms": 1e3 * statistics.median(used),
    }


def threads_of_process() -> int | None:
    """How many threads this process has; None where the system does not say."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else None


def pools() -> list[dict[str, Any]]:
    """The pools of threads of BLAS and OpenMP libraries."""
    from threadpoolctl import threadpool_info

    return [
        {"library": Path(pool["filepath"]).name, "threads": pool["num_threads"]} for pool in threadpool_info()
    ]


def main() -> None:
    """Prints a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=NAMES, default="resnet18")
    parser.add_argument("--scale", choices=tuple(SCALES), default="full")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model, threads = build(options.model, 1, options.scale), num_threads()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    runs = {}
    for name, prepare in PEERS.items():
        if find_spec(PACKAGES[name]) is not None:
            runs[name] = prepare(model, threads)
            runs[name]()
    found = measure(runs, options.rounds)
    after = {"process_threads": threads_of_process(), "pools": pools()}
    if options.json:
        print(json.dumps({"model": options.model, "threads": threads, "runtimes": found, **after}))
        return
    print(f"{options.model}, {threads} threads, {options.rounds} rounds, milliseconds: median (least)\n")
    print("| runtime | by itself | processors | in turns | processors |\n|---|---|---|---|---|")
    for name, row in found.items():
        cells = (
            f"{row[f'{k}_ms']:.1f} ({row[f'{k}_least_ms']:.1f}) | {row[f'{k}_processors_ms']:.1f}"
            for k in ("alone", "turns")
        )
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nthreads of the process: {after['process_threads']}")
    for pool in pools():
        print(f"{pool['library']}: {pool['threads']}")


if __name__ == "__main__":
    main()
