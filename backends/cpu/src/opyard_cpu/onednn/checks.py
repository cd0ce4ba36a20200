"""Post-ops that are quick but wrong for NaN or infinity, and checks in each call that tell whether there could be any.

oneDNN's own relu and clip make zeros of NaN. What keeps NaN has an exponential in it: a depthwise convolution takes
nearly twice the time, and with relu6 2.5 times. So a chain that ends so runs in one of three ways (measured with oneDNN 3.2):

* It is checked before: where the norms of all that goes in are small, no sum can overflow, and oneDNN's own function is right.
  The norm of the result has a bound then, too, which is kept with it (see Memory): so in a row of convolutions the first image
  is measured, and later ones every ten layers or so, when the bounds have become too large.
* It is checked after a product whose result has fewer elements than what goes in: hard swish with a very steep slope is relu, and
  keeps NaN, but makes NaN of minus infinity as well. Where the result is finite there was neither.

* With few results, which stay in the cache, the activation is a compiled loop over them, that knows NaN, and there is no check.
  So is silu with any number of them: oneDNN divides for each vector, and takes twice what one more pass over the image does.

Where a check fails, the call is made with the exact functions, which are prepared when that first happens. One pass over an array
that was just written, or is about to be read, takes a seventh to a quarter of what the exponentials take.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opyard import TensorSpec, gelu, relu, relu6, silu, trace
from opyard.driver import Device
from opyard.region import Region
from opyard.settings import num_threads

from ..jit.compiled import Compiled, compiled
from ..jit.machine import missing
from ..jit.steps import steps_of
from ..jit.teams import on_threads
from .addresses import address, known_square, measured_square, note_square, square
from .chains import IMAGES, RELU, RELU6, SECONDS, STEEP, Chain, Operand, Run, elements_in
from .library import waking_seconds
from .primitives import Eltwise

LIMIT = 1e74
"""What the square of a number before the activation may be at most: float32 ends at the square root of 1e77."""

CHEAP = ("relu", "clip_v2", "linear", "hardswish")
"""Post-ops that take next to nothing; the others have an exponential in them."""

STEP_FLOPS = 60.0
"""What a post-op with an exponential takes for each element, in operations of a product that would take as long."""

FEW = 1 << 16
"""Results over which a compiled loop goes once more for relu."""

SILU = (Eltwise("swish", 1.0),)

SILU_FLOPS = 30.0
"""The same as STEP_FLOPS for silu in a pass of its own."""

ELEMENT_SECONDS, THREAD_SECONDS = 1.3e-10, 2e-5
"""What an element takes in that pass, and what another thread must have to do: it is awake, for it took part in the convolution."""

CACHED = 3.0
"""How much quicker than memory what was just written is read."""

Constants = Sequence[Any] | None
"""For each input the array that it is in every run, or None; None where nothing is known."""


def _is_convolution(chain: Chain) -> bool:
    return chain.base.op.name == "conv"


def quick_before(chain: Chain) -> Chain | None:
    """The chain with oneDNN's own relu or clip, where what goes in is worth checking; None where it ends otherwise."""
    if not _is_convolution(chain) and elements_in(chain) > 2 * int(chain.base.output.size):
        return None
    for exact, quick in ((RELU6, Eltwise("clip_v2", 0.0, 6.0)), (RELU, Eltwise("relu"))):
        if chain.steps[-len(exact) :] == exact:
            return replace(chain, steps=(*chain.steps[: -len(exact)], quick))
    return None


def quick_after(chain: Chain) -> Chain | None:
    """The chain with hard swish in place of relu; None where it does not end in relu or relu6."""
    if not any(chain.steps[-len(exact) :] == exact for exact in (RELU6, RELU)):
        return None
    return replace(chain, steps=tuple(STEEP if step == RELU[0] else step for step in chain.steps))


def prepared(chain: Chain, compute: Callable[[Chain], Run], constants: Constants = None) -> Run:
    """The function of a chain in its quickest way. ``compute`` makes that of a chain as it is."""
    if found := _activated(chain):
        shorter, activation = found
        return _in_place(compute(shorter), activation, chain)
    if chain.steps[-1:] == (Eltwise("gelu_erf"),):
        return _with_exact_gelu(compute(chain), lambda: compute(replace(chain, steps=chain.steps[:-1])))
    if quick := quick_before(chain):
        return _checked_before(compute(quick), lambda: compute(chain), chain, constants)
    if quick := quick_after(chain):
        return _checked_after(compute(quick), lambda: compute(chain))
    if _is_convolution(chain) and not any(isinstance(step, Eltwise) for step in chain.steps):
        return bounded(compute(chain), chain, constants)
    return compute(chain)


