"""Checks of kernels: the command ``opyard conformance``, and ``conformance_suite`` for the tests of a plugin.

from opyard_conformance import conformance_suite

TestMine = conformance_suite("mine")
"""

from __future__ import annotations

from opyard_conformance.families import LEVELS, Trial, trials
from opyard_conformance.gradients import check_gradient
from opyard_conformance.regions import region_trials
from opyard_conformance.report import Outcome, Report
from opyard_conformance.runner import run_conformance
from opyard_conformance.suite import conformance_suite
from opyard_conformance.table import matrix

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
