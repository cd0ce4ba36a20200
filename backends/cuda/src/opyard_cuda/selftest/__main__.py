"""The command: one table or JSON, with the GPU's name, versions, and each goal."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import click

import opyard as oy
from opyard.cli.output import json_option, print_json, print_table, print_text
from opyard.errors import OpyardError

from ..backend import CUDADevice
from .checks import FAIL, NOT_RUN, Bench, Line, Sizes, not_run, run_checks
from .rightness import RIGHTNESS, touch_kernels
from .speed import SPEED

CHECKS = (*SPEED, *RIGHTNESS)

NO_GPU = 2
"""The exit code where there is no GPU to test; 1 where a check failed."""

PACKAGES = ("opyard", "opyard-cuda", "numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "triton")


@click.command()
@click.option("--device", "name", default="cuda:0", show_default=True, help="The GPU to test.")
@click.option(
    "--touch", is_flag=True, help="Run each kernel once and measure nothing: for compute-sanitizer."
)
@json_option
@click.pass_context
def main(context: click.Context, name: str, touch: bool, as_json: bool) -> None:
    """Measure a GPU, and hold kernels and runtime against their goals. Exits with 1 where one is missed, 2 without a GPU."""
    report: dict[str, Any] = {"device": name, "versions": versions(), "lines": []}
    try:
        device = oy.default_registry().device(name)
        if not isinstance(device, CUDADevice):
            raise click.UsageError(f"{name} is no CUDA device; name one: --device cuda:0.")
    except OpyardError as error:
        report["lines"] = not_run(CHECKS, str(error))
        _show(report, as_json, f"Nothing was tested: {error}")
        context.exit(NO_GPU)
    bench = Bench(device, device.cupy, Sizes(elements=_elements(device)))
    if touch:
        device.cupy.cuda.set_allocator(None)  # the pool would hide what lies beyond an array
        print_text(f"{touch_kernels(bench)} kernels ran on {name}.")
        return
    report["description"] = device.description
    report["lines"] = list(run_checks(CHECKS, bench))
    failed = [line.name for line in report["lines"] if line.state == FAIL]
    _show(report, as_json, f"Failed: {'; '.join(failed)}." if failed else "All that ran is within its goals.")
    context.exit(int(bool(failed)))


def versions() -> dict[str, str]:
    """What is installed, by distribution."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _elements(device: CUDADevice) -> int:
    """Elements of the arrays for bandwidth: a gibibyte each, or less where the memory is small."""
    free, _ = device.memory_info()
    return min(Sizes().elements, 1 << max(20, (free // 48).bit_length() - 1))


def _show(report: dict[str, Any], as_json: bool, ending: str) -> None:
    lines: list[Line] = report["lines"]
    if as_json:
        print_json({**report, "lines": [line.as_data() for line in lines], "summary": ending})
        return
    print_text(f"{report['device']}: {report.get('description', 'no such device here')}")
    print_text(", ".join(f"{package} {version}" for package, version in report["versions"].items()))
    rows = [[line.name, line.state, _measured(line), line.goal, line.reason] for line in lines]
    if all(line.state == NOT_RUN for line in lines):
        rows = [row[:4] for row in rows]  # the reason of all is below
    columns = ["check", "state", "measured", "goal", "reason"]
    print_table(columns[: len(rows[0])], rows)
    print_text(f"\n{ending}")


def _measured(line: Line) -> str:
    return "" if line.value is None else f"{line.value:.4g} {line.unit}"


if __name__ == "__main__":
    main()
