"""Convolutions: plain ones that reorder inside, and those between channels-last tensors, with what follows fused into them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.kernels import Work
from opyard.operation import Call
from opyard.settings import num_threads
from opyard.spec import TensorSpec

from ..geometry import Geometry, conv_geometry
from .addresses import Array, dense, images_maker
from .chains import IMAGES, PER_CHANNEL, SECONDS, Chain, Operand, Run, Step, chain_of
from .checks import Constants, extra_seconds, prepared
from .execution import reordered
from .held import HELD, on_dense
from .layouts import Packed, concrete, from_channels_last, to_channels_last
from .library import library, missing
from .memory import Descriptor, any_layout, channels_last, strided
from .neighbourhoods import Windows, convolution
from .parts import Parts, pieces
from .primitives import Binary, PostOp, Primitive, matmul

PEAK = 1.0
"""Fraction of the device's peak that dense convolutions reach; the peak is that of the nominal clock."""

GROUPED_PEAK = 0.5

DEPTHWISE_PEAK = 0.24
"""The same where each channel has kernels of its own: each number is used a few times only."""

PLAIN_SLOWDOWN = 1.4
"""How much longer it takes from plain arrays to plain arrays, beside the reorders: memory that others have just used."""


def windows_of(g: Geometry) -> Windows:
    """The windows of a convolution as oneDNN takes them."""
    before, after = (tuple(pair[side] for pair in g.pairs) for side in (0, 1))
    return Windows(g.strides, g.dilations, before, after)


