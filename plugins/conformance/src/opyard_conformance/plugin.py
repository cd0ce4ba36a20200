"""The plugin: adds ``opyard conformance`` to the command line. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from opyard import hookimpl

OPYARD_API = (1, 1)


@hookimpl
def opyard_register() -> None:
    """The checks bring no ops and no kernels."""


@hookimpl
def opyard_commands(group: Any) -> None:
    """Adds the command."""
    from opyard_conformance.command import conformance

    group.add_command(conformance)
