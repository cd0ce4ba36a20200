"""Environment variables: the one place that reads them.

Each is read when it is needed, never at import, so a test or a program may set it before the first use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from .errors import SettingsError, did_you_mean

VARIABLES = {
    "OPYARD_PLUGINS": "comma-separated plugin names: load only these (an empty value loads none)",
    "OPYARD_BLOCK": "comma-separated plugin, backend or backend/kernel names that are not used",
    "OPYARD_PREFER": "comma-separated backend or backend/kernel names, best first, tried before all others",
    "OPYARD_PIN": "comma-separated op=backend/kernel: only this kernel may run that op",
    "OPYARD_STRICT": "1: a failing plugin or kernel raises instead of being set aside",
    "OPYARD_CACHE_DIR": "folder for caches and plugin records (default: the user's cache folder)",
    "OPYARD_WINOGRAD": "0: no convolution of a plan is computed by Winograd's method, which is faster, and less exact beside large numbers",
    "OPYARD_ENGINES": "1: parts of graphs may run in ONNX Runtime and OpenVINO, which do not keep every NaN",
    "OPYARD_NUM_THREADS": "number of threads of CPU kernels (default, and most: all processors that the process may use)",
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
    return _switch("OPYARD_STRICT")


def winograd() -> bool:
    """OPYARD_WINOGRAD."""
    return _switch("OPYARD_WINOGRAD", default="1")


def engines() -> bool:
    """OPYARD_ENGINES."""
    return _switch("OPYARD_ENGINES")


def _switch(variable: str, default: str = "0") -> bool:
    value = os.environ.get(variable) or default
    if value not in ("0", "1"):
        raise SettingsError(f"{variable} is 0 or 1; found {value!r}.")
    return value == "1"


_limit: ContextVar[int | None] = ContextVar("opyard_threads", default=None)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Within, ``num_threads`` gives at most so many to the current thread or task."""
    token = _limit.set(min(threads, num_threads()))
    try:
        yield
    finally:
        _limit.reset(token)


def num_threads() -> int:
    """OPYARD_NUM_THREADS, at most the number of processors that this process may use, which is also the default.

    Within ``limit_threads`` no more than that.
    """
    if (limit := _limit.get()) is not None:
        return limit
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    value = os.environ.get("OPYARD_NUM_THREADS", "")
    if not value:
        return processors
    if not re.fullmatch("[1-9][0-9]*", value):
        raise SettingsError(f"OPYARD_NUM_THREADS is a positive number; found {value!r}.")
    return min(int(value[:9]), processors)  # so many digits are enough to exceed any number of processors


def check() -> None:
    """Raises SettingsError for values that cannot be meant: once, before anything uses them."""
    pins()
    strict()
    winograd()
    engines()
    num_threads()


def cache_dir() -> Path:
    """The folder for caches: OPYARD_CACHE_DIR, else ``opyard`` in the user's cache folder, or one in the current folder.

    Source: XDG Base Directory Specification, by which relative paths in XDG_CACHE_HOME do not count.
    """
    if chosen := os.environ.get("OPYARD_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))
    for variable in ("LOCALAPPDATA", "XDG_CACHE_HOME"):
        if os.path.isabs(base := os.environ.get(variable, "")):
            return Path(base) / "opyard"
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""  # "" would become the root folder
    # containers may run as a user without a home
    return Path(home) / ".cache" / "opyard" if os.path.isabs(home) else Path(".opyard-cache")


def unknown_variables() -> list[str]:
    """A sentence for each OPYARD_ variable in the environment that opyard does not know."""
    return [
        f"environment variable {name} is not a setting of opyard.{did_you_mean(name, tuple(VARIABLES))} See docs/settings.md."
        for name in sorted(os.environ)
        if name.startswith("OPYARD_") and name not in VARIABLES
    ]
