"""Scalar expressions, typed as NumPy types them, in every dialect; C is compiled and run, and so is a toy dialect."""

from __future__ import annotations

import ast
import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.errors import SpecError
from opyard.opfunction import op
from opyard.ops import STANDARD
from opyard.scalar import FUNCTIONS, Scalar
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_codegen import (
    CUDA,
    OPENCL,
    C,
    Dialect,
    Format,
    Printer,
    Term,
    accepts,
    constant,
    literal,
    lower,
    lowered,
    type_of,
    variable,
)
from opyard_codegen.elementwise import Body, Entry, body_of, program
from opyard_codegen.kernels import prelude

DIALECTS = {"opencl": OPENCL, "cuda": CUDA, "c": C}


def term_of(expression: str, dtype: str = "float32", output: str | None = None, **kinds: Any) -> Term:
    names = {name: variable(name, np.dtype(dtype)) for name in ("x", "y")}
    names |= {name: variable(name, kind) for name, kind in kinds.items()}
    return lower(Scalar(expression, tuple(names)).tree, names, np.dtype(output or dtype))


@pytest.mark.parametrize(
    ("expression", "dtype", "opencl", "cuda"),
    [
        ("x + 1", "float32", "(v_x + 1.0f)", "(v_x + 1.0f)"),
        ("x + 1", "float64", "(v_x + 1.0)", "(v_x + 1.0)"),
        ("x + 1", "int8", "((char)((v_x + 1)))", "((signed char)((v_x + 1)))"),
        ("x * 0.1", "float16", "(v_x * 0.1f)", "(v_x * 0.1f)"),
        ("x * (2 / 4)", "float32", "(v_x * 0.5f)", "(v_x * 0.5f)"),
        ("-x * y", "float32", "((-v_x) * v_y)", "((-v_x) * v_y)"),
        (
            "x // y",
            "int32",
            "opyard_floor_divide_integer_int32(v_x, v_y)",
            "opyard_floor_divide_integer_int32(v_x, v_y)",
        ),
        ("round(x)", "float32", "rint(v_x)", "rint(v_x)"),
        ("round(x)", "int32", "v_x", "v_x"),
        ("tanh(x)", "float32", "opyard_hyperbolic_tangent_float32(v_x)", "tanh(v_x)"),
        ("tanh(x)", "float64", "tanh(v_x)", "tanh(v_x)"),
        ("1 / (1 + exp(-x))", "float32", "opyard_logistic_float32(v_x)", "(1.0f / (1.0f + exp((-v_x))))"),
        ("1 / (1 + exp(-x))", "float64", "(1.0 / (1.0 + exp((-v_x))))", "(1.0 / (1.0 + exp((-v_x))))"),
        ("abs(x)", "uint8", "v_x", "v_x"),
        ("~x", "bool", "(!v_x)", "(!v_x)"),
        ("~x", "uint8", "((uchar)((~v_x)))", "((unsigned char)((~v_x)))"),
        ("x if x > 0 else y", "float32", "((v_x > 0.0f) ? v_x : v_y)", "((v_x > 0.0f) ? v_x : v_y)"),
        ("x and not y", "bool", "(v_x && (!v_y))", "(v_x && (!v_y))"),
        ("x / 2", "int32", "((int)((((double)(v_x)) / 2.0)))", "((int)((((double)(v_x)) / 2.0)))"),
        ("min(x, 1e999)", "float32", "opyard_minimum_float32(v_x, ((float)INFINITY))", None),
        ("imag(x)", "float32", "0.0f", "0.0f"),
        ("erf(x)", "float64", "erf(v_x)", "erf(v_x)"),
    ],
)
def test_text(expression: str, dtype: str, opencl: str, cuda: str | None) -> None:
    assert Printer(OPENCL).text(term_of(expression, dtype)) == opencl
    if cuda is not None:
        assert Printer(CUDA).text(term_of(expression, dtype)) == cuda


def test_python_numbers_take_the_dtype_of_the_arrays() -> None:
    text = Printer(CUDA).text(term_of("(alpha + 1) * x", alpha=int))
    assert text == "(((float)(((long long)((v_alpha + 1LL))))) * v_x)"


