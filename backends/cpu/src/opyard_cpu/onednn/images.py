"""What else is done to images between convolutions, on channels-last arrays, so that they stay so: ``[n, *spatial, c]``.

oneDNN's own maxima leave NaN out, so maxima are a loop of our own, or NumPy's where there is no compiler; functions of elements are
NumPy's, which do not care how an array lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.ops import windows

from .. import pooling as blocks
from ..direct.means import means
from ..jit import pooling as jit
from ..jit.machine import missing as missing_compiler
from ..taps import Range
from ..threads import in_parts
from .addresses import Array, address, dense, images_maker, known_square, note_square
from .chains import SECONDS, Run
from .checks import LIMIT
from .convolution import images
from .execution import Execution
from .held import on_dense
from .joining import joining
from .layouts import accepts_images, concrete
from .library import library
from .memory import channels_last, strided
from .neighbourhoods import Windows, pooling
from .primitives import Primitive, reorder


def accepts_alike(call: Call, device: Device) -> str | None:
    """Why these tensors cannot be combined element by element in one layout, or None."""
    shapes = {concrete(spec.shape) for spec in call.inputs if spec is not None}
    if len(shapes) > 1:
        return f"takes tensors of one shape, not {' and '.join(map(str, sorted(map(list, shapes))))}"
    return accepts_images(call, device)


def accepts_channel_factors(call: Call, device: Device) -> str | None:
    """Why the second tensor is no number for each channel of each image, or None."""
    first, second = (concrete(spec.shape) for spec in call.inputs if spec is not None)
    batch, channels = first[:2]
    if second not in {(n, channels, *(1,) * (len(first) - 2)) for n in (1, batch)}:
        return f"takes one number for each channel, [n or 1, {channels}, 1, ...], not {list(second)}"
    return accepts_images(call, device)


def prepare_channel_factors(call: Call, device: Device) -> Run:
    """``x [n, *spatial, c]`` times ``[n, c, 1, ...]``, which is plain."""
    spec = call.inputs[1]
    assert spec is not None
    batch, channels, *ones = concrete(spec.shape)
    shape = (batch, *ones, channels)
    return lambda x, factors: x * factors.reshape(shape)


def accepts_concat(call: Call, device: Device) -> str | None:
    """Why tensors are not joined along their channels, or None."""
    spec = call.inputs[0]
    assert spec is not None
    if call.attrs["axis"] % spec.ndim != 1:
        return f"joins channels, axis 1, not axis {call.attrs['axis']}"
    if any(other is not None and not other.size for other in call.inputs):
        return "an empty tensor has no need of layouts"
    return accepts_images(call, device)


def prepare_concat(call: Call, device: Device) -> Run:
    """Joins channels: each part is copied to where it lies in the result."""
    batch, channels, *sizes = result = concrete(call.output.shape)
    make = images_maker((batch, *sizes, channels))
    shapes = [concrete(spec.shape) for spec in call.inputs if spec is not None]
    if missing_compiler():
        copy = _copies(shapes, result)
    else:
        copy = joining(batch * math.prod(sizes), [shape[1] for shape in shapes])

    def run(*parts: Array) -> Array:
        joined, given = make(), [*map(dense, parts)]  # kept by this name until all is done
        copy(*map(address, given), address(joined))
        note_square(joined, sum(map(known_square, parts)))
        return joined

    return run


def _copies(shapes: Sequence[tuple[int, ...]], result: tuple[int, ...]) -> Callable[..., None]:
    """``run(*addresses)`` of images and of the result: a copy by oneDNN for each."""
    copies, begin = [], 0
    for shape in shapes:
        place = strided(shape, channels_last(result))
        copies.append((Execution(reorder(images(shape), place), ("src", "dst")), 4 * begin))
        begin += shape[1]

    def run(*addresses: int) -> None:
        for part, (copy, offset) in zip(addresses, copies, strict=False):  # the last address is the result's
            copy.run(part, addresses[-1] + offset)

    return run


def prepare_max_pool(call: Call, device: Device) -> Run:
    """Maxima. oneDNN's leave NaN out, and are no faster where the norm of the image is known."""
    counts = concrete(call.output.shape)[2:]
    taps = blocks.taps_of(call, counts)
    compute = _maxima(call, taps)
    if any(len(_met(ranges)) < count for ranges, count in zip(taps, counts, strict=True)):
        return compute  # the maximum of padding alone is minus infinity
    times = math.prod(map(len, taps))

    def run(x: Array) -> Any:
        result, bound = compute(x), known_square(x)
        if bound < LIMIT:
            note_square(result, times * bound)  # each number is in so many windows at most
        return result

    return run


def _met(ranges: Sequence[Range]) -> set[int]:
    """The outputs along an axis that some tap sees an input for."""
    return {position for some in ranges for position in range(some.output.start, some.output.stop)}


