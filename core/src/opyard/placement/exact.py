"""The last tier of the solver, where the extra ``exact`` is installed: a branch and bound by toulbar2 within a limit of backtracks.

Sources: toulbar2, https://github.com/toulbar2/toulbar2; M. Cooper and others, "Soft arc consistency revisited", Artificial
Intelligence 174 (2010), for its bounds; D. Allouche and others, "Anytime hybrid best-first search with tree decomposition for
weighted CSP", CP 2015, for the search.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .network import Costs, Network

PACKAGE = "pytoulbar2"
PROGRAM = Path(__file__).with_name("toulbar2.py")
MOST = 2.0**53
"""Costs from here on are not exact in float64."""


class ExactFailed(Exception):
    """The package is installed, but no search can be made with it; the text says why."""


def version() -> str | None:
    """The version of the package that the extra installs, or None without it."""
    from importlib import metadata  # 15 ms: only where a gap is left

    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def check() -> None:
    """Makes a search that has an answer. Raises ExactFailed."""
    network = Network()
    network.add_variable([1.0, 0.0])
    if search(network, 2.0, 1) != ([1], 0.0):
        raise ExactFailed("it does not find the lesser of two costs")


def search(network: Network, below: float, backtracks: int) -> tuple[list[int] | None, float]:
    """Labels that cost less than ``below``, or None where none were found, and a lower bound of all labels' cost.

    The bound meets the labels' cost, or ``below``, where that is proven. Equal networks and limits give equal answers in
    any process. Raises ExactFailed.
    """
    tables = [*network.unary, *network.tables.values()]
    least = sum(float(costs.min()) for costs in tables)
    if least >= below:
        return None, below
    top = min(below - least, MOST, 1.0 + sum(_finite_range(costs) for costs in tables))
    problem = {
        "top": int(top),
        "backtracks": backtracks,
        "unary": [_shifted(costs, top) for costs in network.unary],
        "tables": [[a, b, _shifted(costs, top)] for (a, b), costs in network.tables.items()],
    }
    answer = _run(problem)
    try:
        labels, cost = answer["labels"], top
        if labels is not None:
            cost = network.cost(labels) - least
            if not cost == answer["cost"] < top:
                raise ValueError(f"these labels cost {cost:.0f}")
        return labels, least + (cost if answer["finished"] else min(answer["bound"], cost))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ExactFailed(f"its answer is wrong: {error}") from None


def _finite_range(costs: Costs) -> float:
    return float(np.max(costs, initial=0.0, where=np.isfinite(costs)) - costs.min())


def _shifted(costs: Costs, top: float) -> list[float]:
    """Costs with 0 as the least, none above ``top``, row by row."""
    shifted: list[float] = np.minimum(costs - costs.min(), top).ravel().tolist()
    return shifted


def _run(problem: dict[str, Any]) -> dict[str, Any]:
    """What toulbar2 answers, in a process that finds the packages which this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", str(PROGRAM)]
    try:
        done = subprocess.run(
            command, input=json.dumps(problem), capture_output=True, text=True, env=environment, check=False
        )
    except OSError as error:
        raise ExactFailed(f"its process could not be started: {error}") from None
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise ExactFailed(f"its process ended with status {done.returncode}: {last}")
    said = done.stdout.splitlines()
    if not said:
        raise ExactFailed("its process gave no answer")
    answer: dict[str, Any] = json.loads(said[-1])
    return answer
