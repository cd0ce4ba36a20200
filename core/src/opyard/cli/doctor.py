"""``opyard doctor``: everything that is not as it should be, each with what to do about it."""

from __future__ import annotations

import platform
import sys
from typing import Any

import click
import numpy as np

from .. import __version__, runtime, settings
from ..kernels import resolve
from ..placement import exact
from ..registry import Registry, describe_error
from .output import json_option, print_json, print_table, print_text, state_text

BROKEN = ("failed", "incompatible", "quarantined")
"""States that make the exit code 1. A device that is not here, or a plugin that the user blocked, is no fault."""


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this installation. Exits with 1 when a plugin, a backend or the extra `exact` is broken."""
    loaded = runtime.inspect_plugins()
    registry = loaded.registry
    checks: list[dict[str, str]] = []

    def add(subject: str, state: str, detail: str) -> None:
        checks.append({"subject": subject, "state": state, "detail": detail})

    add(
        "opyard",
        "ok",
        f"{__version__} on Python {platform.python_version()}, NumPy {np.__version__}, {sys.platform}",
    )
    add("cache folder", *_cache_state())
    add("extra exact", *_exact_state())
    for plugin in loaded.report():
        add(
            f"plugin {plugin.entry.name}",
            plugin.state,
            plugin.reason or f"{plugin.entry.distribution} {plugin.entry.version}",
        )
        for note in plugin.notes:
            add(f"plugin {plugin.entry.name}", "note", note)
    for name in registry.backends:
        status = registry.open(name)
        add(f"backend {name}", status.state, status.reason or ", ".join(d.name for d in status.devices))
        for sentence in _notes(registry, name, status.state):
            add(f"backend {name}", "note", sentence)
    for kernel, reason in registry.failures.items():
        add(f"kernel {kernel}", "failed", reason)
    for sentence in registry.conflicts:
        add("conflict", "note", sentence)
    for sentence in runtime.problems():
        add("settings", "note", sentence)
    broken = any(check["state"] in BROKEN for check in checks)
    _show(checks, broken, as_json)
    return int(broken)


def _show(checks: list[dict[str, str]], broken: bool, as_json: bool) -> None:
    if as_json:
        print_json({"healthy": not broken, "checks": checks})
        return
    rows: list[list[Any]] = [[c["subject"], state_text(c["state"]), c["detail"]] for c in checks]
    print_table(["subject", "state", "detail"], rows)
    bad = ", ".join(dict.fromkeys(c["subject"] for c in checks if c["state"] in BROKEN))
    print_text(f"\nBroken: {bad}." if broken else "\nAll is well.")


def _notes(registry: Registry, name: str, state: str) -> list[str]:
    """What a backend says of drivers and runtimes, by its method ``notes``, which it need not have."""
    if state == "quarantined":  # its driver has ended a process
        return []
    try:
        backend = resolve(registry.backends[name].load)()
        return list(backend.notes()) if hasattr(backend, "notes") else []
    except Exception as error:
        return [f"its notes cannot be read: {describe_error(error)}"]


def _exact_state() -> tuple[str, str]:
    version = exact.version()
    if version is None:
        return "inactive", 'not installed; it can close gaps of very wide graphs: pip install "opyard[exact]"'
    try:
        exact.check()
    except exact.ExactFailed as error:
        return "failed", f"{exact.PACKAGE} {version} does not work: {error}"
    return "ok", f"{exact.PACKAGE} {version}"


def _cache_state() -> tuple[str, str]:
    folder = settings.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return (
            "note",
            f"{folder} cannot be written ({error.strerror}): nothing is remembered between runs; set OPYARD_CACHE_DIR",
        )
    return "ok", str(folder)
