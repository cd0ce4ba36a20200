"""Writes docs/ops.md, the table of all standard ops: ``python tools/generate_ops_table.py``; ``--check`` only compares."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import chain
from pathlib import Path

from opyard.operation import Op
from opyard.ops import MODULES, STANDARD
from opyard.ops.gradients import differentiated

TARGET = Path(__file__).parent.parent / "docs" / "ops.md"
HEADER = """# Standard ops

{count} ops: {primitive} primitive, {elementwise} elementwise (with a scalar expression) and {composite} composite (with a
decomposition into other ops). Arrays are positional; what stands behind `*` is a keyword-only attribute; `=None` marks an
optional input. Names follow the Python array API standard and, for neural networks, ONNX in snake case. `opyard ops` prints
the same list together with the ops of installed plugins; `help(opyard.conv)` prints a full description.

The third column says how [gradients](gradients.md) get through: by a rule, through the decomposition or the expression; `zero` where the op is constant, or
gives or takes no real numbers, and `none` where there is no gradient.

This page is generated: `uv run python tools/generate_ops_table.py`.
"""


def kind(op: Op) -> str:
    """What `opyard ops` calls it."""
    return "composite" if op.decompose else "elementwise" if op.scalar else "primitive"


def page() -> str:
    """The whole page."""
    modules = {name: import_module(f"opyard.ops.{name}") for name in MODULES}
    rows: list[str] = []
    for name, module in modules.items():
        ops = [STANDARD[public].op for public in sorted(module.__all__) if public in STANDARD]
        rows += [
            f"\n## {name.replace('_', ' ').capitalize()}\n",
            "| op | kind | gradient | what it computes |",
            "|---|---|---|---|",
        ]
        rows += [
            f"| `{op.name}{op.signature}` | {kind(op)} | {differentiated(op)} | {_cell(_summary(op))} |"
            for op in ops
        ]
    kinds = [kind(function.op) for function in STANDARD.values()]
    header = HEADER.format(
        count=len(kinds), **{k: kinds.count(k) for k in ("primitive", "elementwise", "composite")}
    )
    return "\n".join(chain([header.rstrip()], rows)) + "\n"


def _summary(op: Op) -> str:
    return next(iter(op.doc.strip().splitlines()), "")


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Writes or compares the page; gives the exit status."""
    text = page()
    if "--check" in arguments:
        current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        print(
            "docs/ops.md is current."
            if current
            else "docs/ops.md is out of date; run tools/generate_ops_table.py."
        )
        return 0 if current else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
