"""The CUDA C++ that is generated: its text, and its values, for which a C++ compiler stands in for CUDA's."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from opyard.cases import Case
from opyard.operation import Call, Op
from opyard.opfunction import op
from opyard.ops import STANDARD
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cuda import elementwise, plugin
from opyard_cuda.elementwise import C_TYPES, MACROS
from opyard_cuda.kernels import random

COMPILER = shutil.which("g++")
GENERATED = sorted(
    {*(name for name, function in STANDARD.items() if function.op.scalar is not None), "clip", "gelu"}
)

# float16 is kept in float here: what it is computed in
HEADER = """#include <math.h>
#define __device__
#define __int_as_float(bits) __builtin_bit_cast(float, (int)(bits))
#define __longlong_as_double(bits) __builtin_bit_cast(double, (long long)(bits))
#define sinpi(x) sin(M_PI * (x))
#define cospi(x) cos(M_PI * (x))
typedef float float16;
"""


@op("cudatest.scale", scalar="x * factor", cases=list)
def scale(x: Any, *, factor: Any = 2.0) -> Any:
    """``x`` times a number. ``[...] -> [...]``."""


def test_an_op_of_one_line_has_a_kernel() -> None:
    call = scale.op.call(TensorSpec((3,)), factor=3)
    assert elementwise.accepts(call, None) is None  # type: ignore[arg-type]
    source = elementwise.source(call)
    assert (source.inputs, source.output, source.attributes) == (
        "float32 in_x, int64 in_factor",
        "float32 result",
        ("factor",),
    )
    assert source.operation.splitlines()[-1] == "result = (v_x * ((float)(v_factor)));"


def test_refusals_of_generated_kernels(ops: dict[str, Op]) -> None:
    def refusal(declared: Op, *specs: TensorSpec, **attributes: Any) -> str | None:
        return elementwise.accepts(declared.call(*specs, **attributes), None)  # type: ignore[arg-type]

    x = TensorSpec((3,))
    assert refusal(ops["matmul"], x, x) == "matmul has no scalar expression to generate a kernel from"
    assert (refusal(ops["add"], x.with_dtype("bfloat16"), x.with_dtype("bfloat16")) or "").endswith(
        "not bfloat16"
    )
    assert refusal(scale.op, x, factor="two") == "takes numbers as attributes; factor is of type str"


def test_a_prepared_kernel_gets_arrays_numbers_and_output(
    monkeypatch: pytest.MonkeyPatch, numpy_for_cupy: Any, ops: dict[str, Op]
) -> None:
    launched: list[tuple[Any, ...]] = []

    class Kernel:
        def __init__(self, *definition: str, preamble: str) -> None:
            self.definition = definition

        def __call__(self, *arguments: Any) -> Any:
            launched.append((self.definition[3], *arguments))
            return arguments[-1]

    monkeypatch.setattr(np, "ElementwiseKernel", Kernel, raising=False)
    elementwise._kernel.cache_clear()
    run = elementwise.prepare(scale.op.call(TensorSpec((2,)), factor=4.0), numpy_for_cupy)
    run("x")
    run("x", out="out")
    elementwise.prepare(ops["clip"].call(TensorSpec((2,)), None, TensorSpec(())), numpy_for_cupy)(
        "x", None, "high"
    )
    elementwise._kernel.cache_clear()
    assert launched == [
        ("opyard_cudatest_scale", "x", 4.0),
        ("opyard_cudatest_scale", "x", 4.0, "out"),
        ("opyard_clip", "x", "high"),
    ]


def test_random_kernels_fill_an_array_from_the_key(
    monkeypatch: pytest.MonkeyPatch, numpy_for_cupy: Any, ops: dict[str, Op]
) -> None:
    launched: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        np, "ElementwiseKernel", lambda *_, preamble: lambda *a: launched.append(a), raising=False
    )
    random._kernel.cache_clear()
    call = ops["random_uniform"].call(TensorSpec((2,), "uint32"), shape=(3,), low=1.0, high=3.0)
    run = random.prepare(call, numpy_for_cupy)
    result = run("key")
    out = np.empty(3, np.float32)
    assert run("key", out=out) is out
    random._kernel.cache_clear()
    assert TensorSpec.of(result) == call.output
    assert [arguments[:4] for arguments in launched] == [("key", 1.0, 2.0, 24)] * 2
    assert launched[1][4] is out


class Loop(NamedTuple):
    """One generated operation inside a loop over the elements."""

    inputs: str
    output: str
    operation: str


def _loops(
    ops: dict[str, Op],
) -> tuple[dict[Loop, str], list[str], list[tuple[Call, Case, Loop, tuple[Any, ...]]]]:
    """All generated operations of the plugin with the names of their C functions, what they call, and the cases to run."""
    loops: dict[Loop, str] = {}
    functions: dict[str, None] = {}
    runs = []
    for name in (*GENERATED, *plugin.RANDOM):
        for case in ops[name].cases():
            call = ops[name].call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
            if name in plugin.RANDOM:
                if call.output.dtype.name not in C_TYPES:
                    continue
                inputs, operation = random.operation(call)
                loop, values = Loop(inputs, call.output.dtype.name, operation), random.numbers(call)
            else:
                if elementwise.accepts(call, None) is not None:  # type: ignore[arg-type]
                    continue
                source = elementwise.source(call)
                functions.update(dict.fromkeys(source.functions))
                loop = Loop(source.inputs, call.output.dtype.name, source.operation)
                values = tuple(call.attrs[key] for key in source.attributes)
            loops.setdefault(loop, f"loop_{len(loops)}")
            runs.append((call, case, loop, values))
    return loops, list(functions), runs


def _function(loop: Loop, name: str) -> str:
    parameters, loads = [], []
    for parameter in loop.inputs.split(", "):
        *raw, dtype, variable = parameter.split()
        c_type = C_TYPES[dtype]
        parameters.append(f"const {c_type}* {'' if raw else 'all_'}{variable}")
        if not raw:
            loads.append(f"const {c_type} {variable} = all_{variable}[i];")
    head = f'extern "C" void {name}({", ".join(parameters)}, {C_TYPES[loop.output]}* results, long long size)'
    return f"{head} {{ for (long long i = 0; i < size; ++i) {{ {' '.join(loads)} {C_TYPES[loop.output]} &result = results[i]; {loop.operation}; }} }}"


def _kept(dtype: str) -> str:
    return "float32" if dtype == "float16" else dtype


@pytest.fixture(scope="module")
def compiled(
    ops: dict[str, Op], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ctypes.CDLL, dict[Loop, str], list[Any]]:
    if COMPILER is None:
        pytest.skip("there is no g++ to stand in for CUDA's compiler")
    loops, functions, runs = _loops(ops)
    folder = Path(tmp_path_factory.mktemp("codegen"))
    source = "\n".join(
        [
            HEADER,
            random.PHILOX,
            MACROS,
            *functions,
            *(_function(loop, name) for loop, name in loops.items()),
        ]
    )
    (folder / "kernels.cpp").write_text(source)
    command = [
        COMPILER,
        "-O0",
        "-fwrapv",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-o",
        "kernels.so",
        "kernels.cpp",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernels.so")), loops, runs


@pytest.mark.parametrize("name", (*GENERATED, *plugin.RANDOM))
def test_generated_code_agrees_with_the_reference(
    name: str, compiled: tuple[ctypes.CDLL, dict[Loop, str], list[Any]]
) -> None:
    library, loops, runs = compiled
    mine = [run for run in runs if run[0].op.name == name]
    assert mine
    for call, case, loop, values in mine:
        arrays = case.arrays()
        found = _run(library[loops[loop]], call, loop, [a for a in arrays if a is not None], values)
        assert violation(call, arrays, [found]) is None, case.id


def _run(function: Any, call: Call, loop: Loop, arrays: list[Any], values: tuple[Any, ...]) -> Any:
    shape = tuple(int(n) for n in call.output.shape)
    operands = []
    for parameter, value in zip(loop.inputs.split(", "), (*arrays, *values), strict=True):
        *raw, dtype, _ = parameter.split()
        operand = np.asarray(value, _kept(dtype))
        operands.append(np.ascontiguousarray(operand if raw else np.broadcast_to(operand, shape)))
    result = np.empty(shape, _kept(loop.output))
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*operands, result)]
    function(*pointers, ctypes.c_longlong(result.size))
    with np.errstate(over="ignore"):
        return result.astype(loop.output)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.5, 3.0, -3.0], np.float32)


@pytest.mark.parametrize(
    "name",
    [
        "maximum",
        "minimum",
        "sign",
        "floor_divide",
        "remainder",
        "fmod",
        "logaddexp",
        "round",
        "isfinite",
        "relu",
        "pow",
        "signbit",
        "copysign",
        "less",
    ],
)
def test_special_values_stand_where_the_reference_has_them(
    name: str, ops: dict[str, Op], compiled: tuple[ctypes.CDLL, dict[Loop, str], list[Any]]
) -> None:
    library, loops, _ = compiled
    arrays = np.broadcast_arrays(SPECIAL[:, None], SPECIAL)[: len(ops[name].signature.inputs)]
    call = ops[name].call(*(TensorSpec.of(array) for array in arrays))
    source = elementwise.source(call)
    loop = Loop(source.inputs, call.output.dtype.name, source.operation)
    found = _run(library[loops[loop]], call, loop, list(arrays), ())
    (expected,) = call.reference(*arrays)
    assert violation(call, arrays, [found]) is None
    if name in ("floor_divide", "remainder", "fmod", "copysign"):
        np.testing.assert_array_equal(np.signbit(found[expected == 0]), np.signbit(expected[expected == 0]))
