"""Nested graphs: what branches and loops cost on each device, by placements of their graphs with that device as home."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..costs import Costs, Estimate
from ..driver import Device, shares_arrays
from ..errors import PlacementError
from ..graph import Graph
from ..kernels import Kernel
from ..operation import Call, Program
from ..ops import _control
from ..registry import REFERENCE, Registry
from ..selection import Candidate, Policy

if TYPE_CHECKING:
    from .model import Placement

NAME = "control"
"""Kernels of control flow are called so, on every backend."""

STEP_SECONDS = 2e-6
"""What one run of a graph from Python takes beside its kernels."""

PlaceBody = Callable[[Graph, Device], "Placement"]
"""Places a graph whose inputs and outputs lie on a device."""


class Nested:
    """The candidates of calls with graphs among their attributes. Equal graphs are placed once for each device."""

    def __init__(self, registry: Registry, policy: Policy, costs: Costs, place_body: PlaceBody) -> None:
        self._registry = registry
        self._policy = policy
        self._costs = costs
        self._place_body = place_body
        self._known: dict[tuple[Program, Device], Placement] = {}

    def candidates(self, call: Call, devices: Sequence[Device]) -> Iterator[Candidate]:
        """One for each device. The reference has one where no other device works on NumPy's arrays."""
        for device in devices:
            if device.backend == REFERENCE and any(
                shares_arrays(device, d) for d in devices if d is not device
            ):
                continue
            yield self._candidate(call, device)

    def _candidate(self, call: Call, device: Device) -> Candidate:
        kernel = Kernel(call.op.name, device.backend, NAME)
        if reason := self._policy.refusal(call.op.name, kernel):
            return Candidate(kernel, device, None, reason)
        parts = _control.parts(call, device.array_type is np.ndarray)
        try:
            bodies = tuple(self._placed(program, device) for program, _ in parts)
        except PlacementError as error:
            return Candidate(kernel, device, None, f"its graph cannot be placed: {error}")
        seconds = sum(
            (body.seconds + STEP_SECONDS) * times for body, (_, times) in zip(bodies, parts, strict=True)
        )
        return Candidate(
            kernel, device, Estimate(seconds + self._collecting(call, device), "placed"), None, bodies
        )

    def _placed(self, program: Program, device: Device) -> Placement:
        if (program, device) not in self._known:
            self._known[program, device] = self._place_body(program.graph, device)
        return self._known[program, device]

    def _collecting(self, call: Call, device: Device) -> float:
        """Seconds for bringing what a loop collects to the host, item by item, and back."""
        item = _control.collected_bytes(call)
        if not item or device.array_type is np.ndarray:
            return 0.0
        host, length = self._registry.device(REFERENCE), int(call.attrs["length"])
        down = self._costs.transfer_seconds(device, host, item) * length
        return down + self._costs.transfer_seconds(host, device, item * length)
