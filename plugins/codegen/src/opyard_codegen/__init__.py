"""Kernels from scalar expressions, for any language that a table of data describes."""

from .dialect import Dialect, Format
from .dialects import CUDA, OPENCL, C
from .expressions import accepts, lowered, scalar_of
from .printing import Printer, literal, type_of
from .terms import Term, constant, converted, lower, variable

__all__ = [
    "CUDA",
    "OPENCL",
    "C",
    "Dialect",
    "Format",
    "Printer",
    "Term",
    "accepts",
    "constant",
    "converted",
    "literal",
    "lower",
    "lowered",
    "scalar_of",
    "type_of",
    "variable",
]
