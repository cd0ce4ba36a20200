"""Composite operators of ONNX become opyard's composite ops, so that kernels for the whole of them can be chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import opyard as oy
from onnx_models import single
from opyard_onnx import Model, ModelError, load

NEWEST = onnx.defs.onnx_opset_version()
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype("float32")


def ops(proto: Any) -> list[str]:
    return [node.op.name for node in oy.simplify(load(proto)).nodes]


X = normal(2, 4, 8)
PER_CHANNEL = {"s": normal(4), "b": normal(4)}
WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "layer_normalization": ("LayerNormalization", {"x": X, "s": normal(8), "b": normal(8)}, {}, NEWEST),
    "rms_normalization": ("RMSNormalization", {"x": X, "s": normal(8)}, {}, NEWEST),
    "group_normalization": ("GroupNormalization", {"x": X, **PER_CHANNEL}, {"num_groups": 2}, NEWEST),
    "instance_normalization": ("InstanceNormalization", {"x": X, **PER_CHANNEL}, {}, NEWEST),
    "lp_normalization": ("LpNormalization", {"x": X}, {}, NEWEST),
    "local_response_normalization": ("LRN", {"x": X}, {"size": 3}, NEWEST),
    "gelu": ("Gelu", {"x": X}, {"approximate": "tanh"}, NEWEST),
    "silu": ("Swish", {"x": X}, {}, NEWEST),
    "hard_swish": ("HardSwish", {"x": X}, {}, NEWEST),
    "mish": ("Mish", {"x": X}, {}, NEWEST),
    "softplus": ("Softplus", {"x": X}, {}, NEWEST),
    "softmax": ("Softmax", {"x": X}, {}, NEWEST),
    "log_softmax": ("LogSoftmax", {"x": X}, {}, NEWEST),
    "logsumexp": ("ReduceLogSumExp", {"x": X}, {}, NEWEST),
    "conv": ("Conv", {"x": X, "w": normal(3, 4, 3)}, {}, NEWEST),
}


@pytest.mark.parametrize("op", WHOLE)
def test_composites_stay_whole(op: str):
    op_type, arrays, attributes, opset = WHOLE[op]
    assert op in ops(single(op_type, arrays, 1, opset, **attributes))


# Attention -------------------------------------------------------------------------------------------------------

HEADS = {"q": normal(2, 4, 3, 5), "k": normal(2, 2, 6, 5), "v": normal(2, 2, 6, 7)}
FLAT = {"q": normal(2, 3, 20), "k": normal(2, 6, 10), "v": normal(2, 6, 14)}
PAST = {"past_k": normal(2, 2, 4, 5), "past_v": normal(2, 2, 4, 7)}
OF_FLAT = {"q_num_heads": 4, "kv_num_heads": 2}
BOOLEAN = RNG.random((2, 1, 3, 6)) > 0.3
SHORT = normal(3, 4)

ATTENTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "heads that share keys": (HEADS, {}, True),
    "a scale": (HEADS, {"scale": 0.1}, True),
    "flat": (FLAT, OF_FLAT, True),
    "causal": (HEADS, {"is_causal": 1}, True),
    "a boolean mask": ({**HEADS, "m": BOOLEAN}, {}, True),
    "an added mask for fewer keys": ({**HEADS, "m": SHORT}, {}, True),
    "a mask of which nothing is left": ({**HEADS, "m": np.zeros((3, 6), bool)}, {}, True),
    "a past": ({**HEADS, "m": None, **PAST}, {}, True),
    "a causal past": ({**HEADS, "m": None, **PAST}, {"is_causal": 1}, True),
    "a causal past, and a mask": ({**FLAT, "m": normal(3, 10), **PAST}, {"is_causal": 1, **OF_FLAT}, True),
    "lengths": ({**HEADS, "m": None, "pk": None, "pv": None, "n": np.array([6, 4])}, {}, True),
    "causal lengths": ({**HEADS, "m": None, "pk": None, "pv": None, "n": np.array([6, 4])}, {"is_causal": 1}, True),
    "a window": ({**HEADS, "m": BOOLEAN}, {"left_window_size": 1, "right_window_size": 2}, True),
    "a causal window over a past": ({**HEADS, "m": None, **PAST}, {"left_window_size": 2, "is_causal": 1}, True),
    "a softmax in single precision": (HEADS, {"softmax_precision": 1}, True),
    "a softmax in double precision": (HEADS, {"softmax_precision": 11}, False),
    "a cap of the scores": (HEADS, {"softcap": 2.0}, False),
}  # fmt: skip


@pytest.mark.parametrize("title", ATTENTIONS)
def test_attention_is_one_op_where_it_can_be(title: str):
    arrays, attributes, whole = ATTENTIONS[title]
    proto = single("Attention", arrays, 1, NEWEST, **attributes)
    assert ("scaled_dot_product_attention" in ops(proto)) == whole
    feeds = {name: array for name, array in arrays.items() if array is not None}
    (found,) = Model(proto, devices="auto").run(feeds)
    from onnx.reference import ReferenceEvaluator

    (expected,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_cache_is_given_back_and_scores_are_computed_by_parts():
    arrays = {**HEADS, "m": None, **PAST}
    proto = single("Attention", arrays, 3, NEWEST)
    feeds = {name: array for name, array in arrays.items() if array is not None}
    _, keys, values = Model(proto, devices="reference").run(feeds)
    np.testing.assert_array_equal(keys, np.concatenate([PAST["past_k"], HEADS["k"]], axis=2))
    np.testing.assert_array_equal(values, np.concatenate([PAST["past_v"], HEADS["v"]], axis=2))
    assert "scaled_dot_product_attention" not in ops(single("Attention", HEADS, 4, NEWEST))


def test_one_query_over_a_cache_of_any_length_is_one_op():
    """A step of decoding: what is causal hides nothing from the last query."""
    arrays = {"q": normal(1, 2, 1, 4), "k": normal(1, 2, 1, 4), "v": normal(1, 2, 1, 4), "m": None, "pk": normal(1, 2, 9, 4), "pv": normal(1, 2, 9, 4)}  # fmt: skip
    proto = single("Attention", arrays, 3, NEWEST, is_causal=1)
    past = oy.TensorSpec((1, 2, "past", 4))
    graph = load(proto, specs={"pk": past, "pv": past})
    assert "scaled_dot_product_attention" in [node.op.name for node in graph.nodes]
    assert [str(n) for n in graph.outputs["y1"].shape] == ["1", "2", "past + 1", "4"]


@pytest.mark.parametrize(
    ("arrays", "attributes", "message"),
    [
        ({**HEADS, "m": None, "pk": PAST["past_k"]}, {}, "past_key and past_value are given together"),
        (FLAT, {"q_num_heads": 3, "kv_num_heads": 2}, "a width of 20 is not that of 3 heads"),
        (HEADS, {"left_window_size": -2}, "a window of Attention is -1 or more; found -2 and -1"),
    ],
)
def test_attention_that_makes_no_sense(arrays: dict[str, Any], attributes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        load(single("Attention", arrays, 1, NEWEST, **attributes))
