"""Where a run takes place: the processor, its caches and memory, versions, and backends without a device."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import opyard as oy
from opyard import settings

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def describe() -> dict[str, Any]:
    """What must be equal for times of two runs to be comparable."""
    return {
        "processor": _field(CPU_INFO, "model name") or platform.processor(),
        "processors": os.cpu_count() or 1,
        "threads": settings.num_threads(),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Of Python, NumPy, opyard and all plugins."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "opyard": oy.__version__}
    for plugin in oy.plugins():
        if plugin.entry.distribution:
            found[plugin.entry.distribution] = plugin.entry.version
    return found


def load() -> float | None:
    """The mean number of running processes in the last minute, or None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def absent(registry: oy.Registry) -> tuple[str, ...]:
    """A sentence for each backend without a device."""
    statuses = map(registry.open, registry.backends)
    return tuple(f"{s.name} has no device here ({s.state}): {s.reason}" for s in statuses if s.state != "ok")


def caches(device: oy.Device) -> tuple[tuple[str, int], ...]:
    """(name, bytes) of the caches before the memory of a device, smallest first; empty where nobody tells.

    Of a CPU they are those of its first core, as Linux lists them.
    """
    if device.kind != "cpu":
        size = device.cache_bytes()
        return (("cache", size),) if size else ()
    found = {}
    for index in sorted(CACHES.glob("index*")) if CACHES.is_dir() else ():
        try:
            kind, level, text = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                found[f"L{level}"] = int(text.rstrip("KMG")) * _UNITS.get(text[-1], 1)
        except (OSError, ValueError):  # a container may hide some of it
            continue
    return tuple(sorted(found.items(), key=lambda row: row[1]))


def free_bytes(device: oy.Device) -> int | None:
    """Bytes that new arrays of a device may take, or None where nobody tells."""
    known = device.memory_info()
    if known is not None:
        return known[0]
    text = _field(MEMORY_INFO, "MemAvailable").removesuffix("kB").strip()
    return int(text) << 10 if text.isdigit() else None


def _field(path: Path, name: str) -> str:
    """The first value of a field of a file with lines ``name: value``; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
