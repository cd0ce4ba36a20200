"""The search by toulbar2 against brute force and elimination; what happens where the package is broken or not there."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.placement import exact
from opyard.placement.elimination import Elimination
from opyard.placement.network import Network
from opyard.placement.solver import Effort, solve

needed = pytest.mark.skipif(exact.version() is None, reason="pytoulbar2 is not installed (the extra `exact`)")
PLENTY = 1_000_000


def random_network(
    variables: int, labels: int, degree: float, seed: int, least: int = 0, forbid: float = 0.0
) -> Network:
    """Variables with so many neighbours on average, and a part of the combinations forbidden."""
    generator = np.random.default_rng(seed)
    network = Network()
    for _ in range(variables):
        network.add_variable(generator.integers(least, 50, labels).astype(float))
    for first, second in itertools.combinations(range(variables), 2):
        if generator.random() < degree / max(1, variables - 1):
            table = generator.integers(least, 50, (labels, labels)).astype(float)
            table[generator.random(table.shape) < forbid] = np.inf
            network.add_table(first, second, table)
    return network


def least_cost(network: Network) -> float:
    spaces = (range(len(costs)) for costs in network.unary)
    return min(network.cost(list(labels)) for labels in itertools.product(*spaces))


@needed
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.data(),
)
def test_a_search_finds_what_brute_force_finds(
    variables: int, labels: int, seed: int, forbid: float, data: Any
) -> None:
    network = random_network(variables, labels, 3, seed, data.draw(st.sampled_from([0, -50])), forbid)
    least = least_cost(network)
    found, bound = exact.search(network, np.inf, PLENTY)
    if least == np.inf:
        assert found is None
        return
    assert found is not None
    assert network.cost(found) == least == bound
    assert exact.search(network, least, PLENTY) == (None, least)  # nothing is better
    better, proven = exact.search(network, least + 1, PLENTY)
    assert better is not None and network.cost(better) == least == proven


@needed
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_a_search_that_does_not_come_to_its_end_gives_a_true_bound(seed: int, backtracks: int) -> None:
    network = random_network(14, 4, 8, seed)
    optimum = Elimination(network).optimum
    for below in (np.inf, optimum + 20, optimum):
        labels, bound = exact.search(network, below, backtracks)
        assert bound <= optimum
        if labels is not None:
            assert optimum <= network.cost(labels) < below


@needed
def test_costs_up_to_the_largest_whole_numbers_are_exact() -> None:
    network = random_network(6, 3, 5, 1)
    large = 2.0**44 + 1
    for variable, costs in enumerate(network.unary):
        network.unary[variable] = costs * large
    labels, bound = exact.search(network, np.inf, PLENTY)
    assert labels is not None
    assert network.cost(labels) == bound == Elimination(network).optimum


@needed
def test_what_the_other_tiers_leave_open_is_closed() -> None:
    network = random_network(60, 5, 4, 0)
    open_, closed = solve(network, Effort(backtracks=0)), solve(network)
    assert open_.bound < open_.cost
    assert closed.is_optimal
    assert open_.bound <= closed.cost == network.cost(closed.labels) <= open_.cost
    assert not solve(network, Effort(backtracks=1)).is_optimal
    assert exact.search(network, closed.cost, PLENTY) == (None, closed.cost)


@needed
def test_a_limit_gives_the_same_answer_after_other_searches_and_in_another_process() -> None:
    """A search that ends before it begins leaves options of toulbar2 changed, in its process."""
    network = random_network(80, 5, 6, 0)
    first = exact.search(network, np.inf, 300)
    assert first[0] is not None and first[1] < network.cost(first[0])
    assert exact.search(network, 5000.0 - 2400, 300)[0] is None
    assert exact.search(network, np.inf, 300) == first
    program = (
        f"import sys; sys.path[:] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from test_exact import *\nprint(exact.search(random_network(80, 5, 6, 0), np.inf, 300))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{first}\n"


@needed
def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    exact.search(random_network(12, 3, 4, 0), np.inf, PLENTY)
    assert capfd.readouterr() == ("", "")


def test_without_costs_below_the_limit_there_is_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_run", None)  # which would fail
    network = Network()
    network.add_variable([3.0, 4.0])
    assert exact.search(network, 3.0, PLENTY) == (None, 3.0)
    network.add_variable([np.inf, np.inf])
    assert exact.search(network, np.inf, PLENTY) == (None, np.inf)


def install(folder: Path, source: str) -> None:
    """A package of the same name, which comes before one that is installed."""
    made = folder / exact.PACKAGE
    made.mkdir()
    (made / "__init__.py").write_text(source)
    described = folder / f"{exact.PACKAGE}-9.9.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {exact.PACKAGE}\nVersion: 9.9\n")


ANSWER = """
class Option: limited = False
class CFN:
    Option = Option
    variables = 0
    def __init__(self, top, **options): pass
    def AddVariable(self, *of): self.variables += 1
    def AddFunction(self, *of): pass
    def GetDDualBound(self): return 0
    def Solve(self): return {}
"""
BROKEN = {
    "raise ImportError('no libgmp')": r"its process ended with status 1: ImportError: no libgmp",
    "CFN = None": r"its process ended with status 1: TypeError: 'NoneType' object is not callable",
    "import os; os._exit(3)": r"its process ended with status 3: no output",
    "import os; os._exit(0)": r"its process gave no answer",
    ANSWER.format("[0] * self.variables, 1.0, 1"): r"its answer is wrong: these labels cost \d+",
    ANSWER.format("[0] * 999, 1.0, 1"): r"its answer is wrong: zip",
    ANSWER.format("[99] * self.variables, 1.0, 1"): r"its answer is wrong: index 99 is out of bounds",
}


@pytest.mark.parametrize(
    "source", BROKEN, ids=["import", "interface", "exit", "silence", "cost", "variables", "labels"]
)
def test_a_broken_package_changes_no_answer_and_is_told(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, source)
    monkeypatch.syspath_prepend(tmp_path)
    assert exact.version() == "9.9"
    network = random_network(60, 5, 4, 0)
    expected = solve(network, Effort(turns=1, backtracks=0))
    with pytest.warns(
        RuntimeWarning, match=f"pytoulbar2, of the extra exact, does not work: {BROKEN[source]}"
    ):
        solution = solve(network, Effort(turns=1))
    assert (solution.labels, solution.cost, solution.bound) == (
        expected.labels,
        expected.cost,
        expected.bound,
    )
    with pytest.raises(exact.ExactFailed):
        exact.check()


def test_an_interpreter_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(exact.ExactFailed, match=r"its process could not be started: .*nowhere"):
        exact.check()


def test_without_the_package_nothing_is_searched_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(exact, "search", None)
    network = random_network(60, 5, 4, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = solve(network, Effort(turns=1))
    assert solution.bound < solution.cost
