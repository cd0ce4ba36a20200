"""Checks the OpenCL backend on other implementations than PoCL, each in a virtual environment of its own.

    python tools/opencl_runtimes.py                          all of them
    python tools/opencl_runtimes.py intel --folder runtimes   one, in a folder that is kept for the next time
    python tools/opencl_runtimes.py intel --bench            tests/bench/opencl.py there instead
    python tools/opencl_runtimes.py oclgrind --device opencl:1 --op regions --op softmax   a device and ops alone

intel      level core on Intel's runtime for processors. It is proprietary (Intel's licence), and installed for this check alone
together   level smoke on that and PoCL at once, as two devices
oclgrind   level smoke in a simulator that reports races and accesses out of bounds; none may be left. It is a processor (opencl:0), and
           a GPU (opencl:1), whose kernels have groups of items

The exit status is 1 when a case fails, a device is missing, or the simulator reports something. It needs `uv` and a network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEMBERS = ("core", "backends/cpu[onednn]", "backends/opencl[jit]", "plugins/codegen", "plugins/conformance")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What to install, the level of conformance, and the environment to run in, made from the virtual environment."""

    name: str
    packages: tuple[str, ...]
    level: str
    environment: Callable[[Path], Mapping[str, str]]


def intel_environment(folder: Path) -> dict[str, str]:
    """The wheel's own .icd file names a path of the machine that it was built on; this one names the library."""
    libraries = sorted(folder.glob("**/libintelocl.so"))
    if not libraries:
        raise SystemExit(f"there is no libintelocl.so under {folder}; remove the folder, and run this again.")
    vendors = folder / "vendors"
    vendors.mkdir(exist_ok=True)
    (vendors / "intel.icd").write_text(f"{libraries[0]}\n")
    return {"OCL_ICD_VENDORS": str(vendors)}


def simulator_environment(folder: Path) -> dict[str, str]:
    """The simulator looks for races, and writes what it finds into a file."""
    log = folder / "findings.log"
    log.unlink(missing_ok=True)
    return {"OCLGRIND_DATA_RACES": "1", "OCLGRIND_MAX_ERRORS": "1000000", "OCLGRIND_LOG": str(log)}


RUNTIMES = {
    found.name: found
    for found in (
        Runtime("intel", ("pyopencl", "intel-opencl-rt", "intel-cmplr-lib-rt"), "core", intel_environment),
        Runtime(
            "together",
            ("pyopencl[pocl]", "intel-opencl-rt", "intel-cmplr-lib-rt"),
            "smoke",
            intel_environment,
        ),
        Runtime("oclgrind", ("pyopencl[oclgrind]",), "smoke", simulator_environment),
    )
}


def findings(log: str) -> Counter[str]:
    """What a simulator's log reports, by kind: races, accesses out of bounds, and others."""
    kinds: Counter[str] = Counter()
    for line in log.splitlines():
        if re.match(r"(Read-write|Write-write|Write-read) data race at ", line):
            kinds["races"] += 1
        elif re.match(r"Invalid (read|write) of size ", line):
            kinds["out of bounds"] += 1
        elif re.match(r"OCLGRIND (FATAL )?ERROR|Work-group divergence|Uninitialized value", line):
            kinds["others"] += 1
    return kinds


def install(runtime: Runtime, folder: Path) -> Path:
    """The Python of a virtual environment with the runtime and this checkout; made unless it is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "--quiet", "--python", version, str(folder)], check=True)
    members = [word for member in MEMBERS for word in ("--editable", str(ROOT / member))]
    command = ["uv", "pip", "install", "--quiet", "--python", str(python), *runtime.packages, *members]
    subprocess.run(command, check=True)
    return python


def check(runtime: Runtime, folder: Path, chosen: argparse.Namespace) -> bool:
    """Installs a runtime, runs the suite or the benchmark there, and says how it ended."""
    python = install(runtime, folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPYARD_", "OCL"))}
    environment = {**kept, "OPYARD_CACHE_DIR": str(folder / "cache"), **runtime.environment(folder)}
    if chosen.bench:
        script = str(ROOT / "tests" / "bench" / "opencl.py")
        return subprocess.run([str(python), script], env=environment).returncode == 0
    ops = [word for op in chosen.op for word in ("--op", op)]
    suite = [str(folder / "bin" / "opyard"), "conformance", "--backend", chosen.device, *ops]
    command = [*suite, "--level", runtime.level, "--json"]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    log = Path(environment.get("OCLGRIND_LOG", folder / "none"))
    found = findings(log.read_text(errors="replace")) if log.exists() else Counter()
    return report(runtime, done.returncode, done.stdout, found)


def report(runtime: Runtime, status: int, output: str, found: Counter[str]) -> bool:
    """Prints a line for a runtime, and the failures; whether all is well."""
    try:
        data = json.loads(output)
    except ValueError:
        print(
            f"{runtime.name}: opyard conformance ended with {status} and gave no report; try it there by hand"
        )
        return False
    counts = ", ".join(f"{data[name]} {name}" for name in ("passed", "failed", "unsupported", "unjudged"))
    simulated = runtime.environment is simulator_environment
    seen = (
        f"; {found['races']} races, {found['out of bounds']} accesses out of bounds, {found['others']} others"
    )
    print(
        f"{runtime.name}: level {runtime.level}, {counts} in {data['seconds']:.0f} s{seen if simulated else ''}"
    )
    for case in data["failures"]:
        print(f"    {case['op']} {case['kernel']}: {case['detail']}")
    return status == 0 and not found


def main() -> int:
    """Checks the runtimes that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runtimes", nargs="*", choices=[*RUNTIMES, []], help="default: all")
    parser.add_argument(
        "--folder", type=Path, help="where to install, and to leave it; default: a temporary folder"
    )
    parser.add_argument("--device", default="opencl", help="the device to check; default: all")
    parser.add_argument("--op", action="append", default=[], help="check this op, or regions; default: all")
    parser.add_argument("--bench", action="store_true", help="run tests/bench/opencl.py there instead")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opencl-runtimes-") as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        names = chosen.runtimes or list(RUNTIMES)
        ended = {name: check(RUNTIMES[name], folder / name, chosen) for name in names}
        return int(not all(ended.values()))


if __name__ == "__main__":
    sys.exit(main())
