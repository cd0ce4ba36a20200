"""The programs in Triton's language: what one block of threads does. Arrays are pointers to dense memory.

Arguments in capitals are known when a program is compiled, and so are arrays that are left out, which are then None.
float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def softmax(
    x: tl.tensor, result: tl.tensor, columns: tl.tensor, LOGARITHM: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Softmax of one row ``[columns]``, or its logarithm; BLOCK is at least ``columns``."""
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(x + row + column, mask=inside, other=float("-inf")).to(tl.float32)
    values = values - tl.max(values, axis=0)
    weights = tl.exp(values)
    total = tl.sum(weights, axis=0)
    found = values - tl.log(total) if LOGARITHM else weights / total
    tl.store(result + row + column, found.to(result.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def normalization(
    x: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    result: tl.tensor,
    columns: tl.tensor,
    epsilon: tl.tensor,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Layer normalization (CENTRED) or RMS normalization of one row ``[columns]``; BLOCK is at least ``columns``."""
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        values = tl.where(inside, values - tl.sum(values, axis=0) / columns, 0.0)
    square = tl.sum(values * values, axis=0) / columns
    found = values / tl.sqrt(square + epsilon)
    if scale is not None:
        found = found * tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        found = found + tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + row + column, found.to(result.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def product(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    result: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """A tile [BLOCK_M, BLOCK_N] of ``activation(x @ weight + bias)``: ``[m, k], [k, n], [n] -> [m, n]``.

    Tiles that run at the same time are GROUP high, so that they read the same columns of the weight from the L2 cache.
    Source of that order: Tillet, Kung and Cox, "Triton", MAPL 2019, and Triton's tutorial on products of matrices.
    """
    across, down = tl.cdiv(n, BLOCK_N), tl.cdiv(m, BLOCK_M)
    group = tl.program_id(0) // (GROUP * across)
    within = tl.program_id(0) % (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    row = (group * GROUP + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    left = x + row[:, None].to(tl.int64) * k + inner[None, :]
    right = weight + inner[:, None].to(tl.int64) * n + column[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(k, BLOCK_K)):
        within_k = inner < k - step * BLOCK_K
        some = tl.load(left, mask=(row[:, None] < m) & within_k[None, :], other=0.0)
        others = tl.load(right, mask=within_k[:, None] & (column[None, :] < n), other=0.0)
        total = tl.dot(some, others, total)
        left += BLOCK_K
        right += BLOCK_K * tl.cast(n, tl.int64)
    if bias is not None:
        total = total + tl.load(bias + column, mask=column < n, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":
        total = tl.where(total < 0, 0.0, total)  # which leaves NaN as it is
    elif ACTIVATION == "gelu_tanh":
        # 0.5 * (1 + tanh(z)) is 1 / (1 + exp(-2 * z))
        total = total / (1.0 + tl.exp(-1.5957691216057308 * (total + 0.044715 * total * total * total)))
    elif ACTIVATION == "gelu":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    elif ACTIVATION == "silu":
        total = total / (1.0 + tl.exp(-total))
    place = result + row[:, None].to(tl.int64) * n + column[None, :]
    tl.store(place, total.to(result.dtype.element_ty), mask=(row[:, None] < m) & (column[None, :] < n))
