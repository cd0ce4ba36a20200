"""``opyard kernels OP`` and ``opyard explain OP``: which kernels there are, and which one a call would use."""

from __future__ import annotations

import ast
import re
from typing import Any

import click

from .. import runtime
from ..errors import SpecError
from ..placement.model import format_seconds
from ..selection import Candidate, active_policy, candidates
from ..spec import TensorSpec
from .output import json_option, print_json, print_table

_SHORT = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "i32": "int32", "i64": "int64", "u8": "uint8"}


@click.command()
@click.argument("op")
@json_option
def kernels(op: str, as_json: bool) -> None:
    """List the registered kernels of OP, where they come from and what they take."""
    registry = runtime.registry()
    registry.get_op(op)
    rows = [
        {
            "kernel": kernel.id,
            "origin": str(kernel.origin),
            "dtypes": _dtypes_text(kernel.dtypes),
            "form": "prepared" if kernel.prepare is not None else "simple",
            "aside": registry.why_aside(op, kernel),
        }
        for kernel in registry.kernels(op)
    ]
    if as_json:
        print_json({"op": op, "kernels": rows})
        return
    print_table(["kernel", "from", "dtypes", "form", "note"], [[r["kernel"], r["origin"], r["dtypes"], r["form"], r["aside"] or ""] for r in rows])
    click.echo(f"Every op has its reference, too. `opyard explain {op} float32[2,3] ...` shows which kernel a call would use.")


def _dtypes_text(dtypes: Any) -> str:
    if dtypes is None:
        return "any"
    if isinstance(dtypes, tuple):
        return ", ".join(dtypes)
    return "; ".join(f"{name}: {', '.join(allowed)}" for name, allowed in dtypes.items())


@click.command()
@click.argument("op")
@click.argument("inputs", nargs=-1)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An attribute, such as axis=-1; may be repeated.")
@json_option
def explain(op: str, inputs: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Explain which kernel OP would use for INPUTS such as float32[32,4096], on every device of this machine."""
    registry = runtime.registry()
    call = registry.get_op(op).call(*map(parse_spec, inputs), **dict(map(parse_attribute, settings)))
    rows = candidates(call, registry.devices(), registry, active_policy())
    if as_json:
        print_json({"call": str(call), "candidates": [_candidate_row(row) for row in rows]})
        return
    print_table(
        ["", "kernel", "device", "estimate", "from"],
        [[_verdict(i, row), row.kernel.id, row.device.name, row.refusal or format_seconds(row.seconds), row.estimate.source if row.estimate else ""] for i, row in enumerate(rows)],
        title=str(call),
    )


def _verdict(position: int, row: Candidate) -> str:
    return "refused" if row.refusal else "best" if position == 0 else ""


def _candidate_row(row: Candidate) -> dict[str, Any]:
    return {
        "kernel": row.kernel.id,
        "device": row.device.name,
        "origin": str(row.kernel.origin),
        "seconds": row.estimate.seconds if row.estimate else None,
        "estimate": row.estimate.source if row.estimate else None,
        "refusal": row.refusal,
    }


def parse_spec(text: str) -> TensorSpec | None:
    """A spec as people write it: ``float32[2,3]``, ``f32[2, 3]``, ``float32[]`` for 0-d, ``none`` for an input left out."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\w+)\[([\w\s,]*)\]", text)
    if match is None:
        raise SpecError(f"an input is written as dtype[sizes], such as float32[32,4096]; found {text!r}.")
    sizes = [size.strip() for size in match[2].split(",") if size.strip()]
    return TensorSpec([int(size) if size.isdigit() else size for size in sizes], _SHORT.get(match[1], match[1]))


def parse_attribute(text: str) -> tuple[str, Any]:
    """``axis=-1`` as a name and a Python value; what is no Python literal is taken as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"an attribute is written as name=value, such as axis=-1; found {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


