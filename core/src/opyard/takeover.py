"""Takeover: what is said, and remembered, when one kernel failed and another computed its work."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from . import runtime
from .kernels import Kernel, Work
from .registry import Registry

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


class KernelWarning(RuntimeWarning):
    """A kernel failed, another took over."""


def report_failure(registry: Registry, work: Work, failed: Kernel, reason: str, substitute: str) -> None:
    """Puts a kernel aside for the rest of the process and says so once."""
    if registry.set_aside(failed.scope(work), failed, reason):
        runtime.emit(
            "kernel_failed",
            {"op": work.title, "kernel": failed.id, "reason": reason, "substitute": substitute},
        )
        message = f"kernel {failed.id} of {work.title} {reason}; {substitute} takes over. `opyard doctor` lists such kernels; OPYARD_STRICT=1 raises."
        warnings.warn(message, KernelWarning, stacklevel=_stack_level())


def _stack_level() -> int:
    """The stack level, seen from the caller, of the nearest code that is neither this package's nor generated."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename == "<string>"
    ):
        frame, level = frame.f_back, level + 1
    return level
