"""The default registry with its plugins: made on first need, never at import."""

from __future__ import annotations

import threading
import warnings
from importlib import import_module
from typing import Any

from . import ops, settings
from .errors import did_you_mean
from .kernels import STANDARD, Origin
from .plugin import Plugins
from .registry import REFERENCE, Registry
from .selection import Policy

_lock = threading.RLock()
_plugins: Plugins | None = None
_ready = False


class SettingsWarning(UserWarning):
    """An environment variable names something that does not exist."""


def standard_registry() -> Registry:
    """A new registry with the standard ops and the reference backend, and no plugin."""
    made = Registry()
    version = getattr(import_module(__package__), "__version__")  # noqa: B009
    with made.transaction(Origin(STANDARD, STANDARD, version)):
        made.ops_from(ops.STANDARD)
        made.backend(
            REFERENCE, load="opyard.reference:ReferenceBackend", arrays=("numpy:ndarray", "numpy:generic")
        )
    return made


def plugins() -> Plugins:
    """The plugins of the default registry. The first call discovers and loads them.

    Raises PluginError when one failed to load, under OPYARD_STRICT=1, and SettingsError for settings that cannot be meant.
    """
    found = inspect_plugins()
    if settings.strict():
        found.require()
    return found


def inspect_plugins() -> Plugins:
    """As ``plugins``, for those who show what failed: OPYARD_STRICT=1 does not matter."""
    global _plugins, _ready
    found = _plugins
    if _ready and found is not None:
        return found
    with _lock:
        found = _plugins  # a plugin that calls back while it loads sees the registry as far as it has come
        if found is None:
            settings.check()
            found = _plugins = Plugins(standard_registry())
            try:
                found.load()
            except BaseException:
                _plugins = None
                raise
            _ready = True
            _report_unknown_names()
    return found


def registry() -> Registry:
    """The default registry."""
    return plugins().registry


def emit(event: str, detail: dict[str, Any]) -> None:
    """Tells the plugins' observers."""
    if _plugins is not None:
        _plugins.emit(event, detail)


def reset() -> None:
    """Forgets the default registry: the next use discovers anew, as after installing a plugin in a running program."""
    global _plugins, _ready
    with _lock:
        old, _plugins, _ready = _plugins, None, False
    if (
        old is not None
    ):  # afterwards, so that no thread can choose from the old registry after the caches are empty
        old.registry.changed()


def problems() -> list[str]:
    """A sentence for everything in the settings that names something unknown."""
    loaded = inspect_plugins()
    names = {plugin.entry.name for plugin in loaded.all}
    rows = settings.unknown_variables()
    rows += [
        f"OPYARD_PLUGINS names {name!r}, which is no installed plugin.{did_you_mean(name, tuple(names))}"
        for name in settings.allowed_plugins() or ()
        if name not in names
    ]
    blocked_plugins = {
        repr(name) for name in names.intersection(settings.blocked())
    }  # OPYARD_BLOCK names plugins, too
    stated = Policy(settings.preferred(), settings.blocked(), settings.pins())
    unknown = stated.unknown_names(loaded.registry, ("OPYARD_PREFER", "OPYARD_BLOCK", "OPYARD_PIN"))
    return rows + [row for row in unknown if not any(name in row for name in blocked_plugins)]


def _report_unknown_names() -> None:
    for sentence in problems():
        warnings.warn(f"opyard settings: {sentence}", SettingsWarning, stacklevel=3)
