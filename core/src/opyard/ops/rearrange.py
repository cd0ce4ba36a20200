"""Reordering, repeating and padding of elements.

Source of names and meaning: Python array API standard 2024.12; pad: NumPy; depth_to_space, space_to_depth: ONNX.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axes, normalize_axis
from ..opfunction import op
from ..spec import TensorSpec
from ._attributes import replaced, require_choice, require_integer, require_integers, require_value
from .arithmetic import BITWISE, Array
from .shape import moves, permute_dims, reshape

__all__ = ["depth_to_space", "flip", "pad", "repeat", "roll", "space_to_depth", "tile"]


def _infer_flip(x: TensorSpec, *, axis: Any = None) -> TensorSpec:
    normalize_axes(axis, x.ndim)
    return x


def _flip_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case((3, 4), axis=0),
            case((2, 3, 5), axis=(0, -1)),
            case(()),
            case((0, 3)),
            case((17, 33), axis=1),
        ),
        *(case(Draw((4, 3), "int8"), axis=-1), case(Draw((4, 3), "bfloat16"), axis=())),
    ]


@op("flip", infer=_infer_flip, cost=moves, cases=_flip_cases, tolerance=BITWISE)
def flip(x: Array, *, axis: int | tuple[int, ...] | None = None) -> Array:
    """Reverses the order along the axes named, or along all."""
    return np.flip(x, axis)


def _infer_roll(x: TensorSpec, *, shift: Any, axis: Any = None) -> TensorSpec:
    shifts = require_integers(shift if isinstance(shift, tuple) else (shift,), "shift")
    if axis is None:
        if len(shifts) != 1:
            raise SpecError(
                f"shift={shift} has {len(shifts)} entries, but axis is left out; name one axis for each."
            )
        return x
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        normalize_axis(a, x.ndim)
    if isinstance(shift, tuple) and len(shifts) != len(axes):
        raise SpecError(
            f"shift={shift} and axis={axis} have different lengths; name one axis for each shift."
        )
    return x


def _roll_cases() -> list[Case]:
    return [
        *(
            case((5,), shift=2),
            case((3, 4), shift=-1),
            case((3, 4), shift=5, axis=-1),
            case((3, 4), shift=(1, -2), axis=(0, 1)),
        ),
        *(
            case((), shift=3),
            case((0, 3), shift=1, axis=0),
            case((17, 33), shift=40, axis=1),
            case((3, 4), shift=1, axis=(0, 1)),
        ),
        *(case(Draw((4, 3), "int64"), shift=1, axis=0), case(Draw((4, 3), "float16"), shift=1, axis=1)),
    ]


@op("roll", infer=_infer_roll, cost=moves, cases=_roll_cases, tolerance=BITWISE)
def roll(x: Array, *, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None = None) -> Array:
    """Moves elements ``shift`` places to the back along ``axis``, cyclically; without ``axis`` in the flattened tensor."""
    return np.roll(x, shift, axis)


def _infer_tile(x: TensorSpec, *, repetitions: Any) -> TensorSpec:
    counts = require_integers(repetitions, "repetitions", 0)
    rank = max(x.ndim, len(counts))
    sizes = (1,) * (rank - x.ndim) + x.shape
    counts = (1,) * (rank - len(counts)) + counts
    return x.with_shape(n * count for n, count in zip(sizes, counts, strict=True))


def _tile_cases() -> list[Case]:
    return [
        *(
            case((3, 4), repetitions=(2, 3)),
            case((3, 4), repetitions=(2,)),
            case((3,), repetitions=(2, 1, 3)),
            case((), repetitions=(2,)),
        ),
        *(
            case((), repetitions=()),
            case((2, 3), repetitions=(0, 1)),
            case((0, 3), repetitions=(2, 2)),
            case((17, 9), repetitions=(3, 5)),
        ),
        *(case(Draw((4,), "int32"), repetitions=(2,)), case(Draw((4, 3), "bfloat16"), repetitions=(1, 2))),
    ]


@op("tile", infer=_infer_tile, cost=moves, cases=_tile_cases, tolerance=BITWISE)
def tile(x: Array, *, repetitions: tuple[int, ...]) -> Array:
    """The whole tensor, so many times along each axis. ``[m, k] -> [2*m, 3*k]`` with ``repetitions=(2, 3)``.

    The shorter of shape and ``repetitions`` is filled up with ones at the front.
    """
    return np.tile(x, repetitions)


def _infer_repeat(x: TensorSpec, *, repeats: Any, axis: Any = None) -> TensorSpec:
    count = require_integer(repeats, "repeats", 0)
    if axis is None:
        return x.with_shape((x.size * count,))
    place = normalize_axis(axis, x.ndim)
    return x.with_shape(replaced(x.shape, place, x.shape[place] * count))


def _repeat_cases() -> list[Case]:
    return [
        *(
            case((3, 4), repeats=2),
            case((3, 4), repeats=3, axis=0),
            case((2, 3, 5), repeats=2, axis=-1),
            case((), repeats=3),
        ),
        *(case((3, 4), repeats=0, axis=1), case((0, 3), repeats=2, axis=0), case((17, 9), repeats=5, axis=1)),
        *(case(Draw((4,), "int32"), repeats=2), case(Draw((4, 3), "float16"), repeats=2, axis=0)),
    ]


@op("repeat", infer=_infer_repeat, cost=moves, cases=_repeat_cases, tolerance=BITWISE)
def repeat(x: Array, *, repeats: int, axis: int | None = None) -> Array:
    """Each element so many times along ``axis``, or, without ``axis``, in the flattened tensor."""
    return np.repeat(x, repeats, axis)


def _infer_pad(x: TensorSpec, *, pads: Any, mode: Any = "constant", value: Any = 0.0) -> TensorSpec:
    require_choice(mode, "mode", ("constant", "edge", "reflect", "wrap"))
    require_value(value, x.dtype)
    if not isinstance(pads, tuple) or len(pads) != x.ndim:
        raise SpecError(f"pads has one pair (before, after) for each of the {x.ndim} axes; found {pads!r}.")
    pairs = [require_integers(pair, f"pads[{i}]", 0, length=2) for i, pair in enumerate(pads)]
    for i, (size, pair) in enumerate(zip(x.shape, pairs, strict=True)):
        _require_source(size, i, pair, mode)
    return x.with_shape(size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True))


def _require_source(size: int | Dim, axis: int, pair: tuple[int, ...], mode: str) -> None:
    """Raises SpecError where the axis has too few elements to take the padding from."""
    if isinstance(size, Dim) or mode == "constant" or not max(pair):
        return
    limit = {"edge": math.inf if size else 0, "reflect": max(size - 1, 0), "wrap": size}[mode]
    if max(pair) > limit:
        raise SpecError(
            f"pads={pair} of axis {axis} with mode={mode!r}: an axis of {size} elements gives at most {limit:g} on each side."
        )


def _pad_cases() -> list[Case]:
    return [
        *(
            case((3, 4), pads=((1, 2), (0, 3))),
            case((5,), pads=((2, 1),), value=1.5),
            case((), pads=()),
            case((0, 2), pads=((1, 1), (0, 0))),
        ),
        *(
            case((3, 4), pads=((1, 2), (0, 5)), mode="edge"),
            case((3, 4), pads=((2, 1), (3, 0)), mode="reflect"),
        ),
        *(case((3, 4), pads=((3, 1), (0, 4)), mode="wrap"), case((0, 4), pads=((0, 0), (1, 1)), mode="wrap")),
        *(case((1, 4), pads=((0, 0), (1, 1)), mode="reflect"), case((17, 33), pads=((1, 1), (2, 2)))),
        case(Draw((4, 3), "int32"), pads=((1, 0), (0, 1)), value=-7),
        case(Draw((4, 3), "bool"), pads=((1, 0), (0, 1)), value=True),
        case(Draw((4, 3), "bfloat16"), pads=((1, 0), (0, 1)), mode="edge"),
    ]


@op("pad", infer=_infer_pad, cost=moves, cases=_pad_cases, tolerance=BITWISE)
def pad(
    x: Array, *, pads: tuple[tuple[int, int], ...], mode: str = "constant", value: complex = 0.0
) -> Array:
    """Adds ``(before, after)`` elements on each axis; ``[m, k] -> [before + m + after, ...]``. Source: NumPy ``pad``.

    ``mode``: "constant" (``value``), "edge" (repeats the outermost element), "reflect" (mirrors without repeating it: at
    most size - 1 elements), "wrap" (goes on at the other side: at most size elements).
    """
    if not pads:
        return np.array(x)  # NumPy's pad takes no tensor of rank 0
    if mode == "constant":
        return np.pad(x, pads, constant_values=np.asarray(value).astype(x.dtype))
    return np.pad(x, pads, mode)  # type: ignore[call-overload]


def _image(x: TensorSpec) -> Any:
    if x.ndim != 4:
        raise SpecError(f"the input is [batch, channels, height, width], it is {x!r}.")
    return x.shape


def _divided(size: int | Dim, divisor: int, what: str) -> int | Dim:
    if not isinstance(size, Dim) and size % divisor:
        raise SpecError(f"the {what}, {size}, is no multiple of {divisor}, as block_size demands.")
    return size // divisor


def _infer_depth_to_space(x: TensorSpec, *, block_size: Any, mode: Any = "DCR") -> TensorSpec:
    require_choice(mode, "mode", ("DCR", "CRD"))
    block = require_integer(block_size, "block_size", 1)
    batch, channels, height, width = _image(x)
    depth = _divided(channels, block * block, "number of channels")
    return x.with_shape((batch, depth, height * block, width * block))


def _infer_space_to_depth(x: TensorSpec, *, block_size: Any) -> TensorSpec:
    block = require_integer(block_size, "block_size", 1)
    batch, channels, height, width = _image(x)
    return x.with_shape(
        (batch, channels * block * block, _divided(height, block, "height"), _divided(width, block, "width"))
    )


def _decompose_depth_to_space(x: Array, *, block_size: int, mode: str = "DCR") -> Array:
    batch, channels, height, width = x.shape
    depth = channels // (block_size * block_size)
    if mode == "DCR":
        blocks = reshape(x, shape=(batch, block_size, block_size, depth, height, width))
        blocks = permute_dims(blocks, axes=(0, 3, 4, 1, 5, 2))
    else:
        blocks = reshape(x, shape=(batch, depth, block_size, block_size, height, width))
        blocks = permute_dims(blocks, axes=(0, 1, 4, 2, 5, 3))
    return reshape(blocks, shape=(batch, depth, height * block_size, width * block_size))


def _decompose_space_to_depth(x: Array, *, block_size: int) -> Array:
    batch, channels, height, width = x.shape
    rows, columns = height // block_size, width // block_size
    blocks = reshape(x, shape=(batch, channels, rows, block_size, columns, block_size))
    blocks = permute_dims(blocks, axes=(0, 3, 5, 1, 2, 4))
    return reshape(blocks, shape=(batch, channels * block_size * block_size, rows, columns))


def _depth_cases() -> list[Case]:
    return [
        *(
            case((1, 8, 2, 3), block_size=2),
            case((2, 8, 2, 3), block_size=2, mode="CRD"),
            case((1, 9, 1, 1), block_size=3),
        ),
        *(
            case((1, 3, 2, 2), block_size=1),
            case((0, 4, 2, 2), block_size=2),
            case(Draw((1, 4, 2, 3), "uint8"), block_size=2),
        ),
        case(Draw((1, 4, 2, 3), "bfloat16"), block_size=2, mode="CRD"),
    ]


def _space_cases() -> list[Case]:
    return [
        *(
            case((1, 2, 4, 6), block_size=2),
            case((2, 1, 3, 9), block_size=3),
            case((1, 3, 2, 2), block_size=1),
        ),
        *(case((0, 4, 2, 2), block_size=2), case(Draw((1, 4, 2, 6), "uint8"), block_size=2)),
        case(Draw((1, 4, 2, 6), "float16"), block_size=2),
    ]


@op(
    "depth_to_space",
    infer=_infer_depth_to_space,
    cost=moves,
    decompose=_decompose_depth_to_space,
    cases=_depth_cases,
    tolerance=BITWISE,
)
def depth_to_space(x: Array, *, block_size: int, mode: str = "DCR") -> Array:
    """Blocks of channels become squares of pixels. ``[n, c*b*b, h, w] -> [n, c, h*b, w*b]`` for ``block_size`` b.

    ``mode``: in channel order, "DCR" has the place in the square first, "CRD" the output channel. Source: ONNX DepthToSpace.
    """
    batch, channels, height, width = x.shape
    depth = channels // (block_size * block_size)
    result = np.empty((batch, depth, height * block_size, width * block_size), x.dtype)
    for place in range(block_size * block_size):
        row, column = divmod(place, block_size)
        first, step = (place * depth, 1) if mode == "DCR" else (place, block_size * block_size)
        result[:, :, row::block_size, column::block_size] = x[:, first::step][:, :depth]
    return result


@op(
    "space_to_depth",
    infer=_infer_space_to_depth,
    cost=moves,
    decompose=_decompose_space_to_depth,
    cases=_space_cases,
    tolerance=BITWISE,
)
def space_to_depth(x: Array, *, block_size: int) -> Array:
    """Squares of pixels become blocks of channels. ``[n, c, h*b, w*b] -> [n, b*b*c, h, w]`` for ``block_size`` b.

    The inverse of depth_to_space with mode "DCR". Source: ONNX SpaceToDepth.
    """
    places = [divmod(place, block_size) for place in range(block_size * block_size)]
    return np.concatenate([x[:, :, row::block_size, column::block_size] for row, column in places], axis=1)
