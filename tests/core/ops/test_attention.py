"""Attention against one query at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.ops.attention import scaled_dot_product_attention
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard.tracing import trace

GENERATOR = np.random.default_rng(19)
ATTENTION = scaled_dot_product_attention.op


def attend(*arrays: Any, **attributes: Any) -> Any:
    """The reference's result, once the decomposition has been found equal to it."""
    call = ATTENTION.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    assert ATTENTION.decompose is not None
    with np.errstate(all="ignore"):
        decomposed = ATTENTION.decompose(*arrays, **call.attrs)
    assert violation(call, arrays, [decomposed]) is None
    return result


def draw(*shape: int, dtype: str = "float64") -> Any:
    return GENERATOR.uniform(-2, 2, shape).astype(dtype)


def by_queries(q: Any, k: Any, v: Any, visible: Any, added: Any, scale: float) -> Any:
    result = np.zeros((*q.shape[:3], v.shape[3]))
    shared = q.shape[1] // k.shape[1]
    for b, h, i in np.ndindex(q.shape[:3]):
        keys = [j for j in range(k.shape[2]) if visible[b, h, i, j]]
        weights = [math.exp(q[b, h, i] @ k[b, h // shared, j] * scale + added[b, h, i, j]) for j in keys]
        for weight, j in zip(weights, keys, strict=True):
            result[b, h, i] += weight / sum(weights) * v[b, h // shared, j]
    return result


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_by_queries(heads: int, causal: bool) -> None:
    q, k, v = draw(2, 4, 3, 5), draw(2, heads, 6, 5), draw(2, heads, 6, 7)
    everywhere = (2, 4, 3, 6)
    seen = np.broadcast_to(np.arange(6) <= np.arange(3)[:, None] if causal else True, everywhere)
    nothing = np.zeros(everywhere)
    np.testing.assert_allclose(attend(q, k, v, causal=causal), by_queries(q, k, v, seen, nothing, 5**-0.5))
    np.testing.assert_allclose(
        attend(q, k, v, causal=causal, scale=0.3), by_queries(q, k, v, seen, nothing, 0.3)
    )
    mask = GENERATOR.integers(0, 2, (4, 1, 6)).astype(bool)
    np.testing.assert_allclose(
        attend(q, k, v, mask, causal=causal), by_queries(q, k, v, seen & mask, nothing, 5**-0.5), atol=1e-12
    )
    bias = draw(2, 1, 3, 6)
    added = np.broadcast_to(bias, everywhere)
    np.testing.assert_allclose(
        attend(q, k, v, bias, causal=causal), by_queries(q, k, v, seen, added, 5**-0.5)
    )


def test_wholly_masked_queries_give_zeros() -> None:
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    unmasked = attend(q, k, v)
    for given in (mask, np.where(mask, 0.0, -np.inf)):
        found = attend(q, k, v, given)
        np.testing.assert_array_equal(found[:, :, 1], 0)
        np.testing.assert_allclose(found[:, :, [0, 2]], unmasked[:, :, [0, 2]])


def test_causal_and_mask_together_may_hide_everything() -> None:
    q, k, v = draw(1, 1, 2, 3), draw(1, 1, 2, 3), draw(1, 1, 2, 3)
    found = attend(q, k, v, np.array([False, True]), causal=True)
    np.testing.assert_array_equal(found[0, 0, 0], 0)
    np.testing.assert_allclose(found[0, 0, 1], v[0, 0, 1])


def test_without_keys_or_width() -> None:
    np.testing.assert_array_equal(
        attend(draw(1, 2, 3, 4), draw(1, 2, 0, 4), draw(1, 2, 0, 5)), np.zeros((1, 2, 3, 5))
    )
    v = draw(1, 1, 4, 2)
    found = attend(np.zeros((1, 1, 1, 0)), np.zeros((1, 1, 4, 0)), v)
    np.testing.assert_allclose(found[0, 0, 0], v[0, 0].mean(0))


def test_large_scores_do_not_overflow() -> None:
    q = np.full((1, 1, 1, 4), 1e3, np.float32)
    k = np.stack([q[0, 0, 0], -q[0, 0, 0]])[None, None]
    v = np.array([[[[1.0], [2.0]]]], np.float32)
    assert attend(q, k, v)[0, 0, 0, 0] == 1


def test_nan_in_a_query_stays_in_its_row() -> None:
    q, k, v = draw(1, 1, 2, 3), draw(1, 1, 4, 3), draw(1, 1, 4, 3)
    q[0, 0, 0, 0] = np.nan
    found = attend(q, k, v, np.ones((2, 4), bool))
    assert np.isnan(found[0, 0, 0]).all()
    assert not np.isnan(found[0, 0, 1]).any()


def test_decomposition_is_two_matrix_products() -> None:
    specs = [TensorSpec((2, 4, 3, 5)), TensorSpec((2, 2, 6, 5)), TensorSpec((2, 2, 6, 5))]
    names = [
        node.op.name
        for node in trace(lambda *qkv: scaled_dot_product_attention.op.decompose(*qkv), *specs).nodes
    ]
    assert names.count("matmul") == 2
    assert names.count("softmax") == 1


def test_cost() -> None:
    call = ATTENTION.call(TensorSpec((2, 4, 3, 5)), TensorSpec((2, 2, 6, 5)), TensorSpec((2, 2, 6, 7)))
    assert call.cost.flops == 2 * 4 * 3 * 6 * (2 * 5 + 2 * 7 + 6)


@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_hidden_keys_that_are_not_finite_do_is_unspecified(where: str, number: float) -> None:
    query, key, value = (np.ones(shape, np.float32) for shape in ((1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 5)))
    {"key": key, "value": value}[where][0, 0, 1, 2] = number
    unspecified = ATTENTION.unspecified
    assert unspecified is not None

    def rows(mask: Any = None, causal: bool = False) -> Any:
        return unspecified(query, key, value, mask, causal=causal, scale=None)[0, :, :, 0].tolist()

    assert rows() == [[False] * 3] * 2, "nothing is hidden"
    assert rows(causal=True) == [[True, False, False]] * 2, "the first query does not see key 1"
    assert rows(np.array([True, False, True])) == [[True] * 3] * 2
    added = np.zeros((2, 3, 3), np.float32)
    added[1, 2, 1] = -np.inf
    assert rows(added) == [[False] * 3, [False, False, True]]
    assert rows(np.array([False, True, True])) == [[False] * 3] * 2, "the hidden key is finite"


def test_symbolic_sizes() -> None:
    q = TensorSpec(("batch", 4, "length", 8))
    kv = TensorSpec(("batch", 2, "keys", 8))
    assert ATTENTION.call(q, kv, kv, TensorSpec(("length", "keys"), "bool"), causal=True).output == q


Q, KV = TensorSpec((2, 4, 3, 5)), TensorSpec((2, 2, 6, 5))


@pytest.mark.parametrize(
    ("specs", "attributes", "text"),
    [
        ((TensorSpec((3, 5)), KV, KV), {}, r"query is \[batch, heads, length, width\], it is float32\[3, 5\]; reshape it"),
        ((Q, KV, TensorSpec((2, 2, 6, 5), "int8")), {}, r"value must be real floating"),
        ((Q, TensorSpec((1, 2, 6, 5)), KV), {}, r"axis 0 of key has size 1, the batch of query is 2; they must be equal"),
        ((Q, KV, TensorSpec((3, 2, 6, 5))), {}, r"axis 0 of value has size 3, the batch of query is 2"),
        ((Q, TensorSpec((2, 2, 6, 4)), KV), {}, r"axis 3 of key has size 4, the width of query is 5"),
        ((Q, KV, TensorSpec((2, 4, 6, 5))), {}, r"axis 1 of value has size 4, the heads of key is 2"),
        ((Q, KV, TensorSpec((2, 2, 7, 5))), {}, r"axis 2 of value has size 7, the length of key is 6"),
        ((Q, TensorSpec((2, 3, 6, 5)), TensorSpec((2, 3, 6, 5))), {}, r"query has 4 heads and key has 3; the heads of key and value must divide"),
        ((Q, KV, KV), {"scale": "big"}, r"scale is a real number; found 'big'"),
        ((Q, KV, KV, TensorSpec((3, 5), "bool")), {}, r"mask broadcasts to \[batch, heads, query length, key length\] = \(2, 4, 3, 6\); it is bool\[3, 5\]"),
        ((Q, KV, KV, TensorSpec((1, 2, 4, 3, 6))), {}, r"mask broadcasts to"),
        ((Q, KV, KV, TensorSpec((3, 6), "int32")), {}, r"a mask that is not bool must be real floating"),
    ],
)  # fmt: skip
def test_errors(specs: Any, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        ATTENTION.call(*specs, **attributes)
