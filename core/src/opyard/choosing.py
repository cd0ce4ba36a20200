"""Choosing devices: those that a user names, of those that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from .driver import Device
from .errors import DeviceUnavailable, SettingsError
from .registry import Registry
from .settings import limit_threads

Method = TypeVar("Method", bound=Callable[..., Any])

Devices = str | Device | Sequence[str | Device]
"""A device name, several, or "auto" for all devices of this machine."""


def choose_devices(devices: Devices, registry: Registry) -> tuple[Device, ...]:
    """The devices that a user named; with "auto", all of them. Raises DeviceUnavailable for one that is not here.

    The reference joins "auto" alone: whoever names devices gets these and nothing else.
    """
    if isinstance(devices, (str, Device)):
        devices = registry.devices() if devices == "auto" else [devices]
    if not isinstance(devices, Iterable) or not all(isinstance(d, (str, Device)) for d in devices):
        raise DeviceUnavailable(
            f"devices is 'auto', a device, or several in a list; found {devices!r}. `opyard devices` lists names."
        )
    found = tuple(registry.device(d) if isinstance(d, str) else d for d in devices)
    if not found:
        raise DeviceUnavailable("no device was named; write devices='auto', or names from `opyard devices`.")
    return tuple(dict.fromkeys(found))


def check_threads(threads: int | None) -> int | None:
    """The number of threads, or None for as many as opyard may use. Raises SettingsError for what is no number of threads."""
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise SettingsError(f"threads is a whole number from 1 on; found {threads!r}.")
    return threads


@contextmanager
def on_threads(threads: int, devices: Sequence[Device]) -> Iterator[None]:
    """Within, kernels of these devices use at most so many threads, in what the current thread does."""
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(device.on_threads(threads))
        stack.enter_context(limit_threads(threads))
        yield


def limited(method: Method) -> Method:
    """Makes a method of what has ``threads`` and ``devices`` keep to that number, unless it is None."""

    @wraps(method)
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.threads is None:
            return method(self, *arguments, **options)
        with on_threads(self.threads, self.devices):
            return method(self, *arguments, **options)

    return cast(Method, run)
