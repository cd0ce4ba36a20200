"""Plugins: found by entry points, loaded one at a time and guarded, each with a state and a sentence.

A broken plugin is switched off and shown; it never breaks the host. ``require`` raises instead, for ``OPYARD_STRICT=1``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import pluggy

from . import entrypoints, hookspecs, quarantine, settings
from .entrypoints import EntryPoint
from .errors import PluginError, did_you_mean, installing
from .facts import unknown_inputs
from .hookspecs import API_LEVEL
from .kernels import Origin
from .registry import EVERY_SCALAR, Registry, describe_error

STATES = ("ok", "inactive", "blocked", "incompatible", "failed", "quarantined")
"""inactive: it loads, and has no device on this machine. The others speak for themselves."""


@dataclass(slots=True, eq=False)
class Plugin:
    """One plugin and what became of it. ``notes`` are troubles that left the rest of it in use."""

    entry: EntryPoint
    state: str = "ok"
    reason: str = ""
    manager: pluggy.PluginManager | None = None
    backends: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def origin(self) -> Origin:
        """What its registrations are marked with."""
        return Origin(self.entry.name, self.entry.distribution, self.entry.version, self.entry.value)


class Plugins:
    """The plugins of one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.all: list[Plugin] = []
        self._waiting: list[tuple[str, dict[str, Any]]] | None = None  # events while plugins load

    def load(self, entries: list[EntryPoint] | None = None) -> None:
        """Finds and loads all plugins. What happens meanwhile is told to all observers at the end."""
        found = entrypoints.find() if entries is None else sorted(entries)
        self._waiting = []
        for entry in found:
            plugin = Plugin(entry)
            self.all.append(plugin)
            self._load(plugin)
        backends = self.registry.backends.values()
        for plugin in self.all:
            plugin.backends = tuple(entry.name for entry in backends if entry.origin == plugin.origin)
            twins = [
                p.entry.distribution
                for p in self.all
                if p is not plugin and p.entry.name == plugin.entry.name
            ]
            if twins:
                plugin.notes.append(
                    f"the plugin name {plugin.entry.name!r} is also used by {', '.join(twins)}"
                )
        self._find_orphans()
        events, self._waiting = self._waiting, None
        for event, detail in events:
            self.emit(event, detail)

    def require(self) -> None:
        """Raises PluginError for the first plugin that failed to load, or that is not loaded because it kills the process."""
        for plugin in self.all:
            if plugin.error is not None or plugin.state == "quarantined":
                raise PluginError(
                    f"plugin {plugin.entry.name!r} of {plugin.entry.distribution} failed: {plugin.reason} (OPYARD_STRICT=1)."
                ) from plugin.error

    def _load(self, plugin: Plugin) -> None:
        plugin.state, plugin.reason = _forbidden(plugin.entry)
        if plugin.state != "ok":
            return
        try:
            with quarantine.marked(plugin.entry):
                plugin.state, plugin.reason = self._activate(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # plugins may raise anything, sys.exit() included
            plugin.state, plugin.reason, plugin.manager = "failed", describe_error(error), None
            plugin.error = error
            self.emit("plugin_failed", {"plugin": plugin.entry.name, "reason": plugin.reason})

    def _activate(self, plugin: Plugin) -> tuple[str, str]:
        module = _import(plugin.entry.value)
        if (mismatch := _api_mismatch(module)) is not None:
            return "incompatible", mismatch
        manager = _manager(module, plugin.entry.name)
        with self.registry.transaction(plugin.origin):
            manager.hook.opyard_register(registry=self.registry)
        plugin.manager = manager
        if not manager.get_hookcallers(module):
            plugin.notes.append("it implements no hook; mark its functions with @opyard.hookimpl")
        return "ok", ""

    def _find_orphans(self) -> None:
        """Notes kernels that are never used: their op, backend or inputs do not exist, perhaps as a package is missing."""
        by_origin = {plugin.origin: plugin for plugin in self.all}
        ops, backends = self.registry.ops, self.registry.backends
        for kernel in self.registry.claims():
            if (plugin := by_origin.get(kernel.origin)) is None:
                continue
            if kernel.backend not in backends:
                hint = did_you_mean(kernel.backend, tuple(backends)) or _MISSING
                _note(
                    plugin,
                    f"it has kernels for the backend {kernel.backend!r}, which does not exist.{hint}",
                )
            if kernel.op not in ops and kernel.op not in ("", EVERY_SCALAR):
                hint = did_you_mean(kernel.op, tuple(ops)) or _MISSING
                _note(plugin, f"kernel {kernel.id} is for the op {kernel.op!r}, which does not exist.{hint}")
            elif unknown := unknown_inputs(kernel, ops.get(kernel.op)):
                _note(plugin, f"{kernel.title}: {unknown}")

    def report(self) -> list[Plugin]:
        """All plugins, with the state "inactive" where a plugin's backends have no device here. Opens the backends."""
        for plugin in self.all:
            closed = [status for status in map(self.registry.open, plugin.backends) if status.state != "ok"]
            if plugin.state == "ok" and closed and len(closed) == len(plugin.backends):
                plugin.state, plugin.reason = closed[0].state, closed[0].reason
            for status in closed:
                if status.state != "inactive" and status.reason != plugin.reason:
                    _note(plugin, f"its backend {status.name!r} is {status.state}: {status.reason}")
        return self.all

    def emit(self, event: str, detail: dict[str, Any]) -> None:
        """Tells the observers; what they raise is ignored."""
        if self._waiting is not None:
            self._waiting.append((event, detail))
            return
        for plugin in self.all:
            _call(plugin, "opyard_event", event=event, detail=detail)

    def add_commands(self, group: Any) -> None:
        """Lets the plugins add their commands to the command line, a click.Group, and none replace what is there."""
        for plugin in self.all:
            before = dict(group.commands)
            _call(plugin, "opyard_commands", group=group)
            for name, command in before.items():
                if group.commands.get(name) is not command:
                    group.commands[name] = command
                    _note(plugin, f"its command {name!r} is left out: there is one of that name already")

    def model(self, hook: str, **arguments: Any) -> Any:
        """What the first plugin gives that opens, or saves, a model, or None. What it raises is not caught."""
        for plugin in self.all:
            found = getattr(plugin.manager.hook, hook)(**arguments) if plugin.manager else None
            if found is not None:
                return found
        return None

    def absence(self, package: str) -> str:
        """Why nothing of a distribution with a plugin is here, as a part of a sentence; empty where it is in use."""
        for plugin in self.all:
            if plugin.entry.distribution == package:
                why = "; ".join(filter(None, [plugin.reason, *plugin.notes]))
                used = plugin.state in ("ok", "inactive") and not why
                return "" if used else f"{package} is installed, and {plugin.state}: {why}."
        return f"it comes with {package}. Type: {installing(package)}"


_MISSING = " Install the package that defines it, or correct the name."


def _call(plugin: Plugin, hook: str, **arguments: Any) -> None:
    if plugin.manager is None:
        return
    try:
        getattr(plugin.manager.hook, hook)(**arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _note(plugin, f"its hook {hook} failed: {describe_error(error)}")


def _note(plugin: Plugin, note: str) -> None:
    if note not in plugin.notes:
        plugin.notes.append(note)


def _forbidden(entry: EntryPoint) -> tuple[str, str]:
    allowed = settings.allowed_plugins()
    if allowed is not None and entry.name not in allowed:
        return "blocked", f"OPYARD_PLUGINS allows only {', '.join(allowed) or 'nothing'}"
    if entry.name in settings.blocked():
        return "blocked", f"OPYARD_BLOCK names {entry.name}"
    if (why := quarantine.reason(entry)) is not None:
        return "quarantined", why
    return "ok", ""


def _import(value: str) -> Any:
    module, _, attribute = value.partition(":")
    found: Any = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found


def _api_mismatch(module: Any) -> str | None:
    """Why the plugin's interface levels do not fit, or None. ``OPYARD_API`` is a number, or the least and greatest one."""
    stated = getattr(module, "OPYARD_API", 1)
    try:
        low, high = (stated, stated) if isinstance(stated, int) else stated
        fits = low <= API_LEVEL <= high
    except (TypeError, ValueError):
        return f"OPYARD_API is {stated!r}; write the least and greatest level it works with, such as (1, 1)"
    return (
        None
        if fits
        else f"it works with plugin interface {low} to {high}, this opyard has {API_LEVEL}; install versions of both that fit"
    )


def _manager(module: Any, name: str) -> pluggy.PluginManager:
    """A plugin manager with this one plugin: one for each, so that what fails half-way leaves nothing behind."""
    manager = pluggy.PluginManager("opyard")
    manager.add_hookspecs(hookspecs)
    specified = tuple(hook for hook in dir(hookspecs) if hook.startswith("opyard_"))
    try:
        manager.register(module, name)
    except pluggy.PluginValidationError as error:  # its text has three lines, of which the last one matters
        raise PluginError(" ".join(str(error).split())) from error
    for caller in manager.get_hookcallers(module) or ():
        if not caller.has_spec():
            hint = did_you_mean(caller.name, specified)
            raise PluginError(
                f"there is no hook called {caller.name!r}.{hint} Hooks: {', '.join(specified)}."
            )
    return manager


def probe(value: str, backend: str = "") -> None:
    """Loads one plugin as ``Plugins`` does, with a registry of its own, and opens a backend of it if one is named.

    This is what the quarantine runs in another process.
    """
    registry = Registry()
    _manager(_import(value), "probe").hook.opyard_register(registry=registry)
    if backend:
        registry.open(backend)
