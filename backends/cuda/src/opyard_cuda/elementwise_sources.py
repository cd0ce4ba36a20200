"""The operations that ``cupy.ElementwiseKernel`` is given, each inside a loop over plain pointers, so that NVRTC alone compiles them.

CuPy writes a loop of its own around the same text, which steps through strides, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from opyard.errors import SpecError
from opyard.operation import Call, Op
from opyard.ops import STANDARD
from opyard.spec import TensorSpec

from . import elementwise
from .elementwise import C_TYPES, MACROS
from .kernels import random
from .plugin import GENERATED, RANDOM
from .sources import CudaSource

STORED = {**C_TYPES, "float16": "__half"}
"""The C++ type of the elements of an array, by dtype; what they are computed in is C_TYPES."""


FAMILIES = ("bool", "int8", "int64", "uint32", "float16", "float32", "float64")
"""A dtype of each family: integers narrower than ``int``, wider, without a sign; and those with formulas of their own."""


@dataclass(slots=True)
class _Program:
    """Kernels that share a text."""

    entries: dict[str, str] = field(default_factory=dict)
    functions: dict[str, None] = field(default_factory=dict)

    def add(
        self, entry: str, inputs: str, output: str, operation: str, functions: tuple[str, ...] = ()
    ) -> None:
        """Another kernel, and the functions that it calls; what is there already is left out."""
        self.functions.update(dict.fromkeys(functions))
        self.entries.setdefault(entry, _kernel(entry, inputs, output, operation))


def sources() -> Iterator[CudaSource]:
    """A program for each family of dtypes with all elementwise ops that take it, and one for random numbers."""
    for dtype in FAMILIES:
        program = _Program()
        for op in _elementwise_ops():
            for number, call in enumerate(_calls(op, dtype)):
                text = elementwise.source(call)
                dtype_out = text.output.split()[0]
                program.add(f"{op.name}_{number}", text.inputs, dtype_out, text.operation, text.functions)
        yield _source(f"elementwise/{dtype}", program, "\n".join((MACROS, *program.functions)))
    program = _Program()
    for name in RANDOM:
        for case in STANDARD[name].op.cases():
            call = STANDARD[name].op.call(*(draw.spec for draw in case.inputs), **case.attributes)
            dtype = call.output.dtype.name
            if dtype in C_TYPES:
                inputs, operation = random.operation(call)
                program.add(f"{name}_{dtype}", inputs, dtype, operation)
    yield _source("random/philox", program, random.PHILOX)


def _elementwise_ops() -> Iterator[Op]:
    for name, function in STANDARD.items():
        if function.op.scalar is not None or name in GENERATED:
            yield function.op


def _calls(op: Op, dtype: str) -> Iterator[Call]:
    """Calls of the op with inputs of ``dtype``, one for each other text that its cases lead to."""
    seen = set()
    for case in op.cases():
        specs = [None if draw is None else TensorSpec(draw.spec.shape, dtype) for draw in case.inputs]
        try:
            call = op.call(*specs, **case.attributes)
            text = elementwise.source(call)
        except SpecError:
            continue  # the op does not take this dtype
        if text not in seen:
            seen.add(text)
            yield call


def _kernel(entry: str, inputs: str, output: str, operation: str) -> str:
    parameters, loads = [], []
    for parameter in inputs.split(", "):
        *raw, dtype, name = parameter.split()
        parameters.append(f"const {STORED[dtype]}* __restrict__ {name if raw else f'all_{name}'}")
        if not raw:
            loads.append(f"const {C_TYPES[dtype]} {name} = ({C_TYPES[dtype]})all_{name}[i];")
    head = f'extern "C" __global__ void {entry}({", ".join(parameters)}, {STORED[output]}* __restrict__ results, long long size)'
    return f"""{head} {{
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += gridDim.x * (long long)blockDim.x) {{
    {" ".join(loads)} {C_TYPES[output]} result; {operation}; results[i] = ({STORED[output]})result;
  }}
}}"""


def _source(name: str, program: _Program, preamble: str) -> CudaSource:
    text = "\n".join(["#include <cuda_fp16.h>", preamble, *program.entries.values()])
    return CudaSource(name, text, tuple(program.entries), summed=True)
