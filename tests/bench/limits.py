"""What the CPU backend promises, in one run: shares of the streaming limit, of the fastest matrix product, and the regret.

    uv run python tests/bench/limits.py                     three tables in Markdown, on one thread
    uv run python tests/bench/limits.py --threads 2
    uv run python tests/bench/limits.py --only products --seconds 10

Streaming: compiled loops over what a copy, or reading, of as many bytes takes, by compiled.py. Products: a plan of one float32
product over the sgemm of MKL (``pip install mkl``), oneDNN and OpenBLAS, called directly. Regret: what the chosen plan takes over the
fastest of those of each kernel alone, by estimates and after tuning; plans of the same kernels are one plan. All
ways take turns; times are minima, for others only add to them: of CPU time on one thread, and of wall time on several.
docs/performance.md holds the tables.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
Ways = dict[str, Function]
Rows = dict[str, dict[str, Any]]

SIZES = (256, 512, 1024, 2048)
"""Of the matrices, which are square."""

ROW_MAJOR, AS_IT_IS, GNU = 101, 111, 3
"""CblasRowMajor, CblasNoTrans and MKL_THREADING_GNU."""


# Products ------------------------------------------------------------------------------------------------------------


def mkl_library() -> Any:
    """libmkl_rt of the wheel, or None where it is not installed."""
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if "mkl_rt" in file.name]
    return ctypes.CDLL(str(found[0].locate().resolve())) if found else None


def mkl(threads: int) -> Function | None:
    """Product of two square matrices by MKL; its idle threads sleep, as opyard's do."""
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    library = mkl_library()
    if library is None:
        return None
    library.MKL_Set_Threading_Layer(GNU)
    library.MKL_Set_Num_Threads(threads)
    number, pointer, real = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    function = library.cblas_sgemm
    function.restype = None
    matrix = (pointer, number)
    function.argtypes = [number] * 6 + [real, *matrix, *matrix, real, *matrix]

    def product(a: Array, b: Array, c: Array) -> None:
        n, (left, right, out) = len(a), (x.ctypes.data for x in (a, b, c))
        function(ROW_MAJOR, AS_IT_IS, AS_IT_IS, n, n, n, 1.0, left, n, right, n, 0.0, out, n)

    return product


def onednn() -> Function | None:
    """Product of two square matrices by oneDNN, or None where it is not installed."""
    from opyard_cpu.onednn.library import library, missing

    if missing():
        return None
    number, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    function = ctypes.CDLL(library().path).dnnl_sgemm
    matrix = (pointer, number)
    function.argtypes = [ctypes.c_char] * 2 + [number] * 3 + [real, *matrix, *matrix, real, *matrix]

    def product(a: Array, b: Array, c: Array) -> None:
        n, (left, right, out) = len(a), (x.ctypes.data for x in (a, b, c))
        function(b"N", b"N", n, n, n, 1.0, left, n, right, n, 0.0, out, n)

    return product


def peers(threads: int) -> Ways:
    """Products of libraries."""
    found = {"MKL": mkl(threads), "oneDNN": onednn(), "OpenBLAS": lambda a, b, c: np.matmul(a, b, out=c)}
    return {name: function for name, function in found.items() if function is not None}


def products(seconds: float, threads: int, sizes: Sequence[int]) -> Rows:
    """Of each size: seconds by opyard and by the libraries, after comparing what they give."""
    from compiled import least

    import opyard as oy

    rows: Rows = {}
    others = peers(threads)
    for size in sizes:
        a, b = (np.random.default_rng(seed).standard_normal((size, size), np.float32) for seed in (0, 1))
        plans = plans_of(oy.matmul, [a, b], seconds)
        kernels, run = plans.pop("tuned")
        expected, *_ = run(a, b)
        ways: Ways = {"opyard": lambda run=run, a=a, b=b: run(a, b)}
        for name, function in others.items():
            c = np.empty_like(a)
            function(a, b, c)
            np.testing.assert_allclose(c, expected, atol=1e-3 * size**0.5)
            ways[name] = lambda f=function, a=a, b=b, c=c: f(a, b, c)
        rows[f"{size} x {size}"] = {**least(ways, seconds), "kernel": ", ".join(kernels)}
    return rows


# Regret --------------------------------------------------------------------------------------------------------------


def plans_of(
    function: Function, arrays: list[Array], seconds: float
) -> dict[str, tuple[tuple[str, ...], Function]]:
    """Plans by how they were chosen: ``estimates``, ``tuned``, and of each kernel alone; their kernels, and a call."""
    import opyard as oy
    from opyard.errors import PlacementError

    graph = oy.trace(function, *map(oy.TensorSpec.of, arrays))
    outputs, feeds = list(graph.outputs), dict(zip(graph.inputs, arrays, strict=True))

    def made(session: Any) -> tuple[tuple[str, ...], Function]:
        session.callable(outputs, list(feeds))(*arrays)
        decisions = session.placement(outputs, feeds).decisions
        executable, _ = next(iter(session._cache.values()))  # it stays, whatever the policy is later
        return tuple(decision.chosen.kernel.id for decision in decisions), executable

    prior = oy.Session(graph, devices=["cpu:0"], costs=oy.Roofline())
    found = {"estimates": made(prior)}
    with tempfile.TemporaryDirectory() as folder:
        store = oy.CostStore(Path(folder) / "costs.sqlite")
        session = oy.Session(graph, devices=["cpu:0"], costs=oy.MeasuredCosts(store))
        session.tune(outputs, feeds, budget_seconds=max(seconds, 0.1))
        found["tuned"] = made(session)
        store.close()
    kernels = sorted(set(candidates(prior.placement(outputs, feeds))))
    for kernel in kernels:
        with oy.using(block=[other for other in kernels if other != kernel]):
            try:
                found[kernel] = made(oy.Session(graph, devices=["cpu:0"], costs=oy.Roofline()))
            except PlacementError:
                continue  # it is for a part of the graph only
    return found


