"""How often ``opyard bench ab`` and ``opyard bench compare`` are right, on a machine that another process keeps busy.

    uv run python tests/bench/verdicts.py                   a table in Markdown, in about half an hour
    uv run python tests/bench/verdicts.py --json --trials 1

Two folders hold a plugin with the same kernels: each repeats some NumPy function. In the head a third of them repeat it 5 % more often
and a third 10 %, so that the right answer is known and no sample is touched. A false alarm is a verdict SLOWER on a kernel that
did not change; bounds are one-sided, of 95 % confidence (Clopper and Pearson, Biometrika 26, 1934), as if kernels were independent.
docs/bench.md holds a table made by this script.
"""

import argparse
import itertools
import json
import math
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opyard_bench.ab import PASSES
from opyard_bench.compare import compare
from opyard_bench.record import Run, read

REPEATS = 40
CHANGES = {"same": 0, "five": 2, "ten": 4}
"""Further repeats of the kernels of the head: 0, 5 and 10 per cent."""

WORKS = {
    "exp": ("numpy.exp(x, out=y)", 1 << 12),
    "tanh": ("numpy.tanh(x, out=y)", 1 << 12),
    "sin": ("numpy.sin(x, out=y)", 1 << 12),
    "log": ("numpy.log1p(x * x, out=y)", 1 << 12),
    "divide": ("numpy.divide(x, 3.0, out=y)", 1 << 12),
    "add": ("numpy.add(x, x, out=y)", 1 << 12),
    "sum": ("y[0] = x.sum()", 1 << 12),
    "cumsum": ("numpy.cumsum(x, out=y)", 1 << 12),
    "sort": ("y[:] = x; y.sort()", 1 << 11),
    "argsort": ("numpy.argsort(x)", 1 << 10),
    "matmul": ("numpy.matmul(x.reshape(64, 64), x.reshape(64, 64), out=y.reshape(64, 64))", 1 << 12),
    "python": ("for i in range(100): pass", 1 << 8),
}
"""What is repeated, on so many numbers: few enough that it does not matter much where in memory they lie."""

PLUGIN = """
import numpy
import opyard as oy
from opyard import hookimpl
from opyard.errors import SpecError

OPYARD_API = (1, 1)


def infer(size):
    def same(x):
        if x.shape != (size,):
            raise SpecError("there is no other size")  # so that nothing is scaled
        return x

    return same


def kernel(function, repeats):
    def prepare(call, device):
        y = numpy.empty(call.inputs[0].shape, numpy.float32)

        def run(x):
            for _ in range(repeats):
                function(x, y)
            return x

        return run

    return prepare

{functions}

@hookimpl
def opyard_register(registry):
    for name, (function, size, repeats) in WORKS.items():
        title = "work." + name
        cases = [oy.Case((oy.Draw((size,)),))]
        registry.op(oy.op(title, infer=infer(size), cases=lambda cases=cases: cases)(lambda x: x))
        registry.kernel(title, backend="cpu", name="work", prepare=kernel(function, repeats))
"""


