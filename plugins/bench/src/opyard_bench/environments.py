"""The two sides of ``opyard bench ab``: what the user names, as a Python that has that opyard.

Sources and wheels are installed into a new virtual environment, without what they depend on: that comes from the Python that
runs the command, so that nothing but opyard differs between the sides, and nothing has to be resolved.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from opyard.errors import SettingsError

HERE = ""
"""Names the Python that runs the command, with what is installed there."""

_SHOWN = 12
"""Lines of a failed command's output that a message repeats: its end says why."""


def python_of(side: str, named: str, folder: Path) -> tuple[str, str]:
    """(path of a Python, what it holds as a phrase) for what the user named; makes what it takes in ``folder``.

    ``named`` is a program, a wheel, a folder with wheels, a folder with sources, or else a revision of the git repository around
    the working folder. Raises SettingsError, naming the ``side``, where it is none of these or cannot be installed.
    """
    path = Path(named)
    if named == HERE:
        return sys.executable, "what is installed here"
    if path.is_file() and path.suffix == ".whl":
        return _installed(side, [path], folder), path.name
    if path.is_file() and os.access(path, os.X_OK):
        return str(path.absolute()), named
    if path.is_dir() and (wheels := sorted(path.glob("*.whl"))):
        return _installed(side, wheels, folder), f"the wheels in {named}"
    if path.is_dir() and (path / "pyproject.toml").is_file():
        return _installed(side, _projects(path.absolute()), folder), f"the sources in {named}"
    if path.exists():
        raise SettingsError(
            f"--{side} {named} is no Python, no wheel, and no folder with wheels or sources. Name one of these, or a git revision such as HEAD~1."
        )
    commit, sources = _unpacked(side, named, folder / "sources")
    return _installed(side, _projects(sources), folder), f"{named} ({commit[:10]})"


def _unpacked(side: str, revision: str, target: Path) -> tuple[str, Path]:
    """The commit of a revision, and a folder with its files: without a worktree, which the repository would remember."""
    git = shutil.which("git")
    if git is None:
        raise SettingsError(
            f"--{side} {revision} is no file and no folder, and a git revision needs git; install it, or name a wheel or a Python."
        )
    found = _run([git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"])
    if found.returncode:
        raise SettingsError(
            f"--{side} {revision} is no file, no folder, and no revision of a git repository here. `git log --oneline` lists revisions."
        )
    commit = found.stdout.decode().strip()
    top = _run([git, "rev-parse", "--show-toplevel"]).stdout.decode().strip()
    archive = _run([git, "-C", top, "archive", "--format=zip", commit])
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(target)
    return commit, target


def _projects(root: Path) -> list[Path]:
    """The folders of the distributions in a checkout that are installed here, too: it alone, or members of its workspace."""
    facts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = facts.get("tool", {}).get("uv", {}).get("workspace", {}).get("members", [])
    folders = [root, *(path for pattern in patterns for path in sorted(root.glob(pattern)))]
    installed = {(found.metadata["Name"] or "").lower().replace("_", "-") for found in distributions()}
    chosen = []
    for folder in folders:
        if (folder / "pyproject.toml").is_file():
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get(
                "project", {}
            )
            if str(project.get("name", "")).lower().replace("_", "-") in installed:
                chosen.append(folder)
    return chosen


def _installed(side: str, what: Sequence[Path], folder: Path) -> str:
    """The Python of a new virtual environment with these and, behind them, everything that is installed here."""
    if not what:
        raise SettingsError(
            f"--{side}: none of the distributions there is installed here, so there is nothing to compare. Name a checkout or wheels of opyard, or of a plugin that you have installed."
        )
    target = folder / "environment"
    uv = shutil.which("uv")
    make = (
        [uv, "venv", "--quiet", "--no-config", "--no-project", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "venv"]
    )
    _check(side, _run([*make, str(target)]), "a virtual environment cannot be made")
    scheme = {"base": str(target), "platbase": str(target)}
    python = Path(sysconfig.get_path("scripts", "venv", scheme)) / (
        "python.exe" if os.name == "nt" else "python"
    )
    install = (
        [uv, "pip", "install", "--quiet", "--no-config", "--python", str(python)]
        if uv
        else [str(python), "-m", "pip", "install", "--quiet"]
    )
    done = _run([*install, "--no-deps", *map(str, what)], cwd=folder)
    _check(side, done, f"{', '.join(path.name for path in what)} cannot be installed")
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    behind = "".join(f"import site; site.addsitedir({entry!r})\n" for entry in _site_folders())
    (site / "behind.pth").write_text(behind, encoding="utf-8")
    return str(python)


def _site_folders() -> list[str]:
    """Where packages are installed here."""
    return list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))


def _run(words: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, cwd=cwd, capture_output=True, check=False)


def _check(side: str, done: subprocess.CompletedProcess[bytes], problem: str) -> None:
    if done.returncode:
        told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-_SHOWN:]
        raise SettingsError(f"--{side}: {problem}:\n" + "\n".join(told))
