"""Checks of kernels: the command ``opyard conformance``, and ``conformance_suite`` for the tests of a plugin.

from opyard_conformance import conformance_suite

TestMine = conformance_suite("mine")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opyard_conformance.families import LEVELS, Trial, trials
    from opyard_conformance.gradients import check_gradient
    from opyard_conformance.regions import region_trials
    from opyard_conformance.report import Outcome, Report
    from opyard_conformance.runner import run_conformance
    from opyard_conformance.suite import conformance_suite
    from opyard_conformance.table import matrix

_MODULES = {
    "LEVELS": "families",
    "Outcome": "report",
    "Report": "report",
    "Trial": "families",
    "check_gradient": "gradients",
    "conformance_suite": "suite",
    "matrix": "table",
    "region_trials": "regions",
    "run_conformance": "runner",
    "trials": "families",
}
"""Where each name is, for it is imported on first use: the plugin is loaded by every program."""

__all__ = [
    "LEVELS",
    "Outcome",
    "Report",
    "Trial",
    "check_gradient",
    "conformance_suite",
    "matrix",
    "region_trials",
    "run_conformance",
    "trials",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
