"""Where elements lie: strides, and axes that can be run through as one."""

from __future__ import annotations

from collections.abc import Sequence

from opyard.spec import TensorSpec


def sizes_of(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a concrete spec as plain integers."""
    return tuple(int(n) for n in spec.shape)


def broadcast_strides(shape: tuple[int, ...], own: tuple[int, ...]) -> list[int]:
    """Strides, in elements, of a dense array of the shape ``own`` under axes of ``shape``: 0 where it has one element."""
    padded = (1,) * (len(shape) - len(own)) + own
    strides, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        if padded[axis] != 1:
            strides[axis] = step
        step *= padded[axis]
    return strides


def collapsed(
    shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[list[int], tuple[list[int], ...]]:
    """Axes without those of size 1, and neighbours joined where every array runs through both in one stride.

    The sizes, and the strides of each array. There is always at least one axis.
    """
    sizes: list[int] = []
    kept: tuple[list[int], ...] = tuple([] for _ in strides)
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        here = [own[axis] for own in strides]
        if sizes and all(before[-1] == now * size for before, now in zip(kept, here, strict=True)):
            sizes[-1] *= size
            for own, now in zip(kept, here, strict=True):
                own[-1] = now
        else:
            sizes.append(size)
            for own, now in zip(kept, here, strict=True):
                own.append(now)
    if not sizes:
        return [1], tuple([0] for _ in strides)
    return sizes, kept
