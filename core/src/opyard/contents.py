"""What a registry holds, as immutable data, and how two claims to one kernel name are settled."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .driver import Device
from .errors import RegistryError
from .kernels import PROGRAM, STANDARD, Kernel, Loadable, Origin
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
    """Everything registered, replaced as a whole on each change: readers need no lock, a roll-back is an assignment.

    All but ``ops`` hold every claim; of several claims to one name the first wins.
    """

    ops: Mapping[str, tuple[Op, Origin]]
    backends: Mapping[str, tuple[BackendEntry, ...]]
    kernels: Mapping[str, tuple[Kernel, ...]]
    patterns: tuple[Kernel, ...]
    scalars: tuple[Kernel, ...]
    region_compilers: tuple[Kernel, ...]

    @property
    def claims(self) -> tuple[tuple[Kernel, ...], ...]:
        """The claims to kernels that compete with each other: those of each op, then the others."""
        by_op = [self.kernels[op] for op in sorted(self.kernels)]
        return (*by_op, self.patterns, self.scalars, self.region_compilers)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """A sentence for each claim to the name of a backend or kernel that lost."""
        rows = [
            f"backend {name!r}: {winner.origin} replaces {loser.origin} (by name of the distribution)."
            for name, (winner, *losers) in sorted(self.backends.items())
            for loser in losers
        ]
        return (*rows, *(sentence for claims in self.claims for sentence in _conflicts(claims)))


def with_backend(claims: tuple[BackendEntry, ...], new: BackendEntry) -> tuple[BackendEntry, ...]:
    """The claims to a backend's name and a new one, ordered. What the program itself registered before is replaced.

    Raises RegistryError when a plugin claims a name twice, and when the name is opyard's own or the program takes a plugin's.
    """
    kept = tuple(rival for rival in claims if not _replaces(new.origin, rival.origin))
    for rival in kept:
        if rival.origin == new.origin or rival.origin.distribution == STANDARD or new.origin == PROGRAM:
            raise RegistryError(
                f"backend {new.name!r} is already registered by {rival.origin}; give yours another name."
            )
    return tuple(sorted((*kept, new), key=lambda entry: _origin_order(entry.origin)))


def with_claim(claims: tuple[Kernel, ...], new: Kernel) -> tuple[Kernel, ...]:
    """The claims and a new one, ordered. Losers are kept, so that nothing depends on who came first.

    What the program itself registered before is replaced, so that a cell of a notebook can run again. Raises
    RegistryError when a plugin claims a name twice.
    """
    if new.origin == PROGRAM:  # plugins register by the thousand, and replace nothing
        claims = tuple(k for k in claims if k.id != new.id or not _replaces(new.origin, k.origin))
    at = bisect_left(claims, kernel_order(new), key=kernel_order)  # claims of one name lie side by side
    low, high = at, at
    while low > 0 and claims[low - 1].id == new.id:
        low -= 1
    while high < len(claims) and claims[high].id == new.id:
        high += 1
    if any(rival.origin == new.origin for rival in claims[low:high]):
        raise RegistryError(f"{new.title} is registered twice by {new.origin}; give the second another name.")
    return (*claims[:at], new, *claims[at:])


def winners(claims: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """One kernel for each name: what overrides first, then by name of the distribution."""
    first = {kernel.id: kernel for kernel in reversed(claims)}
    return tuple(kernel for kernel in claims if first[kernel.id] is kernel)


def _conflicts(claims: tuple[Kernel, ...]) -> list[str]:
    chosen = {kernel.id: kernel for kernel in winners(claims)}
    rows = []
    for loser in claims:
        winner = chosen[loser.id]
        if loser is winner:
            continue
        how = (
            "by override"
            if winner.override and not loser.override
            else "by name of the distribution; use override=True to replace a kernel on purpose"
        )
        rows.append(f"{loser.title}: {winner.origin} replaces {loser.origin} ({how}).")
    return rows


def kernel_order(kernel: Kernel) -> tuple[Any, ...]:
    """Kernels by name; claims to one name by precedence."""
    origin = kernel.origin
    return (
        kernel.backend,
        kernel.name,
        not kernel.override,
        *_origin_order(origin),
    )


def _origin_order(origin: Origin) -> tuple[str, ...]:
    return (origin.distribution, origin.plugin, origin.version)


def _replaces(new: Origin, old: Origin) -> bool:
    return new == old == PROGRAM
