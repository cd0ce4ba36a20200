"""Placement: which kernel, on which device, runs each node of a graph; and why not another."""

from __future__ import annotations

from .calibration import calibrate, calibrated
from .measured import MeasuredCosts, default_costs
from .model import Alternative, Decision, Placement
from .place import place
from .report import TuneReport
from .store import CostStore, CostsWarning
from .tuning import tune

__all__ = [
    "Alternative",
    "CostStore",
    "CostsWarning",
    "Decision",
    "MeasuredCosts",
    "Placement",
    "TuneReport",
    "calibrate",
    "calibrated",
    "default_costs",
    "place",
    "tune",
]