@pytest.mark.parametrize("name", DIALECTS)
def test_every_function_has_a_form_for_floats(name: str) -> None:
    for function, ufunc in FUNCTIONS.items():
        arguments = "x, y" if getattr(ufunc, "nin", 1) == 2 else "x"
        for dtype in ("float32", "float64"):
            assert Printer(DIALECTS[name]).text(term_of(f"{function}({arguments})", dtype, "float64"))


@pytest.mark.parametrize(
    ("expression", "dtype", "sentence"),
    [
        ("x << y", "float32", "left_shift is not defined for float32, float32"),
        ("-x", "bool", "negative"),
        ("x > -1", "uint8", "-1 does not fit into uint8"),
        ("x + 1 / 0", "float32", "true_divide of 1, 0 cannot be computed: division by zero"),
    ],
)
def test_what_has_no_meaning(expression: str, dtype: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        term_of(expression, dtype, "bool" if ">" in expression else None)


def test_signed_and_unsigned_64_bits_are_not_compared() -> None:
    names = {"x": variable("x", np.dtype("int64")), "y": variable("y", np.dtype("uint64"))}
    with pytest.raises(SpecError, match="less of int64, uint64 has no form in C: no type holds"):
        lower(Scalar("x < y", ("x", "y")).tree, names, np.dtype("bool"))


def test_only_scalar_expressions_are_lowered() -> None:
    with pytest.raises(SpecError, match=r"'\[1\]' is no part of a scalar expression"):
        lower(ast.parse("[1]", mode="eval").body, {}, np.dtype(np.float32))


def test_what_a_dialect_lacks_is_told() -> None:
    poor = replace(OPENCL, name="Poor", operations={}, helpers={}, formats={"bool": OPENCL.formats["bool"]})
    with pytest.raises(SpecError, match="exp of float32 has no form in Poor"):
        Printer(poor).text(term_of("exp(x)"))
    with pytest.raises(SpecError, match="Poor takes bool, not float32"):
        type_of(np.dtype(np.float32), poor)
    with pytest.raises(SpecError, match="rounding to float16 has no form in Poor"):
        Printer(poor).text(Term("round_to", np.dtype(np.float32), (constant(1.0),), np.dtype(np.float16)))


@op("codegentest.scale", scalar="x * factor", cases=list)
def scale(x: Any, *, factor: Any = 2.0) -> Any:
    """``x`` times a number. ``[...] -> [...]``."""


@op("codegentest.step", scalar="nextafter(x, 1)", cases=list)
def step(x: Any) -> Any:
    """The next number. ``[...] -> [...]``."""


def test_calls_that_have_no_expression_are_refused() -> None:
    x = TensorSpec((3,))
    assert accepts(scale.op.call(x), OPENCL) is None
    assert accepts(scale.op.call(x, factor="fast"), OPENCL) == "needs numbers as attributes; factor is 'fast'"
    assert accepts(scale.op.call(x.with_dtype("complex64")), CUDA) == (
        f"takes {', '.join(CUDA.formats)}, not complex64"
    )
    sum_refusal = accepts(STANDARD["sum"].op.call(x), C)
    assert sum_refusal == "sum has no scalar expression to generate a kernel from"
    for dtype in ("float16", "bfloat16"):
        refusal = accepts(step.op.call(x.with_dtype(dtype)), C)
        assert refusal == f"steps from one float32 or float64 to the next, not between those of {dtype}"


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (float("nan"), "float32", "((float)NAN)"),
        (float("-inf"), "float64", "(-(double)INFINITY)"),
        (0.1, "float32", "0.1f"),
        (0.1, "float64", "0.1"),
        (True, "int32", "1"),
        (2**40, "int64", "1099511627776L"),
        (2**64 - 1, "uint64", "18446744073709551615UL"),
        (-(2**63), "int64", "LONG_MIN"),
    ],
)
def test_literals(value: float, dtype: str, text: str) -> None:
    assert literal(value, np.dtype(dtype), OPENCL) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_literal_reads_back_as_the_number(number: float) -> None:
    text = literal(number, np.dtype(np.float32), C)
    assert np.float32(text.removesuffix("f")) == np.float32(number)


