"""Size budgets: code lines of the core, lines of each file and of each function. Exceptions are listed in docs/design.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "src" / "opyard"
CORE_LINES, FILE_LINES, FUNCTION_LINES = 2500, 400, 60
SOURCES = sorted(
    [
        *(ROOT / "core" / "src").rglob("*.py"),
        *ROOT.glob("backends/*/src/**/*.py"),
        *ROOT.glob("plugins/*/src/**/*.py"),
        *(ROOT / "tools").glob("*.py"),
    ]
)
_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings or other strings that stand alone."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def exceptions() -> dict[str, int]:
    """Limits of single files and functions: the table rows "| `path` | limit | reason |" of the design page."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = text.partition("\n### Exceptions to the budgets\n")[2].partition("\n#")[0]
    assert section, "docs/design.md has no section 'Exceptions to the budgets'"
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (.+) \|$", section, re.MULTILINE)
    assert all(len(reason.split()) >= 4 for _, _, reason in rows), (
        "each exception needs a reason, as a sentence"
    )
    return {name: int(limit) for name, limit, _ in rows}


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function, methods and nested ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
        name = f"{prefix}{node.name}." if hasattr(node, "name") and node.name else prefix
        yield from functions(node, name)


def test_code_lines_leave_out_what_is_no_code() -> None:
    source = '"""Doc.\n\nMore."""\n\n# comment\nx = """a\nb"""  # both lines count\n\n\ndef f():\n    """Doc."""\n    return (\n        1,\n    )\n'
    assert code_lines(source) == 6


def test_the_core_is_small() -> None:
    files = [
        p
        for p in CORE.rglob("*.py")
        if not {"ops", "placement", "template"} & set(p.relative_to(CORE).parts[:-1])
    ]
    total = sum(code_lines(path.read_text(encoding="utf-8")) for path in files)
    limit = exceptions().get("core", CORE_LINES)
    print(
        f"core without ops and placement: {total} code lines in {len(files)} files (limit {limit}, planned {CORE_LINES})"
    )
    assert total < limit, (
        f"the core without ops/ and placement/ has {total} code lines, the budget is {limit}; make it simpler, or state in docs/design.md why not"
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    limits, source = exceptions(), path.read_text(encoding="utf-8")
    length = source.count("\n")
    assert length < limits.get(name, FILE_LINES), (
        f"{name} has {length} lines; split it by concept, or list it in docs/design.md with a reason"
    )
    long = [
        f"{function}: {lines}"
        for function, lines in functions(ast.parse(source))
        if lines >= limits.get(f"{name}:{function}", FUNCTION_LINES)
    ]
    assert not long, f"functions of {FUNCTION_LINES} lines or more in {name}: {', '.join(long)}"


def test_every_exception_is_needed() -> None:
    for name, limit in exceptions().items():
        if name == "core":
            assert limit > CORE_LINES
            continue
        path, _, function = name.partition(":")
        assert (ROOT / path).is_file(), f"docs/design.md lists {path}, which does not exist; delete its row"
        source = (ROOT / path).read_text(encoding="utf-8")
        found = dict(functions(ast.parse(source))).get(function, 0) if function else source.count("\n")
        assert found >= (FUNCTION_LINES if function else FILE_LINES), (
            f"{name} no longer needs its exception in docs/design.md; delete the row"
        )
