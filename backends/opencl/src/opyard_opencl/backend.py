"""OpenCLBackend: finds the devices of all OpenCL platforms, and fences off those that would end the process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opyard.errors import DeviceError, DeviceUnavailable, installing
from opyard.settings import num_threads

from . import canary
from .quirks import Quirks, quirks_of

if TYPE_CHECKING:
    from .device import OpenCLDevice

INSTALL = installing("opyard-opencl[pocl]")
"""What brings a CPU device without any driver."""


class OpenCLBackend:
    """The OpenCL driver. ``refused`` has a sentence for each device that is there and cannot be used."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def devices(self) -> tuple[OpenCLDevice, ...]:
        """All usable devices, named opencl:0, opencl:1, ... by platform name, then by the platform's own order.

        Raises DeviceUnavailable, with what to install, when there are none.
        """
        cl = _binding()
        self.refused = []
        candidates = _candidates(cl)
        found: list[OpenCLDevice] = []
        for platform_number, device_number, device in candidates:
            quirks = quirks_of(device.platform.name, device.platform.version)
            for kind in quirks.kinds or ("",):
                name = f"opencl:{len(found)}"
                opened = self._open(name, platform_number, device_number, device, quirks, kind)
                if opened is not None:
                    found.append(opened)
        if not found:
            raise DeviceUnavailable(" ".join(self.refused))
        return tuple(found)

    def notes(self) -> list[str]:
        """Sentences for ``opyard doctor``: .icd files, platforms, and each device that cannot be used."""
        from . import runtimes

        found = [runtimes.describe_icd(file) for file in runtimes.icd_files()]
        try:
            cl = _binding()
            self.devices()
        except DeviceUnavailable as error:
            return [*found, *(self.refused or [str(error)])]
        platforms = (runtimes.describe_platform(platform, cl.Error) for platform in cl.get_platforms())
        return [*found, f"pyopencl {cl.VERSION_TEXT}", *platforms, *self.refused]

    def _open(
        self, name: str, platform_number: int, device_number: int, device: Any, quirks: Quirks, kind: str
    ) -> OpenCLDevice | None:
        from .device import OpenCLDevice

        title = f"The OpenCL device {device.name.strip()!r} of {device.platform.name.strip()}"
        obstacle = quirks.obstacle()
        if obstacle is not None:
            self.refused.append(f"{title} {obstacle}")
            return None
        reason = canary.verdict(platform_number, device_number, device) if quirks.needs_canary else None
        if reason is not None:
            self.refused.append(
                f"{title} cannot be used: {reason}. Reinstall it with --force-reinstall: {INSTALL}."
            )
            return None
        try:
            return OpenCLDevice(name, device, quirks, kind)
        except DeviceError as error:
            self.refused.append(f"{title} cannot be opened: {error}")
            return None


def _binding() -> Any:
    # PoCL reads it when its platform is first listed; without it, it takes every processor of the machine
    os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", str(num_threads()))
    # pyopencl builds a program without its cache where that fails, and reads this first, which must be there
    os.environ.setdefault("PYOPENCL_CACHE_FAILURE_FATAL", "")
    try:
        import pyopencl
    except ImportError as error:
        raise DeviceUnavailable(
            f"OpenCL needs pyopencl, which cannot be imported ({error}): {INSTALL}."
        ) from None
    return pyopencl


def _advice() -> str:
    """What to do where the loader finds no platform."""
    named = os.environ.get("OCL_ICD_VENDORS")
    if named and not os.path.isdir(named):  # then it looks nowhere else
        return f"It was looked for in {named} alone, which OCL_ICD_VENDORS names: unset the variable, or set it to a folder with .icd files."
    return f"For a CPU device: {INSTALL}."


def _candidates(cl: Any) -> list[tuple[int, int, Any]]:
    """Number of the platform, number of the device in it, and the device, in a stable order."""
    try:
        platforms = list(enumerate(cl.get_platforms()))
    except cl.Error as error:  # the loader reports an empty list of platforms as an error
        raise DeviceUnavailable(f"There is no OpenCL platform here ({error}). {_advice()}") from None
    if not platforms:
        raise DeviceUnavailable(f"There is no OpenCL platform here. {_advice()}")
    platforms.sort(key=lambda entry: (entry[1].name, entry[1].version, entry[0]))
    found = []
    for platform_number, platform in platforms:
        try:
            devices = platform.get_devices()
        except cl.Error:
            continue  # this platform has none
        found += [(platform_number, device_number, device) for device_number, device in enumerate(devices)]
    if not found:
        names = ", ".join(platform.name.strip() for _, platform in platforms)
        raise DeviceUnavailable(
            f"The OpenCL platforms here ({names}) have no device. For a CPU device: {INSTALL}."
        )
    return found