def _maxima(call: Call, taps: list[list[Range]]) -> Run:
    """Maxima, one axis after the other: NaN wins, padding never does."""
    batch, channels, *counts = concrete(call.output.shape)
    axes = [(1 + axis, ranges, count) for axis, (ranges, count) in enumerate(zip(taps, counts, strict=True))]
    make = images_maker((batch, *counts, channels))
    spec = call.inputs[0]
    assert spec is not None
    if len(taps) <= 2 and not missing_compiler():
        return _compiled_max_pool(concrete(spec.shape), taps, tuple(counts))
    step = max(1, blocks.BLOCK_BYTES * batch // max(1, spec.nbytes))

    def run(x: Array) -> Array:
        result = make()

        def part(first: int, last: int) -> None:
            for start in range(first, last, step):  # what stays in the cache between the passes
                some = slice(start, min(start + step, last))
                blocks.reduce_windows(x[some], axes, np.maximum, -np.inf, result[some])

        in_parts(part, batch, blocks.OPERATIONS * x.size)
        return result

    return run


def _compiled_max_pool(shape: tuple[int, ...], taps: list[list[Range]], counts: tuple[int, ...]) -> Run:
    """The same as one loop in machine code, for one axis or two."""
    batch, channels, *sizes = shape
    found = [jit.windows_of(ranges, count) for ranges, count in zip(taps, counts, strict=True)]
    if len(sizes) == 1:
        sizes, found = [1, *sizes], [jit.Windows((0,), (1,), 0), *found]
    down, right = found
    compute = jit.max_pool(batch, (sizes[0], sizes[1]), channels, down, right)
    make = images_maker((batch, *counts, channels))
    return lambda x: compute(x, make())


def _averages(call: Call) -> Primitive:
    spec, attributes = call.inputs[0], call.attrs
    assert spec is not None
    shape, result = concrete(spec.shape), concrete(call.output.shape)
    sizes, rank = shape[2:], len(shape) - 2
    kernel = windows.per_axis(attributes["kernel"], rank, "kernel")
    given = attributes["strides"]
    steps = kernel if given is None else windows.per_axis(given, rank, "strides")
    spread = windows.per_axis(attributes["dilations"], rank, "dilations")
    pairs = windows.padding_pairs(attributes["padding"], sizes, kernel, steps, spread)
    before = tuple(pair[0] for pair in pairs)
    given_after = tuple(pair[1] for pair in pairs)
    after = tuple(  # at least as far as the last window reaches, which rounding up makes more than the padding
        max(pad, (n - 1) * s + (k - 1) * d + 1 - size - b)
        for pad, n, s, k, d, size, b in zip(
            *(given_after, result[2:], steps, kernel, spread, sizes, before), strict=True
        )
    )
    if attributes["count_include_pad"] and after != given_after:
        raise KernelError("oneDNN counts what windows reach beyond the padding as padding, too")
    algorithm = "avg_include_padding" if attributes["count_include_pad"] else "avg_exclude_padding"
    return pooling(algorithm, images(shape), images(result), kernel, Windows(steps, spread, before, after))


def accepts_average_pool(call: Call, device: Device) -> str | None:
    """Why oneDNN has no such means of windows, or None."""
    if not call.output.size:
        return "an empty tensor has no need of layouts"
    if reason := accepts_images(call, device):
        return reason
    try:
        _averages(call)
    except KernelError as error:
        return str(error)
    return None


def prepare_average_pool(call: Call, device: Device) -> Run:
    """Means of windows."""
    operations = jit.OPERATIONS * call.cost.bytes
    with library().threads_for(operations):
        compute = on_dense(_averages(call), ("src", "dst"), operations)
    batch, channels, *counts = concrete(call.output.shape)
    make = images_maker((batch, *counts, channels))
    return lambda x: compute(x, make())


def global_means(shape: tuple[int, ...]) -> Primitive:
    """Means of channels-last ``[n, c, *spatial]`` over all but the first two axes: ``[n, c, 1, 1]``."""
    batch, channels, pixels = *shape[:2], math.prod(shape[2:])
    source, target = (batch, channels, pixels, 1), (batch, channels, 1, 1)
    whole = Windows((1, 1), (1, 1), (0, 0), (0, 0))
    return pooling("avg_exclude_padding", images(source), images(target), (pixels, 1), whole)


def accepts_global_average_pool(call: Call, device: Device) -> str | None:
    """Why oneDNN has no such means of whole images, or None."""
    spec = call.inputs[0]
    assert spec is not None
    if reason := accepts_images(call, device):
        return reason
    try:
        global_means(concrete(spec.shape))
    except KernelError as error:
        return str(error)
    return None


def prepare_global_average_pool(call: Call, device: Device) -> Run:
    """Means over all spatial axes, as a plain ``[n, c, 1, ...]``."""
    spec, shape = call.inputs[0], concrete(call.output.shape)
    assert spec is not None
    compute = mean_of_pixels(concrete(spec.shape))
    return lambda x: compute(x, np.empty(shape, np.float32))


def mean_of_pixels(shape: tuple[int, ...]) -> Run:
    """A function of channels-last images ``[n, *spatial, c]`` and an array for the means, ``n`` times ``c`` numbers, which it gives back.

    ``shape`` is that of the plain images. A compiled loop where there is a compiler, for it shares the threads of other loops.
    """
    if not missing_compiler():
        return means(shape[0], math.prod(shape[2:]), shape[1])
    execution = Execution(global_means(shape), ("src", "dst"))

    def run(x: Array, result: Array) -> Array:
        execution.run(address(x), address(result))
        return result

    return run


def streaming_seconds(call: Call, device: Device) -> float:
    """Estimated seconds of one pass by NumPy, on one thread."""
    return call.cost.bytes / (0.5 * device.capabilities.bandwidth) + 2 * SECONDS


def pool_seconds(call: Call, device: Device) -> float:
    """Estimated seconds of a pass by oneDNN."""
    return call.cost.bytes / device.capabilities.bandwidth + SECONDS
