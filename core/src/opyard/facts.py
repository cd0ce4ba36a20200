"""Facts of kernels: what a registration may say, checked when it is said and not when the kernel is needed."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from math import isfinite
from numbers import Integral, Real
from typing import Any

from .errors import RegistryError, did_you_mean
from .kernels import Kernel
from .operation import Op
from .spec import DTYPE_NAMES

_DTYPES = frozenset(DTYPE_NAMES)


def check_facts(kernel: Kernel, op: Op | None = None) -> None:
    """Raises RegistryError for facts that cannot be meant, with what to write instead. ``op`` is given where it is known."""
    _check_names(kernel)
    _check_code(kernel)
    _check_numbers(kernel)
    _check_lists(kernel)
    _check_region_compiler(kernel)
    if unknown := unknown_inputs(kernel, op):
        raise RegistryError(f"{kernel.title}: {unknown}")


def unknown_inputs(kernel: Kernel, op: Op | None) -> str | None:
    """A sentence about an input that ``dtypes`` or ``layouts`` name and the op, or the pattern, does not have; or None."""
    if kernel.pattern is not None:
        inputs = tuple(signature(kernel.pattern).parameters)
    elif op is not None:
        inputs = op.signature.inputs
    else:
        return None
    if not kernel.layouts and not isinstance(kernel.dtypes, Mapping):
        return None
    named = [("dtypes", name) for name in (kernel.dtypes if isinstance(kernel.dtypes, Mapping) else ())]
    named += [("layouts", name) for name in kernel.layouts if not _names_output(name)]
    for fact, name in named:
        if name not in inputs:
            return f"{fact} names the input {name!r}.{did_you_mean(name, inputs)} Inputs: {', '.join(inputs) or 'none'}."
    return None


def _names_output(name: str) -> bool:
    return name == "output" or (name.startswith("output_") and name[7:].isdecimal())


def _check_names(kernel: Kernel) -> None:
    named = isinstance(kernel.backend, str) and isinstance(kernel.name, str)
    if not named or not kernel.backend.isidentifier() or not kernel.name or "/" in kernel.name:
        raise RegistryError(f"{kernel.title}: a backend's name is an identifier, a kernel's name has no '/'.")


def _check_code(kernel: Kernel) -> None:
    if (kernel.load is None) == (kernel.prepare is None):
        raise RegistryError(
            f"{kernel.title} needs either load=... (a function on arrays) or prepare=... (specialise once, run many)."
        )
    if kernel.pattern is not None and not callable(kernel.pattern):
        raise RegistryError(f"{kernel.title}: a pattern is a function over ops; found {kernel.pattern!r}.")
    for fact in ("load", "prepare", "accepts", "cost", "claims", "magnitudes"):
        code = getattr(kernel, fact)
        path = isinstance(code, str) and all(code.partition(":"))
        if code is not None and not path and not callable(code):
            raise RegistryError(
                f"{kernel.title}: {fact} is a function or 'package.module:function'; found {code!r}."
            )


def _check_numbers(kernel: Kernel) -> None:
    efficiency, ranks = kernel.efficiency, kernel.ranks
    if not _is_a(Real, efficiency) or not (isfinite(efficiency) and efficiency > 0):
        raise RegistryError(
            f"{kernel.title}: efficiency is a positive fraction of the device's roofline; found {efficiency!r}."
        )
    if not _is_a(Integral, kernel.version):
        raise RegistryError(
            f"{kernel.title}: version is a whole number, raised when results change; found {kernel.version!r}."
        )
    least = kernel.least_size
    if not _is_a(Integral, least) or least < 0:
        raise RegistryError(f"{kernel.title}: least_size is a whole number of elements; found {least!r}.")
    pair = isinstance(ranks, (tuple, list)) and len(ranks) == 2 and all(_is_a(Integral, r) for r in ranks)
    if ranks is not None and not (pair and 0 <= ranks[0] <= ranks[1]):
        raise RegistryError(
            f"{kernel.title}: ranks are the least and the greatest rank of the first input, such as (1, 4); found {ranks!r}."
        )
    for fact in ("out", "inplace", "deterministic", "override", "constants"):
        if not isinstance(getattr(kernel, fact), bool):
            raise RegistryError(f"{kernel.title}: {fact} is True or False; found {getattr(kernel, fact)!r}.")
    if kernel.inplace and not kernel.out:
        raise RegistryError(
            f"{kernel.title}: inplace=True is about the array given as out; write out=True, too."
        )


def _is_a(kind: type, number: Any) -> bool:
    return isinstance(number, kind) and not isinstance(number, bool)


def _check_lists(kernel: Kernel) -> None:
    dtypes: Any = kernel.dtypes
    by_input: list[Any] = list(dtypes.values()) if isinstance(dtypes, Mapping) else [dtypes]
    by_input = [] if dtypes is None else by_input
    for fact, names in [*(("dtypes", names) for names in by_input), ("requires", kernel.requires)]:
        if isinstance(names, str):
            raise RegistryError(
                f"{kernel.title}: {fact} is a tuple of names; write ({names!r},) for {names!r}."
            )
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise RegistryError(f"{kernel.title}: {fact} is a tuple of names; found {names!r}.")
    for names in by_input:
        if not _DTYPES.issuperset(names):
            name = next(name for name in names if name not in _DTYPES)
            raise RegistryError(
                f"{kernel.title}: there is no dtype called {name!r}.{did_you_mean(name, DTYPE_NAMES)}"
            )
    layouts = kernel.layouts
    if not isinstance(layouts, Mapping) or not all(
        isinstance(word, str) for pair in layouts.items() for word in pair
    ):
        raise RegistryError(
            f"{kernel.title}: layouts maps names of inputs, or 'output', to names of layouts; found {layouts!r}."
        )


def _check_region_compiler(kernel: Kernel) -> None:
    """The inputs of a region have neither names nor an order that could be known before."""
    if kernel.claims is None:
        return
    for fact in ("pattern", "ranks", "layouts"):
        if getattr(kernel, fact):
            raise RegistryError(
                f"{kernel.title} has no {fact}: what it compiles differs from graph to graph; let claims or accepts refuse what it cannot take."
            )
    if isinstance(kernel.dtypes, Mapping):
        raise RegistryError(
            f"{kernel.title}: dtypes is a tuple of names, which all inputs of all its nodes must have; found {kernel.dtypes!r}."
        )
