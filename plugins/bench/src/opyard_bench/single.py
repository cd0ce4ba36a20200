"""One kernel for one call, verified and ready to be timed: what the pytest fixture ``opyard_bench`` times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import KernelError, RegistryError, SpecError
from opyard.placement import default_costs
from opyard.placement.measuring import Batch, disagreement, expect, make_start
from opyard.registry import describe_error
from opyard.spec import TensorSpec
from opyard_bench.statistics import summarize


class Single:
    """The kernel, on inputs of its own.

    Raises RegistryError for an unknown op or kernel, DeviceUnavailable for an unknown device, SpecError for inputs that the
    op does not take, and KernelError for a kernel that refuses the call, raises, or is wrong.
    """

    def __init__(
        self, op: Any, inputs: Sequence[Any], kernel: str, device: str, attributes: dict[str, Any]
    ) -> None:
        self._registry = oy.default_registry()
        self.call, known = self._call(op, inputs, attributes)
        self._candidate = self._choose(kernel, device)
        self.device = self._candidate.device
        with np.errstate(all="ignore"):
            self._expected = expect(self.call, known, 0)
            try:
                self.start = make_start(
                    self._candidate.kernel, self.call, self.device, self._expected.arrays, self._registry
                )
                result = self.start()
            except Exception as error:
                raise KernelError(f"{self._name} failed on {self.call}: {describe_error(error)}") from error
        self.check(result)

    @property
    def title(self) -> str:
        """The call with its specs and attributes."""
        return str(self.call)

    @property
    def _name(self) -> str:
        return f"{self._candidate.kernel.id} on {self._candidate.device.name}"

    def warm(self) -> tuple[int, float]:
        """Calls of a batch that lasts long enough, and seconds of one call."""
        batch = Batch(self.start, self.device)
        seconds = batch.warm()
        return batch.calls, seconds

    def check(self, result: Any) -> None:
        """Raises KernelError where a native result differs from that of the reference."""
        difference = disagreement(
            self._expected, self._candidate.kernel, self.call, self.device, result, self._registry
        )
        if difference is not None:
            raise KernelError(f"{self._name} is wrong for {self.call}: {difference}")

    def facts(self) -> dict[str, Any]:
        """What is timed."""
        return {
            "kernel": self._candidate.kernel.id,
            "device": self.device.name,
            "flops": self.call.cost.flops,
            "bytes": self.call.cost.bytes,
            "predicted_seconds": self._candidate.seconds,
        }

    def rates(self, samples: Sequence[float]) -> dict[str, float]:
        """Billions of bytes and of operations per second, by the median."""
        seconds = max(summarize(samples).median, 1e-12)
        return {
            "gigabytes_per_second": self.call.cost.bytes / seconds / 1e9,
            "gigaflops_per_second": self.call.cost.flops / seconds / 1e9,
        }

    def _call(self, op: Any, inputs: Sequence[Any], attributes: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The call, and the arrays that are known of its inputs."""
        if isinstance(op, oy.Call):
            if attributes or (inputs and len(inputs) != len(op.inputs)):
                raise SpecError(
                    f"opyard_bench was given the call {op}, which has its inputs and attributes; give arrays for all {len(op.inputs)} inputs behind it, or nothing."
                )
            return op, list(inputs or [None] * len(op.inputs))
        found = self._registry.get_op(op) if isinstance(op, str) else getattr(op, "op", op)
        specs = [x if x is None or isinstance(x, TensorSpec) else TensorSpec.of(x) for x in inputs]
        call = found.call(*specs, **attributes)
        known: list[Any] = [None if isinstance(x, TensorSpec) else x for x in inputs]
        return call, known + [None] * (len(call.inputs) - len(known))

    def _choose(self, kernel: str, device: str) -> oy.Candidate:
        """The kernel asked for, or the best; the reference only where it was asked for, or where there is nothing else."""
        registry = self._registry
        devices = [registry.device(device)] if device else list(registry.devices())
        every = oy.candidates(self.call, devices, registry, costs=default_costs(), any_layout=True)
        found = [candidate for candidate in every if kernel in ("", candidate.kernel.id)]
        if not found:
            known = ", ".join(dict.fromkeys(c.kernel.id for c in every)) or "none"
            where = f" on {device}" if device else ""
            raise RegistryError(
                f"there is no kernel {kernel or 'at all'} for {self.call.op.name}{where}; those there are: {known}."
            )
        ready = [candidate for candidate in found if candidate.refusal is None]
        if not ready:
            reasons = "; ".join(f"{c.kernel.id} on {c.device.name}: {c.refusal}" for c in found)
            raise KernelError(f"no kernel takes {self.call}: {reasons}")
        return ready[0]
