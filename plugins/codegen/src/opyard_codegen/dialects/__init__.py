"""The dialects that come with opyard-codegen."""

from .c import C
from .cuda import CUDA
from .opencl import OPENCL

__all__ = ["CUDA", "OPENCL", "C"]
