"""Strides, padding and dilations of convolutions and poolings, as ONNX writes them and as opyard's ops take them."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from opyard_onnx.errors import ModelError
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode

AUTO_PAD = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower", "VALID": "valid"}


def geometry(node: OnnxNode, rank: int) -> dict[str, Any]:
    """strides, padding and dilations for ``rank`` spatial axes."""
    return {
        "strides": node.attribute("strides", (1,) * rank),
        "padding": padding(node, rank),
        "dilations": node.attribute("dilations", (1,) * rank),
    }


def padding(node: OnnxNode, rank: int) -> Any:
    """What opyard's ops call padding: "same_upper", "same_lower", "valid", or a pair for each spatial axis."""
    auto = node.attribute("auto_pad", "NOTSET")
    if auto != "NOTSET":
        if auto not in AUTO_PAD:
            raise ModelError(f"auto_pad is NOTSET, {', '.join(AUTO_PAD)}; found {auto!r}.")
        return AUTO_PAD[auto]
    pads = node.attribute("pads", (0,) * 2 * rank)
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def window_places(
    sizes: tuple[int, ...],
    counts: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    before: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray[Any, Any]:
    """For each window the flat positions of its elements in an image of ``sizes``: int64 ``[*counts, *kernel]``.

    Elements that lie in the padding have the position after the last one.
    """
    rank, total = len(sizes), math.prod(sizes)
    require_size(math.prod((*counts, *kernel)), "the table of the windows")
    places = np.zeros((*counts, *kernel), np.int64)
    inside = np.ones_like(places, bool)
    for axis in range(rank):
        starts = np.arange(counts[axis]) * strides[axis] - before[axis]
        at = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = at.shape
        at = at.reshape(shape)
        places = places * sizes[axis] + at
        inside = inside & (at >= 0) & (at < sizes[axis])
    return np.where(inside, places, total)


def taps(kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All positions in a kernel, row-major."""
    return list(product(*map(range, kernel)))
