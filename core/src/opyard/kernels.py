"""Kernel: how one op, or a pattern of ops, runs on one backend. Declared as data, loaded on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from .device import Device
from .errors import RegistryError
from .operation import Call

Loadable = str | Callable[..., Any]
"""A function, or "package.module:function", which is imported on first use."""

Dtypes = tuple[str, ...] | Mapping[str, tuple[str, ...]] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a registration came from."""

    plugin: str = "program"
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.distribution else self.plugin


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """How one op runs on one backend. See docs/writing-a-kernel.md.

    load        the simple form: a function on native arrays, attributes as keywords
    prepare     the full form: ``prepare(call, device)`` gives ``run(*arrays)``; exactly one of the two is given
    dtypes      names that every input must have, or a mapping from input names to such; None: any
    ranks       least and greatest rank of the first input; None: any
    requires    features that the device must have
    accepts     ``accepts(call, device)`` gives None, or the reason for refusing
    cost        ``cost(call, device)`` gives estimated seconds; None: the roofline of the device
    efficiency  fraction of the device's roofline that the kernel reaches, for the estimate
    out         whether the kernel writes into a native array given as the keyword ``out``
    deterministic  whether equal inputs give equal bits
    override    replaces a kernel of the same backend and name that another distribution registered
    pattern     for a pattern kernel, the function over ops that it replaces; ``op`` is then empty
    """

    op: str
    backend: str
    name: str
    load: Loadable | None = None
    prepare: Loadable | None = None
    dtypes: Dtypes = None
    ranks: tuple[int, int] | None = None
    requires: tuple[str, ...] = ()
    accepts: Loadable | None = None
    cost: Loadable | None = None
    efficiency: float = 1.0
    out: bool = False
    deterministic: bool = True
    version: int = 1
    override: bool = False
    pattern: Callable[..., Any] | None = None
    origin: Origin = Origin()

    @property
    def id(self) -> str:
        """``backend/name``: what users write to pin, prefer or block it."""
        return f"{self.backend}/{self.name}"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"kernel {self.id} of op {self.op!r}" if self.op else f"pattern kernel {self.id}"

    def __repr__(self) -> str:
        return f"<Kernel {self.op or 'pattern'} {self.id} from {self.origin}>"

    @property
    def looks_at_shapes(self) -> bool:
        """Whether anything but the array types and dtypes decides about this kernel."""
        return self.prepare is not None or self.accepts is not None or self.ranks is not None

    def refusal(self, call: Call, device: Device) -> str | None:
        """Why this kernel cannot take the call on the device, or None. A failing ``accepts`` is a reason, too."""
        missing = [feature for feature in self.requires if feature not in device.capabilities.features]
        if missing:
            return f"{device.name} lacks {', '.join(missing)}"
        reason = self._dtype_refusal(call)
        if reason is None and self.ranks is not None and call.inputs and call.inputs[0] is not None:
            low, high = self.ranks
            if not low <= call.inputs[0].ndim <= high:
                reason = f"takes rank {low} to {high}, the input has rank {call.inputs[0].ndim}"
        if reason is None and self.accepts is not None:
            try:
                reason = resolve(self.accepts)(call, device)
            except Exception as error:
                return f"its accepts function failed: {type(error).__name__}: {error}"
            if reason is not None and (not isinstance(reason, str) or not reason):
                return f"its accepts function returned {reason!r}; it must return None or the reason for refusing"
        return reason

    def _dtype_refusal(self, call: Call) -> str | None:
        if self.dtypes is None:
            return None
        names = call.op.signature.inputs
        for position, spec in enumerate(call.inputs):
            name = names[min(position, len(names) - 1)]
            allowed = self.dtypes.get(name) if isinstance(self.dtypes, Mapping) else self.dtypes
            if spec is not None and allowed is not None and spec.dtype.name not in allowed:
                return f"takes {name} of {', '.join(allowed)}, not {spec.dtype.name}"
        return None

    def check(self) -> None:
        """Raises RegistryError for facts that cannot be meant, with what to write instead."""
        if (self.load is None) == (self.prepare is None):
            raise RegistryError(
                f"{self.title} needs either load=... (a function on arrays) or prepare=... (specialise once, run many)."
            )
        if not self.backend.isidentifier() or not self.name or "/" in self.name:
            raise RegistryError(
                f"{self.title}: a backend's name is an identifier, a kernel's name has no '/'."
            )
        if not self.efficiency > 0:
            raise RegistryError(
                f"{self.title}: efficiency is a positive fraction of the device's roofline; found {self.efficiency!r}."
            )
        by_input = self.dtypes.items() if isinstance(self.dtypes, Mapping) else [("", self.dtypes)]
        lists = [("dtypes", names) for _, names in by_input] + [("requires", self.requires)]
        for fact, names in lists:
            if isinstance(names, str):
                raise RegistryError(
                    f"{self.title}: {fact} is a tuple of names; write ({names!r},) for {names!r}."
                )

    def bind(self, call: Call, device: Device) -> Callable[..., Any]:
        """The kernel as a function of the arrays alone: loaded, specialised, with the attributes bound."""
        if self.prepare is not None:
            run: Callable[..., Any] = resolve(self.prepare)(call, device)
            return run
        function = resolve(self.load)
        return partial(function, **call.attrs) if call.attributes else function


def resolve(target: Loadable | None) -> Callable[..., Any]:
    """The function behind a Loadable. Raises RegistryError when a "module:function" does not name one."""
    if callable(target):
        return target
    module, colon, attribute = str(target).partition(":")
    if not colon:
        raise RegistryError(f"{target!r} is not 'package.module:function'.")
    found = import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise RegistryError(f"module {module} has no {attribute!r}, which a registration names.")
        found = getattr(found, part)
    if not callable(found):
        raise RegistryError(f"{target!r} is {type(found).__name__}, not a function.")
    return found
