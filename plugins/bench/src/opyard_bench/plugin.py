"""The plugin: adds ``opyard bench`` to the command line. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from opyard import hookimpl

OPYARD_API = (1, 1)


@hookimpl
def opyard_register() -> None:
    """The benchmarks bring no ops and no kernels."""


@hookimpl
def opyard_commands(group: Any) -> None:
    """Adds the command."""
    from opyard_bench.ab_command import ab
    from opyard_bench.command import bench
    from opyard_bench.contest_command import models

    bench.add_command(ab)
    bench.add_command(models)
    group.add_command(bench)
