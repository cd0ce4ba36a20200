"""Attention. Source: Vaswani et al., arXiv:1706.03762, equation 1; grouped heads: Ainslie et al., arXiv:2305.13245."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import Shape, TensorSpec, broadcast, promote
from ._attributes import require_real
from ._precision import cast_to, computing_dtype
from ._reference import precise
from .arithmetic import Array, add, divide, maximum, multiply, subtract
from .exponential import exp
from .linear_algebra import matmul
from .normalization import softmax
from .reduction import max, sum
from .selection import where
from .shape import permute_dims, reshape

__all__ = ["scaled_dot_product_attention"]


def _infer(
    query: TensorSpec,
    key: TensorSpec,
    value: TensorSpec,
    mask: TensorSpec | None,
    *,
    causal: bool,
    scale: float | None,
) -> TensorSpec:
    for name, spec in (("query", query), ("key", key), ("value", value)):
        require_kind(spec, "real floating", name)
        if spec.ndim != 4:
            raise SpecError(
                f"{name} is [batch, heads, length, width], it is {spec!r}; reshape it: reshape(x, shape=...)."
            )
    batch, heads, length, width = query.shape
    _require_size(key, 0, batch, "key", "batch of query")
    _require_size(value, 0, batch, "value", "batch of query")
    _require_size(key, 3, width, "key", "width of query")
    _require_size(value, 1, key.shape[1], "value", "heads of key")
    _require_size(value, 2, key.shape[2], "value", "length of key")
    groups = key.shape[1]
    if isinstance(heads, int) and isinstance(groups, int) and (groups == 0 or heads % groups):
        raise SpecError(
            f"query has {heads} heads and key has {groups}; the heads of key and value must divide those of query."
        )
    if scale is not None:
        require_real(scale, "scale")
    _require_mask(mask, (batch, heads, length, key.shape[2]))
    dtype = promote(query.dtype, key.dtype, value.dtype)
    return TensorSpec((batch, heads, length, value.shape[3]), dtype)


def _require_size(spec: TensorSpec, axis: int, expected: Any, name: str, what: str) -> None:
    found = spec.shape[axis]
    if found != expected and isinstance(found, int) and isinstance(expected, int):
        raise SpecError(
            f"axis {axis} of {name} has size {found}, the {what} is {expected}; they must be equal."
        )


def _require_mask(mask: TensorSpec | None, scores: Shape) -> None:
    if mask is None:
        return
    if mask.dtype.kind != "b":
        require_kind(mask, "real floating", "a mask that is not bool")
    try:
        fits = broadcast(mask.shape, scores) == scores
    except SpecError:
        fits = False
    if not fits and mask.is_concrete:
        raise SpecError(
            f"mask broadcasts to [batch, heads, query length, key length] = {scores}; it is {mask!r}."
        )


def _scale(width: int, scale: float | None) -> float:
    return scale if scale is not None else 1.0 / math.sqrt(width) if width else 1.0


def _decompose(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Array:
    batch, heads, length, width = query.shape
    groups, keys, out_width = key.shape[1], key.shape[2], value.shape[3]
    dtype = np.result_type(query.dtype, key.dtype, value.dtype)
    # heads that share a key head stand under each other, as rows of one matrix
    rows = heads // groups * length
    scaled = multiply(cast_to(query, dtype), _scale(width, scale))
    stacked = reshape(scaled, shape=(batch, groups, rows, width))
    scores = matmul(stacked, permute_dims(cast_to(key, dtype), axes=(0, 1, 3, 2)))
    scores = reshape(scores, shape=(batch, heads, length, keys))
    weights = cast_to(_weights(cast_to(scores, computing_dtype(dtype)), mask, causal), dtype)
    attended = matmul(reshape(weights, shape=(batch, groups, rows, keys)), cast_to(value, dtype))
    return reshape(attended, shape=(batch, heads, length, out_width))


def _weights(scores: Array, mask: Array | None, causal: bool) -> Array:
    """Softmax of the scores over the keys; rows in which every key is masked are zero."""
    length, keys = scores.shape[-2:]
    if causal:
        scores = where(np.tri(length, keys, dtype=bool), scores, -math.inf)
    if mask is None or keys == 0:
        return softmax(scores, axis=-1)  # causal: each row sees at least the first key
    if mask.dtype.kind == "b":
        scores = where(mask, scores, -math.inf)
    else:
        scores = add(scores, cast_to(mask, scores.dtype))
    # With a finite subtrahend masked rows give exp(-inf) = 0 and not NaN. Any other row's sum is at least exp(0) = 1.
    lowest = float(np.finfo(scores.dtype).min)
    terms = exp(subtract(scores, maximum(max(scores, axis=-1, keepdims=True), lowest)))
    return divide(terms, maximum(sum(terms, axis=-1, keepdims=True), 1.0))


def _terms(call: Call) -> float:
    """How many numbers are summed up on the way to one output element: those of a score, and the keys."""
    _, key, _, _ = call.inputs
    assert key is not None
    return float(int(key.shape[2]) + int(key.shape[3]))


def _unspecified(
    query: Array, key: Array, value: Array, mask: Array | None = None, *, causal: bool, scale: float | None
) -> Array:
    """Queries from which a key is hidden that, or the value of which, is not finite. ``[b, h, l, 1]``."""
    batch, heads, length, _ = query.shape
    groups, keys = key.shape[1:3]
    visible = np.ones((batch, heads, length, keys), bool)
    if mask is not None:
        visible &= mask if mask.dtype.kind == "b" else precise(mask) != -np.inf
    if causal:
        visible &= np.tri(length, keys, dtype=bool)
    finite = np.isfinite(precise(key)).all(axis=-1) & np.isfinite(precise(value)).all(axis=-1)
    finite = np.repeat(finite, heads // groups, axis=1)[:, :, None]
    return np.any(~visible & ~finite, axis=-1, keepdims=True)


def _cost(call: Call) -> Cost:
    query, key, value, _ = call.inputs
    assert query is not None and key is not None and value is not None
    scores = float(math.prod(int(n) for n in query.shape[:3])) * int(key.shape[2])
    return Cost(scores * (2.0 * int(query.shape[3]) + 2.0 * int(value.shape[3]) + 6.0), call.bytes)


def _cases() -> list[Case]:
    def of(dtype: str, *shapes: tuple[int, ...], mask: Draw | None = None, **attributes: Any) -> Case:
        return case(*(Draw(shape, dtype) for shape in shapes), mask, **attributes)

    small = ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7))
    square = ((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    grouped = ((2, 6, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))
    return [
        of("float32", *small),
        of("float32", *square, causal=True),
        of("float32", *small, causal=True, scale=0.5),
        of("float32", *small, mask=Draw((2, 3, 4, 6), "bool")),
        of("float32", *small, mask=Draw((4, 6), "float32"), causal=True),
        of("float32", *grouped),
        of("float32", *grouped, mask=Draw((6, 1, 5), "bool"), causal=True),
        of("float32", (0, 2, 3, 4), (0, 2, 5, 4), (0, 2, 5, 4)),
        of("float32", (1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 4)),
        of("float32", (1, 4, 33, 16), (1, 2, 65, 16), (1, 2, 65, 24)),
        of("float32", (1, 4, 33, 64), (1, 2, 65, 64), (1, 2, 65, 32)),
        of("float32", (1, 2, 9, 32), (1, 2, 40, 32), (1, 2, 40, 32), mask=Draw((9, 40), "bool"), causal=True),
        of("float64", *square),
        of("float16", *square, causal=True),
        of("bfloat16", *grouped, mask=Draw((3, 5), "bool")),
    ]


@op(
    "scaled_dot_product_attention",
    infer=_infer,
    decompose=_decompose,
    cost=_cost,
    cases=_cases,
    tolerance=Tolerance(8, scaled=True),
    terms=_terms,
    unspecified=_unspecified,
)
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Array:
    """``softmax(query @ key.T * scale + mask) @ value``. ``[b, h, l, e], [b, g, s, e], [b, g, s, v] -> [b, h, l, v]``.

    ``mask`` broadcasts to ``[b, h, l, s]``; a boolean one says where to attend, another is added to the scores. ``causal``
    lets query i see the keys 0 to i. ``scale`` is ``1 / sqrt(e)`` unless given. With grouped heads (g divides h) each head of
    ``key`` and ``value`` serves h / g consecutive heads of ``query``. Queries for which every key is masked give zeros.
    Where a hidden key or its value is not finite, the result of that query is unspecified: a kernel may leave hidden keys
    out, or multiply them by zero.
    """
    q, k, v = precise(query), precise(key), precise(value)
    repeats = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
    scores = q @ np.swapaxes(k, -1, -2) * _scale(q.shape[-1], scale)
    if mask is not None:
        added = np.asarray(mask)
        scores = np.where(added, scores, -np.inf) if added.dtype.kind == "b" else scores + precise(added)
    if causal:
        scores = np.where(np.tri(scores.shape[-2], scores.shape[-1], dtype=bool), scores, -np.inf)
    highest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    total = np.sum(weights, axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v
