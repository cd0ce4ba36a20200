"""Choosing devices: those that a user names, of those that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .driver import Device
from .errors import DeviceUnavailable
from .registry import Registry

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
