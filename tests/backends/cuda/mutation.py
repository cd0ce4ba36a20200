"""Mistakes made on purpose in the text of a kernel: barriers left out, bounds that are off by one or gone, tails, shuffles, steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

OPPOSITE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}

_PLAIN = (
    ("barrier", r"__sync(threads|warp)\(\);", ";"),
    (
        "bound",
        r"\bif \((?!constexpr)(.+?)\) (?=return|continue|\w+ \+=|y\[|sums\[|tile\[|\w+\.)",
        "if (true) ",
    ),
    (
        "bound",
        r"\bif \((?!constexpr)(.+?)\) (?=return|continue|\w+ \+=|y\[|sums\[|tile\[|\w+\.)",
        "if (false) ",
    ),
    ("tail", r"\((\w+) \+ \w+(?: - 1)?\) / (\w+)", r"(\1) / \2"),
    ("tail", r"\bmin\((.+?), \w+\)", r"(\1)"),
    ("tail", r"[\w.%/ ]+ < [\w/ ]+ \? ", " true ? "),
    ("shuffle", r"bits = 16\b", "bits = 8"),
    ("shuffle", r"bits = 1\b", "bits = 2"),
    ("shuffle", r"bits /= 2\b", "bits /= 4"),
    ("shuffle", r"bits \*= 2\b", "bits *= 4"),
    ("shuffle", r"== 0\) (?=\w+\[)", "== 1) "),
    ("step", r"\+= ([\w.* ]+)\) ", r"+= \1 + 1) "),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed text, and what was changed: the kind of mistake, the line as it was and as it is."""

    kind: str
    before: str
    after: str
    text: str


def mutants(text: str) -> Iterator[Mutant]:
    """Each change that a rule allows, one at a time."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        code = line.split("//")[0].rstrip()
        if not code or code.lstrip().startswith(
            ("#", "template", "typedef", "struct", "constexpr", "static")
        ):
            continue
        for kind, changed in dict.fromkeys(_changes(code)):
            if changed != code:
                whole = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
                yield Mutant(kind, code.strip(), changed.strip(), whole)


def _changes(code: str) -> Iterator[tuple[str, str]]:
    for kind, pattern, replacement in _PLAIN:
        for found in re.finditer(pattern, code):
            yield kind, code[: found.start()] + found.expand(replacement) + code[found.end() :]
    for found in re.finditer(r" (<=|>=|<|>) ", code):
        yield "bound", f"{code[: found.start()]} {OPPOSITE[found[1]]} {code[found.end() :]}"
    for found in re.finditer(r" && ", code):
        left, right = _operand(code, found.start(), -1), _operand(code, found.end(), 1)
        yield "bound", code[: found.start()] + code[right:]
        yield "bound", code[:left] + code[found.end() :]


def _operand(code: str, start: int, step: int) -> int:
    """Where the operand of ``&&`` that begins or ends at ``start`` ends or begins."""
    opening, closing = ("(", ")") if step > 0 else (")", "(")
    depth, place = 0, start if step > 0 else start - 1
    while 0 <= place < len(code):
        rest = code[place:] if step > 0 else code[: place + 1]
        if depth == 0 and (
            code[place] in (closing, ";", "?")
            or (step > 0 and rest.startswith(" && "))
            or (step < 0 and rest.endswith((" && ", "= ")))
        ):
            break
        depth += (code[place] == opening) - (code[place] == closing)
        place += step
    return place if step > 0 else place + 1
