"""What particular OpenCL implementations need: one table, looked up by platform name and version.

Some rules hold for all kernels here, because of the oldest implementation in use: no built-in function of a 16-wide vector
(vload16, exp(float16), ...), for PoCL 3.0 crashes on them or leaves a program without kernels in its cache on disk; no
vload_half; ``a * b + c`` and never ``fma()``, which is a library call there and 16 times slower. docs/opencl.md has the table
in words.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to treat an implementation.

    needs_linker   it runs ``ld`` to build a kernel, and aborts the process when there is none
    needs_canary   its compiler may crash the process: try it in another process before the first use
    compiles_late  it compiles a kernel when that is first started, so that many kernels in a program cost little
    single_steps   each step gets a work item of its own on CPU devices, too
    kinds          of devices that each of its devices is opened as, one after another; empty: as the one that it says it is
    options        options of its compiler for every program
    launch_seconds host time of one launch
    wait_seconds   time from the end of a kernel to the host's return from waiting for it
    """

    needs_linker: bool = False
    needs_canary: bool = False
    compiles_late: bool = False
    single_steps: bool = False
    kinds: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    launch_seconds: float = 5e-6
    wait_seconds: float = 1e-5

    def obstacle(self) -> str | None:
        """Why kernels cannot be built now, as the end of a sentence; None if they can."""
        if not self.needs_linker or shutil.which("ld") is not None:
            return None
        return "builds kernels with the linker `ld`, and there is none on PATH: install binutils (apt install binutils)."

    def habits(self) -> str:
        """What a user may notice, in words; empty for an ordinary implementation."""
        known = (
            (self.needs_linker, "builds kernels with `ld`, of binutils"),
            (self.needs_canary, "is tried in another process first"),
            (self.single_steps, "is a simulator, and slow"),
        )
        return ", ".join(words for holds, words in known if holds)


_POCL = "Portable Computing Language"
_POCL_NOW = Quirks(needs_canary=True, compiles_late=True, wait_seconds=2e-5)

_SIMULATED = Quirks(single_steps=True, kinds=("cpu", "gpu"))

_TABLE: tuple[tuple[str, str, Quirks], ...] = (
    # the linker and the compiler moved into the process, and lost these habits, after 7.1
    (_POCL, r"PoCL ([1-6]\.|7\.[01])", replace(_POCL_NOW, needs_linker=True)),
    (_POCL, r"", _POCL_NOW),
    # a simulator: races show between items alone, and it does not know what optimisation makes
    (r"Oclgrind", r"", replace(_SIMULATED, options=("-cl-opt-disable",), launch_seconds=1e-3)),
)


def quirks_of(platform_name: str, platform_version: str) -> Quirks:
    """The quirks of an implementation; the first entry of the table whose name and version match."""
    for name, version, quirks in _TABLE:
        if re.search(name, platform_name) and re.search(version, platform_version):
            return quirks
    return Quirks()
