"""The hooks of opyard. A plugin is a module (or object) named by an entry point of the group ``opyard``.

    # pyproject.toml of the plugin
    [project.entry-points.opyard]
    mine = "opyard_mine.plugin"

    # opyard_mine/plugin.py: data only, nothing heavy is imported here
    from opyard import hookimpl

    @hookimpl
    def opyard_register(registry):
        registry.kernel("add", backend="cpu", name="mine", load="opyard_mine.kernels:add")

A hook implementation may leave out arguments that it does not need, so hooks can grow without breaking plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .graph import Graph
    from .registry import Registry

API_LEVEL = 1
"""Level of the plugin interface. A plugin may state the levels it works with: ``OPYARD_API = (1, 1)``; none means 1."""

hookspec = pluggy.HookspecMarker("opyard")
hookimpl = pluggy.HookimplMarker("opyard")
"""Marks a function of a plugin as the implementation of the hook of the same name."""


@hookspec
def opyard_register(registry: Registry) -> None:
    """Register ops, backends and kernels: ``registry.op(f)``, ``registry.backend(...)``, ``registry.kernel(...)``.

    Called once per registry. If it raises, everything it registered is undone and the plugin is shown as failed.
    """


@hookspec
def opyard_commands(group: Any) -> None:
    """Add commands to the ``opyard`` command line: ``group`` is its click.Group. Called when the command line starts."""


@hookspec(firstresult=True)
def opyard_open_model(path: str, version: int | None, verify: bool) -> Any:
    """The model that a file or folder holds, or None for one of another kind: a Graph, or a SavedModel, which tells more.

    ``version`` is one of those in the folder; None for the newest, and for a file. Unless ``verify``, contents need not be
    compared with their hashes. Called by ``opyard.load`` and by commands.
    """


@hookspec(firstresult=True)
def opyard_save_model(path: str, graph: Graph, version: int | None, metadata: dict[str, str]) -> str | None:
    """Write a graph without variables into the folder ``path`` as this version, or as the next one, whole or not at all.

    Gives the folder of that version, or None to leave it to another plugin. Called by ``opyard.save``.
    """


@hookspec(firstresult=True)
def opyard_model_runner(path: str, devices: tuple[str, ...]) -> Any:
    """What runs a model file that no single graph stands for, or None: see docs/hooks.md. Called by ``opyard run``."""


@hookspec
def opyard_event(event: str, detail: dict[str, Any]) -> None:
    """Observe: ``event`` is "plugin_failed" or "kernel_failed"; ``detail`` names what failed and why. Exceptions are ignored."""
