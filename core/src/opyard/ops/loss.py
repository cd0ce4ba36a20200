"""Losses of training. Source: the ONNX operator SoftmaxCrossEntropyLoss, opset 13, and the mean squared error."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import normalize_axis, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, broadcast, promote
from ._attributes import require_choice
from ._precision import cast_to, computing_dtype
from ._reference import precise
from .arithmetic import Array, multiply, negative, subtract
from .indexing import one_hot, take_along_axis
from .normalization import log_softmax, softmax
from .reduction import mean, sum
from .shape import expand_dims, squeeze

__all__ = ["mean_squared_error", "softmax_cross_entropy", "softmax_cross_entropy_gradient"]

_REDUCTIONS = ("mean", "sum", "none")


def _reduced_spec(losses: TensorSpec, reduction: str) -> TensorSpec:
    require_choice(reduction, "reduction", _REDUCTIONS)
    return losses if reduction == "none" else losses.with_shape(())


def _reduced(losses: Array, reduction: str) -> Array:
    if reduction == "none":
        return losses
    return mean(losses) if reduction == "mean" else sum(losses)


def _reduced_oracle(losses: Any, reduction: str) -> Any:
    if reduction == "none":
        return losses
    return np.sum(losses) / np.float64(
        losses.size if reduction == "mean" else 1
    )  # no warning for an empty batch


def _inputs_per_output(call: Call) -> float:
    """How many elements one output element is made of, those counted that are broadcast."""
    sizes = (int(spec.size) for spec in call.inputs if spec is not None)
    return float(max(sizes) // max(int(call.output.size), 1))


def _per_input(flops: float) -> Any:
    def cost(call: Call) -> Cost:
        first = call.inputs[0]
        assert first is not None
        return Cost(flops * int(first.size), call.bytes)

    return cost


def _cross_entropy_infer(logits: TensorSpec, labels: TensorSpec, *, axis: int, reduction: str) -> TensorSpec:
    require_kind(logits, "real floating", "logits")
    require_kind(labels, "integer", "labels")
    classes = normalize_axis(axis, logits.ndim)
    rest = (*logits.shape[:classes], *logits.shape[classes + 1 :])
    if logits.shape[classes] == 0:
        raise SpecError(f"logits has no classes along axis {axis}; it is {logits!r}.")
    if (labels.shape != rest and labels.is_concrete and logits.is_concrete) or labels.ndim != len(rest):
        raise SpecError(f"labels has the shape of logits without axis {axis}, {rest}; it is {labels!r}.")
    return _reduced_spec(logits.with_shape(rest), reduction)


def _cross_entropy_decompose(
    logits: Array, labels: Array, *, axis: int = -1, reduction: str = "mean"
) -> Array:
    axis = normalize_axis(axis, len(logits.shape))
    logarithms = log_softmax(cast_to(logits, computing_dtype(logits.dtype)), axis=axis)
    chosen = take_along_axis(logarithms, expand_dims(labels, axis=axis), axis=axis)
    return cast_to(_reduced(negative(squeeze(chosen, axis=axis)), reduction), logits.dtype)


def _cross_entropy_cases() -> list[Case]:
    def labels(*shape: int, classes: int = 4, dtype: str = "int64") -> Draw:
        return Draw(shape, dtype, 0, classes - 1)

    return [
        case((3, 4), labels(3)),
        case((3, 4), labels(3), reduction="sum"),
        case((3, 4), labels(3, dtype="int32"), reduction="none"),
        case((2, 4, 5), labels(2, 5), axis=1, reduction="none"),
        case((4, 3), labels(3), axis=-2),
        case((4,), labels()),
        case((0, 4), labels(0), reduction="none"),
        case((65, 33), labels(65, classes=33)),
        case(Draw((3, 4), "float64"), labels(3)),
        case(Draw((3, 4), "float16"), labels(3)),
        case(Draw((3, 4), "bfloat16"), labels(3), reduction="none"),
    ]


@op(
    "softmax_cross_entropy",
    infer=_cross_entropy_infer,
    decompose=_cross_entropy_decompose,
    cost=_per_input(5.0),
    cases=_cross_entropy_cases,
    tolerance=Tolerance(8, scaled=True),
    terms=_inputs_per_output,
)
def softmax_cross_entropy(logits: Array, labels: Array, *, axis: int = -1, reduction: str = "mean") -> Array:
    """``-log(softmax(logits)[label])``: the cross entropy of predicted classes along ``axis`` with integer labels.

    ``[..., classes], [...] -> []``, or ``[...]`` with ``reduction="none"``; else "mean" or "sum" of all. Labels are 0 to
    classes - 1; the result for others is undefined.
    """
    values = np.moveaxis(precise(logits), axis, -1)
    values = values - np.max(values, axis=-1, keepdims=True)
    values = values - np.log(np.sum(np.exp(values), axis=-1, keepdims=True))
    chosen = np.take_along_axis(values, np.asarray(labels)[..., None].astype(np.int64), axis=-1)[..., 0]
    return _reduced_oracle(-chosen, reduction)


def _cross_entropy_gradient_infer(
    logits: TensorSpec, labels: TensorSpec, g: TensorSpec, *, axis: int = -1
) -> TensorSpec:
    losses = _cross_entropy_infer(logits, labels, axis=axis, reduction="none")
    require_kind(g, "real floating", "g")
    if not isinstance(logits.shape[axis], int):
        raise SpecError(f"the number of classes, along axis {axis}, must be a number; logits is {logits!r}.")
    if g.ndim and (
        g.ndim != losses.ndim or (g.is_concrete and losses.is_concrete and g.shape != losses.shape)
    ):
        raise SpecError(f"g has the shape of the losses, {losses.shape}, or none; it is {g!r}.")
    return logits


def _cross_entropy_gradient_decompose(logits: Array, labels: Array, g: Array, *, axis: int = -1) -> Array:
    dtype, place = computing_dtype(logits.dtype), normalize_axis(axis, len(logits.shape))
    chosen = one_hot(labels, depth=logits.shape[place], axis=place, dtype=dtype.name)
    error = subtract(softmax(cast_to(logits, dtype), axis=place), chosen)
    each = cast_to(g, dtype)
    return cast_to(multiply(error, expand_dims(each, axis=place) if len(g.shape) else each), logits.dtype)


def _cross_entropy_gradient_cases() -> list[Case]:
    found = []
    for one in _cross_entropy_cases():
        logits, labels = one.inputs
        assert logits is not None and labels is not None
        if one.attributes.get("reduction") == "sum":  # the same for the gradient as the mean
            continue
        shape = labels.shape if one.attributes.get("reduction") == "none" else ()
        found.append(case(logits, labels, Draw(shape, logits.dtype), axis=one.attributes.get("axis", -1)))
    return found


@op(
    "softmax_cross_entropy_gradient",
    infer=_cross_entropy_gradient_infer,
    decompose=_cross_entropy_gradient_decompose,
    cost=_per_input(5.0),
    cases=_cross_entropy_gradient_cases,
    tolerance=Tolerance(8, scaled=True),
)
def softmax_cross_entropy_gradient(logits: Array, labels: Array, g: Array, *, axis: int = -1) -> Array:
    """The gradient of ``softmax_cross_entropy``: ``(softmax(logits) - one_hot(labels)) * g``.

    ``[..., classes], [...], [...] or [] -> [..., classes]``; ``g`` is the cotangent of each loss, or of all alike.
    """
    values = np.moveaxis(precise(logits), axis, -1)
    values = np.exp(values - np.max(values, axis=-1, keepdims=True, initial=-np.inf))
    values = values / np.sum(values, axis=-1, keepdims=True)
    values -= np.asarray(labels)[..., None] == np.arange(values.shape[-1])
    return np.moveaxis(values * (precise(g)[..., None] if np.ndim(g) else precise(g)), -1, axis)


def _squared_error_infer(prediction: TensorSpec, target: TensorSpec, *, reduction: str) -> TensorSpec:
    require_kind(prediction, "real floating", "prediction")
    require_kind(target, "real floating", "target")
    dtype = promote(prediction.dtype, target.dtype)
    return _reduced_spec(TensorSpec(broadcast(prediction.shape, target.shape), dtype), reduction)


def _squared_error_decompose(prediction: Array, target: Array, *, reduction: str = "mean") -> Array:
    dtype = np.result_type(prediction.dtype, target.dtype)
    wide = computing_dtype(dtype)
    error = subtract(cast_to(prediction, wide), cast_to(target, wide))
    return cast_to(_reduced(multiply(error, error), reduction), dtype)


def _squared_error_cases() -> list[Case]:
    return [
        case((3, 4), (3, 4)),
        case((3, 4), (3, 4), reduction="sum"),
        case((3, 4), (4,), reduction="none"),
        case((), ()),
        case((0, 4), (0, 4), reduction="sum"),
        case((65, 33), (65, 33)),
        case(Draw((3, 4), "float64"), Draw((3, 4), "float64")),
        case(Draw((3, 4), "float16"), Draw((3, 4), "float16")),
        case(Draw((3, 4), "bfloat16"), Draw((3, 4), "bfloat16"), reduction="none"),
    ]


@op(
    "mean_squared_error",
    infer=_squared_error_infer,
    decompose=_squared_error_decompose,
    cost=_per_input(3.0),
    cases=_squared_error_cases,
    tolerance=Tolerance(8, scaled=True),
    terms=_inputs_per_output,
)
def mean_squared_error(prediction: Array, target: Array, *, reduction: str = "mean") -> Array:
    """``mean((prediction - target) ** 2)``. ``[...], [...] -> []``, broadcast; "sum", or "none" for each element by itself."""
    error = precise(prediction) - precise(target)
    return _reduced_oracle(error * error, reduction)
