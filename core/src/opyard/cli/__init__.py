"""The command line: ``opyard``. Plugins add commands through the hook ``opyard_commands``."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Any

import click
from click.exceptions import Exit

from .. import __version__, runtime
from ..errors import OpyardError, did_you_mean
from . import doctor, kernels, listings, new_plugin

BROUGHT_BY = {
    "demo": "opyard-demo",
    "bench": "opyard-bench",
    "conformance": "opyard-conformance",
    "run": "opyard-onnx",
    "tune": "opyard-onnx",
    "serve": "opyard-serve",
}
"""Commands of plugins that may not be installed, and the package to name then."""


class Commands(click.Group):
    """A group that says which package brings a missing command."""

    def resolve_command(self, context: click.Context, arguments: list[str]) -> tuple[Any, Any, list[str]]:
        """As click does, with an error that names what to type next."""
        name = arguments[0]
        if self.get_command(context, name) is None:
            if name in BROUGHT_BY:
                package = BROUGHT_BY[name]
                failed = [p.reason for p in runtime.plugins().all if p.entry.distribution == package and p.reason]
                what = f"{package} is installed and does not work: {failed[0]}" if failed else f'it comes with {package}: pip install "{package}"'
                raise click.UsageError(f"the command {name!r} is not here; {what}.", context)
            known = tuple(self.list_commands(context))
            raise click.UsageError(f"there is no command {name!r}.{did_you_mean(name, known)} Commands: {', '.join(known)}.", context)
        return super().resolve_command(context, arguments)


def build() -> click.Group:
    """The command group with the commands of the core and of all plugins."""
    group = Commands(name="opyard", help=__doc__ and "Kernels for ops, from any package, on any device: listed, checked and explained.")
    group.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))
    click.version_option(__version__, prog_name="opyard")(group)
    for command in (listings.devices, listings.plugins, listings.ops, kernels.kernels, kernels.explain, doctor.doctor, new_plugin.new_plugin):
        group.add_command(command)
    runtime.plugins().add_commands(group)
    return group


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 it failed, 2 wrong use, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    debug = "--debug" in given
    try:
        status = build().main(given, prog_name="opyard", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exit as exit_:
        sys.exit(exit_.exit_code)
    except BrokenPipeError:  # `opyard ops | head`
        sys.stderr.close()
        sys.exit(0)
    except (OpyardError, OSError) as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)
