"""What the kernels written by hand are tried with: odd sizes, ends of rows, special values, views; by the file of their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import opyard as oy
from opyard.region import Region
from opyard.spec import TensorSpec

from .emulated import Trial, drawn, registry, trial

SPECIAL = np.array(
    [
        [1, np.nan, 3, -np.inf, 2],
        [np.inf, 1, np.inf, 2, 0],
        [-np.inf] * 5,
        [-np.inf, 2, 0, -0.0, 1],
        [1e4, -1e4, 1e4, 3, 2],
        [-np.inf, -np.inf, 3, 1, np.nan],
    ],
    np.float32,
)


def rows() -> Iterator[Trial]:
    """Rows of one element, of less than a pack, of a warp, of a block, and longer ones, which are read several times."""
    softmax, logarithm = ("softmax", "rows"), ("log_softmax", "rows")
    for columns in (1, 31, 36, 128, 1000, 1028, 8196):
        yield trial(softmax, drawn((5 if columns < 1000 else 2, columns)), axis=-1)
    yield trial(logarithm, drawn((3, 33), high=50.0), axis=-1)
    yield trial(logarithm, drawn((1, 8193)), axis=-1)
    for dtype, columns in (("float64", 70), ("float16", 264), ("bfloat16", 41)):
        yield trial(softmax, drawn((3, columns), dtype), axis=-1)
    yield trial(softmax, drawn((2, 2, 9))[:, :, ::2], axis=-1, title="a view with gaps")
    yield trial(softmax, drawn((65,))[1:], axis=-1, title="a view that is not aligned")
    wide = np.full((6, 8200), -np.inf, np.float32)
    wide[:, 5:10] = SPECIAL
    wide[5, 7000:] = 1
    for name in (softmax, logarithm):
        yield trial(name, SPECIAL, axis=-1, title="special values")
    yield trial(softmax, wide, axis=-1, title="special values in long rows")
    yield from _normalizations()


def _normalizations() -> Iterator[Trial]:
    layer, rms = ("layer_normalization", "rows"), ("rms_normalization", "rows")
    for columns in (1, 31, 36, 260, 1028, 8196):
        scale, bias = drawn((columns,), seed=1), drawn((columns,), seed=2)
        x = drawn((5 if columns < 1000 else 2, columns), low=3.0, high=9.0)
        yield trial(layer, x, scale, bias, axis=-1)
        yield trial(rms, x, scale if columns % 2 else None, axis=-1)
    yield trial(layer, SPECIAL, None, None, axis=-1, title="special values")
    yield trial(rms, drawn((3, 4, 40), "float16"), drawn((4, 40)), axis=1)
    yield trial(layer, drawn((3, 72), "bfloat16"), drawn((72,), "bfloat16"), None, axis=-1)
    yield trial(layer, drawn((3, 70), "float64"), None, drawn((70,), "float64"), axis=-1)
    for columns in (37, 68, 1028, 8196):
        yield _residual(columns, layer=True)
        yield _residual(columns, layer=False)


def _residual(columns: int, *, layer: bool) -> Trial:
    x, residual = drawn((3, columns), low=0.0), drawn((3, columns), seed=1)
    scale, bias = drawn((columns,), seed=2), drawn((columns,), seed=3)
    arrays = (x, residual, scale, *((bias,) if layer else ()))
    with oy.Graph() as graph:
        given = [graph.input(f"i{k}", TensorSpec.of(array)) for k, array in enumerate(arrays)]
        total = oy.add(*given[:2])
        normalize = oy.layer_normalization if layer else oy.rms_normalization
        outputs = (total, normalize(total, *given[2:]))
    region = Region.of(graph.nodes, given, outputs)
    name = f"add_{'layer' if layer else 'rms'}_normalization"
    (kernel,) = (kernel for kernel in registry().patterns if kernel.name == name)
    return Trial(kernel, region, arrays, f"{name} {columns}")


def reduce() -> Iterator[Trial]:
    """Rows and columns, in one stage and in two, each way of combining."""
    for shape, axis in (
        ((5, 33), 1),
        ((3, 1024), 1),
        ((9, 1028), 1),
        ((1, 6001), 1),
        ((4100,), None),
        ((8196,), None),
    ):
        yield trial(("sum", "reduce"), drawn(shape), axis=axis, keepdims=False)
    for shape, axis in (
        ((33, 5), 0),
        ((3, 70, 33), 1),
        ((2, 9, 40), 1),
        ((1300, 7), 0),
        ((2, 3, 4, 5), (1, 2)),
    ):
        yield trial(("mean", "reduce"), drawn(shape), axis=axis, keepdims=True)
    few = drawn((4, 40), low=0.9, high=1.2)
    yield trial(("prod", "reduce"), few, axis=1, keepdims=False)
    yield trial(("prod", "reduce"), few, axis=0, keepdims=False)
    for name in ("max", "min"):
        for sign in (1, -1):
            yield trial((name, "reduce"), sign * drawn((3, 1500), low=0.5), axis=1, keepdims=False)
            yield trial((name, "reduce"), sign * drawn((70, 35), low=0.5), axis=0, keepdims=False)
        for axis in (0, 1):
            yield trial(
                (name, "reduce"), SPECIAL, axis=axis, keepdims=False, title=f"{name} of special values"
            )
    for axis in (0, 1):
        yield trial(("sum", "reduce"), SPECIAL, axis=axis, keepdims=False, title="sum of special values")
    for dtype in ("float64", "float16", "bfloat16"):
        yield trial(("mean", "reduce"), drawn((3, 264), dtype), axis=1, keepdims=False)
        yield trial(("max", "reduce"), drawn((1, 4104), dtype), axis=1, keepdims=False)
    yield trial(("sum", "reduce"), drawn((0, 4)), axis=0, keepdims=False)
    yield trial(("mean", "reduce"), drawn((3, 0)), axis=1, keepdims=False)
    yield trial(("sum", "reduce"), drawn((40, 40)).T, axis=1, keepdims=False, title="a transposed view")


def move() -> Iterator[Trial]:
    """Tiles that are full, cut and alone; indices from the end and beyond it."""
    for shape, axes, dtype in (
        ((33, 65), (1, 0), "float32"),
        ((64, 32), (1, 0), "int64"),
        ((3, 5, 40), (0, 2, 1), "float16"),
        ((2, 3, 4, 5), (0, 3, 1, 2), "int8"),
        ((7, 1, 9), (2, 1, 0), "float64"),
        ((1, 70), (1, 0), "bool"),
        ((0, 3), (1, 0), "float32"),
    ):
        x = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
        call = ("permute_dims", "tiles")
        if (x.size and min(shape) > 1) or shape == (7, 1, 9):
            yield trial(call, x, axes=axes)
    yield trial(("matrix_transpose", "tiles"), drawn((2, 35, 31)))
    table = drawn((9, 8))
    for indices in (
        np.array([[0, 8], [-9, -1]]),
        np.array([3], np.int32),
        np.array([200, 8] * 140, np.uint8) % 9,
    ):
        yield trial(("embedding", "rows"), indices, table)
    yield trial(("gather", "rows"), drawn((3, 5, 7)), np.array([4, -5, 0, 2]), axis=1)
    yield trial(("gather", "rows"), drawn((3, 5, 3), "float16"), np.array([2, 0], np.int16), axis=0)
    yield trial(("gather", "rows"), drawn((4, 6), "bfloat16"), np.array([], np.int64), axis=0)
    x, beyond = drawn((3, 4)), np.array([3, -4, 7, -3, 2])
    wrapped = trial(("gather", "rows"), x, beyond, axis=0, title="indices out of range")
    yield replace(wrapped, expected=x.take(beyond, 0, mode="wrap"))


def pool() -> Iterator[Trial]:
    """Windows that are cut at each side, with gaps, and in one axis; more elements than a block has threads."""
    spread: dict[str, Any] = {
        "kernel": (3, 2),
        "strides": (2, 1),
        "padding": ((1, 0), (1, 1)),
        "dilations": (1, 2),
    }
    for name in ("max_pool", "average_pool"):
        extra = {"count_include_pad": True} if name == "average_pool" else {}
        yield trial((name, "direct"), drawn((2, 3, 7, 9)), **spread)
        yield trial((name, "direct"), drawn((2, 3, 7, 9)), **spread, **extra, ceil_mode=True)
        yield trial((name, "direct"), -1 - abs(drawn((1, 2, 15, 13))), kernel=2, strides=1)
        yield trial((name, "direct"), drawn((2, 3, 11)), kernel=4, strides=3, padding="same_upper")
        yield trial(
            (name, "direct"), SPECIAL[None, None], kernel=2, strides=1, title=f"{name} of special values"
        )
        yield trial(
            (name, "direct"),
            drawn((1, 2, 6, 9)),
            kernel=3,
            strides=2,
            **extra,
            ceil_mode=True,
            padding=((1, 0), (0, 1)),
        )
        yield trial(
            (name, "direct"),
            drawn((1, 1, 1, 3)),
            kernel=(2, 1),
            dilations=(3, 1),
            padding=((2, 2), (0, 0)),
            title="nothing but padding",
        )
        for dtype in ("float64", "float16", "bfloat16"):
            yield trial((name, "direct"), drawn((1, 1, 5, 6), dtype), kernel=3)


def convolution() -> Iterator[Trial]:
    """Tiles that are full and cut, every attribute, both sizes of tile."""
    conv = ("conv", "implicit")
    bias = drawn((6,), seed=2)
    yield trial(conv, drawn((2, 3, 7, 8)), drawn((6, 3, 3, 2), seed=1), bias, padding=((1, 1), (0, 1)))
    yield trial(
        conv,
        drawn((1, 4, 12, 11)),
        drawn((6, 2, 2, 3), seed=1),
        bias,
        strides=(2, 1),
        dilations=(1, 2),
        groups=2,
        padding=((2, 0), (1, 3)),
    )
    yield trial(conv, drawn((3, 5, 40)), drawn((70, 5, 3), seed=1), padding="same_lower")
    yield trial(conv, drawn((2, 9, 5, 7)), drawn((64, 9, 1, 1), seed=1))
    yield trial(conv, drawn((1, 1, 4, 4)), drawn((1, 1, 4, 4), seed=1))
    yield trial(conv, SPECIAL[None, None], drawn((2, 1, 2, 2)), title="special values")
    for dtype in ("float64", "float16", "bfloat16"):
        yield trial(conv, drawn((1, 3, 6, 6), dtype), drawn((4, 3, 3, 3), dtype, seed=1))


def attention() -> Iterator[Trial]:
    """Queries and keys that fill tiles or not, shared heads, every kind of mask, and queries that see nothing."""
    name = ("scaled_dot_product_attention", "flash")

    def of(
        heads: int,
        groups: int,
        length: int,
        keys: int,
        width: int,
        out: int,
        *mask: Any,
        dtype: str = "float32",
        **attributes: Any,
    ) -> Trial:
        shapes = ((2, heads, length, width), (2, groups, keys, width), (2, groups, keys, out))
        arrays = (drawn(shape, dtype, seed) for seed, shape in enumerate(shapes))
        return trial(name, *arrays, *mask, **attributes)

    yield of(2, 1, 33, 70, 5, 7)
    yield of(1, 1, 40, 33, 8, 4, causal=True)
    yield of(1, 1, 32, 64, 32, 32, causal=True, scale=0.5)
    yield of(4, 2, 3, 9, 33, 40)
    seen = np.random.default_rng(0).random((2, 1, 9, 40)) < 0.3
    seen[0, 0, 3] = False  # nothing to attend to
    seen[0, 0, 4, :35] = False  # nothing in the first tile
    yield of(2, 2, 9, 40, 6, 6, seen)
    yield of(1, 1, 5, 35, 6, 3, drawn((5, 1)), causal=True)
    hidden = np.where(seen, drawn((2, 1, 9, 40)), -np.inf).astype(np.float32)
    yield of(1, 1, 9, 40, 4, 4, hidden)
    steep = of(1, 1, 8, 5, 4, 4)
    steep.arrays[0][..., ::2, :] *= 400.0  # neighbours whose greatest scores are far apart
    yield steep
    for dtype in ("float64", "float16", "bfloat16"):
        yield of(1, 1, 9, 33, 6, 5, dtype=dtype)
    yield of(1, 1, 4, 0, 3, 2)


TRIALS: dict[str, Callable[[], Iterator[Trial]]] = {
    "rows": rows,
    "reduce": reduce,
    "move": move,
    "pool": pool,
    "convolution": convolution,
    "attention": attention,
}
"""Trials by the file that the kernels are in."""
