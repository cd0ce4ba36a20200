"""The gradient of an op against finite differences of a kernel, both on the kernel's device, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from opyard import Graph, Session, TensorSpec, gradients
from opyard.errors import KernelError, OpyardError
from opyard.operation import Call
from opyard.registry import REFERENCE
from opyard_conformance.gradients import check_gradient
from opyard_conformance.running import Array, Bench, Broken, described

BACKWARD = "gradient"
"""What the contract is called."""

MOST = 2_000
"""Elements of all inputs of a case: each direction takes sixteen runs of the kernel."""


def can_be_checked(call: Call) -> bool:
    """Whether a call has floats to move, floats that follow, and no more elements than a check has time for."""
    inputs = [spec for spec in call.inputs if spec is not None]
    sizes = sum(math.prod(map(int, spec.shape)) for spec in inputs)
    return 0 < sizes <= MOST and any(map(_is_real, inputs)) and any(map(_is_real, call.outputs))


def agrees(bench: Bench, inputs: Sequence[Array | None]) -> None:
    """Raises Broken where the gradient does not agree with differences of what the kernel gives.

    The kernel computes the differences; the gradient is what a session on its device gives, with the references for ops that
    it has no kernel for.
    """
    call = bench.work
    assert isinstance(call, Call)
    kept = [index for index, spec in enumerate(call.outputs) if _is_real(spec)]

    def function(*arrays: Array | None) -> tuple[Array, ...]:
        results, _ = bench.start(bench.places(tuple(arrays)))
        copies = bench.copies(results)
        return tuple(copies[index] for index in kept)

    try:
        session = Session(
            _backward(call, kept), devices=[bench.device.name, REFERENCE], registry=bench.registry
        )
        moved = [n for n, spec in enumerate(call.inputs) if spec is not None and _is_real(spec)]

        def vjp(arrays: Sequence[Array | None], cotangents: Sequence[Array]) -> list[Array | None]:
            feeds = {f"input_{n}": a for n, a in enumerate(arrays) if a is not None}
            feeds |= {f"cotangent_{n}": c for n, c in zip(kept, cotangents, strict=True)}
            results: list[Array | None] = [None] * len(arrays)
            for n in moved:
                results[n] = np.asarray(session.run(f"gradient_{n}", feeds))
            return results

        check_gradient(function, vjp, inputs)
    except KernelError as error:
        raise Broken(str(error).removesuffix(".")) from None
    except OpyardError as error:
        raise Broken(f"its gradient cannot be computed: {described(error)}") from error


def _backward(call: Call, kept: Sequence[int]) -> Graph:
    """The gradient of a call as a graph."""
    with Graph() as graph:
        values = [
            None if spec is None else graph.input(f"input_{n}", spec) for n, spec in enumerate(call.inputs)
        ]
        made = graph.apply(call.op, values, call.attrs)
        outputs = made if call.is_tuple else (made,)
        weights = [graph.input(f"cotangent_{n}", outputs[n].spec) for n in kept]
        moved = {n: v for n, v in enumerate(values) if v is not None and _is_real(v.spec)}
        found = gradients([outputs[n] for n in kept], list(moved.values()), weights)
        for n, gradient in zip(moved, found, strict=True):
            graph.output(f"gradient_{n}", gradient)
    return graph


def _is_real(spec: TensorSpec) -> bool:
    return bool(spec.dtype == np.float64)
