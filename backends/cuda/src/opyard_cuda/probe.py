"""Whether this machine has CUDA devices, and if not, what is missing: asked of the driver itself, without CuPy.

Source of functions and error codes: CUDA Driver API. Importing CuPy takes a second, asking the driver a millisecond.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opyard.errors import installing

OLDEST_DRIVER = 12000
"""The least version of CUDA (1000 * major + 10 * minor) that the driver must support: wheels of CuPy begin with CUDA 12."""

_SUCCESS = 0
_NO_DEVICE = 100
_CAUSES = {
    34: "the library is a stub that only serves to link programs; install the driver itself",
    803: "the driver's library and its kernel module have different versions; restart the machine after updating the driver",
    804: "this GPU does not take the compatibility package of CUDA; update the NVIDIA driver",
    999: "the driver does not answer; `nvidia-smi` may say why, restarting the machine often helps",
}
"""What results of cuInit other than "no device" mean to people."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found. ``reason`` is empty if there are devices that CuPy can use, else says what is missing.

    ``driver_version`` is the newest CUDA that the driver supports, as 1000 * major + 10 * minor; 0 without a driver.
    """

    ok: bool
    reason: str = ""
    driver_version: int = 0
    device_count: int = 0


def probe(load_library: Callable[[str], Any] = ctypes.CDLL) -> Probe:
    """Asks the driver for devices, and the installed packages for a CuPy that fits it. Never raises."""
    driver = probe_driver(load_library)
    if not driver.ok:
        return driver
    reason = cupy_reason(driver.driver_version)
    return Probe(not reason, reason, driver.driver_version, driver.device_count)


def probe_driver(load_library: Callable[[str], Any] = ctypes.CDLL) -> Probe:
    """Asks only the driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = load_library(name)
    except OSError:
        return Probe(
            False,
            f"no NVIDIA driver on this machine ({name} was not found); install the driver, then {installing('opyard-cuda[cu13]')}.",
        )
    result = int(library.cuInit(0))
    version = _integer(library.cuDriverGetVersion)
    if result == _NO_DEVICE:
        return Probe(False, _no_device_reason(version), version)
    if result != _SUCCESS:
        cause = _CAUSES.get(result, "see the error codes of the CUDA Driver API; `nvidia-smi` may say more")
        return Probe(
            False, f"the NVIDIA driver cannot be used (cuInit gave error {result}): {cause}.", version
        )
    if version < OLDEST_DRIVER:
        return Probe(
            False,
            f"the NVIDIA driver supports CUDA {version_text(version)}, CuPy needs {version_text(OLDEST_DRIVER)} or later; "
            f"update the driver, then {installing('opyard-cuda[cu13]')}.",
            version,
        )
    count = _integer(library.cuDeviceGetCount)
    return Probe(True, "", version, count) if count else Probe(False, _no_device_reason(version), version)


def cupy_reason(driver_version: int) -> str:
    """What is wrong with the installed CuPy for a driver of this version, as a sentence; empty if nothing is."""
    supported = version_text(driver_version)
    extra = "cu13" if driver_version >= 13000 else "cu12"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; the driver supports CUDA {supported}, so {installing(f'opyard-cuda[{extra}]')}."
    if driver_version < 13000 and _is_installed("cupy-cuda13x") and not _is_installed("cupy-cuda12x"):
        return (
            f"the CuPy installed (cupy-cuda13x) is made for CUDA 13, the driver supports CUDA {supported}; update the driver, or "
            f"`pip uninstall cupy-cuda13x`, then {installing('opyard-cuda[cu12]')}."
        )
    return ""


def version_text(version: int) -> str:
    """13020 as "13.2"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _no_device_reason(version: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves no GPU visible; unset it, or name one: CUDA_VISIBLE_DEVICES=0."
    found = f"the NVIDIA driver (CUDA {version_text(version)})" if version else "the NVIDIA driver"
    return f"{found} finds no GPU on this machine; `nvidia-smi` lists those that it knows. In a container, pass the GPU in: `--gpus all`."


def _integer(function: Any) -> int:
    """The integer that a function of the driver writes through its pointer argument; 0 if the function fails."""
    value = ctypes.c_int(0)
    return value.value if int(function(ctypes.byref(value))) == _SUCCESS else 0


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