# C, compiled -----------------------------------------------------------------------------------------------------


def compiled(text: str, folder: Path) -> ctypes.CDLL:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc to compile C")
    (folder / "kernel.c").write_text(text)
    command = [compiler, "-std=c99", "-O1", "-fwrapv"]
    subprocess.run(
        [*command, "-shared", "-fPIC", "-o", "kernel.so", "kernel.c", "-lm"], cwd=folder, check=True
    )
    return ctypes.CDLL(str(folder / "kernel.so"))


INTEGERS = np.array([0, 1, -1, 2, -2, 7, -7, 127, -128, 3], np.int8)
ON_INTEGERS = (
    *("x // y", "x % y", "fmod(x, y)", "x * y", "x - y", "abs(x)", "-x", "sign(x)", "x >> (y & 7)"),
    *("x << (y & 7)", "x ** (y & 3)", "max(x, y)", "x / 2", "x if x > y else 3"),
)


@pytest.fixture(scope="module", params=("c", "cuda"))
def integer_functions(request: Any, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``run_n(x, y, result, size)`` for each expression; C++ stands in for CUDA."""
    dialect, folder = DIALECTS[request.param], tmp_path_factory.mktemp(request.param)
    printer, texts = Printer(dialect), []
    for number, expression in enumerate(ON_INTEGERS):
        names = {name: variable(name, np.dtype(np.int8)) for name in ("x", "y")}
        text = printer.text(lower(Scalar(expression, ("x", "y")).tree, names, np.dtype(np.int8)))
        texts.append(
            f"void run_{number}(const signed char *x, const signed char *y, signed char *r, long long n) {{"
            f" for (long long i = 0; i < n; i++) {{ const signed char v_x = x[i], v_y = y[i]; r[i] = {text}; }} }}"
        )
    if request.param == "c":
        return compiled("\n".join([prelude(dialect), printer.definitions(), *texts]), folder)
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to stand in for CUDA's compiler")
    head = "#include <math.h>\n#define FUNCTION static inline\n"
    whole = [head, printer.definitions(), 'extern "C" {', *texts, "}"]
    (folder / "kernel.cpp").write_text("\n".join(whole))
    command = [compiler, "-O0", "-fwrapv", "-shared", "-fPIC", "-o", "kernel.so", "kernel.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


@pytest.mark.parametrize("expression", ON_INTEGERS)
def test_small_integers_wrap_around_and_divide_by_zero_as_in_numpy(
    expression: str, integer_functions: ctypes.CDLL
) -> None:
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(INTEGERS[:, None], INTEGERS))
    result = np.empty(x.shape, np.int8)
    run = integer_functions[f"run_{ON_INTEGERS.index(expression)}"]
    run(*(ctypes.c_void_p(a.ctypes.data) for a in (x, y, result)), ctypes.c_longlong(x.size))
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(Scalar(expression, ("x", "y"))(x=x, y=y), x.shape).astype(np.int8)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_kernel_in_c_agrees_with_the_reference(dtype: str, tmp_path: Path) -> None:
    x, row = TensorSpec((3, 5), dtype), TensorSpec((5,), dtype)
    call = STANDARD["logaddexp"].op.call(x, row)
    library = compiled(program(C, [Entry("run", body_of(call), (1, 1), flat=False)]), tmp_path)
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(spec.shape).astype(spec.dtype) for spec in (x, row)]
    result, table = np.zeros((3, 5), x.dtype), np.array([3, 5, 0], np.int64)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, result)]
    sizes = map(ctypes.c_longlong, (3, 5, 2))
    last = ctypes.c_int(1), ctypes.c_void_p(table.ctypes.data)
    bound = (*sizes, *last)
    for item in range(2):
        library.run(*pointers, *bound, ctypes.c_longlong(item), ctypes.c_longlong(2))
    assert violation(call, arrays, [result]) is None


# A toy dialect: Python -----------------------------------------------------------------------------------------

NUMBERS = {"bool": "bool", "int64": "int", "float32": "float", "float64": "float"}
PYTHON = Dialect(
    name="Python",
    formats={dtype: Format(text, text, dtype[0]) for dtype, text in NUMBERS.items()},
    operations={
        **{name: {"fi": f"({{0}} {sign} {{1}})"} for name, sign in
           (("add", "+"), ("subtract", "-"), ("multiply", "*"), ("true_divide", "/"), ("less", "<"), ("greater", ">"))},
        **{name: {"f": f"math.{name}({{0}})"} for name in ("exp", "sqrt", "tanh", "erf")},
        "negative": {"fi": "(-{0})"},
        "maximum": {"fi": "max({0}, {1})"},
    },
    convert="{type}({value})",
    choose="({1} if {0} else {2})",
    wraps=False,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(x=st.floats(-20, 20), y=st.floats(0.5, 20))
def test_a_toy_dialect(x: float, y: float) -> None:
    import math

    for expression in (
        "x / (1 + exp(-x))",
        "max(x, 0) * y - 2",
        "x if x > y else sqrt(y)",
        "erf(x) + tanh(y)",
    ):
        text = Printer(PYTHON).text(term_of(expression, "float64"))
        found = eval(text, {"math": math, "v_x": x, "v_y": y})
        assert np.isclose(found, Scalar(expression, ("x", "y"))(x=np.float64(x), y=np.float64(y)), rtol=1e-12)


def test_a_dialect_answers_for_calls() -> None:
    x = TensorSpec((3,))
    assert accepts(STANDARD["silu"].op.call(x), PYTHON) is None
    assert accepts(STANDARD["sin"].op.call(x), PYTHON) == "sin of float32 has no form in Python"
    assert Printer(PYTHON).text(lowered(STANDARD["relu"].op.call(x))) == "max(v_x, 0.0)"


def chain(*expressions: str, dtype: str = "float32") -> Body:
    """A body of one input, each of whose steps computes with the result of the one before."""
    steps, x = [], variable("x", np.dtype(dtype))
    for number, expression in enumerate(expressions):
        steps.append((f"s{number}", lower(Scalar(expression, ("x",)).tree, {"x": x}, np.dtype(dtype))))
        x = variable(f"s{number}", np.dtype(dtype))
    return Body((("x", dtype),), tuple(steps), ((f"s{len(steps) - 1}", dtype),))


LONG = ("1 / (1 + exp(-x))", "tanh(x)", "0.5 * exp(-x)")


def text_of(body: Body, dialect: Dialect = OPENCL, **parts: Any) -> str:
    return program(dialect, [Entry("run", body, (1,), flat=True, **parts)])


def test_a_long_chain_of_float32_is_computed_in_vectors():
    text = text_of(chain(*LONG), lanes=64)
    assert "ext_vector_type(64)" in text
    assert text.count("i += LANES") == 2  # a loop for each stage, beside the one for what is left of a row
    assert text.count("i++") == 2
    assert "FUNCTION WIDE opyard_exponential_wide(WIDE x)" in text
    assert "AT_WIDE(GLOBAL, r0 + o + i) = v_s2;" in text


@pytest.mark.parametrize(
    ("body", "dialect", "parts"),
    [
        (chain(*LONG[:2]), OPENCL, {"lanes": 64}),  # one loop is enough
        (chain(*LONG, "x if x > 0 else 1.0"), OPENCL, {"lanes": 64}),
        (chain(*LONG, "sqrt(x)"), OPENCL, {"lanes": 64}),
        (chain(*LONG, dtype="float64"), OPENCL, {"lanes": 64}),
        (chain(*LONG), OPENCL, {}),
        (chain(*LONG), OPENCL, {"lanes": 64, "grid": True}),
        (chain(*LONG), C, {"lanes": 64}),
    ],
)
def test_other_kernels_have_no_vectors(body: Body, dialect: Dialect, parts: dict[str, Any]):
    assert "LANES" not in text_of(body, dialect, **parts)
