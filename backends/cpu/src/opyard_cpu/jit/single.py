"""Kernels of single ops: an op, or what a composite op is made of, as a region of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from opyard import Graph, decompose
from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region

from . import region
from .machine import missing


@lru_cache(maxsize=1024)
def region_of(call: Call) -> Region:
    """The parts of a call. Inputs that are left out are none of the region."""
    with Graph() as graph:
        names = call.input_names
        given = [
            None if spec is None else graph.input(f"{names[min(n, len(names) - 1)]}_{n}", spec)
            for n, spec in enumerate(call.inputs)
        ]
        made = graph.apply(call.op, given, call.attrs)
        for number, value in enumerate(made if call.is_tuple else (made,)):
            graph.output(f"output_{number}", value)
    return Region(decompose(graph, lambda part: False))


def accepts(call: Call, device: Device) -> str | None:
    """Why a call cannot be compiled, or None."""
    if reason := missing():
        return reason
    work = region_of(call)
    reasons = (region.claims(node.call, device) for node in work.graph.nodes)
    return next(filter(None, reasons), None) or region.refusal(work, device)


def cost(call: Call, device: Device) -> float:
    """Estimated seconds."""
    return region.cost(region_of(call), device)


def prepare(call: Call, device: Device) -> Callable[..., Any]:
    """The function of a call."""
    run = region.prepare(region_of(call), device)
    places = [number for number, spec in enumerate(call.inputs) if spec is not None]
    if len(places) == len(call.inputs):
        return run
    return lambda *arrays, **options: run(*(arrays[place] for place in places), **options)
