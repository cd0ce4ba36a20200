"""No false alarm: every kernel of some backends at level core, with the numbers of many seeds.

    uv run python tests/bench/conformance_seeds.py --backend cpu --backend opencl --seeds 20

A kernel that is right for 19 draws of numbers and wrong for one is either wrong, or judged by a tolerance that is too
narrow; both are found here. The exit status is 1 when a case failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from opyard_conformance import run_conformance


def main() -> int:
    """Prints the counts of each run, and every failure with its command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", action="append", help="default: cpu")
    parser.add_argument("--op", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--level", default="core")
    options = parser.parse_args()
    failed = 0
    for backend in options.backend or ["cpu"]:
        total: Counter[str] = Counter()
        for seed in range(options.first, options.first + options.seeds):
            report = run_conformance(backend, ops=options.op, level=options.level, seed=seed)
            total += report.counts
            for outcome in report.failures:
                print(f"{outcome.op} {outcome.kernel}: {outcome.detail}\n    {outcome.command}", flush=True)
            print(f"{backend} seed {seed}: {dict(report.counts)} in {report.seconds:.1f} s", flush=True)
        print(f"{backend}: {total.total()} cases of {options.seeds} seeds, {dict(total)}")
        failed += total["failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
