"""Keeps the tests apart from what this machine remembers and has installed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import opyard as oy
from environments import Site
from hosts import add_host
from opyard.registry import Registry

FOLDER = pytest.StashKey[str]()

SET_BY_TESTING = (
    "COLUMNS",
    "LINES",
    "PYTEST_XDIST_WORKER",
    "PYTEST_XDIST_WORKER_COUNT",
    "PYTEST_XDIST_TESTRUNUID",
)
"""What the processes that run tests inherit from pytest's readline and from xdist, and the programs tested must not."""


def pytest_configure(config: pytest.Config) -> None:
    """Gives the whole run, and the processes that it starts, a cache folder of its own.

    It holds measured costs, quarantined plugins and trusted devices. A run in the background of a shell ignores Ctrl-C,
    and so would the programs that it starts: the tests that press it need it heard.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in SET_BY_TESTING:
        os.environ.pop(name, None)
    config.stash[FOLDER] = os.environ["OPYARD_CACHE_DIR"] = tempfile.mkdtemp(prefix="opyard-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the folder."""
    shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder to install plugins into, with no setting of the user's; their modules are forgotten afterwards."""
    for variable in ("PLUGINS", "BLOCK", "PREFER", "PIN", "STRICT"):
        monkeypatch.delenv(f"OPYARD_{variable}", raising=False)
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if (folder / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The standard ops, and a backend "toy" on NumPy arrays that has no kernel yet; eager calls use it."""
    for name in ("PREFER", "BLOCK", "PIN", "STRICT"):
        monkeypatch.delenv(f"OPYARD_{name}", raising=False)
    made = oy.standard_registry()
    add_host(made, "toy")
    with oy.using(registry=made):
        yield made
