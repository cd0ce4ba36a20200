"""Primitives that look at windows: convolution and pooling, forward and backward. See primitives.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import api
from .library import library
from .memory import Descriptor
from .primitives import PostOp, Primitive, describe, handle_of


def _sizes(values: Sequence[int]) -> Any:
    return api.Dims(*values)


@dataclass(frozen=True, slots=True)
class Windows:
    """How the windows of a convolution or a pooling lie: for each spatial axis strides, dilations (1 is dense) and padding."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As oneDNN takes them: its dilations count the elements between."""
        between = [dilation - 1 for dilation in self.dilations]
        return (_sizes(self.strides), _sizes(between), _sizes(self.before), _sizes(self.after))


def convolution(
    src: Descriptor,
    weights: Descriptor,
    dst: Descriptor,
    windows: Windows,
    bias: Descriptor | None = None,
    post_ops: Sequence[PostOp] = (),
    *,
    training: bool = False,
    algorithm: str = "direct",
) -> Primitive:
    """``dst = post_ops(conv(src, weights) + bias)``; weights are ``[o, i, *k]`` or ``[g, o / g, i / g, *k]``.

    Roles src, weights, bias, dst. ``algorithm`` is "direct", "winograd" or "auto".
    """
    propagation = api.PROPAGATION["forward_training" if training else "forward_inference"]
    kind = api.ALGORITHMS[f"convolution_{algorithm}"]
    handles = (src.handle, weights.handle, handle_of(bias), dst.handle)
    return describe(
        "convolution_forward",
        ("src", "weights", *(["bias"] if bias else []), "dst"),
        (src, weights, dst),
        lambda create, made, attributes: create(
            *(made, library().engine, propagation, kind, *handles, *windows.arguments, attributes)
        ),
        post_ops,
    )


def deconvolution(
    src: Descriptor, weights: Descriptor, dst: Descriptor, windows: Windows, bias: Descriptor | None = None
) -> Primitive:
    """A transposed convolution, plus bias: roles src, weights, bias, dst.

    Weights are ``[o, i, *k]`` or ``[g, o / g, i / g, *k]``, as those of a convolution with so many outputs.
    """
    numbers = (api.PROPAGATION["forward_inference"], api.ALGORITHMS["deconvolution_direct"])
    handles = (src.handle, weights.handle, handle_of(bias), dst.handle, *windows.arguments)
    return describe(
        "deconvolution_forward",
        ("src", "weights", *(["bias"] if bias else []), "dst"),
        (src, weights, dst),
        lambda create, made, attributes: create(made, library().engine, *numbers, *handles, attributes),
    )


def convolution_data_gradient(
    diff_src: Descriptor, weights: Descriptor, diff_dst: Descriptor, windows: Windows
) -> Primitive:
    """The gradient of a convolution with respect to its source: roles diff_src, weights, diff_dst."""
    forward = convolution(diff_src, weights, diff_dst, windows, training=True)
    handles = (diff_src.handle, weights.handle, diff_dst.handle, *windows.arguments, forward.description)
    kind = api.ALGORITHMS["convolution_direct"]
    return describe(
        "convolution_backward_data",
        ("diff_src", "weights", "diff_dst"),
        (diff_src, weights, diff_dst),
        lambda create, made, attributes: create(made, library().engine, kind, *handles, attributes),
    )


def convolution_weights_gradient(
    src: Descriptor,
    diff_weights: Descriptor,
    diff_dst: Descriptor,
    windows: Windows,
    diff_bias: Descriptor | None = None,
) -> Primitive:
    """The gradients of a convolution with respect to weights and bias: roles src, diff_weights, diff_bias, diff_dst."""
    forward = convolution(src, diff_weights, diff_dst, windows, diff_bias, training=True)
    handles = (src.handle, diff_weights.handle, handle_of(diff_bias), diff_dst.handle, *windows.arguments)
    kind = api.ALGORITHMS["convolution_direct"]
    return describe(
        "convolution_backward_weights",
        ("src", "diff_weights", *(["diff_bias"] if diff_bias else []), "diff_dst"),
        (src, diff_weights, diff_dst),
        lambda create, made, attributes: create(
            made, library().engine, kind, *handles, forward.description, attributes
        ),
    )


def _pooling(windows: Windows, kernel: Sequence[int]) -> tuple[Any, ...]:
    strides, dilations, before, after = windows.arguments
    return (strides, _sizes(kernel), dilations, before, after)


def pooling(
    algorithm: str,
    src: Descriptor,
    dst: Descriptor,
    kernel: Sequence[int],
    windows: Windows,
    post_ops: Sequence[PostOp] = (),
    *,
    training: bool = False,
) -> Primitive:
    """Maxima or means of windows: "max", "avg_include_padding" or "avg_exclude_padding". Roles src and dst.

    For training "max" also gives the role workspace, which its gradient needs.
    """
    propagation = api.PROPAGATION["forward_training" if training else "forward_inference"]
    kind = api.ALGORITHMS[f"pooling_{algorithm}"]
    handles = (src.handle, dst.handle, *_pooling(windows, kernel))
    workspace = ["workspace"] if training and algorithm == "max" else []
    return describe(
        "pooling_forward",
        ("src", "dst", *workspace),
        (src, dst),
        lambda create, made, attributes: create(
            made, library().engine, propagation, kind, *handles, attributes
        ),
        post_ops,
    )


def pooling_gradient(
    algorithm: str,
    diff_src: Descriptor,
    diff_dst: Descriptor,
    kernel: Sequence[int],
    windows: Windows,
    forward: Primitive,
) -> Primitive:
    """The gradient of a pooling, given the forward primitive for training: roles diff_dst, workspace, diff_src."""
    kind = api.ALGORITHMS[f"pooling_{algorithm}"]
    handles = (diff_src.handle, diff_dst.handle, *_pooling(windows, kernel), forward.description)
    return describe(
        "pooling_backward",
        ("diff_dst", *(["workspace"] if algorithm == "max" else []), "diff_src"),
        (diff_src, diff_dst),
        lambda create, made, attributes: create(made, library().engine, kind, *handles, attributes),
    )
