"""``opyard new-plugin NAME``: a package with one op, two kernels and a test, ready to change."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from .. import __version__, runtime
from ..errors import SettingsError
from .output import json_option, print_json, print_text

TEMPLATE = Path(__file__).parent / "template"


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to create it (default: ./opyard-NAME)."
)
@json_option
def new_plugin(name: str, folder: Path | None, as_json: bool) -> None:
    """Create a plugin package: one op, two kernels, a test.

    The package is called opyard-NAME, its op NAME.swish.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise SettingsError(
            f"a plugin's name is a word of small letters and digits, such as 'acme'; found {name!r}."
        )
    for plugin in runtime.plugins().all:
        if plugin.entry.name == name:
            raise SettingsError(
                f"a plugin called {name!r} is installed already ({plugin.origin}); choose another name."
            )
    target = folder or Path(f"opyard-{name}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(
            f"{target} exists already and is not an empty folder; choose another with --folder."
        )
    written = write_template(name, target)
    if as_json:
        print_json({"folder": str(target), "files": [str(path) for path in written]})
        return
    for path in written:
        print_text(f"wrote {path}")
    print_text("\n  ".join(["\nNext, type:", f"cd {target}", *next_steps(name)]))


def next_steps(name: str) -> tuple[str, ...]:
    """What to type in the new folder: with uv where the environment is one of uv's, which have no pip, else with pip."""
    settings = Path(sys.prefix, "pyvenv.cfg")
    by_uv = settings.is_file() and "\nuv = " in f"\n{settings.read_text(encoding='utf-8')}"
    if by_uv and find_spec("pip") is None:
        run = (
            "uv run --no-project"  # the environment of the folder above; the new folder is not to get its own
        )
        return "uv pip install -e '.[test]'", f"{run} opyard kernels {name}.swish", f"{run} python -m pytest"
    return "python -m pip install -e '.[test]'", f"opyard kernels {name}.swish", "python -m pytest"


def write_template(name: str, target: Path) -> list[Path]:
    """Writes the template's files with its placeholders replaced; gives their paths."""
    written = []
    for source in sorted(TEMPLATE.rglob("*.txt")):
        relative = source.relative_to(TEMPLATE).as_posix().removesuffix(".txt").replace("PLUGIN", name)
        text = (
            source.read_text(encoding="utf-8").replace("PLUGIN", name).replace("OPYARD_VERSION", __version__)
        )
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written
