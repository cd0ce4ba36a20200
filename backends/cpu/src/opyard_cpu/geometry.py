"""The sizes of convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opyard.operation import Call
from opyard.ops import windows
from opyard.spec import Shape


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of one convolution, all concrete. ``counts`` are the spatial sizes of the output."""

    batch: int
    channels: int
    outputs: int
    groups: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pairs: windows.Pairs
    counts: tuple[int, ...]

    @property
    def area(self) -> int:
        """Number of windows of one image."""
        return math.prod(self.counts)

    @property
    def depth(self) -> int:
        """Number of inputs that one output element is summed over."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def work(self) -> float:
        """Floating-point operations."""
        return 2.0 * self.batch * self.outputs * self.area * self.depth

    @property
    def is_padded(self) -> bool:
        """Whether there is any padding."""
        return any(map(any, self.pairs))

    @property
    def is_pointwise(self) -> bool:
        """Whether every kernel has one element, and nothing is padded."""
        return math.prod(self.kernel) == 1 and not self.is_padded

    @property
    def is_depthwise(self) -> bool:
        """Whether each of several channels has kernels of its own."""
        return self.channels == self.groups > 1


def conv_geometry(call: Call) -> Geometry:
    """The sizes of a call of ``conv``."""
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    return geometry(x.shape, weight.shape, call.output.shape, call.attrs)


def geometry(inputs: Shape, weight: Shape, outputs: Shape, attributes: Mapping[str, Any]) -> Geometry:
    """The sizes of a convolution, from the shapes of its arrays."""
    shape, weights, result = _concrete(inputs), _concrete(weight), _concrete(outputs)
    kernel = weights[2:]
    strides = windows.per_axis(attributes["strides"], len(kernel), "strides")
    dilations = windows.per_axis(attributes["dilations"], len(kernel), "dilations")
    pairs = windows.padding_pairs(attributes["padding"], shape[2:], kernel, strides, dilations)
    return Geometry(
        *(
            shape[0],
            shape[1],
            weights[0],
            attributes["groups"],
            shape[2:],
            kernel,
            strides,
            dilations,
            pairs,
            result[2:],
        )
    )


def _concrete(shape: Shape) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)
