"""Convolutions against loops over every tap, scipy, and each other's adjoint."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.signal import correlate

from opyard.errors import SpecError
from opyard.ops.convolution import conv, conv_transpose
from opyard.spec import TensorSpec

GENERATOR = np.random.default_rng(11)


def run(op: Any, *arrays: Any, **attributes: Any) -> Any:
    call = op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    return result


def draw(*shape: int, dtype: str = "float64") -> Any:
    return GENERATOR.uniform(-2, 2, shape).astype(dtype)


def taps(x: Any, weight: Any, groups: int) -> Any:
    """All (input channel, output channel, kernel index) of a convolution weight [o, c / groups, *kernel]."""
    out_per_group, in_per_group = weight.shape[0] // groups, weight.shape[1]
    for o in range(weight.shape[0]):
        for c in range(in_per_group):
            for k in np.ndindex(*weight.shape[2:]):
                yield o // out_per_group * in_per_group + c, o, (o, c, *k), k


def conv_by_loops(x: Any, weight: Any, strides: Any, pairs: Any, dilations: Any, groups: int) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), *pairs))
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(padded.shape[2:], weight.shape[2:], dilations, strides, strict=True)
    ]
    result = np.zeros((x.shape[0], weight.shape[0], *sizes))
    for channel, o, at, k in taps(x, weight, groups):
        for place in np.ndindex(*sizes):
            source = tuple(p * s + i * d for p, s, i, d in zip(place, strides, k, dilations, strict=True))
            result[(slice(None), o, *place)] += padded[(slice(None), channel, *source)] * weight[at]
    return result


@pytest.mark.parametrize(
    ("x", "weight", "attributes", "pairs"),
    [
        ((2, 3, 7), (4, 3, 3), {"strides": 2, "padding": 1}, ((1, 1),)),
        (
            (1, 4, 6, 5),
            (6, 2, 3, 2),
            {"strides": (2, 1), "padding": (1, 2), "dilations": (2, 1), "groups": 2},
            ((1, 1), (2, 2)),
        ),
        ((1, 3, 5, 5), (3, 1, 3, 3), {"padding": ((0, 2), (1, 0)), "groups": 3}, ((0, 2), (1, 0))),
        ((1, 2, 4, 3, 5), (2, 2, 2, 3, 2), {"strides": (1, 1, 2), "padding": "valid"}, ((0, 0),) * 3),
    ],
)
def test_conv_by_loops(x: Any, weight: Any, attributes: Any, pairs: Any) -> None:
    rank = len(x) - 2

    def each(name: str) -> Any:
        value = attributes.get(name, 1)
        return value if isinstance(value, tuple) else (value,) * rank

    data, kernel = draw(*x), draw(*weight)
    expected = conv_by_loops(
        data, kernel, each("strides"), pairs, each("dilations"), attributes.get("groups", 1)
    )
    np.testing.assert_allclose(run(conv, data, kernel, **attributes), expected, atol=1e-12)


def test_conv_by_scipy_with_bias() -> None:
    x, weight, bias = draw(1, 2, 6, 7), draw(3, 2, 3, 2), draw(3)
    expected = [sum(correlate(x[0, c], weight[o, c], "valid") for c in range(2)) + bias[o] for o in range(3)]
    np.testing.assert_allclose(run(conv, x, weight, bias)[0], expected)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), list(product((5, 6), (1, 2, 3), (1, 2, 4), (1, 2)))
)
def test_conv_same_padding(size: int, kernel: int, stride: int, dilation: int) -> None:
    x, weight = draw(1, 1, size), draw(1, 1, kernel)
    count = -(-size // stride)
    total = max(0, (count - 1) * stride + (kernel - 1) * dilation + 1 - size)
    for padding, pair in (
        ("same_upper", (total // 2, total - total // 2)),
        ("same_lower", (total - total // 2, total // 2)),
    ):
        found = run(conv, x, weight, strides=stride, dilations=dilation, padding=padding)
        assert found.shape == (1, 1, count)
        np.testing.assert_allclose(
            found, conv_by_loops(x, weight, (stride,), (pair,), (dilation,), 1)[..., :count], atol=1e-12
        )


def test_conv_of_other_memory_order() -> None:
    x = draw(5, 6, 3, 2).T[:, :, ::-1]
    weight = draw(3, 3, 3, 4).T
    np.testing.assert_allclose(run(conv, x, weight), run(conv, x.copy(), weight.copy()))


def test_conv_sums_float16_in_float32() -> None:
    found = run(conv, np.ones((1, 4099, 1), np.float16), np.ones((1, 4099, 1), np.float16))
    assert found.dtype == np.float16
    assert found[0, 0, 0] == np.float16(4099)


def test_conv_of_nothing() -> None:
    assert run(conv, draw(0, 3, 5), draw(2, 3, 3)).shape == (0, 2, 3)
    assert run(conv, draw(1, 3, 5), draw(0, 3, 3)).shape == (1, 0, 3)
    np.testing.assert_array_equal(
        run(conv, draw(1, 0, 5), draw(2, 0, 3), np.array([1.0, 2.0])), [[[1.0] * 3, [2.0] * 3]]
    )


def test_conv_with_symbolic_sizes() -> None:
    call = conv.op.call(TensorSpec(("batch", 3, "height", 8)), TensorSpec((4, 3, 3, 3)), padding=1)
    assert call.output == TensorSpec(("batch", 4, "height", 8))
    strided = conv.op.call(
        TensorSpec(("batch", 3, "height", 8)), TensorSpec((4, 3, 3, 3)), padding="same_upper", strides=2
    )
    assert strided.output.bind({"batch": 2, "height": 7}) == TensorSpec((2, 4, 4, 4))


def test_costs() -> None:
    call = conv.op.call(TensorSpec((2, 4, 8, 8)), TensorSpec((6, 2, 3, 3)), groups=2)
    assert call.cost.flops == 2 * (2 * 6 * 6 * 6) * (2 * 9)
    transposed = conv_transpose.op.call(TensorSpec((2, 4, 8, 8)), TensorSpec((4, 3, 3, 3)), TensorSpec((3,)))
    assert transposed.cost.flops == 2 * (2 * 4 * 64) * (3 * 9) + 2 * 3 * 100


def transpose_by_loops(x: Any, weight: Any, strides: Any, dilations: Any, groups: int, room: Any) -> Any:
    """The definition: every element of x adds its multiple of the kernel to a buffer of size ``room``."""
    in_per_group, out_per_group = x.shape[1] // groups, weight.shape[1]
    result = np.zeros((x.shape[0], out_per_group * groups, *room))
    for c, o in product(range(x.shape[1]), range(out_per_group)):
        channel = c // in_per_group * out_per_group + o
        for place, k in product(np.ndindex(*x.shape[2:]), np.ndindex(*weight.shape[2:])):
            target = tuple(p * s + i * d for p, s, i, d in zip(place, strides, k, dilations, strict=True))
            result[(slice(None), channel, *target)] += x[(slice(None), c, *place)] * weight[(c, o, *k)]
    return result


@pytest.mark.parametrize(
    ("x", "weight", "groups", "strides", "dilations", "pairs", "extra"),
    [
        ((2, 3, 4), (3, 2, 3), 1, (2,), (1,), ((1, 1),), (1,)),
        ((1, 4, 3, 4), (4, 3, 3, 2), 2, (2, 1), (1, 3), ((1, 0), (2, 1)), (1, 2)),
        ((1, 2, 3, 2, 2), (2, 1, 2, 2, 1), 2, (1, 2, 3), (1, 1, 1), ((0, 0),) * 3, (0, 1, 2)),
    ],
)
def test_conv_transpose_by_loops(
    x: Any, weight: Any, groups: int, strides: Any, dilations: Any, pairs: Any, extra: Any
) -> None:
    data, kernel = draw(*x), draw(*weight)
    full = [
        (n - 1) * s + (k - 1) * d + 1 + p
        for n, s, k, d, p in zip(x[2:], strides, weight[2:], dilations, extra, strict=True)
    ]
    expected = transpose_by_loops(data, kernel, strides, dilations, groups, full)
    cut = tuple(slice(before, n - after) for n, (before, after) in zip(full, pairs, strict=True))
    found = run(
        conv_transpose,
        data,
        kernel,
        strides=strides,
        padding=pairs,
        output_padding=extra,
        dilations=dilations,
        groups=groups,
    )
    np.testing.assert_allclose(found, expected[(slice(None), slice(None), *cut)], atol=1e-12)


def test_conv_transpose_is_the_adjoint_of_conv() -> None:
    x, y, weight = draw(2, 4, 9, 8), draw(2, 6, 5, 4), draw(6, 2, 3, 2)
    attributes: Any = {"strides": 2, "padding": ((1, 1), (0, 0)), "groups": 2}
    forward = run(conv, x, weight, **attributes)
    assert forward.shape == y.shape
    back = run(conv_transpose, y, weight, **attributes)
    assert back.shape == x.shape
    assert np.vdot(forward, y) == pytest.approx(np.vdot(x, back))


@pytest.mark.parametrize(("kernel", "stride"), list(product((1, 2, 3, 4), (1, 2, 3))))
def test_conv_transpose_same_padding(kernel: int, stride: int) -> None:
    x, weight = draw(1, 1, 4), draw(1, 1, kernel)
    total = max(0, kernel - stride)
    full = transpose_by_loops(x, weight, (stride,), (1,), 1, (4 * stride + kernel,))
    for padding, before in (("same_upper", total // 2), ("same_lower", total - total // 2)):
        found = run(conv_transpose, x, weight, strides=stride, padding=padding)
        np.testing.assert_allclose(found, full[..., before : before + 4 * stride])


def test_conv_transpose_with_bias_where_nothing_reaches() -> None:
    found = run(
        conv_transpose, np.ones((1, 1, 2)), np.ones((1, 1, 1)), np.array([5.0]), strides=3, output_padding=2
    )
    np.testing.assert_array_equal(found, [[[6, 5, 5, 6, 5, 5]]])
    assert run(conv_transpose, draw(0, 3, 5), draw(3, 2, 3)).shape == (0, 2, 7)


def test_conv_transpose_with_symbolic_sizes() -> None:
    call = conv_transpose.op.call(
        TensorSpec(("batch", 3, "width")), TensorSpec((3, 4, 4)), strides=2, padding=1
    )
    assert call.output.bind({"batch": 2, "width": 5}) == TensorSpec((2, 4, 10))


IMAGE, KERNEL = TensorSpec((1, 4, 8, 8)), TensorSpec((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("specs", "attributes", "text"),
    [
        (
            (TensorSpec((4, 8)), KERNEL),
            {},
            r"the input is \[batch, channels, \*spatial\] with 1 to 3 spatial axes.*expand_dims",
        ),
        ((TensorSpec((1, 4, 8, 8), "int32"), KERNEL), {}, r"x must be real floating.*cast it first"),
        ((IMAGE, TensorSpec((6, 4, 3, 3), "int32")), {}, r"weight must be real floating"),
        ((IMAGE, TensorSpec((6, 4, 3))), {}, r"weight needs the rank of x, 4"),
        (
            (IMAGE, TensorSpec((6, 4, 0, 3))),
            {},
            r"the kernel's size in weight is an integer or 2 integers, each at least 1; found \(0, 3\)",
        ),
        (
            (IMAGE, TensorSpec((6, 3, 3, 3))),
            {},
            r"in / groups = 4, it is float32\[6, 3, 3, 3\]; x has 4 channels and groups=1",
        ),
        (
            (IMAGE, KERNEL),
            {"groups": 3},
            r"groups=3 does not divide the 4 input channels; use one of their divisors",
        ),
        ((IMAGE, TensorSpec((5, 2, 3, 3))), {"groups": 2}, r"groups=2 does not divide the 5 output channels"),
        ((IMAGE, KERNEL), {"groups": 0}, r"groups is at least 1; found 0"),
        (
            (IMAGE, KERNEL, TensorSpec((5,))),
            {},
            r"bias is \[6\], one number for each output channel; it is float32\[5\]",
        ),
        ((IMAGE, KERNEL, TensorSpec((6,), "int8")), {}, r"bias must be real floating"),
        ((IMAGE, KERNEL), {"strides": 0}, r"strides is an integer or 2 integers, each at least 1; found 0"),
        (
            (IMAGE, KERNEL),
            {"strides": (1, 2, 3)},
            r"strides is an integer or 2 integers, each at least 1; found \(1, 2, 3\)",
        ),
        (
            (IMAGE, KERNEL),
            {"dilations": 1.5},
            r"dilations is an integer or 2 integers, each at least 1; found 1.5",
        ),
        (
            (IMAGE, KERNEL),
            {"padding": "same"},
            r"padding is an integer, 2 integers, 2 pairs.*'same_lower'; found 'same'",
        ),
        ((IMAGE, KERNEL), {"padding": -1}, r"all at least 0.*found -1"),
        ((IMAGE, KERNEL), {"padding": ((1, 1, 1), (0, 0))}, r"2 pairs \(before, after\)"),
        (
            (IMAGE, KERNEL),
            {"dilations": 5},
            r"the window spans 11 elements along spatial axis 0, which has 8 and 0 of padding; pad more",
        ),
    ],
)
def test_conv_errors(specs: Any, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        conv.op.call(*specs, **attributes)


@pytest.mark.parametrize(
    ("specs", "attributes", "text"),
    [
        (
            (IMAGE, TensorSpec((6, 4, 3, 3))),
            {},
            r"weight is \[in, out / groups, \*kernel\] with in = 4, the channels of x",
        ),
        ((IMAGE, TensorSpec((4, 6, 3, 3))), {"groups": 3}, r"groups=3 does not divide the 4 input channels"),
        (
            (IMAGE, TensorSpec((4, 6, 3, 3)), TensorSpec((4,))),
            {},
            r"bias is \[6\], one number for each output channel",
        ),
        (
            (IMAGE, TensorSpec((4, 6, 3, 3))),
            {"output_padding": 1},
            r"output_padding is below the stride or the dilation.*found 1 with stride 1",
        ),
        (
            (IMAGE, TensorSpec((4, 6, 3, 3))),
            {"output_padding": -1},
            r"output_padding is an integer or 2 integers, each at least 0",
        ),
        (
            (IMAGE, TensorSpec((4, 6, 3, 3))),
            {"padding": 9},
            r"padding=9 cuts off more than there is: spatial axis 0 would have size -8; pad less",
        ),
    ],
)
def test_conv_transpose_errors(specs: Any, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        conv_transpose.op.call(*specs, **attributes)


@pytest.mark.parametrize(
    ("padding", "dtype", "expected"),
    [
        (0, "float32", [False, False, False]),
        (1, "float32", [False, True, True]),
        (((0, 0), (0, 1)), "float64", [False, True, True]),
        ("valid", "float32", [False, False, False]),
    ],
)
def test_what_strange_weights_make_of_padding_is_unspecified(
    padding: Any, dtype: str, expected: list[bool]
) -> None:
    x, weight = np.ones((2, 2, 5, 5), dtype), np.ones((3, 2, 3, 3), dtype)
    weight[1, 0, 0, 0], weight[2, 1, 2, 2] = np.nan, np.inf
    attributes = {"padding": padding, "strides": 1, "dilations": 1, "groups": 1}
    found = conv.op.unspecified(x, weight, None, **attributes)
    assert found.shape == (1, 3, 1, 1)
    assert found.reshape(-1).tolist() == expected
