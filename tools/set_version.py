"""Sets the version of all distributions at once: ``python tools/set_version.py 0.2.0``.

It writes ``version`` of every pyproject.toml, ``opyard.__version__``, and the ``~=`` that the distributions demand of each
other: ``~=0.2.0`` for every 0.2.x.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_OWN = re.compile(r'^(version = )"[^"]*"$', re.MULTILINE)
_DUNDER = re.compile(r'^(__version__ = )"[^"]*"$', re.MULTILINE)
_DEMAND = re.compile(r'("opyard[\w-]*(?:\[[\w,-]*\])?~=)[^"]*"')
PACKAGE = "core/src/opyard/__init__.py"


def projects(root: Path) -> list[Path]:
    """The pyproject.toml of every distribution."""
    return sorted(
        [
            path
            for folder in ("core", "backends/*", "plugins/*")
            for path in root.glob(f"{folder}/pyproject.toml")
        ]
    )


def set_version(root: Path, version: str) -> list[Path]:
    """Writes the version everywhere and gives the files that changed. Raises ValueError, before any file is written."""
    parts = _VERSION.fullmatch(version)
    if parts is None:
        raise ValueError(f"a version is three numbers, such as 0.2.0; found {version!r}.")
    demand = rf'\g<1>{parts[1]}.{parts[2]}.0"'
    texts = {}
    for path in projects(root):
        texts[path] = _once(_OWN, version, path)
    texts[root / PACKAGE] = _once(_DUNDER, version, root / PACKAGE)
    changed = []
    for path, text in texts.items():
        new = _DEMAND.sub(demand, text)
        if new != path.read_text(encoding="utf-8"):
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def _once(pattern: re.Pattern[str], version: str, path: Path) -> str:
    text, count = pattern.subn(rf'\g<1>"{version}"', path.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{path} has {count} lines that set the version; it must have one.")
    return text


def main(arguments: list[str]) -> int:
    """Runs the command line; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version", help="three numbers, such as 0.2.0")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parent.parent, help="the checkout (default: this one)"
    )
    options = parser.parse_args(arguments)
    try:
        changed = set_version(options.root, options.version)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in changed:
        print(f"wrote {path}")
    print(
        f"{len(changed)} files changed. Next: name the version in CHANGELOG.md, then `uv run pytest tests/test_versions.py`."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