def write_plugin(folder: Path, is_head: bool) -> Path:
    """A site folder with the plugin, and a program that is this Python with the folder on its path."""
    functions, table = [], []
    for name, (text, size) in WORKS.items():
        functions.append(f"def {name}_(x, y):\n    {text}\n")
        for change, more in CHANGES.items():
            repeats = REPEATS + (more if is_head else 0)
            table.append(f'    "{name}_{change}": ({name}_, {size}, {repeats}),')
    site = folder / "site"
    info = site / "opyard_work-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opyard-work\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opyard]\nwork = opyard_work\n")
    body = "\n\n".join(functions) + "\n\nWORKS = {\n" + "\n".join(table) + "\n}\n"
    (site / "opyard_work.py").write_text(PLUGIN.replace("{functions}", body))
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """The machine while other processes compute."""
    code = "import sys\nx = 0\nwhile True: x += 1"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def bench(program: Path, *arguments: str) -> None:
    """Runs ``opyard bench`` in a Python; its status tells verdicts, and only other ones are errors."""
    words = [str(program), "-c", "from opyard.cli import main; main()", "bench", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or "rror" in done.stderr:
        raise SystemExit(f"{words}\n{done.stdout}{done.stderr}")


def ops(changes: Sequence[str]) -> list[str]:
    return [f"work.{name}_{change}" for name in WORKS for change in changes]


class Counts:
    """How often each verdict was given, by method and change."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, method: str, base: list[Run], head: list[Run]) -> None:
        for verdict in compare(base, head):
            if verdict.kernel == "cpu/work":
                self.found[method, verdict.op.rpartition("_")[2]][verdict.verdict] += 1

    def rows(self) -> list[dict[str, Any]]:
        """One row for each method and change: kernels judged, the rate of SLOWER and its bound."""
        made = []
        for (method, change), counts in self.found.items():
            total, slower = sum(counts.values()), counts["SLOWER"]
            bound = upper(slower, total) if change == "same" else 1 - upper(total - slower, total)
            made.append(
                {
                    "method": method,
                    "more work": f"{100 * CHANGES[change] // REPEATS} %",
                    "kernels": total,
                    **{name: counts[name] for name in ("SLOWER", "FASTER", "SAME", "AMBIGUOUS")},
                    "rate of SLOWER": slower / total,
                    "bound": bound,
                }
            )
        return made


def upper(hits: int, total: int, confidence: float = 0.95) -> float:
    """The greatest rate at which so few hits of so many trials have a probability of 5 %."""
    if hits == total:
        return 1.0
    low, high = hits / total, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        chance = sum(math.exp(log_chance(k, total, rate)) for k in range(hits + 1))
        low, high = (rate, high) if chance > 1 - confidence else (low, rate)
    return high


def log_chance(hits: int, total: int, rate: float) -> float:
    """The logarithm of the probability of so many hits."""
    ways = math.lgamma(total + 1) - math.lgamma(hits + 1) - math.lgamma(total - hits + 1)
    return ways + hits * math.log(max(rate, 1e-300)) + (total - hits) * math.log1p(-min(rate, 1 - 1e-16))


def measure_ab(
    folder: Path,
    programs: tuple[Path, Path],
    trials: int,
    ops: Sequence[str],
    measuring: Sequence[str],
    counts: Counts,
) -> None:
    """Base and head in turns."""
    for trial in range(trials):
        begin = time.perf_counter()
        options = ["--device", "cpu:0", *measuring, "--seed", str(trial)]
        records = folder / f"ab{trial}"
        records.mkdir()
        bench(
            programs[1],
            *("ab", *ops, "--base", str(programs[0]), "--head", str(programs[1])),
            *(*options, "--records", str(records)),
        )
        counts.add("ab", [read(records / "base.json")], [read(records / "head.json")])
        print(f"ab {trial + 1} of {trials}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)


def measure_runs(
    folder: Path,
    programs: tuple[Path, Path],
    runs: int,
    ops: Sequence[str],
    seconds: float,
    counts: Counts,
) -> None:
    """Base and head in runs of their own, one after the other; compared by ones, threes, fives and so on."""
    sides: tuple[list[Run], list[Run]] = ([], [])
    for number in range(runs):
        for side, program in zip(sides, programs, strict=True):
            path = folder / f"run{number}-{len(side)}.json"
            options = ["--device", "cpu:0", "--seconds", str(seconds), "--seed", str(number)]
            bench(program, *ops, "--no-calibration", *options, "--json", str(path))
            side.append(read(path))
        print(f"run {number + 1} of {runs}", file=sys.stderr)
    for size in (1, 3, 5, 10):
        parts = [slice(start, start + size) for start in range(0, runs - size + 1, size)]
        for a, b in itertools.product(parts, parts) if size == 1 else zip(parts, parts, strict=True):
            counts.add(f"compare, {size} run{'s' if size > 1 else ''} of each", sides[0][a], sides[1][b])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=25, help="of ab; default: 25")
    parser.add_argument("--runs", type=int, default=30, help="of each side, for compare; default: 30")
    parser.add_argument("--seconds", type=float, default=1.0, help="for a cell of ab; default: 1")
    parser.add_argument("--passes", type=int, default=PASSES, help=f"of ab; default: {PASSES}")
    parser.add_argument("--run-seconds", type=float, default=0.25, help="for a cell of a run; default: 0.25")
    parser.add_argument("--busy", type=int, default=1, help="processes that compute meanwhile; default: 1")
    parser.add_argument("--threads", type=int, default=1, help="of each kernel; default: 1")
    parser.add_argument(
        "--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES), help="kernels; default: all"
    )
    options = parser.parse_args()
    os.environ["OPYARD_NUM_THREADS"] = str(options.threads)
    counts = Counts()
    with tempfile.TemporaryDirectory() as name, busy(options.busy):
        folder = Path(name)
        base, head = write_plugin(folder / "base", False), write_plugin(folder / "head", True)
        measuring = ["--seconds", str(options.seconds), "--passes", str(options.passes)]
        kernels = ops(options.changes)
        measure_ab(folder, (base, head), options.trials, kernels, measuring, counts)
        measure_runs(folder, (base, head), options.runs, kernels, options.run_seconds, counts)
        load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"load": load, "rows": counts.rows()}, indent=1))
        return
    print(f"Load at the end: {load:.1f}, on {os.cpu_count()} processors.\n")
    rows = counts.rows()
    print("| " + " | ".join(rows[0]) + " |\n|---|" + "---:|" * (len(rows[0]) - 1))
    for row in rows:
        cells = [f"{100 * v:.1f} %" if isinstance(v, float) else str(v) for v in row.values()]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