def _activated(chain: Chain) -> tuple[Chain, Callable[..., Any]] | None:
    """The chain without the activation at its end, and its function, where that is a loop of its own; else None."""
    if missing():
        return None
    if _has_own_silu(chain):
        return replace(chain, steps=chain.steps[:-1]), silu
    if int(chain.base.output.size) > FEW:
        return None
    for steps, function in ((RELU6, relu6), (RELU, relu)):
        if chain.steps[-len(steps) :] == steps:
            return replace(chain, steps=chain.steps[: -len(steps)]), function
    return None


def _in_place(compute: Run, activation: Callable[..., Any], chain: Chain) -> Run:
    """The chain, and then a function of each element of its result, compiled."""
    flat = TensorSpec((int(chain.base.output.size),), chain.base.output.dtype)
    (step,) = steps_of(Region(trace(activation, flat)))
    size, loop = int(chain.base.output.size), compiled(step, 0.0)
    if activation is silu and _silu_threads(size) > 1:
        return _in_place_on_threads(compute, loop, size, _silu_threads(size))
    activate = loop.function()

    def run(*inputs: Any, **keywords: Any) -> Any:
        result = compute(*inputs, **keywords)
        return activate(result, out=result)

    return run


def _in_place_on_threads(compute: Run, loop: Compiled, size: int, threads: int) -> Run:
    """The same by the threads that oneDNN works with."""
    activate, words = on_threads(loop.module, size, threads), ctypes.c_void_p * 3
    table = (ctypes.c_int64 * loop.table.size)(*loop.table)

    def run(*inputs: Any, **keywords: Any) -> Any:
        result = compute(*inputs, **keywords)
        place = address(result)
        activate(words(place, place, 0), table)
        return result

    return run


def _silu_threads(size: int) -> int:
    """How many threads have enough to do in a pass over so many elements."""
    return max(1, min(num_threads(), int(size * ELEMENT_SECONDS / THREAD_SECONDS)))


def _has_own_silu(chain: Chain) -> bool:
    """Whether silu is a pass of its own: not where fewer threads than before would have to fetch what the others have written."""
    is_shared = _silu_threads(int(chain.base.output.size)) == num_threads()
    return is_shared and _is_convolution(chain) and chain.steps[-1:] == SILU


