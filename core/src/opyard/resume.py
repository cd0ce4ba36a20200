"""Resume: what remains of a run whose kernel failed, as a graph to be placed and run like any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .driver import Device, shares_arrays, transfer
from .graph import Graph
from .kernels import broken_promise
from .ops.arithmetic import identity
from .placement.wholes import remainder
from .plan import Plan, Tensor
from .registry import Registry
from .selection import candidates


def remaining(plan: Plan, arrays: Mapping[int, Any], registry: Registry) -> tuple[Graph, tuple[Any, ...]]:
    """The part of a plan's graph that is still to be computed, and the arrays to feed it, on the home device.

    ``arrays`` are by slots what the run had. What cannot be brought home from another device or layout is computed anew.
    """
    slots: dict[Any, list[int]] = {}
    for slot in arrays:
        slots.setdefault(plan.tensors[slot].value, []).append(slot)
    home: dict[Any, Any] = {}
    while True:
        graph, known = remainder(plan.graph, plan.wholes, slots)
        for value in known:
            if value not in home:
                held = [(plan.tensors[slot], arrays[slot]) for slot in slots[value]]
                home[value] = _brought(held, plan.home, registry)
        lost = [value for value in known if home[value] is None]
        if not lost:
            return graph, tuple(home[value] for value in known)
        for value in lost:
            del slots[value]


def _brought(held: Iterable[tuple[Tensor, Any]], home: Device, registry: Registry) -> Any:
    """One tensor, of which there may be several arrays, as an array of the home device; None if that cannot be done."""

    def distance(one: tuple[Tensor, Any]) -> tuple[bool, bool]:
        return bool(one[0].layout), not shares_arrays(one[0].device, home)

    for tensor, array in sorted(held, key=distance):
        call = identity.op.call(tensor.value.spec)
        try:
            for plain in _plain(tensor, array, registry):
                found = transfer(plain, tensor.device, home)
                if broken_promise(call, found) is None:
                    return found
        except Exception:  # the device may be what failed; the tensor can be computed anew
            continue
    return None


def _plain(tensor: Tensor, array: Any, registry: Registry) -> Iterable[Any]:
    """The array in the plain layout, by each kernel that makes one of it."""
    if not tensor.layout:
        yield array
        return
    call = identity.op.call(tensor.value.spec)
    for candidate in candidates(call, [tensor.device], registry, any_layout=True):
        kernel = candidate.kernel
        takes, gives = kernel.input_layout(call, 0), kernel.output_layout(0)
        if candidate.refusal is None and takes == tensor.layout and not gives:
            yield kernel.bind(call, tensor.device)(array)
