"""``opyard kernels OP`` and ``opyard explain OP``: which kernels there are, and which one a call would use."""

from __future__ import annotations

import ast
import math
from typing import Any

import click

from .. import runtime
from ..errors import SpecError
from ..placement import default_costs, drawing
from ..selection import Candidate, active_policy, candidates
from ..spec import parse_spec
from ..units import format_seconds
from .output import json_option, print_json, print_table, print_text
from .program import Program, is_program, load, memory_option, parse_limits

_WORDS = {"true": True, "false": False, "none": None}


@click.command()
@click.argument("op")
@json_option
def kernels(op: str, as_json: bool) -> None:
    """List the kernels of OP, their packages and dtypes."""
    registry = runtime.registry()
    signature = f"{op}{registry.get_op(op).signature}"
    found = [(kernel, registry.why_aside(op, kernel)) for kernel in registry.kernels(op)]
    if as_json:
        rows = [
            {
                "kernel": kernel.id,
                "origin": str(kernel.origin),
                "dtypes": kernel.dtypes,
                "form": "prepared" if kernel.prepare is not None else "simple",
                "aside": aside,
            }
            for kernel, aside in found
        ]
        print_json({"op": op, "signature": signature, "kernels": rows})
        return
    print_table(
        ["kernel", "from", "dtypes and notes"],
        [
            [kernel.id, kernel.origin, "; ".join(filter(None, [_dtypes_text(kernel.dtypes), aside]))]
            for kernel, aside in found
        ],
        title=f"{signature}\n",
    )
    print_text(
        f"\nEvery op has its reference, too. `opyard explain {op} 'float32[2,3]' ...` shows which kernel a call would use."
    )


def _dtypes_text(dtypes: Any) -> str:
    if dtypes is None:
        return "any"
    if isinstance(dtypes, tuple):
        return ", ".join(dtypes)
    return "; ".join(f"{name}: {', '.join(allowed)}" for name, allowed in dtypes.items())


@click.command()
@click.argument("target")
@click.argument("inputs", nargs=-1)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An attribute, such as axis=-1; may be repeated.",
)
@click.option(
    "--draw", type=click.Choice(["mermaid", "dot"]), help="Print the placement of a program as a drawing."
)
@memory_option
@json_option
def explain(
    target: str,
    inputs: tuple[str, ...],
    settings: tuple[str, ...],
    draw: str | None,
    memory: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain which kernels TARGET would use, and why.

    TARGET is an op, or a program: module:function, path.py:function or a model file, see `opyard tune --help`.
    INPUTS are written as a dtype with sizes; none leaves an input out:

    \b
      opyard explain matmul 'float32[64,512]' 'float32[512,64]'
      opyard explain softmax 'f16[32,4096]' --set axis=0
      opyard explain conv 'f32[1,3,32,32]' 'f32[8,3,3,3]' none --set padding=1
      opyard explain model.py:block 'f32[32,64]'
      opyard explain model.onnx
    """
    if draw is not None and as_json:
        raise SpecError("--draw prints a drawing and --json prints data; choose one of them.")
    if is_program(target):
        if settings:
            raise SpecError(f"--set is for the attributes of an op; {target!r} is a program, which has none.")
        program = load(target, tuple(map(parse_spec, inputs)), parse_limits(memory))
        _explain_program(program, draw, as_json)
        return
    if memory:
        raise SpecError(f"--memory is for programs, such as model.py:function; {target!r} is an op.")
    if draw is not None:
        raise SpecError(f"--draw is for programs, such as model.py:function; {target!r} is an op.")
    registry = runtime.registry()
    call = registry.get_op(target).call(*map(parse_spec, inputs), **dict(map(parse_attribute, settings)))
    rows = candidates(call, registry.devices(), registry, active_policy(), default_costs())
    if as_json:
        print_json({"call": str(call), "candidates": [_candidate_row(row) for row in rows]})
        return
    print_table(
        ["", "kernel", "device", "time", "estimated by, or why refused"],
        [
            [
                _verdict(i, row),
                row.kernel.id,
                row.device.name,
                format_seconds(row.seconds) if row.estimate else "",
                row.estimate.source if row.estimate else row.refusal,
            ]
            for i, row in enumerate(rows)
        ],
        title=f"{call}\n",
    )


def _explain_program(program: Program, draw: str | None, as_json: bool) -> None:
    placement, notes = program.placement(), program.session.graph.notes
    if draw is not None:
        click.echo({"mermaid": drawing.mermaid, "dot": drawing.dot}[draw](placement), nl=False)
    elif as_json:
        print_json({**placement.to_json(), "notes": notes})
    else:
        print_text("\n".join([str(placement), *(f"note  {note}" for note in notes)]), hanging=6)


def _verdict(position: int, row: Candidate) -> str:
    return "refused" if row.refusal else "best" if position == 0 else ""


def _candidate_row(row: Candidate) -> dict[str, Any]:
    return {
        "kernel": row.kernel.id,
        "device": row.device.name,
        "origin": str(row.kernel.origin),
        "seconds": row.seconds if math.isfinite(row.seconds) else None,
        "estimate": row.estimate.source if row.estimate else None,
        "refusal": row.refusal,
    }


def parse_attribute(text: str) -> tuple[str, Any]:
    """``axis=-1`` as a name and a Python value; ``true``, ``false`` and ``none`` in any case; else it is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"an attribute is written as name=value, such as axis=-1; found {text!r}.")
    if value.lower() in _WORDS:
        return name, _WORDS[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
