"""All distributions have one version, and demand each other's at that minor version."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import opyard

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "set_version.py"


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("set_version", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_version = load_tool()


def project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return found


def demands(path: Path) -> list[str]:
    """What a distribution demands of the others, extras included; not the core's extras of itself."""
    found = project(path)
    listed = [
        *found.get("dependencies", ()),
        *chain.from_iterable(found.get("optional-dependencies", {}).values()),
    ]
    return [
        text for text in listed if re.match(r"opyard\b", text) and not text.startswith(f"{found['name']}[")
    ]


def check(root: Path, version: str) -> None:
    paths = set_version.projects(root)
    assert len(paths) >= 5
    assert {project(path)["name"]: project(path)["version"] for path in paths} == dict.fromkeys(
        (project(path)["name"] for path in paths), version
    )
    minor = ".".join(version.split(".")[:2])
    for path in paths:
        for demand in demands(path):
            assert demand.endswith(f"~={minor}.0"), f"{path}: {demand}"
    package = (root / set_version.PACKAGE).read_text(encoding="utf-8")
    assert f'\n__version__ = "{version}"\n' in package


def copy(target: Path) -> Path:
    files = [*set_version.projects(ROOT), ROOT / set_version.PACKAGE]
    for path in files:
        to = target / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return target


def test_all_versions_are_equal() -> None:
    check(ROOT, opyard.__version__)


def test_every_distribution_depends_on_the_core() -> None:
    for path in set_version.projects(ROOT):
        if project(path)["name"] != "opyard":
            assert any(re.match(r"opyard~=", text) for text in project(path)["dependencies"]), path


def test_every_distribution_is_a_member_of_the_workspace() -> None:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    names = {project(path)["name"] for path in set_version.projects(ROOT)}
    assert set(workspace["sources"]) == names


def test_the_changelog_names_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(opyard.__version__)}\b", text, re.MULTILINE)


@pytest.mark.parametrize("version", ["0.2.0", "1.10.3"])
def test_the_tool_sets_them_all(tmp_path: Path, version: str) -> None:
    root = copy(tmp_path)
    done = subprocess.run(
        [sys.executable, str(TOOL), version, "--root", str(root)], capture_output=True, text=True, check=True
    )
    check(root, version)
    assert "Next: name the version in CHANGELOG.md" in done.stdout
    assert set_version.set_version(root, version) == []


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0rc1", ""])
def test_the_tool_refuses_what_is_no_version(tmp_path: Path, version: str) -> None:
    root = copy(tmp_path)
    with pytest.raises(ValueError, match=r"a version is three numbers, such as 0\.2\.0; found"):
        set_version.set_version(root, version)
    check(root, opyard.__version__)


def test_the_tool_writes_nothing_when_a_file_is_unusual(tmp_path: Path) -> None:
    root = copy(tmp_path)
    package = root / set_version.PACKAGE
    package.write_text(
        package.read_text(encoding="utf-8").replace("__version__ =", "version_ ="), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"has 0 lines that set the version; it must have one"):
        set_version.set_version(root, "0.9.0")
    assert project(root / "core" / "pyproject.toml")["version"] == opyard.__version__


def test_the_tool_reports_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert set_version.main(["nonsense"]) == 1
    assert capsys.readouterr().err == "error: a version is three numbers, such as 0.2.0; found 'nonsense'.\n"
