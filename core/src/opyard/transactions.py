"""Transactions: what one run takes from variables and gives them, all of it or nothing, beside other runs in other threads.

Runs that assign to a variable take turns, by its lock. What a variable holds is lent to every run that reads it. A run may
write into the array of a variable, instead of making a new one, when nobody else has it on loan; then others wait for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .driver import Device, shares_arrays, transfer
from .executable import claim_nothing
from .graph import Graph, Value
from .placement import Resident
from .plan import Plan
from .registry import Registry
from .rewrite import ancestors
from .spec import TensorSpec
from .variables import Variable, borrow, claim, give_back, replace_all

SIGNALS = ("SIGINT", "SIGTERM", "SIGALRM")
"""Signals whose handlers often raise; they wait while variables are written to."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a run does with variables: ``names`` stand for what the ``reads`` hold, ``values`` are for the ``writes``.

    The values are fetched behind those that are ``wanted``, whose number this is.
    """

    reads: tuple[Variable, ...]
    names: tuple[str, ...]
    writes: tuple[Variable, ...]
    values: tuple[Value, ...]
    wanted: int

    @staticmethod
    def of(graph: Graph, wanted: Sequence[Value], updates: bool = False) -> Effects:
        """The effects of fetching some values: all assignments that they depend on, the last one for each variable.

        With ``updates`` those are all assignments of the graph.
        """
        needed = ancestors([*wanted, *((value for value, _ in graph.state.writes) if updates else ())])
        last = {
            variable: value.node.inputs[0]
            for value, variable in graph.state.writes
            if value in needed and value.node
        }
        reads = {variable: value for variable, value in graph.state.reads.items() if value in needed}
        names = tuple(value.name for value in reads.values())
        values = tuple(v for v in last.values() if v is not None)
        return Effects(tuple(reads), names, tuple(last), values, len(wanted))

    def __bool__(self) -> bool:
        return bool(self.reads or self.writes)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The specs of what is read, by name."""
        return {name: variable.spec for name, variable in zip(self.names, self.reads, strict=True)}

    def residents(self, registry: Registry, devices: Sequence[Device]) -> tuple[Resident, ...]:
        """The variables as the placement of a run on some devices sees them.

        Those that live on none of these may move. Raises DeviceError for arrays that no device here has.
        """
        names = dict(zip(self.reads, self.names, strict=True))
        outputs = {variable: f"fetch_{self.wanted + n}" for n, variable in enumerate(self.writes)}
        found = []
        for variable in dict.fromkeys((*self.reads, *self.writes)):
            device = variable.where(registry)
            settled = variable.is_declared or (
                variable.is_settled(registry) and any(shares_arrays(device, known) for known in devices)
            )
            free = variable in outputs and not settled
            ports = names.get(variable, ""), outputs.get(variable, "")
            found.append(Resident(variable.name, *ports, device, free, variable.reason))
        return tuple(found)

    def settle(self, residents: Sequence[Resident], registry: Registry) -> None:
        """Tells the variables that are written where a placement found that they should live."""
        found = {resident.output: resident for resident in residents}
        for number, variable in enumerate(self.writes, self.wanted):
            resident = found[f"fetch_{number}"]
            variable.settle(resident.device, registry, resident.reason)


class Transaction:
    """What one run has on loan of variables, from the beginning to the end of a ``with``; those it writes are locked.

    ``keep`` assigns all results at once. A run that ends without it changes nothing. With ``assigns`` false nothing is
    locked or written to.
    """

    def __init__(self, effects: Effects, registry: Registry, *, assigns: bool = True) -> None:
        self.effects = effects
        self._assigns = assigns
        self.registry = registry
        self.arrays: list[Any] = []
        self._stack = ExitStack()
        self._waits = False
        self._plan: Plan | None = None

    def __enter__(self) -> Transaction:
        with ExitStack() as stack:
            for variable in sorted(self.effects.writes if self._assigns else (), key=lambda v: v.number):
                stack.enter_context(variable.lock)
            self.arrays = borrow(self.effects.reads)
            stack.callback(give_back, self.effects.reads)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.arrays = []
        self._stack.close()

    @property
    def places(self) -> tuple[Any, ...]:
        """Where the variables live, as a key."""
        return tuple([v.place for v in self.effects.reads]) + tuple([v.place for v in self.effects.writes])

    def feeds(self, plan: Plan) -> list[Any]:
        """What the variables hold, each where the plan takes it."""
        self._plan = plan
        slots = self._slots(plan.feeds, self.effects.reads)
        return [
            array if variable.at is device else bring(array, device, self.registry)
            for array, variable, device in zip(
                self.arrays, self.effects.reads, (plan.tensors[s].device for s in slots), strict=True
            )
        ]

    def claim(self, slots: tuple[int, ...]) -> tuple[bool, ...]:
        """Which of the feeds in these slots may be written to; from now on nobody else sees their variables."""
        if not self._assigns:
            return claim_nothing(slots)
        self._hold_signals()
        assert self._plan is not None
        by_slot = dict(
            zip(self._slots(self._plan.feeds, self.effects.reads), self.effects.reads, strict=True)
        )
        return claim([by_slot[slot] for slot in slots])

    def keep(self, results: Sequence[Any], plan: Plan) -> None:
        """Assigns the last results of a run of a plan, and notes which arrays others may have from now on."""
        writes = self.effects.writes
        lent = {
            slot
            for fetch, shared in zip(plan.fetches, plan.shared, strict=True)
            if shared and plan.tensors[fetch].device.array_type is not np.ndarray
            for slot in (fetch, *shared)
        }
        if plan is self._plan:
            slots = self._slots(plan.feeds, self.effects.reads)
            exposed = [v for slot, v in zip(slots, self.effects.reads, strict=True) if slot in lent]
        else:  # the rest of a run in which a kernel failed: what was fed there may have been anything
            exposed = list(self.effects.reads)
        goals = self._slots(plan.fetches, writes)
        if writes:
            self._hold_signals()
        replace_all(
            [
                (variable, array, plan.tensors[slot].device, slot not in lent)
                for variable, array, slot in zip(
                    writes, results[len(results) - len(writes) :], goals, strict=True
                )
            ],
            exposed,
        )

    @staticmethod
    def _slots(slots: Sequence[int], variables: Sequence[Variable]) -> Sequence[int]:
        """The last ones: variables come behind everything else."""
        return slots[len(slots) - len(variables) :]

    def _hold_signals(self) -> None:
        if not self._waits:
            self._waits = True
            self._stack.enter_context(signals_wait())


def bring(array: Any, home: Device, registry: Registry) -> Any:
    """The array on a device."""
    owner = registry.device_of(array)
    return array if owner is None else transfer(array, owner, home)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Lets handlers of signals, such as that of Ctrl-C, run behind the block. They run in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[tuple[int, Any]] = []
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    handlers: dict[int, Any] = {n: h for n in numbers if callable(h := signal.getsignal(n))}
    try:
        for number in handlers:
            signal.signal(number, lambda *arguments: met.append(arguments))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in met:
            handlers[number](number, frame)


def guests(feeds: Mapping[str, Any], registry: Registry, home: Device) -> Iterator[Resident]:
    """The feeds that are arrays of other devices, as the placement of a run sees them."""
    for name, feed in feeds.items():
        if isinstance(feed, (np.ndarray, np.generic, TensorSpec)) or not hasattr(feed, "dtype"):
            continue
        owner = registry.device_of(feed)
        if owner is not None and not shares_arrays(owner, home):
            yield Resident("", name, "", owner)
