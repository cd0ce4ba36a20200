"""The standard ops. STANDARD maps each name to its function."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = (
    *(
        "activation",
        "arithmetic",
        "attention",
        "backward",
        "channel_normalization",
        "comparison",
        "convolution",
        "creation",
    ),
    *("exponential", "image", "indexing", "joining", "linear_algebra", "logic", "loss"),
    *("normalization", "pooling", "random", "rearrange", "reduction", "rounding", "scattering"),
    *("selection", "shape", "slicing", "sorting", "trigonometric"),
)
"""The modules of this package that declare ops."""

STANDARD: dict[str, Any] = {}
for _module in MODULES:
    _found = import_module(f".{_module}", __name__)
    for _name in _found.__all__:
        if hasattr(getattr(_found, _name), "op"):
            STANDARD[_name] = getattr(_found, _name)
