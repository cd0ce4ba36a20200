"""The command line: ``opyard``. Plugins add commands through the hook ``opyard_commands``."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any

import click
from click.exceptions import Exit
from click.shell_completion import shell_complete

from .. import __version__, runtime
from ..errors import OpyardError, did_you_mean
from . import costs, doctor, kernels, listings, new_plugin, run

BROUGHT_BY = {
    "bench": "opyard-bench",
    "conformance": "opyard-conformance",
    "demo": "opyard-demo",
    "inspect": "opyard-onnx",
}
"""Commands of plugins that may not be installed, and the package to name then."""

OWN = ("explain", "run", "tune")
"""Commands that start sooner without importing those of plugins."""

_COMPLETE = "_OPYARD_COMPLETE"
"""Set by a shell that asks for completions: ``eval "$(_OPYARD_COMPLETE=bash_source opyard)"``."""


class Commands(click.Group):
    """A group that says which package brings a missing command."""

    def resolve_command(self, context: click.Context, arguments: list[str]) -> tuple[Any, Any, list[str]]:
        """As click does, with an error that names what to type next."""
        name = arguments[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            raise click.UsageError(self._missing(context, name), context)
        return super().resolve_command(context, arguments)

    def _missing(self, context: click.Context, name: str) -> str:
        package = BROUGHT_BY.get(name)
        if package is None:
            known = tuple(self.list_commands(context))
            return f"there is no command {name!r}.{did_you_mean(name, known)} Commands: {', '.join(known)}."
        why = runtime.inspect_plugins().absence(package)
        return f"the command {name!r} is not here: {why or f'{package} is installed, and ok: it adds no such command.'}"


def build(*, plugins: bool = True) -> click.Group:
    """The command group with the commands of the core and, with ``plugins``, of all plugins."""
    group = Commands(
        name="opyard",
        help="Kernels for ops, from any package, on any device: listed, checked and explained.",
        epilog="Every command takes --json, --debug (the traceback of an error) and --help.",
    )
    group.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))
    click.version_option(__version__, prog_name="opyard")(group)
    for command in (
        listings.devices,
        listings.plugins,
        listings.ops,
        kernels.kernels,
        kernels.explain,
        run.run,
        costs.tune,
        costs.costs,
        doctor.doctor,
        new_plugin.new_plugin,
    ):
        group.add_command(command)
    if plugins:
        runtime.inspect_plugins().add_commands(group)
    return group


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 it failed, 2 wrong use, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    given = [word for word in given[:end] if word != "--debug"] + given[end:]  # so it may stand anywhere
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        sys.exit(_run(given, debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:  # not click's own main(): it ends with 1 when nobody reads on, as in `opyard ops | head`, and that is no failure
        group = build(plugins=arguments[:1] not in ([name] for name in OWN))
        if instruction := os.environ.get(_COMPLETE):
            return shell_complete(group, {}, "opyard", _COMPLETE, instruction)
        with group.make_context("opyard", arguments) as context:
            status = group.invoke(context)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except Exit as exit_:
        return exit_.exit_code
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise  # rich turns a broken pipe into SystemExit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {_sentence(error)}", err=True)
        return 1


def _sentence(error: Exception) -> str:
    if isinstance(error, (OpyardError, OSError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}. This is a fault in opyard or in a plugin; --debug shows where."


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
