"""Selection: the policy of a user, and the order in which kernels are considered for one call.

The order is a function of what is registered, the policy and the costs: never of the order of registration.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import settings
from .costs import Costs, Estimate, Roofline
from .driver import Device
from .errors import did_you_mean
from .kernels import Kernel, Work
from .operation import Call
from .opfunction import current_policy
from .registry import REFERENCE, Registry, reference_kernel

PRIOR = Roofline()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What the user wants: compared by identity and interned, so that it is cheap as part of a cache key.

    prefer  backends or backend/kernel names tried first; block: those not used; pins: op name -> backend/kernel
    """

    prefer: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    pins: tuple[tuple[str, str], ...] = ()
    strict: bool = False
    registry: Registry | None = None

    def refusal(self, op: str, kernel: Kernel) -> str | None:
        """Why this policy does not let the kernel run the op, or None."""
        pinned = dict(self.pins).get(op)
        if pinned is not None and pinned != kernel.id:
            return f"{op} is pinned to {pinned}"
        if kernel.id in self.block or kernel.backend in self.block:
            return f"blocked: {kernel.id if kernel.id in self.block else kernel.backend}"
        return None

    def preference(self, kernel: Kernel) -> int:
        """Position in ``prefer``; the number of preferences for kernels that are not named."""
        for position, name in enumerate(self.prefer):
            if name in (kernel.id, kernel.backend):
                return position
        return len(self.prefer)

    def unknown_names(
        self, registry: Registry, called: tuple[str, str, str] = ("prefer", "block", "pin")
    ) -> list[str]:
        """A sentence for each name in this policy that nothing registered has; ``called`` is what states the three."""
        kernels = {k.id for k in registry.all_kernels()} | {f"{REFERENCE}/{REFERENCE}"}
        known = kernels | set(registry.backends)
        named = [(called[0], n) for n in self.prefer] + [(called[1], n) for n in self.block]
        rows = [
            f"{word} names {n!r}, which is no backend or kernel.{did_you_mean(n, tuple(known))}"
            for word, n in named
            if n not in known
        ]
        for op, kernel in self.pins:
            if op not in registry.ops:
                hint = did_you_mean(op, tuple(registry.ops))
                rows.append(f"{called[2]} names the op {op!r}, which does not exist.{hint}")
            own = (*(k.id for k in registry.kernels(op)), f"{REFERENCE}/{REFERENCE}")
            of_several = {k.id for k in (*registry.patterns, *registry.region_compilers)}
            if kernel not in kernels:
                hint = did_you_mean(kernel, tuple(kernels))
                rows.append(f"{called[2]} names the kernel {kernel!r}, which does not exist.{hint}")
            elif op in registry.ops and kernel not in own and kernel not in of_several:
                rows.append(
                    f"{called[2]} names the kernel {kernel!r}, which {op} does not have. It has {', '.join(own)}."
                )
        return rows


_interned: dict[tuple[Any, ...], Policy] = {}
_lock = threading.Lock()


def policy(
    prefer: tuple[str, ...] = (),
    block: tuple[str, ...] = (),
    pins: tuple[tuple[str, str], ...] = (),
    strict: bool = False,
    registry: Registry | None = None,
) -> Policy:
    """The one Policy object with these contents."""
    key = (prefer, block, pins, strict, id(registry))
    with _lock:
        return _interned.setdefault(key, Policy(prefer, block, pins, strict, registry))


def active_policy() -> Policy:
    """The policy set by ``using``, or the one that the environment variables state."""
    found = current_policy.get()
    if found is not None:
        return found  # type: ignore[no-any-return]
    return policy(settings.preferred(), settings.blocked(), settings.pins(), settings.strict())


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A kernel on a device for one call: with its estimate, or with the sentence why it is refused.

    bodies  for control flow, the placements of the graphs inside
    """

    kernel: Kernel
    device: Device
    estimate: Estimate | None
    refusal: str | None
    bodies: tuple[Any, ...] = ()

    @property
    def seconds(self) -> float:
        """Estimated seconds; infinite when refused."""
        return self.estimate.seconds if self.estimate else float("inf")

    def __str__(self) -> str:
        verdict = (
            self.refusal or f"{self.seconds * 1e6:.3g} us ({self.estimate.source if self.estimate else ''})"
        )
        return f"{self.kernel.id} on {self.device.name}: {verdict}"


def candidates(
    call: Call,
    devices: Iterable[Device],
    registry: Registry,
    policy: Policy | None = None,
    costs: Costs = PRIOR,
    *,
    any_layout: bool = False,
) -> tuple[Candidate, ...]:
    """Every kernel of the op on every device, best first; then the reference; then the refused ones with their reasons.

    ``any_layout`` admits kernels that take or give other layouts than the plain one, as plans do, which convert.
    """
    chosen = policy or active_policy()
    rows = []
    for device in devices:
        kernels = [k for k in registry.kernels(call.op.name) if k.backend == device.backend]
        if device.backend == REFERENCE:
            kernels = [reference_kernel(call.op)]
        rows += [consider(kernel, call, device, registry, chosen, costs, any_layout) for kernel in kernels]
    return tuple(sorted(rows, key=lambda c: order(c, chosen)))


def consider(
    kernel: Kernel,
    work: Work,
    device: Device,
    registry: Registry,
    policy: Policy,
    costs: Costs,
    any_layout: bool = True,
) -> Candidate:
    """One kernel on one device, with its estimate or with the reason for refusing it."""
    refusal = (
        policy.refusal(work.title, kernel)
        or registry.why_aside(kernel.scope(work), kernel)
        or (None if any_layout else _layout_refusal(kernel))
        or kernel.refusal(work, device)
    )
    estimate, refusal = _estimate(kernel, work, device, costs) if refusal is None else (None, refusal)
    return Candidate(kernel, device, estimate, refusal)


def _layout_refusal(kernel: Kernel) -> str | None:
    if not kernel.layouts:
        return None
    named = ", ".join(f"{port} in layout {layout!r}" for port, layout in kernel.layouts.items())
    return f"has {named}, which only plans convert to"


def _estimate(kernel: Kernel, work: Work, device: Device, costs: Costs) -> tuple[Estimate | None, str | None]:
    try:
        estimate = costs.kernel_seconds(kernel, work, device)
    except Exception as error:
        return None, f"its cost function failed: {type(error).__name__}: {error}"
    if estimate.refusal:
        return None, estimate.refusal
    if not estimate.seconds >= 0:  # also refuses NaN, which has no place in an order
        return None, f"its cost function returned {estimate.seconds!r}; it must return seconds"
    return estimate, None


def order(candidate: Candidate, chosen: Policy) -> tuple[Any, ...]:
    """The sort key of a candidate. The reference is the last resort, unless it is preferred by name."""
    kernel = candidate.kernel
    preference = chosen.preference(kernel)
    last_resort = kernel.backend == REFERENCE and preference == len(chosen.prefer)
    return (
        candidate.refusal is not None,
        last_resort,
        preference,
        candidate.seconds,
        kernel.backend,
        kernel.name,
        candidate.device.name,
    )
