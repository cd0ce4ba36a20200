"""``opyard new-plugin NAME``: a package with one op, two kernels and a test, ready to change."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..errors import SettingsError
from .output import json_option, print_json

TEMPLATE = Path(__file__).parent / "template"


@click.command("new-plugin")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to create it (default: ./opyard-NAME).")
@json_option
def new_plugin(name: str, folder: Path | None, as_json: bool) -> None:
    """Create a plugin package called opyard-NAME: one op, two kernels, a test."""
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise SettingsError(f"a plugin's name is a word of small letters and digits, such as 'acme'; found {name!r}.")
    target = folder or Path(f"opyard-{name}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} exists already and is not an empty folder; choose another with --folder.")
    written = write_template(name, target)
    if as_json:
        print_json({"folder": str(target), "files": [str(path) for path in written]})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"Next:\n  python -m pip install -e {target}\n  opyard plugins\n  opyard kernels {name}.swish\n  python -m pytest {target}")


def write_template(name: str, target: Path) -> list[Path]:
    """Writes the template's files with its placeholder replaced by ``name``; gives their paths."""
    written = []
    for source in sorted(path for path in TEMPLATE.rglob("*.txt")):
        relative = str(source.relative_to(TEMPLATE)).removesuffix(".txt").replace("PLUGIN", name)
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.read_text(encoding="utf-8").replace("PLUGIN", name), encoding="utf-8")
        written.append(path)
    return written
