"""Matrix products: plain ones, and those with packed weights, with what follows fused into them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.kernels import Work
from opyard.operation import Call
from opyard.settings import num_threads

from .addresses import FLOAT32, Array
from .chains import SECONDS, Chain, Operand, Run, Step, chain_of
from .checks import extra_seconds, prepared
from .held import on_dense
from .layouts import concrete
from .library import library, missing
from .memory import any_layout, contiguous, strided
from .primitives import Binary, PostOp, Primitive, matmul

PEAK = 0.95
"""Fraction of the device's peak that products with packed weights reach; the peak is that of the nominal clock."""

PLAIN_PEAK = 0.88
"""The same for plain arrays, which oneDNN packs in each call."""

STACKED_PEAK = 0.6
"""The same for stacks of matrices, which are small, and mostly views that are copied before, as heads of an attention are."""

ONE_ROW = 0.8
"""Fraction of the memory's bandwidth that the product of one row with a matrix reaches."""

WAITING = 4
"""With fewer rows a product takes as long as with so many: until the weights have arrived."""

Shape = tuple[int, ...]


@lru_cache(maxsize=1024)
def _packed(
    rows: int, depth: int, columns: int, bias: bool, steps: tuple[Step, ...], threads: int
) -> Primitive | str:
    """``[rows, depth] @ packed [depth, columns]`` with the steps behind it, or why there is none."""
    result = strided((rows, columns))
    try:
        with library().threads_for(_operations(rows, depth, columns)):
            return matmul(
                *(strided((rows, depth)), any_layout((depth, columns)), result),
                bias=strided((1, columns)) if bias else None,
                post_ops=[_post_op(step, columns) for step in steps],
            )
    except KernelError as error:
        return str(error)


def _operations(rows: int, depth: int, columns: int) -> float:
    """Of a product, in units of large ones: few rows wait for the weights."""
    return 2.0 * depth * columns * max(rows, WAITING)


def _post_op(step: Step, columns: int) -> PostOp:
    if not isinstance(step, Operand):
        return step
    shape = concrete(step.spec.shape)
    return Binary(step.algorithm, strided((math.prod(shape[:-1]), columns)))


def _sizes(call: Call) -> tuple[int, int, int]:
    """Rows, depth and columns of a product with a matrix of weights."""
    weight = call.inputs[1]
    assert weight is not None
    depth, columns = concrete(weight.shape)
    return int(call.output.size) // columns, depth, columns


def _has_bias(chain: Chain) -> bool:
    return chain.base.op.name == "linear" and chain.base.inputs[2] is not None


def _described(chain: Chain) -> Primitive | str:
    return _packed(*_sizes(chain.base), _has_bias(chain), chain.steps, num_threads())


def _refusal(call: Call) -> str | None:
    if reason := missing():
        return reason
    if any(spec is not None and not spec.size for spec in call.inputs):
        return "an empty tensor is nothing for oneDNN"
    return None


def accepts_packed(work: Work, device: Device) -> str | None:
    """Why oneDNN does not multiply with packed weights here, or None."""
    chain = chain_of(work)
    if reason := _refusal(chain.base):
        return reason
    weight = chain.base.inputs[1]
    assert weight is not None
    if weight.ndim != 2:
        return f"packed weights are [k, n], not {weight!r}"
    for step in chain.steps:
        if isinstance(step, Operand):
            shape, result = concrete(step.spec.shape), concrete(chain.base.output.shape)
            if step.name not in ("x", "residual") or shape != result:
                return f"{step.name} is {list(result)}, as the result is, not {list(shape)}"
    found = _described(chain)
    return found if isinstance(found, str) else None


def prepare_packed(work: Work, device: Device) -> Run:
    """``run(x, weight, bias, *operands)`` with packed weights."""
    return prepared(chain_of(work), _compute)


