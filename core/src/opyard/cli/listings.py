"""``opyard devices``, ``opyard plugins``, ``opyard ops``: what there is, and why something is not."""

from __future__ import annotations

from typing import Any

import click

from .. import quarantine, runtime
from ..errors import RegistryError, did_you_mean
from ..ops import STANDARD
from ..plugin import Plugin
from ..registry import Registry
from .output import json_option, print_devices, print_json, print_table, print_text, state_text


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the devices of this machine, and why a backend has none."""
    registry = runtime.registry()
    found = registry.devices()
    missing = [status for status in map(registry.open, registry.backends) if status.state != "ok"]
    rows = [
        {"device": d.name, "kind": d.kind, "memory": d.memory, "description": d.description} for d in found
    ]
    absent = [{"backend": s.name, "state": s.state, "reason": s.reason} for s in missing]
    if as_json:
        print_json({"devices": rows, "unavailable": absent})
        return
    print_devices(found)
    for status in missing:
        print_text(f"\n{status.name} has no device here ({status.state}): {status.reason}")


@click.command()
@click.option(
    "--retry",
    metavar="NAME",
    help="Try a plugin that killed a process once more, in a process of its own, and use it if that lives on.",
)
@json_option
def plugins(retry: str | None, as_json: bool) -> None:
    """List the installed plugins with their states and reasons."""
    if retry is not None:
        _retry(retry)
    loaded = runtime.inspect_plugins()
    rows = [_plugin_row(plugin, loaded.registry) for plugin in loaded.report()]
    if as_json:
        print_json(
            {"plugins": rows, "conflicts": list(loaded.registry.conflicts), "settings": runtime.problems()}
        )
        return
    columns = ["plugin", "state", "distribution", "kernels", "reason and notes"]
    cells = [
        [
            row["name"],
            state_text(row["state"]),
            f"{row['distribution']} {row['version']}",
            row["kernels"],
            "; ".join(filter(None, [row["reason"], *row["notes"]])),
        ]
        for row in rows
    ]
    print_table(columns, cells)
    for sentence in (*loaded.registry.conflicts, *runtime.problems()):
        print_text(f"\n{sentence}")


def _retry(name: str) -> None:
    names = tuple(plugin.entry.name for plugin in runtime.inspect_plugins().all)
    if name not in names:
        raise RegistryError(
            f"there is no plugin called {name!r}.{did_you_mean(name, names)} Installed: {', '.join(names) or 'none'}."
        )
    if quarantine.retry(name):
        runtime.reset()


def _plugin_row(plugin: Plugin, registry: Registry) -> dict[str, Any]:
    return {
        "name": plugin.entry.name,
        "state": plugin.state,
        "reason": plugin.reason,
        "notes": list(plugin.notes),
        "distribution": plugin.entry.distribution,
        "version": plugin.entry.version,
        "module": plugin.entry.value,
        "backends": list(plugin.backends),
        "kernels": sum(1 for kernel in registry.all_kernels() if kernel.origin == plugin.origin),
    }


@click.command()
@click.argument("pattern", default="")
@json_option
def ops(pattern: str, as_json: bool) -> None:
    """List the ops, or those whose name contains PATTERN."""
    registry = runtime.registry()
    chosen = {name: op for name, op in registry.ops.items() if pattern in name}
    if not chosen:
        raise RegistryError(
            f"no op has {pattern!r} in its name.{did_you_mean(pattern, tuple(registry.ops))} `opyard ops` lists all."
        )
    rows = [
        {
            "op": name,
            "signature": str(op.signature),
            "kind": "composite" if op.decompose else "elementwise" if op.scalar else "primitive",
            "kernels": len(registry.kernels(name)),
            "standard": name in STANDARD,
            "summary": next(iter(op.doc.strip().splitlines()), ""),
        }
        for name, op in chosen.items()
    ]
    if as_json:
        print_json({"ops": rows})
        return
    print_table(
        ["op", "kind", "kernels", "summary"],
        [[r["op"], r["kind"], r["kernels"], str(r["summary"]).replace("``", "`")] for r in rows],
    )
    print_text("\n`opyard kernels OP` shows the signature and the kernels of an op.")
