"""Matrix products and einsum against plain loops and NumPy on their own terms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.ops.linear_algebra import einsum, linear, matmul
from opyard.spec import TensorSpec
from opyard.tracing import trace

GENERATOR = np.random.default_rng(7)


def run(op: Any, *arrays: Any, **attributes: Any) -> Any:
    call = op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    return result


def draw(*shape: int, dtype: str = "float64") -> Any:
    return GENERATOR.uniform(-2, 2, shape).astype(dtype)


def test_matmul_by_loops() -> None:
    a, b = draw(2, 1, 3, 4), draw(5, 4, 2)
    found = run(matmul, a, b)
    for i, j, m, n in np.ndindex(2, 5, 3, 2):
        assert found[i, j, m, n] == pytest.approx(sum(a[i, 0, m, k] * b[j, k, n] for k in range(4)))


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ((4,), (4,), ()),
        ((4,), (4, 3), (3,)),
        ((4,), (2, 4, 3), (2, 3)),
        ((2, 3, 4), (4,), (2, 3)),
        ((3, 0), (0, 2), (3, 2)),
        ((0, 3), (3, 2), (0, 2)),
    ],
)
def test_matmul_shapes(left: Any, right: Any, result: Any) -> None:
    a, b = draw(*left), draw(*right)
    found = run(matmul, a, b)
    assert found.shape == result
    np.testing.assert_allclose(
        found, np.tensordot(a, b, (-1, 0)) if len(right) < 3 else np.stack([a @ m for m in b])
    )


def test_matmul_of_transposed_memory() -> None:
    a, b = draw(4, 3).T, draw(5, 4)[::-1].T
    np.testing.assert_allclose(run(matmul, a, b), np.einsum("ij,jk->ik", a, b))


def test_matmul_sums_float16_in_float32() -> None:
    ones = np.ones((1, 4099), np.float16)
    assert run(matmul, ones, ones.T)[0, 0] == np.float16(4099)
    assert run(matmul, ones, ones.T).dtype == np.float16


def test_matmul_promotes_and_wraps_integers() -> None:
    assert run(matmul, draw(2, 3, dtype="float32"), draw(3, 2)).dtype == np.float64
    hundred = np.full((1, 2), 100, np.int8)
    assert run(matmul, hundred, np.ones((2, 1), np.int8))[0, 0] == np.int8(-56)


def test_matmul_keeps_nan() -> None:
    assert np.isnan(run(matmul, np.array([[np.nan, 0.0]]), np.zeros((2, 1)))).all()


def test_matmul_costs() -> None:
    cost = matmul.op.call(TensorSpec((5, 3, 4)), TensorSpec((4, 7))).cost
    assert cost.flops == 2 * 5 * 3 * 4 * 7
    assert cost.bytes == 4 * (5 * 3 * 4 + 4 * 7 + 5 * 3 * 7)


def test_matmul_with_symbolic_sizes() -> None:
    call = matmul.op.call(TensorSpec(("batch", "rows", 4)), TensorSpec((4, 5)))
    assert call.output == TensorSpec(("batch", "rows", 5))
    assert matmul.op.call(TensorSpec(("k",)), TensorSpec((4, 5))).output == TensorSpec((5,))


def test_matmul_errors() -> None:
    with pytest.raises(
        SpecError,
        match=r"x1 has 4 columns and x2 has 3 rows; they must be equal. Transpose with permute_dims",
    ):
        matmul.op.call(TensorSpec((2, 4)), TensorSpec((3, 4)))
    with pytest.raises(
        SpecError, match=r"x2 is 0-d, and a matrix product needs an axis to sum over; use multiply"
    ):
        matmul.op.call(TensorSpec((4,)), TensorSpec(()))
    with pytest.raises(SpecError, match="do not broadcast"):
        matmul.op.call(TensorSpec((2, 3, 4)), TensorSpec((3, 4, 5)))
    with pytest.raises(SpecError, match=r"x1 must be numeric, it is bool\[2, 4\]"):
        matmul.op.call(TensorSpec((2, 4), "bool"), TensorSpec((4, 2)))


def einsum_by_loops(output: str, terms: list[str], *arrays: Any) -> Any:
    """The definition: one sum over all indices at once."""
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        for label, size in zip(term, array.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 0))
    result = np.zeros([sizes[label] for label in output])
    for values in itertools.product(*(range(size) for size in sizes.values())):
        at = dict(zip(sizes, values, strict=True))
        product = 1.0
        for term, array in zip(terms, arrays, strict=True):
            product *= array[tuple(min(at[label], n - 1) for label, n in zip(term, array.shape, strict=True))]
        result[tuple(at[label] for label in output)] += product
    return result


EQUATIONS = [
    ("ij,jk->ki", [(2, 3), (3, 4)]),
    ("bij,bjk->bik", [(2, 2, 3), (2, 3, 2)]),
    ("ij->", [(2, 3)]),
    ("iji->ij", [(3, 2, 3)]),
    ("iii->i", [(3, 3, 3)]),
    ("ii,ij->j", [(3, 3), (3, 2)]),
    ("i,j,k->kji", [(2,), (3,), (2,)]),
    ("ij,ij->ij", [(1, 3), (2, 3)]),
    ("ij,jk->ik", [(2, 1), (3, 4)]),
    ("ab,bc,ac->", [(2, 3), (3, 2), (2, 2)]),
    ("ab,cd->ad", [(2, 3), (2, 3)]),
    (",i->i", [(), (3,)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_einsum_by_loops(equation: str, shapes: Any) -> None:
    arrays = [draw(*shape) for shape in shapes]
    inputs, output = equation.split("->")
    expected = einsum_by_loops(output, inputs.split(","), *arrays)
    np.testing.assert_allclose(run(einsum, *arrays, equation=equation), expected, atol=1e-12)
    np.testing.assert_allclose(einsum.op.decompose(*arrays, equation=equation), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("equation", "shapes", "result"),
    [
        ("ba", [(2, 3)], (3, 2)),
        ("ij, jh", [(2, 3), (3, 4)], (4, 2)),
        ("...ij,...jk", [(5, 1, 2, 3), (4, 3, 2)], (5, 4, 2, 2)),
        ("i...->...", [(3, 4, 5)], (4, 5)),
        ("...", [(3, 4)], (3, 4)),
        ("i...i->i...", [(3, 4, 3)], (3, 4)),
    ],
)
def test_einsum_implicit_output_and_ellipsis(equation: str, shapes: Any, result: Any) -> None:
    arrays = [draw(*shape) for shape in shapes]
    found = run(einsum, *arrays, equation=equation)
    assert found.shape == result
    np.testing.assert_allclose(einsum.op.decompose(*arrays, equation=equation), found)


def test_einsum_diagonal_ignores_infinity_beside_it() -> None:
    x = np.array([[1.0, np.inf], [np.nan, 2.0]])
    assert einsum.op.decompose(x, equation="ii") == 3.0


def test_einsum_of_symbolic_sizes() -> None:
    call = einsum.op.call(
        TensorSpec(("batch", "i", 3)), TensorSpec(("batch", 3, "k")), equation="bij,bjk->bik"
    )
    assert call.output == TensorSpec(("batch", "i", "k"))


def test_einsum_contracts_pairs_by_matmul() -> None:
    graph = trace(
        lambda a, b: einsum.op.decompose(a, b, equation="bij,bkj->bik"),
        TensorSpec((2, 3, 4)),
        TensorSpec((2, 5, 4)),
    )
    assert "matmul" in [node.op.name for node in graph.nodes]
    assert "multiply" not in [node.op.name for node in graph.nodes]


def test_einsum_costs() -> None:
    cost = einsum.op.call(
        TensorSpec((2, 3)), TensorSpec((3, 4)), TensorSpec((4, 5)), equation="ab,bc,cd->ad"
    ).cost
    assert cost.flops == 2 * 2 * 3 * 4 + 2 * 2 * 4 * 5
    assert einsum.op.call(TensorSpec((2, 3)), equation="ab->ba").cost.flops == 6


@pytest.mark.parametrize(
    ("equation", "shapes", "text"),
    [
        ("ij,jk->ik", [(2, 3)], r"describes 2 operands, 1 were given; separate them by commas"),
        (
            "ijk->i",
            [(2, 3)],
            r"'ijk' in equation='ijk->i' has 3 indices, operand 0 has rank 2; give every axis an index",
        ),
        ("i->i", [(2, 3)], r"'i' in equation='i->i' has 1 indices, operand 0 has rank 2"),
        ("i1->i", [(2, 3)], r"'i1' in equation='i1->i' is not letters with at most one '\.\.\.'"),
        ("......->", [(2, 3)], r"is not letters with at most one"),
        ("ij->k", [(2, 3)], r"output index 'k' of equation='ij->k' is in no operand; leave it out"),
        ("ij->ii", [(2, 3)], r"output index 'i' of equation='ij->ii' occurs twice there; write it once"),
        ("...i->i", [(2, 3)], r"the output of equation='\.\.\.i->i' lacks '\.\.\.', which stands for 1 axes"),
        (
            "ij,jk->ik",
            [(2, 3), (4, 5)],
            r"index 'j' has size 4 in operand 1 and 3 before; they must be equal or 1",
        ),
        ("ii->i", [(2, 3)], r"the diagonal over index 'i' of operand 0 needs equal sizes, it has 2 and 3"),
        (3, [(2, 3)], r"equation is a string such as 'ij,jk->ik'; found 3"),
    ],
)
def test_einsum_errors(equation: Any, shapes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        einsum.op.call(*(TensorSpec(shape) for shape in shapes), equation=equation)


def test_einsum_refuses_bool() -> None:
    with pytest.raises(SpecError, match=r"operand 0 must be numeric, it is bool\[2\]"):
        einsum.op.call(TensorSpec((2,), "bool"), equation="i->")


def test_linear() -> None:
    x, weight, bias = draw(2, 3, 4), draw(4, 5), draw(5)
    np.testing.assert_allclose(run(linear, x, weight, bias), np.tensordot(x, weight, 1) + bias)
    np.testing.assert_allclose(run(linear, x[0, 0], weight), x[0, 0] @ weight)
    assert (
        linear.op.call(TensorSpec((2, 3)), TensorSpec((3, 5)), TensorSpec((5,))).cost.flops
        == 2 * 2 * 3 * 5 + 10
    )


def test_linear_errors() -> None:
    x = TensorSpec((2, 4))
    with pytest.raises(
        SpecError, match=r"weight is \[k, n\], it is float32\[2, 4, 5\]; for stacked matrices use matmul"
    ):
        linear.op.call(x, TensorSpec((2, 4, 5)))
    with pytest.raises(SpecError, match=r"bias is \[n\] with n = 5, it is float32\[1, 5\]; flatten it"):
        linear.op.call(x, TensorSpec((4, 5)), TensorSpec((1, 5)))
    with pytest.raises(SpecError, match=r"weight has 5 columns and bias has 4 elements; they must be equal"):
        linear.op.call(x, TensorSpec((4, 5)), TensorSpec((4,)))
    with pytest.raises(SpecError, match=r"bias must be numeric, it is bool\[5\]"):
        linear.op.call(x, TensorSpec((4, 5)), TensorSpec((5,), "bool"))
