"""1x1 convolutions of channels-last images, with what follows, as products: the rows are pixels, the columns channels of the result.

What follows is done on tiles in registers, by the instructions that compiled loops have for it. So relu and relu6 keep NaN without a check,
and silu takes a third of what it takes oneDNN.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from opyard import Graph, TensorSpec, linear, matmul
from opyard.driver import Device
from opyard.graph import Value
from opyard.kernels import Work
from opyard.operation import Call
from opyard.region import Region
from opyard.settings import num_threads

from ..geometry import Geometry, conv_geometry
from ..jit import machine, scalars
from ..jit.teams import on_threads
from ..onednn.addresses import Array, address, dense, images_maker
from ..onednn.chains import IMAGES, PER_CHANNEL, SECONDS, Run, chain_of
from ..onednn.checks import FEW, Constants, bounded
from ..onednn.convolution import is_product, refusal, result_shape
from ..onednn.layouts import concrete
from ..onednn.plain import room
from .products import LEAST_ROWS, PEAK, THREAD_FLOPS, panels
from .source import Blocking, Source, blocking
from .tail import Tail, tail_of

STORE_SECONDS = 2e-10
"""What a number takes on its way from a tile to memory, on one thread: few products for each make that count."""

THREAD_SECONDS = 1e-5
"""What a thread must have to do at least: the others are awake, for convolutions lie between convolutions."""

INSTRUCTIONS_PER_SECOND = 1e10
"""Of vectors, in what follows: silu took 0.11 nanoseconds for each number (measured with AVX-512), and hides behind the products."""

CACHED_BYTES = 1 << 16
"""Weights that stay in the cache from run to run: images of other layers lie there meanwhile."""

SHRINKING = {"add", "multiply", "relu", "relu6", "silu"}
"""Ops behind a convolution whose results have a bound that is known: operands count, activations make nothing larger."""


def given_places(work: Work) -> list[int]:
    """The places of the inputs that are there."""
    return [place for place, spec in enumerate(work.inputs) if spec is not None]


def _graph_of(work: Work) -> Graph:
    if isinstance(work, Region):
        return work.graph
    with Graph() as graph:
        given = [None if s is None else graph.input(f"input_{n}", s) for n, s in enumerate(work.inputs)]
        graph.output("output", graph.apply(work.op, given, work.attrs))
    return graph


@lru_cache(maxsize=1024)
def _tail(work: Work) -> Tail | str:
    """The same as a product of matrices, ``[pixels, c] @ [c, o]``, with what follows; or why it is none."""
    g = conv_geometry(chain_of(work).base)
    if not is_product(g):
        return "takes 1x1 convolutions in one group, with strides of 1 and no padding"
    pixels = g.batch * g.area
    if pixels < LEAST_ROWS:
        return f"takes {LEAST_ROWS} pixels or more, not {pixels}"
    return tail_behind(work, g)


def tail_behind(work: Work, g: Geometry) -> Tail | str:
    """What follows a convolution, as if that were a product of matrices with a row for each pixel of the result."""
    graph, known = _graph_of(work), dict[Value, Value]()
    names = dict(
        zip(graph.inputs.values(), (work.input_names[place] for place in given_places(work)), strict=True)
    )
    with Graph() as flat:
        for value, name in names.items():
            shape = _flat_shape(name, value, g)
            if shape is None:
                return f"{name} is neither as large as the result, nor a number for each channel"
            known[value] = flat.input(name, TensorSpec(shape, value.dtype))
        for node in graph.nodes:
            inputs = [None if value is None else known[value] for value in node.inputs]
            if node.op.name != "conv":
                known[node.outputs[0]] = flat.apply(node.op, inputs, node.call.attrs)
            elif len(inputs) > 2 and inputs[2] is not None:
                known[node.outputs[0]] = flat.apply(linear.op, inputs, {})
            else:
                known[node.outputs[0]] = flat.apply(matmul.op, inputs[:2], {})
        (output,) = graph.outputs.values()
        flat.output("output", known[output])
    return tail_of(Region(flat))


def _flat_shape(name: str, value: Value, g: Geometry) -> tuple[int, ...] | None:
    """The shape of an input in the product; None where it does not fit."""
    shape, per_channel = concrete(value.spec.shape), (g.outputs, *(1,) * len(g.counts))
    if name == "x":
        return (g.batch * g.area, g.depth)
    if name == "weight":
        return (g.depth, g.outputs)
    if name == "bias":
        return shape
    if name in IMAGES:
        return (g.batch * g.area, g.outputs) if shape == result_shape(g) else None
    fits = name in PER_CHANNEL and shape in (per_channel, (1, *per_channel))
    return (g.outputs,) if fits else None


def accepts(work: Work, device: Device) -> str | None:
    """Why this is not compiled as a product, or None."""
    if reason := machine.missing() or refusal(chain_of(work).base):
        return reason
    tail = _tail(work)
    return tail if isinstance(tail, str) else None


def _known(work: Work) -> Tail:
    tail = _tail(work)
    assert isinstance(tail, Tail)
    return tail


def threads_for(tail: Tail) -> int:
    """As many as have enough to do."""
    seconds = 2.0 * tail.rows * tail.depth * tail.columns / THREAD_FLOPS
    return max(1, min(num_threads(), int(seconds / THREAD_SECONDS)))


def cut_of(tail: Tail, threads: int) -> Blocking:
    """How the product is cut."""
    sizes = tail.rows, tail.depth, tail.columns
    return blocking(*sizes, machine.host(), threads, cached_bytes=CACHED_BYTES)


def prepare(work: Work, device: Device, constants: Constants = None) -> Run:
    """``run(x, weight, bias, *operands)`` on channels-last images and packed weights."""
    tail, places = _known(work), given_places(work)
    threads = threads_for(tail)
    cut = cut_of(tail, threads)
    compute = on_threads(machine.compiler().function(Source(cut, tail).text()), cut.units, threads)
    g = conv_geometry(chain_of(work).base)
    make = images_maker((g.batch, *g.counts, g.outputs))
    operands = [places[place] for _, _, place in tail.operands]
    words: Any = ctypes.c_void_p * (len(operands) + 4)

    def run(*inputs: Any) -> Array:
        form, result = panels_of(inputs[1], cut), make()
        # kept by this name until all is done: what is dense already is not copied
        arrays = [dense(inputs[0]), form, *(dense(inputs[place]) for place in operands), result]
        scratch = room().of(cut.scratch_bytes) if cut.scratch_bytes else 0
        compute(words(*map(address, arrays), scratch), None)
        return result

    return noting(run, work, constants)


def noting(run: Run, work: Work, constants: Constants) -> Run:
    """The same, which notes what is known of its result where what follows the convolution makes nothing larger.

    Not of few numbers: to look at them takes no longer, and mostly nobody asks.
    """
    if work.outputs[0].size <= FEW:
        return run
    ops = [] if isinstance(work, Call) else [node.op.name for node in work.graph.nodes[1:]]
    return bounded(run, chain_of(work), constants) if SHRINKING.issuperset(ops) else run


def panels_of(weight: Any, cut: Blocking) -> Any:
    """Packed weights ``[o, c, 1, ...]`` in panels, each made once."""
    key = ("pixels", cut.width)
    found = weight.forms.get(key)
    if found is None:
        found = weight.forms[key] = panels(weight.array.reshape(cut.columns, cut.depth).T, cut)
    return found


def cost(work: Work, device: Device) -> float:
    """Estimated seconds with packed weights."""
    return product_seconds(_known(work), work.cost.bytes, device)


def product_seconds(tail: Tail, nbytes: float, device: Device) -> float:
    """Estimated seconds of a product that reads and writes so many bytes."""
    abilities, threads = device.capabilities, threads_for(tail)
    flops = abilities.flops * PEAK * threads / num_threads()
    arithmetic = 2.0 * tail.rows * tail.depth * tail.columns / flops
    results = tail.rows * tail.columns
    vectors = results * 4 / machine.host().vector_bytes
    after = sum(scalars.weight(node.call) for node in tail.nodes) * vectors / INSTRUCTIONS_PER_SECOND
    streamed = max(arithmetic, nbytes / abilities.bandwidth)
    return streamed + (after + results * STORE_SECONDS) / threads + SECONDS
