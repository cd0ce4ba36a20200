"""Every standard op has a gradient that agrees with differences, or a reason why it has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import opyard as oy
from differences import check, evaluate
from opyard.cases import Case
from opyard.nest import leaves
from opyard.ops import STANDARD
from opyard.ops.gradients import WITHOUT, ZERO, differentiated
from opyard.rewrite import bind

NARROW = ("float16", "bfloat16", "complex64")
DIFFERENTIABLE = [name for name in STANDARD if differentiated(STANDARD[name].op) not in ("zero", "none")]


def cases(name: str, elements: int) -> Iterator[Case]:
    """The op's cases in float64 that have an input and an output of it, and not too many elements."""
    op = STANDARD[name].op
    for case in op.cases():
        draws = [draw for draw in case.inputs if draw]
        if any(draw.dtype in NARROW for draw in draws) or sum(np.prod(d.shape) for d in draws) > elements:
            continue
        wide = [replace(d, dtype="float64") if d and d.dtype == "float32" else d for d in case.inputs]
        call = op.call(*(draw.spec if draw else None for draw in wide), **case.attributes)
        specs = [spec for spec in call.inputs if spec is not None]
        if all(any(spec.dtype == np.float64 for spec in group) for group in (specs, call.outputs)):
            yield Case(tuple(wide), case.attributes)


def outputs(name: str, case: Case, arrays: Sequence[Any]) -> list[Any]:
    """The real outputs of the op."""
    return [y for y in leaves(STANDARD[name](*arrays, **case.attributes)) if y.dtype == np.float64]


@pytest.mark.parametrize("name", STANDARD)
def test_every_op_is_differentiable_or_says_why_not(name: str) -> None:
    op = STANDARD[name].op
    kind = differentiated(op)
    assert kind in ("rule", "expression", "decomposition") or name in ZERO or name in WITHOUT
    assert (name in ZERO) == (kind == "zero")
    assert (name in WITHOUT) == (kind == "none")


def test_the_reasons_are_of_standard_ops() -> None:
    assert set(ZERO) | set(WITHOUT) <= set(STANDARD)
    assert not set(ZERO) & set(WITHOUT)
    assert all(len(reason.split()) >= 3 for reason in (*ZERO.values(), *WITHOUT.values()))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_agrees_with_differences(name: str) -> None:
    compared = [
        check(lambda *arrays, case=case: outputs(name, case, arrays), *case.arrays())
        for case in cases(name, 40_000)
    ]
    assert any(compared)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_of_the_gradient_agrees_with_differences(name: str) -> None:
    def first(case: Case, arrays: tuple[Any, ...]) -> Any:
        squares = [y * y for y in outputs(name, case, arrays)]
        return oy.gradients(squares, [v for v in arrays if isinstance(v, oy.Value)])

    for case in cases(name, 200):
        if not any(draw and (draw.low, draw.high) == (0.0, 0.0) for draw in case.inputs):
            check(lambda *arrays, case=case: first(case, arrays), *case.arrays(), tolerance=1e-5)


@pytest.mark.parametrize("name", [n for n in ZERO if STANDARD[n].op.signature.inputs])
def test_zero_is_zero(name: str) -> None:
    for case in cases(name, 100):
        graph = oy.trace(
            lambda *arrays, case=case: oy.gradients(outputs(name, case, arrays), list(arrays)),
            *(draw.spec for draw in case.inputs if draw),
        )
        assert not any(
            np.any(found) for found in evaluate(graph, [a for a in case.arrays() if a is not None])
        )


def symbolic(shape: tuple[int, ...]) -> tuple[int | str, ...]:
    return tuple(f"n{size}" if axis == 0 and size != 1 else size for axis, size in enumerate(shape))


NEEDS_NUMBERS = {"scatter"}
"""Ops whose gradient needs sizes of the first axis as numbers in some cases, and says so."""
CLAMPED = {"slice"}
"""Ops that take limits to lie inside a symbolic axis; those of the case do not."""


@pytest.mark.parametrize("name", sorted(set(DIFFERENTIABLE) - NEEDS_NUMBERS - CLAMPED))
def test_gradient_with_a_symbolic_batch(name: str) -> None:
    for case in cases(name, 500):
        arrays = [array for array in case.arrays() if array is not None]

        def graph_of(specs: list[oy.TensorSpec | None], case: Case = case) -> oy.Graph:
            with oy.Graph() as graph:
                values = [s if s is None else graph.input(f"x{i}", s) for i, s in enumerate(specs)]
                ys = outputs(name, case, values)
                real = [v for v in values if v is not None and v.dtype == np.float64]
                for number, found in enumerate(oy.gradients(ys, real)):
                    graph.output(str(number), found)
            return graph

        specs = [draw and draw.spec for draw in case.inputs]
        named = [spec and spec.with_shape(symbolic(spec.shape)) for spec in specs]
        try:
            outputs(name, case, oy.trace(lambda *v: v, *filter(None, named)).result)
            graph = graph_of(named)
        except oy.errors.SpecError:  # the op itself cannot do without the numbers
            continue
        bound = bind(graph, {f"x{i}": spec for i, spec in enumerate(specs) if spec})
        for found, expected in zip(evaluate(bound, arrays), evaluate(graph_of(specs), arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (lambda x: oy.max_pool(x, kernel=2), "the gradient of max_pool (test_rules.py:"),
        (lambda x: oy.average_pool(x, kernel=2), "needs the sizes of x as numbers, one is h"),
        (
            lambda x: oy.conv(x, np.ones((2, 1, 3, 3), np.float32), strides=2),
            "with a stride above 1 the size must be a number",
        ),
    ],
)
def test_what_needs_sizes_says_so(case: Any, text: str) -> None:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", 1, "h", "h")))
        with pytest.raises(oy.errors.GraphError) as error:
            oy.gradients(case(x), x)
    assert text in str(error.value)
    assert "give the graph's input a number there" in str(error.value) or "stride" in str(error.value)


