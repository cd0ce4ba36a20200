"""Placement: which kernel, on which device, runs each node of a graph; and why not another."""

from __future__ import annotations

from .binding import bindings
from .calibration import Calibration, calibrate, calibrated
from .homes import Homes, Resident
from .match import Match
from .measured import MeasuredCosts, default_costs
from .memory import Limits, check_limits
from .model import Alternative, Binding, Decision, MemoryUse, Placement
from .place import check_objective, place
from .report import TuneReport
from .store import CostStore, CostsWarning
from .tuning import tune

__all__ = [
    "Alternative",
    "Binding",
    "Calibration",
    "CostStore",
    "CostsWarning",
    "Decision",
    "Homes",
    "Limits",
    "Match",
    "MeasuredCosts",
    "MemoryUse",
    "Placement",
    "Resident",
    "TuneReport",
    "bindings",
    "calibrate",
    "calibrated",
    "check_limits",
    "check_objective",
    "default_costs",
    "place",
    "tune",
]
