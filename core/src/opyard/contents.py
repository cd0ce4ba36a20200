"""What a registry holds, as immutable data, and how two claims to one kernel name are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .device import Device
from .errors import RegistryError
from .kernels import Kernel, Loadable, Origin
from .operation import Op


@dataclass(frozen=True, slots=True, eq=False)
class BackendEntry:
    """A registered backend. ``arrays`` names the native array classes as "module:Class", so that none need be imported."""

    name: str
    load: Loadable
    arrays: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What opening a backend gave: devices, or the state ("inactive" or "failed") and the reason for having none."""

    name: str
    state: str
    reason: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything registered, replaced as a whole on each change: readers need no lock, a roll-back is an assignment."""

    ops: Mapping[str, tuple[Op, Origin]]
    backends: Mapping[str, BackendEntry]
    kernels: Mapping[str, tuple[Kernel, ...]]
    patterns: tuple[Kernel, ...]
    scalars: tuple[Kernel, ...]
    conflicts: tuple[str, ...]


def settle(existing: tuple[Kernel, ...], new: Kernel) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """The kernels after ``new`` came: one for each id, the same whichever came first; and a sentence if two claimed one."""
    rivals = [k for k in existing if k.id == new.id]
    if not rivals:
        return tuple(sorted((*existing, new), key=kernel_order)), ()
    old = rivals[0]
    if old.origin == new.origin:
        raise RegistryError(
            f"kernel {new.id} of op {new.op!r} is registered twice by {new.origin}; give the second another name."
        )
    winner, loser = sorted((old, new), key=kernel_order)
    how = (
        "by override"
        if winner.override and not loser.override
        else "by name of the distribution; use override=True to replace a kernel on purpose"
    )
    sentence = f"kernel {new.id} of op {new.op!r}: {winner.origin} replaces {loser.origin} ({how})."
    others = tuple(k for k in existing if k is not old)
    return tuple(sorted((*others, winner), key=kernel_order)), (sentence,)


def kernel_order(kernel: Kernel) -> tuple[Any, ...]:
    origin = kernel.origin
    return (
        kernel.backend,
        kernel.name,
        not kernel.override,
        origin.distribution,
        origin.plugin,
        origin.version,
    )