def gradient_at(function: Any, *points: Any) -> list[Any]:
    """The gradients of a function of numbers at points, in float32."""
    specs = [oy.TensorSpec((), "float32")] * len(points)
    graph = oy.trace(lambda *values: oy.gradients(function(*values), list(values)), *specs)
    return [found.item() for found in evaluate(graph, [np.float32(p) for p in points])]


@pytest.mark.parametrize(
    ("function", "points", "expected"),
    [
        (oy.abs, (0.0,), [0.0]),
        (oy.relu, (0.0,), [0.0]),
        (oy.maximum, (1.0, 1.0), [0.5, 0.5]),
        (oy.minimum, (1.0, 2.0), [1.0, 0.0]),
        (oy.hypot, (0.0, 0.0), [0.0, 0.0]),
        (oy.pow, (0.0, 0.0), [0.0, 0.0]),
        (oy.pow, (0.0, 2.0), [0.0, 0.0]),
        (oy.pow, (-2.0, 3.0), [12.0, np.nan]),
        (oy.sqrt, (0.0,), [np.inf]),
        (oy.sigmoid, (-200.0,), [0.0]),
        (oy.silu, (-200.0,), [0.0]),
        (oy.silu, (200.0,), [1.0]),
        (oy.softplus, (200.0,), [1.0]),
        (oy.log_sigmoid, (-200.0,), [1.0]),
        (oy.mish, (-200.0,), [0.0]),
        (oy.elu, (200.0,), [1.0]),
        (oy.logaddexp, (-np.inf, 0.0), [0.0, 1.0]),
        (oy.logaddexp, (-np.inf, -np.inf), [0.0, 0.0]),
        (oy.tanh, (30.0,), [0.0]),
        (oy.log1p, (1e-9,), [1.0]),
        (lambda x: oy.where(x > 0, oy.log(oy.where(x > 0, x, 1.0)), 0.0), (0.0,), [0.0]),
        (lambda x: oy.clip(x, np.float32(-1), np.float32(1)), (3.0,), [0.0]),
        (lambda x: oy.standard_deviation(oy.stack(x, x)), (2.0,), [0.0]),
        (lambda x: oy.sum(oy.lp_normalization(oy.stack(x, x))), (0.0,), [0.0]),
    ],
)
def test_at_the_edges(function: Any, points: tuple[float, ...], expected: list[float]) -> None:
    np.testing.assert_array_equal(gradient_at(function, *points), np.asarray(expected, np.float32))


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products_with_zeros(zeros: int) -> None:
    x = np.array([2.0, 3.0, -1.5, 0.5])
    x[:zeros] = 0
    graph = oy.trace(lambda v: oy.gradients(oy.prod(v), v), oy.TensorSpec((4,), "float64"))
    symbolic_graph = oy.trace(lambda v: oy.gradients(oy.prod(v), v), oy.TensorSpec(("n",), "float64"))
    expected = [np.prod(np.delete(x, i)) for i in range(4)]
    bound = bind(symbolic_graph, {"v": oy.TensorSpec((4,), "float64")})
    for made in (graph, bound):
        np.testing.assert_allclose(evaluate(made, [x])[0], expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cotangents_have_the_dtype_of_their_values(dtype: str) -> None:
    spec = oy.TensorSpec((2, 3), dtype)

    def gradients(x: oy.Value, w: oy.Value) -> Any:
        y = oy.layer_normalization(oy.gelu(x * 2.0), w[0])
        return oy.gradients(oy.softmax(y, axis=-1) * oy.cast(y, dtype="float32"), [x, w])

    graph = oy.trace(gradients, spec, spec)
    assert [value.dtype.name for value in graph.outputs.values()] == [dtype, dtype]
    assert all(
        np.isfinite(f.astype(np.float32)).all() for f in evaluate(graph, [np.ones((2, 3), spec.dtype)] * 2)
    )


def test_the_mean_of_many_narrow_numbers() -> None:
    graph = oy.trace(lambda x: oy.gradients(oy.mean(x), x), oy.TensorSpec((100_000,), "float16"))
    found = evaluate(graph, [np.ones(100_000, np.float16)])[0]
    np.testing.assert_allclose(found.astype(np.float64), 1e-5, rtol=0.01)