def candidates(placement: Any) -> Iterator[str]:
    """The kernels that could run some part of a graph; the references are none."""
    for decision in placement.decisions:
        yield decision.chosen.kernel.id
        for alternative in decision.alternatives:
            if alternative.extra_seconds is not None and alternative.candidate.kernel.backend == "cpu":
                yield alternative.candidate.kernel.id


def regrets(seconds: float, sizes: Sequence[int], only: str = "") -> Rows:
    """Of each work whose name contains a text: the kernels that were chosen, the fastest ones, and seconds of each."""
    from compiled import LOOPS, least

    import opyard as oy

    works: list[tuple[str, Function, tuple[tuple[int, ...], ...]]] = [
        *((f"product {size}", oy.matmul, ((size, size), (size, size))) for size in sizes),
        *((loop.name, loop.ops, loop.shapes) for loop in LOOPS),
    ]
    rows: Rows = {}
    for name, function, shapes in works:
        if only not in name:
            continue
        generator = np.random.default_rng(0)
        arrays = [generator.standard_normal(shape, np.float32) for shape in shapes]
        plans = plans_of(function, arrays, seconds)
        distinct = {"+".join(kernels): run for kernels, run in plans.values()}
        ways: Ways = {key: lambda run=run, given=arrays: run(*given) for key, run in distinct.items()}
        found = least(ways, seconds)
        best = min(found, key=lambda key: found[key])
        chosen = {how: "+".join(plans[how][0]) for how in ("estimates", "tuned")}
        rows[name] = {
            **chosen,
            "best": best,
            "plans": len(found),
            **{f"regret, {how}": found[key] / found[best] - 1 for how, key in chosen.items()},
        }
    return rows


# Tables --------------------------------------------------------------------------------------------------------------


def print_products(rows: Rows) -> None:
    """Microseconds, and the share of the fastest library's speed."""
    names = [name for name in ("MKL", "oneDNN", "OpenBLAS") if all(name in row for row in rows.values())]
    if "MKL" not in names:
        print("MKL is not installed; type: pip install mkl\n")
    print(f"| product | opyard | {' | '.join(names)} | share of the best | GFLOP/s | kernel |")
    print(f"|---|{'---:|' * (len(names) + 3)}---|")
    for name, row in rows.items():
        cells = " | ".join(f"{row[key] * 1e6:,.0f} us" for key in ("opyard", *names))
        share = min(row[key] for key in names) / row["opyard"]
        print(
            f"| {name} | {cells} | {share:.0%} | {2 * int(name.split()[0]) ** 3 / row['opyard'] / 1e9:.0f} | `{row['kernel']}` |"
        )


def print_regrets(rows: Rows) -> None:
    """Regrets of both ways to choose, and their geometric means."""
    print("| work | plans | by estimates | regret | after tuning | regret |\n|---|---:|---|---:|---|---:|")
    for name, row in rows.items():
        cells = [f"`{row[how]}` | {row[f'regret, {how}']:.1%}" for how in ("estimates", "tuned")]
        print(f"| {name} | {row['plans']} | {' | '.join(cells)} |")
    means = [
        statistics.geometric_mean([1 + row[f"regret, {how}"] for row in rows.values()]) - 1
        for how in ("estimates", "tuned")
    ]
    print(f"| geometric mean | | | {means[0]:.1%} | | {means[1]:.1%} |")


def main() -> None:
    """Measures, and prints tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring, for each row")
    parser.add_argument("--only", choices=("streaming", "products", "regret"), help="one of the tables")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the matrices")
    parser.add_argument(
        "--contains", default="", help="loops, and works of the regret, with this in their names"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: float = options.seconds
    os.environ["OPYARD_NUM_THREADS"] = str(options.threads)
    sys.path.insert(0, str(Path(__file__).parent))
    import compiled
    from threadpoolctl import threadpool_limits

    tables: dict[str, tuple[Callable[[], Rows], Callable[[Rows], None]]] = {
        "streaming": (lambda: compiled.measured(seconds, options.contains), compiled.print_table),
        "products": (lambda: products(seconds, options.threads, options.sizes), print_products),
        "regret": (lambda: regrets(seconds, options.sizes, options.contains), print_regrets),
    }
    found: dict[str, Rows] = {}
    with threadpool_limits(options.threads, user_api="blas"):
        for name, (measure, show) in tables.items():
            if options.only in (None, name):
                found[name] = measure()
                if not options.json:
                    show(found[name])
                    print(flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