def _compute(chain: Chain) -> Run:
    primitive, base, steps, has_bias = _described(chain), chain.base, chain.steps, _has_bias(chain)
    if isinstance(primitive, str):
        raise KernelError(primitive)
    operands = [step.position for step in steps if isinstance(step, Operand)]
    posts = [f"post_{i}" for i, step in enumerate(steps) if isinstance(step, Operand)]
    sizes = _sizes(base)
    _, depth, columns = sizes
    roles = ["src", "weights", *(["bias"] if has_bias else []), *posts, "dst"]
    compute = on_dense(primitive, roles, _operations(*sizes))
    plain, wanted, shape = (
        strided((depth, columns)),
        primitive.memories["weights"],
        concrete(base.output.shape),
    )
    number, empty = wanted.number, np.empty
    used = [0] * has_bias + [position - 2 for position in operands]

    def run(x: Array, weight: Any, *others: Any, out: Array | None = None) -> Any:
        form = weight.forms.get(number)
        if form is None:
            form = weight.form(plain, wanted)
        result = empty(shape, FLOAT32) if out is None or not out.flags.c_contiguous else out
        compute(x, form, *[others[position] for position in used], result)
        if out is None or out is result:
            return result
        np.copyto(out, result)
        return out

    return run


def accepts(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this product of plain arrays, or None."""
    if reason := _refusal(call):
        return reason
    first, second = call.inputs[:2]
    assert first is not None and second is not None
    if min(first.ndim, second.ndim) < 2:
        return "takes matrices; vectors are as quick on BLAS"
    found = _plain(*_stacked(call), num_threads())
    return found if isinstance(found, str) else None


def _stacked(call: Call) -> tuple[Shape, Shape, Shape]:
    """The shapes of both factors and of the result, of one rank; a stack of rows for one matrix is a longer matrix."""
    first, second, result = (
        concrete(spec.shape) for spec in (call.inputs[0], call.inputs[1], call.output) if spec is not None
    )
    if len(second) == 2:
        rows = math.prod(result[:-1])
        return (rows, first[-1]), second, (rows, result[-1])
    rank = len(result)
    return (1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, result


@lru_cache(maxsize=1024)
def _plain(
    first: Shape, second: Shape, result: Shape, threads: int, transposed: bool = False
) -> Primitive | str:
    """The product of dense arrays; ``transposed``: each matrix of the second lies by columns."""
    steps = None
    if transposed:
        *outer, _, _ = contiguous(second)
        steps = (*outer, 1, second[-2])
    try:
        operations = _operations(math.prod(result[:-1]), first[-1], result[-1])
        with library().threads_for(operations):
            return matmul(strided(first), strided(second, steps), strided(result))
    except KernelError as error:
        return str(error)


def prepare(call: Call, device: Device) -> Run:
    """``run(x1, x2)`` on plain arrays, the second of which may lie by columns, as a transposed view does."""
    shapes, roles = _stacked(call), ("src", "weights", "dst")
    usual = _plain(*shapes, num_threads())
    if isinstance(usual, str):
        raise KernelError(usual)
    (_, depth), _, product = shapes[0][-2:], shapes[1], shapes[2]
    operations = _operations(math.prod(product[:-1]), depth, product[-1])
    by_rows = on_dense(usual, roles, operations)
    turned: list[Run | None] = []
    shape = concrete(call.output.shape)

    def by_columns() -> Run | None:
        if not turned:
            found = _plain(*shapes, num_threads(), transposed=True)
            turned.append(None if isinstance(found, str) else on_dense(found, roles, operations))
        return turned[0]

    def run(x1: Array, x2: Array, out: Array | None = None) -> Array:
        compute = by_rows
        if not x2.flags.c_contiguous:
            other = by_columns() if np.matrix_transpose(x2).flags.c_contiguous else None
            if other is not None:
                compute, x2 = other, np.matrix_transpose(x2)
        result = np.empty(shape, FLOAT32) if out is None or not out.flags.c_contiguous else out
        compute(x1, x2, result)
        if out is None or out is result:
            return result
        np.copyto(out, result)
        return out

    return run


def cost(work: Work, device: Device) -> float:
    """Estimated seconds of a product with packed weights: of arithmetic, or of reading them where there are few rows."""
    chain, abilities = chain_of(work), device.capabilities
    rows, _, _ = _sizes(chain.base)
    arithmetic = chain.base.cost.flops / (abilities.flops * PEAK)
    streaming = work.cost.bytes / (abilities.bandwidth * (ONE_ROW if rows == 1 else 1.0))
    return max(arithmetic, streaming) + extra_seconds(chain, device)


def plain_cost(call: Call, device: Device) -> float:
    """Estimated seconds of a product of plain arrays."""
    abilities, (flops, nbytes) = device.capabilities, call.cost
    weight = call.inputs[1]
    peak = STACKED_PEAK if weight is not None and weight.ndim > 2 else PLAIN_PEAK
    return max(flops / (abilities.flops * peak), nbytes / (abilities.bandwidth * ONE_ROW)) + SECONDS
