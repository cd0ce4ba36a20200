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

OLDEST_CUPY = 14
"""The least major version of CuPy: the first with bfloat16, and with cuda-pathfinder to find CUDA's libraries in wheels."""

WHEELS = {"cupy-cuda11x": 11000, "cupy-cuda12x": 12000, "cupy-cuda13x": 13000}
"""Distributions of CuPy with the version of CUDA that each is made for. One that was built from source, "cupy", fits its machine."""

NVRTC_WHEELS = {"nvidia-cuda-nvrtc-cu12": 12, "nvidia-cuda-nvrtc": 13}
"""Distributions of CUDA's compiler with the CUDA that each is of."""

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
    then = f"then {installing(f'opyard-cuda[{extra}]')}."
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; the driver supports CUDA {supported}, so {then.removeprefix('then ')}"
    wheels = {name: version for name in WHEELS if (version := _installed_version(name)) is not None}
    names = " ".join(wheels)
    if len(wheels) > 1:
        return f"several distributions of CuPy are installed, which overwrite each other ({names}); the driver supports CUDA {supported}: `pip uninstall {names}`, {then}"
    for name, version in wheels.items():
        made_for = WHEELS[name]
        if made_for > driver_version:
            return (
                f"the CuPy installed ({name}) is made for CUDA {made_for // 1000}, the driver supports CUDA {supported}; update the driver, or "
                f"`pip uninstall {name}`, {then}"
            )
        if made_for < OLDEST_DRIVER:
            return f"the CuPy installed ({name}) is made for CUDA {made_for // 1000}, which is too old; `pip uninstall {name}`, {then}"
        if _major(version) < OLDEST_CUPY:
            return f"CuPy {version} is installed, which is too old: opyard-cuda needs {OLDEST_CUPY} or later; `pip install --upgrade {name}`."
    return ""


def compiler_reason(major: int) -> str:
    """What to say of the wheels of NVRTC to a CuPy for CUDA ``major`` that finds none: those of another CUDA do not serve."""
    found = [
        name for name, of in NVRTC_WHEELS.items() if of != major and _installed_version(name) is not None
    ]
    return f" {found[0]} is installed, which is that of CUDA {NVRTC_WHEELS[found[0]]};" if found else ""


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else OLDEST_CUPY


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


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
