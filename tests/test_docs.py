"""The documentation is complete, true and runs: hooks, settings, commands, public names, links and every Python block."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from opyard import api, cli, errors, hookspecs, settings
from opyard.ops import STANDARD
from opyard.plugin import STATES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in ("build", "dist", "site") for part in path.relative_to(ROOT).parts
    )
)
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
PACKAGE_INDEX = re.compile(r"py[p]i|python[h]osted|anacond[a]\.org|inde[x]-url|extr[a]-index", re.IGNORECASE)
NO_SETTINGS = {"OPYARD_API"}
"""Names that look like settings and are attributes of a plugin's module."""


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def section(text: str, heading: str) -> str:
    """The part of a page under a heading of level two or three, up to the next of level two."""
    found = re.search(rf"^###? {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {heading!r}"
    return found[1]


# Hooks and settings ----------------------------------------------------------------------------------------------


def hooks() -> dict[str, str]:
    """The signature of each hook, as its definition reads."""
    found = {}
    for node in ast.parse(inspect.getsource(hookspecs)).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("opyard_"):
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            found[node.name] = f"def {node.name}({ast.unparse(node.args)}){returns}"
    return found


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    text = text_of("hooks.md")
    assert len(hooks()) >= 3
    for name, signature in hooks().items():
        assert f"```python\n# not run\n{signature}: ...\n```" in section(text, f"`{name}`")
    documented = re.findall(r"^## `(opyard_\w+)`$", text, re.MULTILINE)
    assert sorted(documented) == sorted(hooks())


def test_the_states_of_plugins_are_documented() -> None:
    documented = re.findall(
        r"^\| `(\w+)` \|", section(text_of("hooks.md"), "States of a plugin"), re.MULTILINE
    )
    assert documented == list(STATES)


def test_every_setting_is_documented_and_no_other() -> None:
    documented = re.findall(r"^## `(OPYARD_\w+)`$", text_of("settings.md"), re.MULTILINE)
    assert documented == list(settings.VARIABLES)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_no_page_names_an_unknown_setting(path: Path) -> None:
    named = set(re.findall(r"\bOPYARD_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    assert named <= {*settings.VARIABLES, *NO_SETTINGS}


# Public names ----------------------------------------------------------------------------------------------------


def test_every_public_name_is_documented() -> None:
    documented = set(
        re.findall(
            r"^\| `(\w+)(?:\(.*?\))?` \|", section(text_of("api.md"), "Names of `opyard`"), re.MULTILINE
        )
    )
    public = {name for name in api.__all__ if name not in STANDARD}
    assert documented == public, (
        f"docs/api.md lacks {sorted(public - documented)}, and has too much {sorted(documented - public)}"
    )


def test_every_error_is_documented() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OpyardError)
    }
    documented = set(re.findall(r"^\| `(\w+)` \|", section(text_of("api.md"), "Errors"), re.MULTILINE))
    assert documented == classes


def test_the_table_of_ops_is_current() -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_ops_table", ROOT / "tools" / "generate_ops_table.py"
    )
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert text_of("ops.md") == tool.page(), "run `uv run python tools/generate_ops_table.py`"
    assert all(f"| `{name}(" in tool.page() for name in STANDARD)


# Commands --------------------------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """The commands of the core and of the plugins in this repository."""
    group = cli.build()
    found = {name: group.get_command(click.Context(group), name) for name in group.commands}
    return {
        name: command
        for name, command in found.items()
        if command is not None
        and (command.callback is None or command.callback.__module__.startswith("opyard"))
    }


def option_names(command: click.Command) -> set[str]:
    """The options of a command; those of the commands inside it, too."""
    found = {name for inner in inner_commands(command) for name in option_names(inner)}
    parameters = command.get_params(click.Context(command))
    own = {name for p in parameters if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    return own | found


def inner_commands(command: click.Command) -> list[click.Command]:
    """The commands of a command of ours; those of ``opyard`` itself have sections of their own."""
    inner = isinstance(command, click.Group) and command.name != "opyard"
    return list(command.commands.values()) if inner else []


def test_every_command_and_option_is_documented() -> None:
    text = text_of("cli.md")
    documented = re.findall(r"^## `opyard ([\w-]+).*`$", text, re.MULTILINE)
    assert sorted(documented) == sorted(commands())
    for name, command in commands().items():
        heading = next(line[3:] for line in text.splitlines() if re.match(rf"## `opyard {name}\b", line))
        part = section(text, heading)
        for argument in (p for p in command.params if isinstance(p, click.Argument)):
            assert argument.make_metavar(click.Context(command)).strip("[].") in heading, (
                name,
                argument.name,
            )
        for option in option_names(command) - {"--help"}:
            assert re.search(rf"`{re.escape(option)}\b", part), f"docs/cli.md: {name} lacks {option}"
    for option in option_names(cli.build()):
        assert re.search(rf"`{re.escape(option)}`", section(text, "Options of every command")), option


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words behind ``opyard`` of each command line in code fences and in inline code."""
    lines = [
        line
        for language, body in FENCE.findall(text)
        if language in ("", "console", "bash", "sh")
        for line in body.splitlines()
    ]
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in lines:
        for part in re.split(r"&&|;|\|", line.removeprefix("$ ")):
            found = re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:uv run )?opyard +([a-z-].*)", part)
            if found:
                yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_commands_shown_exist(path: Path) -> None:
    known, general = commands(), option_names(cli.build())
    for words in shown_commands(path.read_text(encoding="utf-8")):
        rest = [word for word in words if word not in general]
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        if not rest:
            continue
        assert rest[0] in known, f"{relative(path)} shows `opyard {' '.join(words)}`, which does not exist"
        assert options <= {*option_names(known[rest[0]]), *general}, f"{relative(path)}: {' '.join(words)}"


def test_shown_commands_are_found() -> None:
    text = "Type `opyard ops` or:\n\n```console\n$ OPYARD_BLOCK=cpu uv run opyard demo --json && opyard doctor\n```\n"
    assert list(shown_commands(text)) == [["demo", "--json"], ["doctor"], ["ops"]]


# Links and code --------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that headings get: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_relative_links_resolve(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), f"{relative(path)} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{relative(path)} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_no_page_names_a_package_index_or_a_folder_of_this_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not PACKAGE_INDEX.search(text)
    assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root)/", text)


def test_every_page_of_docs_is_linked_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text_of("index.md")))
    missing = {path.name for path in DOCS.glob("*.md")} - linked - {"index.md"}
    assert not missing


def python_program(path: Path) -> str:
    """The Python blocks of a page, each on the lines where it stands, so that a traceback names the page's line."""
    text, program = path.read_text(encoding="utf-8"), ""
    for match in FENCE.finditer(text):
        language, body = match[1], match[2]
        if language == "python" and not body.startswith("# not run"):
            line = text.count("\n", 0, match.start()) + 1
            program += "\n" * (line - program.count("\n")) + body
    return program


RUNNABLE = [path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))] if python_program(path)]


@pytest.mark.parametrize("path", RUNNABLE, ids=relative)
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPYARD_")}
    environment["OPYARD_CACHE_DIR"] = str(tmp_path / "cache")
    copy = tmp_path / f"{path.stem}_page.py"
    copy.write_text(python_program(path), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(copy)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{relative(path)} (lines are those of the page):\n{done.stderr}"


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_blocks_that_are_not_run_are_python_all_the_same(path: Path) -> None:
    for language, body in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(body)


def test_the_readme_shows_the_two_commands(tmp_path: Path) -> None:
    readme: Any = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python -m pip install uv && uv run opyard demo" in readme
    assert "uv run pytest -n auto" in readme
