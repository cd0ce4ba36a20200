"""Functions on the default registry: what a program calls beside the ops themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from . import runtime
from .driver import Device, plain_array, transfer
from .errors import DeviceError, DeviceUnavailable, RegistryError, did_you_mean
from .graph import Value
from .opfunction import current_policy
from .plugin import Plugin
from .registry import Registry
from .selection import Policy, active_policy, policy

Function = TypeVar("Function", bound=Callable[..., Any])


def default_registry() -> Registry:
    """The registry that the eager functions use here: that of ``using(registry=...)``, else the one with all plugins."""
    return active_policy().registry or runtime.registry()


def devices() -> tuple[Device, ...]:
    """All devices of this machine."""
    return default_registry().devices()


def plugins() -> list[Plugin]:
    """All installed plugins with their states and reasons."""
    return runtime.plugins().report()


def failures() -> Mapping[str, str]:
    """Kernels that failed and are not used again in this process, with the reasons."""
    return default_registry().failures


def refresh() -> None:
    """Discovers plugins anew at the next use, as after installing one in a running program."""
    runtime.reset()


def register(op: Any) -> Any:
    """Registers an op that the program itself defines, so that kernels for it can be listed and pinned by name."""
    return default_registry().op(op)


def kernel(
    op: str | Any, *, backend: str, name: str | None = None, **facts: Any
) -> Callable[[Function], Function]:
    """Registers the decorated function as a kernel, in the simple form; ``facts`` are those of Kernel.

    @kernel("acme.swish", backend="cpu")
    def swish_fast(x): ...

    Raises RegistryError for an op or a backend that does not exist.
    """

    def declare(function: Function) -> Function:
        target = default_registry()
        if not isinstance(op, str):
            target.op(op)
        elif op not in target.ops:
            hint = did_you_mean(op, tuple(target.ops)) or " Register it first: opyard.register(its function)."
            raise RegistryError(f"there is no op called {op!r}.{hint}")
        if backend not in target.backends:
            known = tuple(target.backends)
            raise RegistryError(
                f"there is no backend called {backend!r}.{did_you_mean(backend, known)} Known: {', '.join(known)}."
            )
        target.kernel(op, backend=backend, name=name or function.__name__, load=function, **facts)
        return function

    return declare


@contextmanager
def using(
    *,
    prefer: str | Iterable[str] = (),
    block: str | Iterable[str] = (),
    pin: Mapping[str, str] | None = None,
    strict: bool | None = None,
    registry: Registry | None = None,
) -> Iterator[Policy]:
    """Within the block, and in this thread or task alone, kernels are chosen under this policy.

        with using(prefer="opencl", block="cpu/blas", pin={"matmul": "cpu/blas"}): ...

    What is not given is inherited. New threads start with the default policy. Raises RegistryError for names that
    nothing registered has.
    """
    outer = active_policy()
    given = policy(_tuple(prefer), _tuple(block), tuple((pin or {}).items()))
    if strict not in (None, True, False):
        raise RegistryError(f"strict is True or False; found {strict!r}.")
    if given.prefer or given.block or given.pins:
        _check_names(given, registry or default_registry())
    new = policy(
        given.prefer or outer.prefer,
        outer.block + tuple(n for n in given.block if n not in outer.block),
        tuple({**dict(outer.pins), **dict(given.pins)}.items()),
        outer.strict if strict is None else strict,
        registry or outer.registry,
    )
    token = current_policy.set(new)
    try:
        yield new
    finally:
        current_policy.reset(token)


def _tuple(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


_known: WeakKeyDictionary[Registry, dict[Policy, int]] = WeakKeyDictionary()
"""Policies whose names were all found, with the version of the registry: ``using`` may stand in a loop."""


def _check_names(given: Policy, target: Registry) -> None:
    found, version = _known.setdefault(target, {}), target.version
    if found.get(given) == version:
        return
    if unknown := given.unknown_names(target):
        raise RegistryError(" ".join(unknown))
    found[given] = version


def to_device(array: Any, device: str | Device) -> Any:
    """``array`` as a native array of the device; not copied where it lives there already.

    Raises DeviceUnavailable for an unknown device and DeviceError for an array that no device knows.
    """
    if not isinstance(device, (str, Device)):
        raise DeviceUnavailable(
            f"to_device takes a device or its name, such as 'cpu:0'; found {device!r}. `opyard devices` lists names."
        )
    registry = default_registry()
    target = registry.device(device) if isinstance(device, str) else device
    array = plain_array(array)
    source = _owner(array)
    return transfer(array, source, target)


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """``array`` of any device as a NumPy array, after all work on it is done."""
    array = plain_array(array)
    return _owner(array).download(array)


def _owner(array: Any) -> Device:
    owner = default_registry().device_of(array)
    if owner is None:
        what = (
            "a value of a graph; fetch it with a Session"
            if isinstance(array, Value)
            else f"{type(array).__name__}; convert it to a NumPy array first"
        )
        raise DeviceError(f"this is no array of any device here but {what}.")
    return owner
