"""The table of operators: for each ONNX operator the versions of its operator set at which its meaning changed, and the
function that converts it from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from opyard_onnx.operators.table import Operator

FAMILIES = (
    "elementwise",
    "reductions",
    "shapes",
    "layers",
    "attention",
    "pooling",
    "recurrent",
    "images",
    "sampling",
    "quantization",
    "signals",
    "sequences",
    "texts",
    "control",
    "learning",
    "trees",
)
"""Modules of this package; each has a tuple OPERATORS."""


@cache
def operators() -> dict[tuple[str, str], list[Operator]]:
    """All operators by domain and name, oldest version first."""
    found: dict[tuple[str, str], list[Operator]] = {}
    for family in FAMILIES:
        for operator in import_module(f"opyard_onnx.operators.{family}").OPERATORS:
            found.setdefault((operator.domain, operator.name), []).append(operator)
    for versions in found.values():
        versions.sort(key=lambda operator: operator.since)
    return found


def find_operator(domain: str, name: str, version: int) -> Callable[..., Any] | None:
    """The converter of an operator as it is in a version of its set, or None."""
    fitting = [o for o in operators().get((domain, name), ()) if o.since <= version]
    return fitting[-1].convert if fitting else None
