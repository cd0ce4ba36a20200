"""Matrix products. Source of names and meaning: Python array API standard 2024.12; einsum follows NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, broadcast, promote
from . import _einsum
from ._precision import wide
from .arithmetic import Array, add

__all__ = ["einsum", "linear", "matmul"]


def _matmul_infer(x1: TensorSpec, x2: TensorSpec) -> TensorSpec:
    for name, spec in (("x1", x1), ("x2", x2)):
        require_kind(spec, "numeric", name)
        if spec.ndim == 0:
            raise SpecError(
                f"{name} is 0-d, and a matrix product needs an axis to sum over; use multiply(x1, x2)."
            )
    rows = x1.shape[-2:-1]
    columns = x2.shape[-1:] if x2.ndim > 1 else ()
    left, right = x1.shape[-1], x2.shape[-2] if x2.ndim > 1 else x2.shape[0]
    _require_equal(left, right, f"x1 has {left} columns and x2 has {right} rows")
    batch = broadcast(x1.shape[:-2], x2.shape[:-2])
    return TensorSpec((*batch, *rows, *columns), promote(x1.dtype, x2.dtype))


def _require_equal(left: int | Dim, right: int | Dim, finding: str) -> None:
    # a symbolic size is compared again once it is bound
    if left != right and isinstance(left, int) and isinstance(right, int):
        raise SpecError(
            f"{finding}; they must be equal. Transpose with permute_dims(x, axes=...) if rows and columns are swapped."
        )


def _products(call: Call) -> float:
    """How many products one output element is the sum of."""
    x1 = call.inputs[0]
    assert x1 is not None
    return float(int(x1.shape[-1]))


def _matmul_cost(call: Call) -> Cost:
    x1 = call.inputs[0]
    assert x1 is not None
    return Cost(2.0 * int(call.output.size) * int(x1.shape[-1]), call.bytes)


def _matmul_cases() -> list[Case]:
    return [
        case((3, 4), (4, 5)),
        case((1, 1), (1, 1)),
        case((5,), (5,)),
        case((5,), (2, 5, 3)),
        case((2, 3, 5), (5,)),
        case((2, 1, 3, 4), (5, 4, 2)),
        case((0, 4), (4, 3)),
        case((3, 0), (0, 4)),
        case((65, 127), (127, 33)),
        case(Draw((6, 7), "float64"), Draw((7, 5), "float64")),
        case(Draw((9, 40), "float16"), Draw((40, 5), "float16")),
        case(Draw((9, 40), "bfloat16"), Draw((40, 5), "bfloat16")),
        case(Draw((3, 4), "int32", -9, 9), Draw((4, 5), "int32", -9, 9)),
    ]


@op("matmul", infer=_matmul_infer, cost=_matmul_cost, cases=_matmul_cases, terms=_products)
def matmul(x1: Array, x2: Array) -> Array:
    """Matrix product. ``[..., m, k], [..., k, n] -> [..., m, n]``, leading axes broadcast.

    A 1-d operand is a row ``[k]`` on the left and a column ``[k]`` on the right; its axis is not in the result.
    float16 and bfloat16 are summed in float32.
    """
    return np.matmul(wide(x1), wide(x2))


def _einsum_infer(*operands: TensorSpec, equation: str) -> TensorSpec:
    for position, spec in enumerate(operands):
        require_kind(spec, "numeric", f"operand {position}")
    terms, output = _einsum.parse(equation, tuple(spec.ndim for spec in operands))
    sizes = _einsum.label_sizes(terms, tuple(spec.shape for spec in operands))
    return TensorSpec((sizes[label] for label in output), promote(*(spec.dtype for spec in operands)))


def _einsum_cost(call: Call) -> Cost:
    operands = tuple(spec for spec in call.inputs if spec is not None)
    terms, output = _einsum.parse(call.attrs["equation"], tuple(spec.ndim for spec in operands))
    sizes = _einsum.label_sizes(terms, tuple(spec.shape for spec in operands))
    flops = _einsum.contraction_flops(terms, output, {label: int(size) for label, size in sizes.items()})
    return Cost(flops, call.bytes)


def _einsum_products(call: Call) -> float:
    operands = tuple(spec for spec in call.inputs if spec is not None)
    terms, output = _einsum.parse(call.attrs["equation"], tuple(spec.ndim for spec in operands))
    sizes = _einsum.label_sizes(terms, tuple(spec.shape for spec in operands))
    return math.prod(float(int(size)) for label, size in sizes.items() if label not in output)


def _einsum_decompose(*operands: Array, equation: str) -> Array:
    return _einsum.contract(operands, equation, matmul)


def _einsum_cases() -> list[Case]:
    return [
        case((3, 4), (4, 5), equation="ij,jk->ik"),
        case((3, 4), (4, 5), equation="ij, jk"),
        case((2, 3, 4), (2, 5, 4), equation="bik,bjk->bij"),
        case((2, 3, 4, 5), (2, 3, 6, 5), equation="...qd,...kd->...qk"),
        case((1, 3, 4), (5, 4, 2), equation="...ij,...jk->...ik"),
        case((3, 4), equation="ij->ji"),
        case((3, 4), equation="ij->"),
        case((4, 4), equation="ii"),
        case((4, 4, 3), equation="iij->ij"),
        case((3,), (4,), equation="i,j->ij"),
        case((), (3,), equation=",i->i"),
        case((3, 4), (4, 5), (5, 2), equation="ab,bc,cd->ad"),
        case((3, 4), (3, 4), equation="ij,ij->i"),
        case((3, 1), (3, 4), equation="ij,ij->ij"),
        case((2, 3), (4, 5), equation="ij,kl->ik"),
        case((0, 3), (3, 2), equation="ij,jk->ik"),
        case((3, 0), (0, 2), equation="ij,jk->ik"),
        case(Draw((4, 5), "float16"), Draw((5, 3), "float16"), equation="ij,jk->ki"),
        case(Draw((3, 4), "int32", -9, 9), Draw((4, 2), "int32", -9, 9), equation="ij,jk->ik"),
    ]


@op(
    "einsum",
    infer=_einsum_infer,
    decompose=_einsum_decompose,
    cost=_einsum_cost,
    cases=_einsum_cases,
    terms=_einsum_products,
)
def einsum(*operands: Array, equation: str) -> Array:
    """Products of the operands, summed over every index that the output leaves out.

    ``equation`` is NumPy's: ``"bij,bjk->bik"``; an ellipsis stands for axes that broadcast, an index that occurs twice in
    one operand takes its diagonal, and without an arrow the output has the indices that occur once, in alphabetical order.
    Operands are contracted two by two from left to right. Raises SpecError for indices that do not fit the operands.
    """
    return np.einsum(equation, *(wide(x) for x in operands))


def _linear_infer(x: TensorSpec, weight: TensorSpec, bias: TensorSpec | None) -> TensorSpec:
    if weight.ndim != 2:
        raise SpecError(f"weight is [k, n], it is {weight!r}; for stacked matrices use matmul(x, weight).")
    product = _matmul_infer(x, weight)
    if bias is None:
        return product
    require_kind(bias, "numeric", "bias")
    if bias.ndim != 1:
        raise SpecError(
            f"bias is [n] with n = {weight.shape[1]}, it is {bias!r}; flatten it: reshape(bias, shape=(-1,))."
        )
    _require_equal(
        weight.shape[1],
        bias.shape[0],
        f"weight has {weight.shape[1]} columns and bias has {bias.shape[0]} elements",
    )
    return product.with_dtype(promote(product.dtype, bias.dtype))


def _linear_decompose(x: Array, weight: Array, bias: Array | None = None) -> Array:
    product = matmul(x, weight)
    return product if bias is None else add(product, bias)


def _linear_cost(call: Call) -> Cost:
    flops = _matmul_cost(call).flops
    return Cost(flops + (int(call.output.size) if call.inputs[2] else 0), call.bytes)


def _linear_cases() -> list[Case]:
    return [
        case((3, 4), (4, 5), (5,)),
        case((3, 4), (4, 5), None),
        case((4,), (4, 5), (5,)),
        case((2, 3, 4), (4, 5), (5,)),
        case((0, 4), (4, 5), (5,)),
        case((33, 65), (65, 17), (17,)),
        case(Draw((3, 24), "bfloat16"), Draw((24, 5), "bfloat16"), Draw((5,), "bfloat16")),
        case(Draw((3, 4), "int64", -9, 9), Draw((4, 5), "int64", -9, 9), Draw((5,), "int64", -9, 9)),
    ]


@op(
    "linear",
    infer=_linear_infer,
    decompose=_linear_decompose,
    cost=_linear_cost,
    cases=_linear_cases,
    terms=_products,
)
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Dense layer: ``x @ weight + bias``. ``[..., k], [k, n], [n] -> [..., n]``."""
    product: Any = np.matmul(wide(x), wide(weight))
    return product if bias is None else product + wide(bias)
