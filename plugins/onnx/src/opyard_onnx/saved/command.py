"""``opyard inspect FOLDER``: what a saved model takes and gives, and whether its files are as they were written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from opyard.cli.output import json_option, print_json, print_table, print_text
from opyard_onnx.errors import ModelError
from opyard_onnx.saved.versions import find_version, versions


@click.command()
@click.argument("folder", metavar="FOLDER")
@json_option
def inspect(folder: str, as_json: bool) -> None:
    """Show what a saved model takes and gives; check its files.

    FOLDER is that of a model, for its newest version, or that of a version.

    \b
      opyard inspect models/digits
      opyard inspect models/digits/1
    """
    if not Path(folder).is_dir():
        raise ModelError(f"there is no folder {folder!r}.")
    found = find_version(Path(folder))
    manifest, around = found.manifest, found.folder.parent
    known = versions(around) if found.number is not None else []
    if as_json:
        facts = {"folder": str(found.folder), "version": found.number, "versions": known}
        print_json({**facts, **asdict(manifest)})
        return
    rows = [["version", f"{found.number} of {', '.join(map(str, known))}" if known else found.folder.name]]
    rows += [["input", str(port)] for port in manifest.inputs]
    rows += [["output", str(port)] for port in manifest.outputs]
    rows += [
        ["file", f"{name}, {file.size} bytes, SHA-256 {file.sha256}"] for name, file in manifest.files.items()
    ]
    rows += [["written by", f"opyard {manifest.opyard}, ONNX opset {manifest.opset}"]]
    rows += [[f"metadata {key}", text] for key, text in manifest.metadata.items()]
    print_table(["what", "is"], rows)
    print_text("\nAll files are as they were written.")