def _bound_of(chain: Chain, constants: Constants) -> Callable[[Sequence[Any], Run], float]:
    """``bound(inputs, square)``: what the sum of the squares is at most, before the activation and of all partial sums.

    By Cauchy and Schwarz the square of a sum of products of elements of x and w is at most ``|x|^2 |w|^2`` of those that it takes; over
    all results each element of x is taken by as many windows as a kernel has elements, each by other kernels of w. An operand adds or
    multiplies at most its own norm, where ``(a + b)^2`` is at most ``2 (a^2 + b^2)``. ``square`` tells that of an image.

    So it is a sum of multiples of the squares of the images. The factors are computed once where all else is constant: to look at a few
    more numbers takes ten times as long between two convolutions, which have filled the caches, than in a test of it.
    """
    base, results = chain.base, int(chain.base.output.size)
    weight = base.inputs[1]
    assert weight is not None
    taps = math.prod(int(size) for size in weight.shape[2:])  # 1 of the matrices of products
    operands: list[tuple[int, bool, bool, int]] = []
    if len(base.inputs) > 2 and (bias := base.inputs[2]) is not None:
        operands.append((2, False, False, results // int(bias.size)))
    for step in chain.steps:
        if isinstance(step, Operand):
            is_image, times = step.name in IMAGES, results // int(step.spec.size)
            operands.append((step.position, step.algorithm == "mul", is_image, times))
    images = [0, *(position for position, _, is_image, _ in operands if is_image)]
    others = [position for position, _, is_image, _ in operands if not is_image]
    is_fixed = not others or (constants is not None and all(constants[i] is not None for i in others))
    kept: tuple[Any, float, list[float]] = None, 0.0, []

    def factors(inputs: Sequence[Any]) -> tuple[Any, float, list[float]]:
        alone, multiples = 0.0, [taps * inputs[1].square]
        for position, multiplies, is_image, times in operands:
            other = 1.0 if is_image else times * square(inputs[position])
            by = max(other, 1.0) if multiplies else 2.0  # a factor does not lessen what overflowed before it
            alone, multiples = by * alone, [by * multiple for multiple in multiples]
            if is_image:
                multiples.append(2.0)
            elif not multiplies:
                alone += 2.0 * other
        return inputs[1], alone, multiples

    def bound(inputs: Sequence[Any], image_square: Run) -> float:
        nonlocal kept
        found = kept
        if found[0] is not inputs[1]:
            found = factors(inputs)
            if is_fixed:
                kept = found
        _, total, multiples = found
        for position, multiple in zip(images, multiples, strict=True):
            total += multiple * image_square(inputs[position])
        return total

    return bound


def _checked_before(quick: Run, make_exact: Callable[[], Run], chain: Chain, constants: Constants) -> Run:
    """Uses ``quick`` where no number before the activation can be NaN or infinite."""
    others: list[Run] = []
    bound_of = _bound_of(chain, constants)
    most = 36.0 * int(chain.base.output.size) if chain.steps[-len(RELU6) :] == RELU6 else math.inf

    def run(*inputs: Any, **keywords: Any) -> Any:
        bound = bound_of(inputs, known_square)
        if not bound < LIMIT:
            bound = bound_of(inputs, measured_square)
        if bound < LIMIT:
            result = quick(*inputs, **keywords)
            note_square(result, bound if bound < most else most)
            return result
        if not others:
            others.append(make_exact())
        return others[0](*inputs, **keywords)

    return run


def bounded(compute: Run, chain: Chain, constants: Constants = None) -> Run:
    """Notes what is known of the result of a convolution, which may be a transposed one, without an activation."""
    bound_of = _bound_of(chain, constants)

    def run(*inputs: Any) -> Any:
        result, bound = compute(*inputs), bound_of(inputs, known_square)
        if bound < LIMIT:
            note_square(result, bound)
        return result

    return run


def _checked_after(quick: Run, make_exact: Callable[[], Run]) -> Run:
    """Uses ``quick``, and computes anew where it gave a number that is not finite or nearly not."""
    others: list[Run] = []

    def run(*inputs: Any, **keywords: Any) -> Any:
        result = quick(*inputs, **keywords)
        if math.isfinite(square(result)):
            return result
        if not others:
            others.append(make_exact())
        return others[0](*inputs, **keywords)

    return run


def _with_exact_gelu(run: Run, without_last: Callable[[], Run]) -> Run:
    """A function that computes gelu as oneDNN does, and anew where that gave numbers that are not finite.

    oneDNN makes NaN of infinity, and infinity of the largest numbers. One sum over the result, which is in the cache, tells:
    a twentieth of what a further pass with the function would take. ``without_last`` gives the kernel without gelu.
    """
    others: list[Run] = []

    def checked(*inputs: Any, **keywords: Any) -> Any:
        result = run(*inputs, **keywords)
        if np.isfinite(np.add.reduce(result, axis=None)):
            return result
        if not others:
            others.append(without_last())
        result[...] = gelu.op.reference(others[0](*inputs))
        return result

    return checked


def extra_seconds(chain: Chain, device: Device) -> float:
    """Estimated seconds of the steps, of a check, and of the call itself."""
    results, abilities = int(chain.base.output.size), device.capabilities
    before, after = quick_before(chain), quick_after(chain)
    checked = 0 if _is_convolution(chain) else elements_in(chain) if before else results if after else 0
    steps = (before or after or chain).steps
    dear = STEP_FLOPS * sum(isinstance(step, Eltwise) and step.algorithm not in CHEAP for step in steps)
    if _has_own_silu(chain) and not missing():
        dear += SILU_FLOPS - STEP_FLOPS
    flops, nbytes = dear * results, 4 * checked
    seconds = flops / abilities.flops + nbytes / (CACHED * abilities.bandwidth)
    return seconds + SECONDS + waking_seconds(chain.base.cost.flops)
