"""Kernels put before ``opyard conformance`` in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opyard as oy
from hosts import add_host
from opyard import Registry
from opyard_conformance import Report, run_conformance


def registry_with(op: str, load: Callable[..., Any] | None = None, **facts: Any) -> Registry:
    """The standard ops, and one kernel of a backend on NumPy arrays called "mine"."""
    registry = oy.standard_registry()
    add_host(registry, "mine")
    registry.kernel(op, backend="mine", name="k", load=load, **{"dtypes": ("float32", "float64"), **facts})
    return registry


def checked(op: str, load: Callable[..., Any] | None = None, *, seed: int = 0, **facts: Any) -> Report:
    """How this kernel did at level core."""
    return run_conformance("mine", registry=registry_with(op, load, **facts), seed=seed)
