"""Which OpenCL implementations this machine has: the files that name them to the loader (.icd), platforms, and what is missing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from .quirks import quirks_of

SYSTEM_FOLDER = Path("/etc/OpenCL/vendors")
"""Where the packages of an operating system put their .icd files."""


def icd_files() -> list[Path]:
    """The .icd files that the loader of pyopencl's wheels reads.

    Those of OCL_ICD_VENDORS or the system, and its own, which it leaves out where the variable names something else than a folder.
    """
    named = os.environ.get("OCL_ICD_VENDORS")
    place = Path(named) if named else SYSTEM_FOLDER
    if named and not place.is_dir():
        return [place]
    found = sorted(place.glob("*.icd"))
    spec = importlib.util.find_spec("pyopencl")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        found += sorted((Path(folder) / ".libs").glob("*.icd"))
    return found


def describe_icd(file: Path) -> str:
    """One sentence for an .icd file: which library it names, and whether it is there."""
    try:
        library = file.read_text().strip()
    except OSError as error:
        return f"{file} cannot be read ({error.strerror}): set OCL_ICD_VENDORS to a folder with .icd files or to one of them, or unset it"
    beside = file.parent / library
    if Path(library).is_absolute() and not Path(library).exists():
        return f"{file} names {library}, which is not there: reinstall that driver, or write the path of its library into a file of your own and set OCL_ICD_VENDORS to its folder"
    where = str(beside) if not Path(library).is_absolute() and beside.exists() else library
    return f"{file} names {where}"


def describe_platform(platform: Any, error_type: type[Exception]) -> str:
    """One sentence for a platform: name, version, devices with their drivers, and how it is treated."""
    title = f"platform {platform.name.strip()}, {platform.version.partition('  ')[0].strip()}"
    try:
        devices = platform.get_devices()
    except error_type:
        devices = []
    if not devices:
        return f"{title}: no device; a driver without hardware, or without the right to use it"
    names = ", ".join(f"{device.name.strip()} (driver {device.driver_version.strip()})" for device in devices)
    habits = quirks_of(platform.name, platform.version).habits()
    return f"{title}: {names}{f'; {habits}' if habits else ''}"
