"""Ops that reshape, join, cut, slice and rearrange: against NumPy, and what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops import joining as j
from opyard.ops import rearrange as r
from opyard.ops import shape as s
from opyard.ops.slicing import slice as slice_op
from opyard.spec import TensorSpec, as_dtype

BATCH = Dim.symbol("batch")
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
STRIDED = np.arange(48, dtype=np.int64).reshape(4, 6, 2)[::2, ::-2, 1].T  # [3, 2]


def run(function: Any, *arrays: Any, **attributes: Any) -> Any:
    call = function.op.call(*map(TensorSpec.of, arrays), **attributes)
    results = call.reference(*arrays)
    assert tuple(map(TensorSpec.of, results)) == call.outputs
    return results if call.is_tuple else results[0]


def shape_of(function: Any, *shapes: tuple[Any, ...], **attributes: Any) -> Any:
    outputs = function.op.call(*map(TensorSpec, shapes), **attributes).outputs
    return outputs[0].shape if len(outputs) == 1 else tuple(o.shape for o in outputs)


def refuses(text: str, function: Any, *shapes: tuple[Any, ...], **attributes: Any) -> None:
    with pytest.raises(SpecError) as caught:
        shape_of(function, *shapes, **attributes)
    assert text in str(caught.value)


def test_reshape() -> None:
    np.testing.assert_array_equal(run(s.reshape, X, shape=(4, -1)), X.reshape(4, 6))
    np.testing.assert_array_equal(run(s.reshape, STRIDED, shape=(6,)), STRIDED.ravel())
    assert run(s.reshape, np.float32(1), shape=()).shape == ()
    assert run(s.reshape, np.zeros((0, 3)), shape=(-1, 5)).shape == (0, 5)
    assert run(s.reshape, np.zeros((0, 3)), shape=(7, 0)).shape == (7, 0)
    assert shape_of(s.reshape, ("batch", 64), shape=(-1, 8, 8)) == (BATCH, 8, 8)
    assert shape_of(s.reshape, ("batch", 64), shape=(BATCH, 8, -1)) == (BATCH, 8, 8)
    assert shape_of(s.reshape, ("batch", 4), shape=(8, 2)) == (
        8,
        2,
    )  # whether it fits is known once it is bound


def test_reshape_refuses() -> None:
    refuses("float32[2, 3] has 6 elements, shape=(4,) has 4; write -1", s.reshape, (2, 3), shape=(4,))
    refuses("float32[2, 3] has 6 elements, which 4 does not divide", s.reshape, (2, 3), shape=(4, -1))
    refuses("has more than one -1", s.reshape, (2, 3), shape=(-1, -1))
    refuses("does not say what -1 is, because another size is 0", s.reshape, (0, 3), shape=(-1, 0))
    refuses("shape is a tuple of integers; found 6. Write (6,).", s.reshape, (2, 3), shape=6)
    refuses("shape[0] is at least -1; found -2", s.reshape, (2, 3), shape=(-2,))


def test_permutations() -> None:
    np.testing.assert_array_equal(run(s.permute_dims, X, axes=(2, 0, -2)), X.transpose(2, 0, 1))
    np.testing.assert_array_equal(run(s.matrix_transpose, X), X.swapaxes(1, 2))
    np.testing.assert_array_equal(
        run(s.moveaxis, X, source=(0, 1), destination=(-1, 0)), np.moveaxis(X, (0, 1), (-1, 0))
    )
    assert shape_of(s.permute_dims, ("batch", 3), axes=(1, 0)) == (3, BATCH)
    assert shape_of(s.moveaxis, ("batch", 3, 5), source=0, destination=-1) == (3, 5, BATCH)
    for source, destination in itertools.product(range(-3, 3), repeat=2):
        expected = np.moveaxis(X, source, destination)
        np.testing.assert_array_equal(run(s.moveaxis, X, source=source, destination=destination), expected)


def test_permutations_refuse() -> None:
    refuses("axes needs 3 entries; found 2 in (0, 1)", s.permute_dims, (2, 3, 4), axes=(0, 1))
    refuses(
        "axes=(0, -2) names an axis twice; every axis of float32[2, 3] is named once",
        s.permute_dims,
        (2, 3),
        axes=(0, -2),
    )
    refuses("an entry of axes=2 is out of range", s.permute_dims, (2, 3), axes=(0, 2))
    refuses("a matrix has at least two axes, the input is float32[3]", s.matrix_transpose, (3,))
    refuses(
        "source=(0, 1) and destination=0 name different numbers of axes",
        s.moveaxis,
        (2, 3),
        source=(0, 1),
        destination=0,
    )
    refuses(
        "source=(0, 0) or destination=(0, 1) names an axis twice",
        s.moveaxis,
        (2, 3),
        source=(0, 0),
        destination=(0, 1),
    )
    refuses("destination=5 is out of range", s.moveaxis, (2, 3), source=0, destination=5)


def test_new_and_dropped_axes() -> None:
    assert shape_of(s.expand_dims, (2, 3), axis=(0, -1)) == (1, 2, 3, 1)
    assert shape_of(s.expand_dims, (), axis=(0, 1)) == (1, 1)
    assert shape_of(s.squeeze, (1, "batch", 1), axis=(0, -1)) == (BATCH,)
    np.testing.assert_array_equal(run(s.squeeze, X[:, :1], axis=1), X[:, 0])
    np.testing.assert_array_equal(run(s.expand_dims, STRIDED, axis=1), STRIDED[:, None])
    refuses(
        "axis 0 of float32[2, 1] has size 2; only axes of size 1 can be dropped", s.squeeze, (2, 1), axis=0
    )
    refuses("has size batch; only axes of size 1", s.squeeze, ("batch", 1), axis=0)
    refuses("axis says which axes are dropped; found None", s.squeeze, (1,), axis=None)
    refuses("axis says where the new axes stand in the result; found None", s.expand_dims, (1,), axis=None)
    refuses("axis=3 is out of range for a tensor of rank 3", s.expand_dims, (2, 3), axis=3)


def test_broadcast_to() -> None:
    np.testing.assert_array_equal(
        run(s.broadcast_to, STRIDED, shape=(2, 3, 2)), np.broadcast_to(STRIDED, (2, 3, 2))
    )
    assert run(s.broadcast_to, np.ones((1, 3)), shape=(0, 3)).shape == (0, 3)
    assert shape_of(s.broadcast_to, (1, 3), shape=(BATCH, 3)) == (BATCH, 3)
    refuses("float32[3] does not broadcast to shape=(1,)", s.broadcast_to, (3,), shape=(1,))
    refuses("float32[2, 3] does not broadcast to shape=(3,)", s.broadcast_to, (2, 3), shape=(3,))
    refuses("do not broadcast: sizes 2 and 3 differ", s.broadcast_to, (2,), shape=(2, 3))


def test_flatten() -> None:
    for axis in range(-3, 4):
        first = int(np.prod(X.shape[: axis if axis >= 0 else axis + 3]))
        np.testing.assert_array_equal(run(s.flatten, X, axis=axis), X.reshape(first, -1))
    assert shape_of(s.flatten, ("batch", 3, 4)) == (BATCH, 12)
    refuses("axis=4 is out of range for a tensor of rank 3; use -3 to 3", s.flatten, (2, 3, 4), axis=4)
    refuses("axis is an integer; found None", s.flatten, (2, 3, 4), axis=None)


def test_concat() -> None:
    parts = [X, X[:, :1], X[:, :0]]
    np.testing.assert_array_equal(run(j.concat, *parts, axis=-2), np.concatenate(parts, axis=1))
    assert run(j.concat, np.ones(2, np.int8), np.ones(1, np.float16)).dtype == np.float16
    assert shape_of(j.concat, ("batch", 3), ("batch", 3)) == (2 * BATCH, 3)
    assert shape_of(j.concat, ("batch", 3), (4, 2), axis=1) == (4, 5)
    bfloat16 = as_dtype("bfloat16")
    assert run(j.concat, np.ones(2, bfloat16), np.ones(1, bfloat16)).dtype == bfloat16


def test_joins_refuse() -> None:
    refuses("concat needs at least one array", j.concat)
    refuses("stack needs at least one array", j.stack)
    refuses("concat joins arrays of one rank; found float32[2], float32[2, 3]", j.concat, (2,), (2, 3))
    refuses("arrays of rank 0 have none; use stack", j.concat, (), ())
    refuses(
        "concat along axis 0 needs equal sizes in all other axes; axis 1 has 3 and 4",
        j.concat,
        (2, 3),
        (2, 4),
    )
    refuses("axis=2 is out of range", j.concat, (2, 3), axis=2)
    refuses("stack joins arrays of one shape; found float32[2], float32[3]", j.stack, (2,), (3,))
    with pytest.raises(SpecError, match="have no common dtype"):
        j.stack.op.call(TensorSpec((2,), "bfloat16"), TensorSpec((2,), "float16"))


def test_stack() -> None:
    for axis in range(-4, 4):
        np.testing.assert_array_equal(run(j.stack, X, X + 1, axis=axis), np.stack([X, X + 1], axis=axis))
    assert run(j.stack, np.float32(1), np.float32(2)).tolist() == [1, 2]


def test_split() -> None:
    first, second = run(j.split, X, sections=2, axis=-1)
    np.testing.assert_array_equal(second, X[..., 2:])
    assert first.shape == (2, 3, 2)
    parts = run(j.split, X, sections=(1, 0, 2), axis=1)
    assert [p.shape[1] for p in parts] == [1, 0, 2]
    np.testing.assert_array_equal(parts[2], X[:, 1:])
    assert len(run(j.split, X, sections=1)) == 1
    assert shape_of(j.split, (2 * BATCH, 3), sections=2) == ((BATCH, 3), (BATCH, 3))
    assert shape_of(j.split, ("batch", 3), sections=(2, 1), axis=1) == ((BATCH, 2), (BATCH, 1))


def test_split_refuses() -> None:
    refuses(
        "axis 0 of float32[5] has 5 elements, which do not make 2 equal sections", j.split, (5,), sections=2
    )
    refuses("sections=(2, 2) add up to 4, axis 0 of float32[5] has 5", j.split, (5,), sections=(2, 2))
    refuses("sections is empty; name at least one size", j.split, (5,), sections=())
    refuses("sections is at least 1; found 0", j.split, (5,), sections=0)
    refuses("sections[1] is at least 0; found -1", j.split, (5,), sections=(6, -1))


def test_unstack() -> None:
    parts = run(j.unstack, X, axis=-2)
    assert len(parts) == 3
    np.testing.assert_array_equal(parts[1], X[:, 1])
    refuses("axis 0 of float32[batch] has size batch; unstack needs a number of parts", j.unstack, ("batch",))
    refuses("axis 1 of float32[2, 0] has size 0", j.unstack, (2, 0), axis=1)


LIMITS = (None, -7, -6, -5, -1, 0, 1, 4, 5, 9)


def test_forward_slices_are_those_of_python() -> None:
    for size, start, stop, step in itertools.product((0, 1, 5), LIMITS, LIMITS, (1, 2, 7)):
        x = np.arange(size)
        np.testing.assert_array_equal(
            run(slice_op, x, starts=(start,), stops=(stop,), steps=(step,)), x[start:stop:step]
        )


def test_backward_slices_clamp_as_onnx_says() -> None:
    for size, start, stop, step in itertools.product((1, 5), LIMITS, LIMITS, (-1, -2, -7)):
        x = np.arange(size)
        begin = size - 1 if start is None else min(max(start + size if start < 0 else start, 0), size - 1)
        end = -1 if stop is None else min(max(stop + size if stop < 0 else stop, -1), size - 1)
        expected = list(range(begin, end, step))
        assert run(slice_op, x, starts=(start,), stops=(stop,), steps=(step,)).tolist() == expected
    assert run(slice_op, np.zeros(0), starts=(-1,), stops=(-9,), steps=(-1,)).shape == (0,)


def test_slices_of_several_axes() -> None:
    found = run(slice_op, X, starts=(2, 0), stops=(0, 1), axes=(-1, 0), steps=(-1, 1))
    np.testing.assert_array_equal(found, X[:1, :, 2:0:-1])
    assert run(slice_op, np.float32(3), starts=(), stops=()) == 3


def test_slices_of_symbolic_axes() -> None:
    def size(start: Any, stop: Any, step: int = 1) -> Any:
        return shape_of(slice_op, ("batch",), starts=(start,), stops=(stop,), steps=(step,))[0]

    assert size(1, None) == size(1, 2**31 - 1) == size(1, 2**63 - 1) == BATCH - 1
    assert size(None, -2) == size(-(2**31), -2) == BATCH - 2
    assert size(-3, None) == 3
    assert size(0, None, 2) == (BATCH + 1) // 2
    assert size(None, None, -1) == size(-1, -(2**31), -1) == size(2**31, None, -1) == BATCH
    assert size(-1, 0, -1) == BATCH - 1
    assert shape_of(slice_op, ("batch", 5), starts=(1,), stops=(3,), axes=(1,)) == (BATCH, 2)
    refuses(
        "whether the symbolic size batch reaches stops=5 is not known before it is bound",
        slice_op,
        ("batch",),
        starts=(0,),
        stops=(5,),
    )
    refuses("reaches starts=5 is not known", slice_op, ("batch",), starts=(5,), stops=(0,), steps=(-1,))


def test_slice_refuses() -> None:
    refuses("an entry of steps is 0", slice_op, (5,), starts=(0,), stops=(1,), steps=(0,))
    refuses("starts is a tuple; found 0. Write (0,).", slice_op, (5,), starts=0, stops=(1,))
    refuses(
        "starts=(0,) has 1 entries, stops=(1, 2) has 2; give one per sliced axis",
        slice_op,
        (5, 5),
        starts=(0,),
        stops=(1, 2),
    )
    refuses("axes=(0, -2) names an axis twice", slice_op, (5, 5), starts=(0, 0), stops=(1, 1), axes=(0, -2))
    refuses("an entry of axes=1 is out of range", slice_op, (5,), starts=(0, 0), stops=(1, 1))
    refuses("an entry of starts is an integer; found 'a'", slice_op, (5,), starts=("a",), stops=(1,))
    refuses(
        "an entry of steps is an integer; found None", slice_op, (5,), starts=(0,), stops=(1,), steps=(None,)
    )


def test_flip_and_roll() -> None:
    np.testing.assert_array_equal(run(r.flip, X), np.flip(X))
    np.testing.assert_array_equal(run(r.flip, X, axis=(0, -1)), np.flip(X, (0, 2)))
    np.testing.assert_array_equal(run(r.roll, X, shift=-5), np.roll(X, -5))
    np.testing.assert_array_equal(
        run(r.roll, STRIDED, shift=(1, 3), axis=(0, 1)), np.roll(STRIDED, (1, 3), (0, 1))
    )
    refuses("axis=3 is out of range", r.flip, (2, 3), axis=3)
    refuses("shift=(1, 2) has 2 entries, but axis is left out", r.roll, (2, 3), shift=(1, 2))
    refuses("shift=(1, 2) and axis=0 have different lengths", r.roll, (2, 3), shift=(1, 2), axis=0)
    refuses("shift[0] is an integer; found 0.5", r.roll, (2, 3), shift=0.5)


def test_tile_and_repeat() -> None:
    for repetitions in ((), (2,), (2, 3), (1, 2, 1), (2, 1, 1, 3), (0, 1, 1)):
        np.testing.assert_array_equal(run(r.tile, X, repetitions=repetitions), np.tile(X, repetitions))
    np.testing.assert_array_equal(run(r.repeat, X, repeats=2, axis=-2), np.repeat(X, 2, 1))
    np.testing.assert_array_equal(run(r.repeat, STRIDED, repeats=3), np.repeat(STRIDED, 3))
    assert shape_of(r.tile, ("batch", 3), repetitions=(2, 1)) == (2 * BATCH, 3)
    assert shape_of(r.repeat, ("batch", 3), repeats=2) == (6 * BATCH,)
    refuses("repetitions[0] is at least 0; found -1", r.tile, (3,), repetitions=(-1,))
    refuses("repetitions is a tuple of integers; found 2. Write (2,).", r.tile, (3,), repetitions=2)
    refuses("repeats is at least 0; found -1", r.repeat, (3,), repeats=-1)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pad_modes(mode: str) -> None:
    pads = ((1, 0), (2, 2), (0, 3))
    np.testing.assert_array_equal(run(r.pad, X, pads=pads, mode=mode), np.pad(X, pads, mode))  # type: ignore[call-overload]


def test_pad() -> None:
    np.testing.assert_array_equal(run(r.pad, np.array([1, 2]), pads=((1, 2),), value=7), [7, 1, 2, 7, 7])
    np.testing.assert_array_equal(
        run(r.pad, np.array([True]), pads=((1, 1),), value=False), [False, True, False]
    )
    assert run(r.pad, np.zeros((0,)), pads=((2, 1),), value=1).tolist() == [1, 1, 1]
    assert run(r.pad, np.float32(3), pads=()) == 3
    assert shape_of(r.pad, ("batch", 3), pads=((1, 2), (0, 0)), mode="reflect") == (BATCH + 3, 3)


def test_pad_refuses() -> None:
    refuses(
        "mode is one of 'constant', 'edge', 'reflect', 'wrap'; found 'reflct'. Did you mean reflect?",
        r.pad,
        (3,),
        pads=((1, 1),),
        mode="reflct",
    )
    refuses(
        "pads has one pair (before, after) for each of the 2 axes; found ((1, 1),)",
        r.pad,
        (3, 3),
        pads=((1, 1),),
    )
    refuses("pads[0][1] is at least 0; found -1", r.pad, (3,), pads=((1, -1),))
    refuses("pads[0] needs 2 entries; found 1 in (1,)", r.pad, (3,), pads=((1,),))
    refuses("an axis of 3 elements gives at most 2 on each side", r.pad, (3,), pads=((3, 0),), mode="reflect")
    refuses("an axis of 3 elements gives at most 3 on each side", r.pad, (3,), pads=((0, 4),), mode="wrap")
    refuses(
        "pads=(1, 0) of axis 0 with mode='edge': an axis of 0 elements gives at most 0",
        r.pad,
        (0,),
        pads=((1, 0),),
        mode="edge",
    )
    with pytest.raises(SpecError, match=r"value=0\.5 is no value of dtype int32"):
        r.pad.op.call(TensorSpec((3,), "int32"), pads=((1, 1),), value=0.5)


def test_depth_to_space_examples_of_onnx() -> None:
    x = np.arange(8 * 6, dtype=np.float32).reshape(1, 8, 2, 3)
    found = run(r.depth_to_space, x, block_size=2)
    assert found[0, 0, 0].tolist() == [0, 12, 1, 13, 2, 14]
    assert found[0, 0, 1].tolist() == [24, 36, 25, 37, 26, 38]
    np.testing.assert_array_equal(run(r.space_to_depth, found, block_size=2), x)
    found = run(r.depth_to_space, x, block_size=2, mode="CRD")
    assert found[0, 0, 0].tolist() == [0, 6, 1, 7, 2, 8]
    assert found[0, 1, 1].tolist() == [36, 42, 37, 43, 38, 44]


def test_depth_and_space_refuse() -> None:
    refuses(
        "the input is [batch, channels, height, width], it is float32[4, 4]",
        r.depth_to_space,
        (4, 4),
        block_size=2,
    )
    refuses(
        "the number of channels, 6, is no multiple of 4, as block_size demands",
        r.depth_to_space,
        (1, 6, 2, 2),
        block_size=2,
    )
    refuses("the height, 3, is no multiple of 2", r.space_to_depth, (1, 1, 3, 4), block_size=2)
    refuses("the width, 5, is no multiple of 2", r.space_to_depth, (1, 1, 4, 5), block_size=2)
    refuses("block_size is at least 1; found 0", r.space_to_depth, (1, 1, 4, 4), block_size=0)
    refuses(
        "mode is one of 'DCR', 'CRD'; found 'dcr'", r.depth_to_space, (1, 4, 2, 2), block_size=2, mode="dcr"
    )
    assert shape_of(r.space_to_depth, ("batch", 3, 4, 4), block_size=2) == (BATCH, 12, 2, 2)


def test_moving_costs_no_arithmetic() -> None:
    assert s.permute_dims.op.call(TensorSpec((4, 8)), axes=(1, 0)).cost == (0.0, 256.0)


def test_a_slice_reads_what_it_takes() -> None:
    assert slice_op.op.call(TensorSpec((100, 8)), starts=(0,), stops=(2,)).cost == (0.0, 2 * 2 * 8 * 4)
