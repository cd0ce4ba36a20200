"""Placement: which kernel, on which device, runs each node of a graph; and why not another."""

from __future__ import annotations

from .model import Alternative, Decision, Placement
from .search import place

__all__ = ["Alternative", "Decision", "Placement", "place"]
