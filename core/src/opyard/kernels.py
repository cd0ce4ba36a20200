"""Kernel: how one op, a pattern of ops, or regions of a graph run on one backend. Declared as data, loaded on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .driver import Device
from .errors import RegistryError
from .operation import Call
from .region import Region

Loadable = str | Callable[..., Any]
"""A function, or "package.module:function", which is imported on first use."""

Dtypes = tuple[str, ...] | Mapping[str, tuple[str, ...]] | None

Work = Call | Region
"""What a kernel computes: a use of its op or, for a pattern kernel and a region compiler, a part of a graph."""

REGIONS = "regions"
"""What failures of a region compiler are kept under."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a registration came from. ``value`` is what the plugin's entry point names, such as "package.module"."""

    plugin: str = "program"
    distribution: str = ""
    version: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.distribution else self.plugin


PROGRAM = Origin()
"""The program itself: what it registers it may register again."""

STANDARD = "opyard"
"""The distribution of the standard ops and of the reference."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """How one op runs on one backend. See docs/writing-a-kernel.md.

    load        the simple form: a function on native arrays, attributes as keywords
    prepare     the full form: ``prepare(call, device)`` gives ``run(*arrays)``; exactly one of the two is given
    dtypes      names that every input must have, or a mapping from input names to such; None: any
                (the inputs of a pattern are the parameters of its function)
    ranks       least and greatest rank of the first input; None: any
    least_size  elements of the result below which the kernel refuses: eager calls of small arrays do not look at shapes for its sake
    requires    features that the device must have
    accepts     ``accepts(call, device)`` gives None, or the reason for refusing
    cost        ``cost(call, device)`` gives estimated seconds; None: the roofline of the device
    efficiency  fraction of the device's roofline that the kernel reaches, for the estimate
    out         whether the kernel writes into a native array given as the keyword ``out``
    inplace     whether ``out`` may be the array of an input with the shape and dtype of the output. Such a kernel does not
                raise, whatever the numbers are, once it is prepared: what it overwrites may be a variable
    deterministic  whether equal inputs give equal bits
    magnitudes  ``magnitudes(call, arrays)`` gives for each output what rounding errors are measured against, where that is
                not what the op says: for algorithms whose errors are relative to neighbours of a number, see Call.magnitudes
    layouts     layout by name of an input, or "output": a name that the backend understands; what is not named is plain.
                Kernels of the op ``identity`` that take one layout and give another are the conversions of a backend
    override    replaces a kernel of the same backend and name that another distribution registered
    pattern     for a pattern kernel, the function over ops that it replaces; ``op`` is then empty, and ``prepare``,
                ``accepts`` and ``cost`` get a Region where they would get a Call
    claims      for a region compiler, ``claims(call, device)``: None where it can compute the call as a part of a region,
                or the reason why not; ``op`` is empty and the rest as for a pattern
    constants   for a pattern kernel or a region compiler, whether ``prepare`` takes a third argument: for each input the
                native array that it is in every run, such as weights, or None; ``run`` is still given all inputs
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
    layouts: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    override: bool = False
    pattern: Callable[..., Any] | None = None
    origin: Origin = Origin()
    claims: Loadable | None = None
    inplace: bool = False
    constants: bool = False
    magnitudes: Loadable | None = None
    least_size: int = 0

    @property
    def id(self) -> str:
        """``backend/name``: what users write to pin, prefer or block it."""
        return f"{self.backend}/{self.name}"

    @property
    def title(self) -> str:
        """What messages call it."""
        if self.op:
            return f"kernel {self.id} of op {self.op!r}"
        return f"{'pattern kernel' if self.claims is None else 'region compiler'} {self.id}"

    def __repr__(self) -> str:
        kind = "pattern" if self.claims is None else "regions"
        return f"<Kernel {self.op or kind} {self.id} from {self.origin}>"

    def scope(self, work: Work) -> str:
        """What a failure on some work is kept under: the op, the pattern, or, for a region compiler, all regions.

        Regions overlap: what failed in one would fail again in the next, one attempt after the other.
        """
        return work.title if self.claims is None else REGIONS

    def magnitudes_of(self, work: Work, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """What errors of this kernel are measured against, for each output, or None; see Call.magnitudes."""
        if self.magnitudes is None:
            return work.magnitudes(*arrays)
        with np.errstate(all="ignore"):
            return tuple(resolve(self.magnitudes)(work, arrays))

    @property
    def looks_at_shapes(self) -> bool:
        """Whether anything but the array types and dtypes decides about this kernel."""
        return self.prepare is not None or self.accepts is not None or self.ranks is not None

    def input_layout(self, work: Work, position: int) -> str:
        """The layout in which the kernel takes an input."""
        names = work.input_names
        return self.layouts.get(names[min(position, len(names) - 1)], "") if self.layouts else ""

    def output_layout(self, index: int) -> str:
        """The layout in which the kernel gives an output: that of "output", or of "output_1" and so on."""
        return self.layouts.get(f"output_{index}", self.layouts.get("output", "")) if self.layouts else ""

    def refusal(self, work: Work, device: Device) -> str | None:
        """Why this kernel cannot take the work on the device, or None. A failing ``accepts`` is a reason, too."""
        try:
            return self._facts_refusal(work, device) or self._answer("accepts", work, device)
        except Exception as error:  # of facts that were not checked: one bad kernel is no reason to fail
            return f"its facts cannot be read: {type(error).__name__}: {error}"

    def claim_refusal(self, call: Call, device: Device) -> str | None:
        """Why this region compiler cannot take a call as a part of a region, or None."""
        return self._facts_refusal(call, device) or self._answer("claims", call, device)

    def _facts_refusal(self, work: Work, device: Device) -> str | None:
        missing = [feature for feature in self.requires if feature not in device.capabilities.features]
        if missing:
            return f"{device.name} lacks {', '.join(missing)}"
        if self.ranks is not None and work.inputs and work.inputs[0] is not None:
            low, high = self.ranks
            if not low <= work.inputs[0].ndim <= high:
                reason = f"takes rank {low} to {high}, the input has rank {work.inputs[0].ndim}"
                return self._dtype_refusal(work) or reason
        size = max((int(spec.size) for spec in work.outputs), default=0)
        if size < self.least_size:
            return f"takes results of at least {self.least_size} elements, not {size}"
        return self._dtype_refusal(work)

    def _answer(self, fact: str, work: Work, device: Device) -> str | None:
        """What ``accepts`` or ``claims`` says about the work; its failing is a refusal, too."""
        target: Loadable | None = getattr(self, fact)
        if target is None:
            return None
        try:
            reason: str | None = resolve(target)(work, device)
        except Exception as error:
            return f"its {fact} function failed: {type(error).__name__}: {error}"
        if reason is not None and (not isinstance(reason, str) or not reason):
            return f"its {fact} function returned {reason!r}; it must return None or the reason for refusing"
        return reason

    def _dtype_refusal(self, work: Work) -> str | None:
        if self.dtypes is None:
            return None
        names = work.input_names
        for position, spec in enumerate(work.inputs):
            name = names[min(position, len(names) - 1)]
            allowed = self.dtypes.get(name) if isinstance(self.dtypes, Mapping) else self.dtypes
            if spec is not None and allowed is not None and spec.dtype.name not in allowed:
                return f"takes {name} of {', '.join(allowed)}, not {spec.dtype.name}"
        return None

    def bind(
        self, work: Work, device: Device, constants: tuple[Any, ...] | None = None
    ) -> Callable[..., Any]:
        """The kernel as a function of the arrays alone: loaded, specialised, with the attributes bound.

        ``constants`` are for each input the native array that it always is, or None; without them nothing is known.
        """
        if self.prepare is not None:
            known = (constants or (None,) * len(work.inputs),) if self.constants else ()
            run: Callable[..., Any] = resolve(self.prepare)(work, device, *known)
            return run
        function = resolve(self.load)
        return partial(function, **work.attrs) if isinstance(work, Call) and work.attributes else function


def broken_promise(work: Work, array: Any, index: int = 0) -> str | None:
    """How an output of a kernel differs from what the work promises, or None where shape and dtype are right."""
    spec = work.outputs[index]
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return f"returned {type(array).__name__} where {work} promises an array {spec!r}"
    if tuple(array.shape) != spec.shape:
        return f"returned shape {tuple(array.shape)} where {work} promises {spec.shape}"
    if array.dtype != spec.dtype:
        return f"returned {array.dtype} where {work} promises {spec.dtype.name}"
    return None


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
