"""Imports go down only, in the order that docs/design.md states; plugins import only what docs/api.md calls public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from opyard import api

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "src" / "opyard"
MODULES = sorted(CORE.rglob("*.py"))
PLUGIN_FILES = sorted(
    path for folder in ("backends", "plugins", "examples") for path in ROOT.glob(f"{folder}/*/src/**/*.py")
)
DYNAMIC = {"opfunction": {"opyard.dispatch"}}
"""The one import by name that points up: the function of an op needs the dispatcher when it is first called."""


def documented_layers() -> list[list[str]]:
    """The block ``layers`` of docs/design.md: lowest first, modules of one line do not import each other."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = re.search(r"```layers\n(.*?)```", text, re.DOTALL)
    assert block, "docs/design.md has no block ```layers"
    return [line.split() for line in block[1].splitlines()]


def public_modules() -> set[str]:
    """The modules named in the table of the section 'Public modules' of docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = text.partition("\n## Public modules\n")[2].partition("\n## ")[0]
    found = set(re.findall(r"^\| `(opyard\.[\w.]+)` \|", section, re.MULTILINE))
    assert found, "docs/api.md has no table of public modules"
    return found


def is_module(name: str) -> bool:
    path = CORE.joinpath(*name.split(".")[1:])
    return name.split(".")[0] == "opyard" and (
        path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    )


def imports(path: Path, package: str) -> Iterator[tuple[str, str, int]]:
    """(module, name or "", line) of each import of opyard in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((a.name, "", node.lineno) for a in node.names if a.name.split(".")[0] == "opyard")
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] == "opyard":
                yield from ((module, alias.name, node.lineno) for alias in node.names)


def package_of(path: Path) -> str:
    return ".".join(("opyard", *path.relative_to(CORE).parent.parts))


def layer_name(module: str) -> str:
    """``opyard.ops.shape`` -> "ops"; the package itself is "__init__"."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_has_one_layer() -> None:
    named = [name for layer in documented_layers() for name in layer]
    present = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in MODULES}
    assert sorted(named) == sorted(present)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(CORE)))
def test_imports_go_down(path: Path) -> None:
    level = {name: number for number, layer in enumerate(documented_layers()) for name in layer}
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    wrong = []
    for module, name, line in imports(path, package_of(path)):
        target = layer_name(f"{module}.{name}" if is_module(f"{module}.{name}") else module)
        if target != own and level[target] >= level[own]:
            wrong.append(f"line {line}: {own} imports {target}")
    assert not wrong, f"{path.name}: {'; '.join(wrong)}; see 'Import layers' in docs/design.md"


@pytest.mark.parametrize("package", ["ops", "passes", "placement", "cli"])
def test_modules_of_one_package_do_not_import_in_circles(package: str) -> None:
    from graphlib import TopologicalSorter

    sorter: TopologicalSorter[str] = TopologicalSorter()
    for path in sorted((CORE / package).rglob("*.py")):
        own = f"{package_of(path)}.{path.stem}" if path.stem != "__init__" else package_of(path)
        for module, name, _ in imports(path, package_of(path)):
            target = f"{module}.{name}" if is_module(f"{module}.{name}") else module
            if target.startswith(f"opyard.{package}"):
                sorter.add(own, target)
    sorter.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(CORE)))
def test_no_other_import_by_name_points_up(path: Path) -> None:
    found = {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module"
        and isinstance(node.args[0], ast.Constant)
        and str(node.args[0].value).startswith("opyard.")
    }
    assert found == DYNAMIC.get(path.stem, set())


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_import_only_what_is_public(path: Path) -> None:
    allowed, wrong = public_modules(), []
    for module, name, line in imports(path, "elsewhere"):
        if module == "opyard":
            public = name in ("", "__version__") or name in api.__all__ or f"opyard.{name}" in allowed
        else:
            public = module in allowed and not name.startswith("_")
        if not public:
            wrong.append(f"line {line}: {module}{f' import {name}' if name else ''}")
    assert not wrong, f"not public (see 'Public modules' in docs/api.md): {'; '.join(wrong)}"


def test_the_public_modules_exist() -> None:
    for name in sorted(public_modules()):
        assert import_module(name).__name__ == name


def test_plugin_files_hold_no_private_strings() -> None:
    """``load="opyard...."`` strings, too, name public modules or standard ops."""
    for path in PLUGIN_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module in re.findall(r"^(opyard(?:\.\w+)+):", node.value):
                    assert module in public_modules(), f"{path.name} line {node.lineno}: {node.value}"
