"""Environment variables: the one place that reads them.

Each is read when it is needed, never at import, so a test or a program may set it before the first use.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import SettingsError, did_you_mean

VARIABLES = {
    "OPYARD_PLUGINS": "comma-separated plugin names: load only these (an empty value loads none)",
    "OPYARD_BLOCK": "comma-separated plugin, backend or backend/kernel names that are not used",
    "OPYARD_PREFER": "comma-separated backend or backend/kernel names, best first, tried before all others",
    "OPYARD_PIN": "comma-separated op=backend/kernel: only this kernel may run that op",
    "OPYARD_STRICT": "1: a failing plugin or kernel raises instead of being set aside",
    "OPYARD_CACHE_DIR": "folder for caches and plugin records (default: the user's cache folder)",
    "OPYARD_NUM_THREADS": "number of threads of CPU kernels (default: all that the process may use)",
}


def _names(variable: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in os.environ.get(variable, "").split(",") if name.strip())


def allowed_plugins() -> tuple[str, ...] | None:
    """OPYARD_PLUGINS, or None when all plugins are allowed."""
    return _names("OPYARD_PLUGINS") if "OPYARD_PLUGINS" in os.environ else None


def blocked() -> tuple[str, ...]:
    """OPYARD_BLOCK."""
    return _names("OPYARD_BLOCK")


def preferred() -> tuple[str, ...]:
    """OPYARD_PREFER."""
    return _names("OPYARD_PREFER")


def pins() -> tuple[tuple[str, str], ...]:
    """OPYARD_PIN as (op, backend/kernel) pairs. Raises SettingsError for an entry of another form."""
    pairs = []
    for entry in _names("OPYARD_PIN"):
        op, _, kernel = entry.partition("=")
        if not op.strip() or not all(part.strip() for part in (*kernel.partition("/"),)):
            raise SettingsError(
                f"OPYARD_PIN holds op=backend/kernel entries; {entry!r} is not one. Write for example matmul=cpu/blas."
            )
        pairs.append((op.strip(), kernel.strip()))
    return tuple(pairs)


def strict() -> bool:
    """OPYARD_STRICT."""
    value = os.environ.get("OPYARD_STRICT", "0")
    if value not in ("0", "1", ""):
        raise SettingsError(f"OPYARD_STRICT is 0 or 1; found {value!r}.")
    return value == "1"


def num_threads() -> int:
    """OPYARD_NUM_THREADS, or the number of processors that this process may use."""
    value = os.environ.get("OPYARD_NUM_THREADS", "")
    if not value:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise SettingsError(f"OPYARD_NUM_THREADS is a positive number; found {value!r}.")
    return int(value)


def cache_dir() -> Path:
    """The folder for caches: OPYARD_CACHE_DIR, else ``opyard`` in the user's cache folder, or in the current one."""
    if chosen := os.environ.get("OPYARD_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "opyard"
    except RuntimeError:  # containers may run as a user without a home
        return Path(".opyard-cache")


def unknown_variables() -> list[str]:
    """A sentence for each OPYARD_ variable in the environment that opyard does not know."""
    return [
        f"environment variable {name} is not a setting of opyard.{did_you_mean(name, tuple(VARIABLES))} See docs/settings.md."
        for name in sorted(os.environ)
        if name.startswith("OPYARD_") and name not in VARIABLES
    ]
