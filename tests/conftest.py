"""Keeps the tests apart from what this machine remembers: measured costs, quarantined plugins, trusted devices."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Gives the whole run, and the processes that it starts, a cache folder of its own."""
    config.stash[FOLDER] = os.environ["OPYARD_CACHE_DIR"] = tempfile.mkdtemp(prefix="opyard-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the folder."""
    shutil.rmtree(config.stash[FOLDER], ignore_errors=True)
