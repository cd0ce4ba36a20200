"""Measures what opyard costs beside the kernels: eager dispatch, resolved handles, plans, imports and discovery.

    uv run python tests/bench/overhead.py            a table in Markdown
    uv run python tests/bench/overhead.py --json     the same as JSON, with every sample's median

CPU time of the thread, candidates interleaved, medians; the cost of the empty loop is subtracted. torch, where it is
installed, and pluggy are measured beside, in the same rounds. docs/performance.md holds a table made by this script.
"""

import argparse
import compileall
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pluggy

import opyard as oy
from opyard.executable import Executable
from opyard.plan import make_plan
from opyard.testing import ScriptedCosts

ONE = np.ones(1, np.float32)

NODES = 200
"""Of the plan that is measured."""


def interleaved(functions: dict[str, Callable[[], object]], *, loops: int, rounds: int) -> dict[str, float]:
    """Median nanoseconds of one call of each function, without the loop around it."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    empty: list[float] = []
    clock = time.thread_time_ns
    numbers = range(loops)
    for _ in range(rounds):
        start = clock()
        for _ in numbers:
            pass
        empty.append((clock() - start) / loops)
        for name, function in functions.items():
            start = clock()
            for _ in numbers:
                function()
            samples[name].append((clock() - start) / loops)
    loop = statistics.median(empty)
    return {name: statistics.median(values) - loop for name, values in samples.items()}


def no_op(x1: Any, x2: Any) -> Any:
    return x1


def host_registry(kernel: Callable[..., Any]) -> oy.Registry:
    """A registry with one host backend whose only kernel is ``add``."""

    class HostDevice(oy.Device):
        def upload(self, array: np.ndarray[Any, Any]) -> Any:
            return array

        def download(self, array: Any) -> np.ndarray[Any, Any]:
            return np.asarray(array)

    class HostBackend:
        def devices(self) -> list[oy.Device]:
            return [HostDevice("host:0", kind="cpu", memory="host", array_type=np.ndarray)]

    registry = oy.standard_registry()
    registry.backend("host", load=HostBackend, arrays=("numpy:ndarray",))
    registry.kernel("add", backend="host", name="kernel", load=kernel)
    return registry


def pluggy_call() -> Callable[[], object]:
    """One pluggy hook call with one implementation, first result."""
    spec, impl = pluggy.HookspecMarker("bench"), pluggy.HookimplMarker("bench")

    class Spec:
        @spec(firstresult=True)
        def add(self, x1: Any, x2: Any) -> Any: ...

    class Plugin:
        @impl
        def add(self, x1: Any, x2: Any) -> Any:
            return x1

    manager = pluggy.PluginManager("bench")
    manager.add_hookspecs(Spec)
    manager.register(Plugin())
    hook = manager.hook.add
    return lambda: hook(x1=ONE, x2=ONE)


def torch_calls() -> dict[str, Callable[[], object]]:
    """A no-op as a torch.library.custom_op, and a plain call on tensors; empty where torch is not installed."""
    try:
        import torch
    except ImportError:
        return {}

    @torch.library.custom_op("opyardbench::noop", mutates_args=())
    def noop(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return torch.empty(0)

    tensor, empty = torch.ones(1), torch.empty

    def custom() -> object:
        with torch.no_grad():
            return noop(tensor, tensor)

    def direct() -> object:
        with torch.no_grad():
            return empty(0)

    return {"torch custom_op": custom, "torch direct": direct}


def measure_eager(quick: bool) -> dict[str, float]:
    """Nanoseconds of a call by each way; one kernel does nothing, the other is np.add."""
    loops, rounds = (2_000, 3) if quick else (50_000, 25)
    add, idle, real = oy.add, host_registry(no_op), host_registry(np.add)
    with oy.using(registry=idle):
        resolved = add.resolve(ONE, ONE)
        functions: dict[str, Callable[[], object]] = {
            "raw no-op": lambda: no_op(ONE, ONE),
            "opyard.add, no-op kernel": lambda: add(ONE, ONE),
            "resolved no-op": lambda: resolved(ONE, ONE),
            "pluggy hook": pluggy_call(),
        }
        result = interleaved(functions, loops=loops, rounds=rounds)
    with oy.using(registry=real):
        numpy_add = np.add
        functions = {"raw np.add": lambda: numpy_add(ONE, ONE), "opyard.add, np.add": lambda: add(ONE, ONE)}
        result |= interleaved(functions, loops=loops, rounds=rounds)
    if torch := torch_calls():
        result |= interleaved(torch, loops=max(loops // 20, 50), rounds=rounds)
    return result


def measure_plan(quick: bool) -> dict[str, float]:
    """Nanoseconds per node of a chain of NODES nodes with kernels that do nothing, and of the kernels called in a loop."""
    registry = host_registry(no_op)
    with oy.Graph() as graph:
        start = value = graph.input("x", oy.TensorSpec((1,)))
        for _ in range(NODES):
            value = oy.add(value, start)
        graph.output("y", value)
    device = registry.device("host:0")
    placement = oy.place(graph, [device], registry, ScriptedCosts(), home=device)
    run = Executable(make_plan(placement))
    with oy.using(registry=registry):
        call = oy.Session(graph, devices="host:0", registry=registry).callable("y", ["x"])
        loops, rounds = (50, 3) if quick else (2_000, 25)
        functions: dict[str, Callable[[], object]] = {
            "plan": lambda: run(ONE),
            "session callable": lambda: call(ONE),
            "kernel": lambda: no_op(ONE, ONE),
        }
        found = interleaved(functions, loops=loops, rounds=rounds)
    return {
        "plan, per node": found["plan"] / NODES,
        "session callable, per node beside its kernel": found["session callable"] / NODES - found["kernel"],
        "session callable, per call beyond the plan": found["session callable"] - found["plan"],
        "no-op kernel alone": found["kernel"],
    }


def cpu_milliseconds(code: str, environment: dict[str, str], runs: int) -> float:
    """Median CPU milliseconds of a fresh interpreter that runs the code."""
    samples = []
    for _ in range(runs):
        script = f"{code}\nimport time\nprint(time.process_time())"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        samples.append(float(done.stdout.split()[-1]) * 1e3)
    return statistics.median(samples)


def make_plugins(folder: Path, plugins: int = 20, kernels: int = 1000) -> None:
    """Fake distributions with kernels spread evenly over them; none of the kernel modules exists."""
    ops = ["add", "multiply", "matmul", "conv", "softmax", "exp", "relu", "sum", "mean", "reshape"]
    for number in range(plugins):
        info = folder / f"opyard_fake{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: opyard-fake{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[opyard]\nfake{number} = opyard_fake{number}\n")
        rows = [
            f"    registry.kernel({ops[k % len(ops)]!r}, backend='cpu', name='fake{number}x{k}', load='missing{number}:f', dtypes=('float32',))"
            for k in range(kernels // plugins)
        ]
        text = (
            "from opyard import hookimpl\n\n@hookimpl\ndef opyard_register(registry):\n"
            + "\n".join(rows)
            + "\n"
        )
        (folder / f"opyard_fake{number}.py").write_text(text)
    compileall.compile_dir(folder, quiet=1)  # as pip does


def measure_start(quick: bool) -> dict[str, float]:
    """CPU milliseconds: importing opyard beyond numpy, and the first discovery of 20 plugins with 1,000 kernels."""
    runs = 1 if quick else 15
    with tempfile.TemporaryDirectory() as name:
        make_plugins(Path(name))
        environment = {**os.environ, "PYTHONPATH": name, "OPYARD_CACHE_DIR": str(Path(name) / "cache")}
        base = cpu_milliseconds("import numpy", environment, runs)
        bare = cpu_milliseconds("import numpy, opyard", environment, runs)
        api = cpu_milliseconds("import numpy, opyard.api", environment, runs)
        found = cpu_milliseconds(
            "import numpy, opyard.api\nassert len(opyard.default_registry().kernels('add')) >= 100",
            environment,
            runs,
        )
    return {
        "import opyard, beyond numpy": bare - base,
        "first use of an op: standard ops and dispatcher": api - bare,
        "first discovery, 20 plugins and 1,000 kernels": found - api,
    }


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that everything works")
    options = parser.parse_args()
    eager, plan, start = (
        measure_eager(options.quick),
        measure_plan(options.quick),
        measure_start(options.quick),
    )
    overhead = eager["opyard.add, no-op kernel"] - eager["raw no-op"]
    derived = {
        "eager overhead over a no-op kernel, ns": overhead,
        "eager overhead over np.add, ns": eager["opyard.add, np.add"] - eager["raw np.add"],
        "overhead of a resolved handle, ns": eager["resolved no-op"] - eager["raw no-op"],
        "pluggy hook / eager overhead": (eager["pluggy hook"] - eager["raw no-op"]) / overhead,
    }
    if "torch custom_op" in eager:
        derived["torch custom_op overhead / eager overhead"] = (
            eager["torch custom_op"] - eager["torch direct"]
        ) / overhead
    if options.json:
        print(
            json.dumps(
                {
                    "python": platform.python_version(),
                    "machine": platform.machine(),
                    "eager_ns": eager,
                    "plan_ns": plan,
                    "start_ms": start,
                    "derived": derived,
                },
                indent=2,
            )
        )
        return
    for title, unit, rows in (
        ("Eager call", "ns", eager),
        ("Derived", "", derived),
        (f"Plan of {NODES} nodes", "ns", plan),
        ("Start", "CPU ms", start),
    ):
        print(f"\n| {title} | {unit} |\n|---|---:|")
        for name, value in rows.items():
            print(f"| {name} | {value:.1f} |")


if __name__ == "__main__":
    main()