def weights_shape(g: Geometry) -> tuple[int, ...]:
    """``[o, i, *kernel]``, or with groups ``[g, o / g, i / g, *kernel]``."""
    if g.groups == 1:
        return (g.outputs, g.channels, *g.kernel)
    return (g.groups, g.outputs // g.groups, g.channels // g.groups, *g.kernel)


def images(shape: tuple[int, ...]) -> Descriptor:
    """A channels-last memory for ``[n, c, *spatial]``."""
    return strided(shape, channels_last(shape))


def source_shape(g: Geometry) -> tuple[int, ...]:
    """``[n, c, *sizes]``."""
    return (g.batch, g.channels, *g.sizes)


def result_shape(g: Geometry) -> tuple[int, ...]:
    """``[n, o, *counts]``."""
    return (g.batch, g.outputs, *g.counts)


@lru_cache(maxsize=1024)
def _primitive(g: Geometry, bias: bool, steps: tuple[Step, ...], threads: int) -> Primitive | str:
    """The primitive of a chain, or why there is none. It is asked for twice: whether it exists, and to run it."""
    try:
        with library().threads_for(g.work):
            if is_product(g):
                return _product(g, bias, steps)
            return convolution(
                *(
                    images(source_shape(g)),
                    any_layout(weights_shape(g)),
                    images(result_shape(g)),
                    windows_of(g),
                ),
                bias=strided((g.outputs,)) if bias else None,
                post_ops=[_post_op(step, result_shape(g)) for step in steps],
            )
    except KernelError as error:
        return str(error)


def is_product(g: Geometry) -> bool:
    """Whether each result is of one pixel: then channels-last images are the rows of a matrix, and weights are another.

    oneDNN's product of them was as quick as its 1x1 convolution in one measurement, and up to seven times as quick in another (128 to 512
    channels, 28x28: 0.56 ms and 4.0 ms of one core with AVX-512); nowhere slower by more than the noise.
    """
    return g.is_pointwise and g.groups == 1 and set(g.strides) == {1}


def _product(g: Geometry, bias: bool, steps: tuple[Step, ...]) -> Primitive:
    rows = g.batch * math.prod(g.counts)
    return matmul(
        *(strided((rows, g.channels)), any_layout((g.channels, g.outputs)), strided((rows, g.outputs))),
        bias=strided((1, g.outputs)) if bias else None,
        post_ops=[_row_post_op(step, rows, g.outputs) for step in steps],
    )


def _row_post_op(step: Step, rows: int, columns: int) -> PostOp:
    if not isinstance(step, Operand):
        return step
    return Binary(step.algorithm, strided((rows if step.name in IMAGES else 1, columns)))


def plain_weights(g: Geometry) -> Descriptor:
    """The weights as they are given, with the axes that the primitive takes."""
    if is_product(g):
        return strided((g.channels, g.outputs), (1, g.channels))
    return strided(weights_shape(g))


def _post_op(step: Step, result: tuple[int, ...]) -> PostOp:
    if not isinstance(step, Operand):
        return step
    shape = concrete(step.spec.shape)
    whole = (*(1,) * (len(result) - len(shape)), *shape)
    return Binary(step.algorithm, images(whole) if step.name in IMAGES else strided(whole))


def refusal(call: Call) -> str | None:
    """Why a convolution is nothing for these kernels, whatever its sizes, or None."""
    if reason := missing():
        return reason
    if not call.output.size or any(spec is not None and not spec.size for spec in call.inputs):
        return "an empty tensor is nothing for oneDNN"
    return None


def _operand_refusal(step: Step, result: tuple[int, ...]) -> str | None:
    if not isinstance(step, Operand):
        return None
    shape, per_channel = concrete(step.spec.shape), (result[1], *(1,) * (len(result) - 2))
    if step.name in IMAGES:
        return (
            None if shape == result else f"{step.name} is {list(result)}, as the result is, not {list(shape)}"
        )
    if step.name in PER_CHANNEL and shape in (per_channel, (1, *per_channel)):
        return None
    return f"{step.name} is {list(per_channel)}, a number for each channel, not {list(shape)}"


def accepts(work: Work, device: Device) -> str | None:
    """Why oneDNN does not compute this convolution with the steps behind it, or None."""
    chain = chain_of(work)
    if reason := refusal(chain.base):
        return reason
    g = conv_geometry(chain.base)
    if any(kind < 0 for pair in g.pairs for kind in pair):
        return "oneDNN has no negative padding"
    refusals = (_operand_refusal(step, result_shape(g)) for step in chain.steps)
    if reason := next(filter(None, refusals), None):
        return reason
    found = described(chain.base, chain.steps)
    return found if isinstance(found, str) else None


def described(call: Call, steps: tuple[Step, ...]) -> Primitive | str:
    """The primitive of a convolution with steps behind it, or why there is none."""
    return _primitive(conv_geometry(call), call.inputs[2] is not None, steps, num_threads())


def prepare(work: Work, device: Device, constants: Constants = None) -> Run:
    """``run(x, weight, bias, *operands)`` on channels-last images and packed weights."""
    return prepared(chain_of(work), _compute, constants)


def _compute(chain: Chain) -> Run:
    g = conv_geometry(chain.base)
    primitive = described(chain.base, chain.steps)
    if isinstance(primitive, str):
        raise KernelError(primitive)
    operands = [step.position for step in chain.steps if isinstance(step, Operand)]
    posts = [f"post_{i}" for i, step in enumerate(chain.steps) if isinstance(step, Operand)]
    has_bias = chain.base.inputs[2] is not None
    roles = ["src", "weights", *(["bias"] if has_bias else []), *posts, "dst"]
    compute, key, make_form = _in_parts(chain, roles) or _at_once(primitive, roles, g)
    make = images_maker((g.batch, *g.counts, g.outputs))
    used = [0] * has_bias + [position - 2 for position in operands]

    def run(x: Array, weight: Any, *others: Any) -> Any:
        form = weight.forms.get(key)
        if form is None:
            form = weight.forms[key] = make_form(weight.array)
        return compute(x, form, *[others[position] for position in used], make())

    def biased(x: Array, weight: Any, bias: Array) -> Any:
        form = weight.forms.get(key)
        return run(x, weight, bias) if form is None else compute(x, form, bias, make())

    return biased if used == [0] else run


Ready = tuple[Run, object, Callable[[Array], Array]]
"""The function of arrays for the roles, the key of the form of the weights that it takes, and what makes that form."""


def _at_once(primitive: Primitive, roles: list[str], g: Geometry) -> Ready:
    wanted = primitive.memories["weights"]
    compute = on_dense(primitive, roles, g.work)
    return compute, wanted.number, lambda array: reordered(array, plain_weights(g), wanted)


def _in_parts(chain: Chain, roles: list[str]) -> Ready | None:
    """A chain in parts, or None where it is better run at once."""
    g, has_bias = conv_geometry(chain.base), chain.base.inputs[2] is not None
    if g.work < HELD:
        return None
    alike = ["dst", *(f"post_{i}" for i, step in enumerate(chain.steps) if _is_image(step))]

    def described(part: Geometry) -> Primitive | str:
        return _primitive(part, has_bias, tuple(_step_of(step, part) for step in chain.steps), 1)

    found = pieces(g, roles, alike, described)
    if found is None:
        return None
    return Parts(found).run, found.key, lambda array: found.weights(array, plain_weights)


def _is_image(step: Step) -> bool:
    return isinstance(step, Operand) and step.name in IMAGES


def _step_of(step: Step, part: Geometry) -> Step:
    """The step of a part of a convolution."""
    if not isinstance(step, Operand):
        return step
    leading = len(step.spec.shape) - len(part.counts) - 1
    per_channel = (*(1,) * leading, part.outputs, *(1,) * len(part.counts))
    shape = result_shape(part) if _is_image(step) else per_channel
    return replace(step, spec=TensorSpec(shape, step.spec.dtype))


def prepare_plain(call: Call, device: Device) -> Run:
    """``run(x, weight, bias)`` on plain arrays: the images and the weights are brought into oneDNN's layouts, and back."""
    compute = prepare(call, device)
    g = conv_geometry(call)
    enter, leave = to_channels_last(source_shape(g)), from_channels_last(result_shape(g))

    def run(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
        result: Array = leave(compute(enter(x), Packed(dense(weight)), bias), out=out)
        return result

    return run


def cost(work: Work, device: Device) -> float:
    """Estimated seconds on channels-last tensors."""
    chain, abilities = chain_of(work), device.capabilities
    g = conv_geometry(chain.base)
    peak = DEPTHWISE_PEAK if g.is_depthwise else GROUPED_PEAK if g.groups > 1 else PEAK
    return max(g.work / (abilities.flops * peak), work.cost.bytes / abilities.bandwidth) + extra_seconds(
        chain, device
    )


def plain_cost(call: Call, device: Device) -> float:
    """The same with the reorders of all that goes in and out."""
    reorders = 2 * call.cost.bytes / device.capabilities.bandwidth + 4 * SECONDS
    return PLAIN_SLOWDOWN * (cost(call, device) + reorders)
