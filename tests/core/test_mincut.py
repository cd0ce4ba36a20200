"""Minimum cuts against brute force, and networks solved by them against elimination."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.placement.elimination import Elimination
from opyard.placement.maxflow import sink_side
from opyard.placement.mincut import submodular_labels
from opyard.placement.network import Costs, Network
from opyard.placement.solver import solve


def monge(generator: np.random.Generator, rows: int, columns: int, least: int = 0) -> Costs:
    """A table that is submodular as its labels are ordered; with ``least`` > 0 in this order and its reverse alone."""
    bends = np.zeros((rows, columns))
    bends[1:, 1:] = -generator.integers(least, 9, (rows - 1, columns - 1))
    table = np.cumsum(np.cumsum(bends, 0), 1)
    table += generator.integers(0, 20, (rows, 1)) + generator.integers(0, 20, (1, columns))
    return np.asarray(table - table.min(), np.float64)


def forbid(generator: np.random.Generator, table: Costs) -> Costs:
    """The table with a corner forbidden: so much of one label that the other variable needs much, too."""
    rows, columns = np.indices(table.shape)
    step = generator.integers(1, min(table.shape) + 1)
    return np.where(rows - columns >= step, np.inf, table)


@st.composite
def submodular_networks(draw: Any, least: int, forbidden: bool) -> Network:
    """Networks whose tables are submodular once the labels, which are shuffled, are put in order."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    network = Network()
    orders = [generator.permutation(generator.integers(1, 5)) for _ in range(draw(st.integers(1, 6)))]
    for order in orders:
        network.add_variable(generator.integers(0, 30, len(order)).astype(float))
    for first, second in itertools.combinations(range(len(orders)), 2):
        if generator.random() < 0.6:
            table = monge(generator, len(orders[first]), len(orders[second]), least)
            if forbidden and generator.random() < 0.5:
                table = forbid(generator, table)
            network.add_table(first, second, table[np.ix_(orders[first], orders[second])])
    return network


def two_places(nodes: int, reach: int, seed: int) -> Network:
    """A random graph on two places: sets of places are labels of tensors that several nodes read."""
    generator = np.random.default_rng(seed)
    network = Network()
    readers: list[set[int]] = [set() for _ in range(nodes)]
    for node in range(nodes):
        network.add_variable(generator.integers(1, 40_000, 2).astype(float))
        for maker in generator.integers(max(0, node - reach), node, 2) if node else ():
            readers[maker].add(node)
    for node, takers in enumerate(readers):
        there, back = (float(cost) for cost in generator.integers(10_000, 20_000, 2))
        if len(takers) == 1:
            network.add_table(node, *takers, np.array([[0, there], [back, 0]]))
        elif takers:
            tensor = network.add_variable([0.0] * 4)
            network.add_table(node, tensor, np.array([[0, 0, there, there], [0, back, 0, back]]))
            for taker in sorted(takers):
                has = np.array([[np.inf, np.inf], [0, np.inf], [np.inf, 0], [0, 0]])
                network.add_table(tensor, taker, has)
    return network


@settings(max_examples=300, deadline=None)
@given(submodular_networks(least=1, forbidden=False))
def test_submodular_networks_are_solved_whatever_the_order_of_labels(network: Network) -> None:
    labels = submodular_labels(network)
    assert labels is not None
    assert network.cost(labels) == Elimination(network).optimum


@settings(max_examples=300, deadline=None)
@given(submodular_networks(least=0, forbidden=True))
def test_what_is_given_is_the_minimum(network: Network) -> None:
    labels = submodular_labels(network)
    if labels is not None:  # ties and forbidden corners may leave the order open
        assert network.cost(labels) == Elimination(network).optimum


def test_implications_are_kept() -> None:
    found = 0
    for seed in range(100):
        generator, network = np.random.default_rng(seed), Network()
        for _ in range(4):
            network.add_variable(generator.integers(0, 30, 3).astype(float))
        for first, second in itertools.combinations(range(4), 2):
            table = monge(generator, 3, 3, least=1)
            network.add_table(first, second, forbid(generator, table if seed % 2 else table.T))
        labels = submodular_labels(network)
        assert labels is not None
        assert network.cost(labels) == Elimination(network).optimum
        found += any(np.isinf(table).any() for table in network.tables.values())
    assert found > 50


@pytest.mark.parametrize("seed", range(5))
def test_two_places_are_solved_with_shared_transfers(seed: int) -> None:
    network = two_places(60, 8, seed)
    keep = [
        np.arange(len(costs))[len(costs) == 4 :] for costs in network.unary
    ]  # no tensor is brought nowhere
    labels = submodular_labels(network.restricted(keep))
    assert labels is not None
    best = [int(kept[label]) for kept, label in zip(keep, labels, strict=True)]
    assert network.cost(best) == Elimination(network).optimum


def test_wide_graphs_on_two_places_are_proven_optimal() -> None:
    network = two_places(600, 600, 0)
    solution = solve(network)
    assert solution.is_optimal
    assert solution.cost == network.cost(solution.labels)
    assert min(prices.min() for prices in solution.prices()) == 0
    assert solution.labels == solve(two_places(600, 600, 0)).labels


def test_a_cycle_with_one_disagreement_is_refused() -> None:
    network = Network()
    for _ in range(3):
        network.add_variable([0.0, 0.0])
    same, different = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    network.add_table(0, 1, same)
    network.add_table(1, 2, same)
    network.add_table(0, 2, different)
    assert submodular_labels(network) is None


def test_tables_that_no_order_fits_are_refused() -> None:
    network = Network()
    first, second = network.add_variable([0.0] * 3), network.add_variable([0.0] * 3)
    network.add_table(first, second, 1.0 - np.eye(3))
    assert submodular_labels(network) is None


def test_labels_that_a_table_forbids_altogether_are_refused() -> None:
    network = Network()
    first, second = network.add_variable([0.0, 0.0]), network.add_variable([0.0, 0.0])
    network.add_table(first, second, np.array([[np.inf, np.inf], [0.0, 0.0]]))
    assert submodular_labels(network) is None


def test_variables_of_many_labels_are_refused() -> None:
    network = Network()
    first, second = network.add_variable([0.0] * 20), network.add_variable([0.0] * 20)
    network.add_table(first, second, np.zeros((20, 20)))
    assert submodular_labels(network) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 7), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_cuts_are_minimal_and_do_not_depend_on_the_order_of_arcs(count: int, arcs: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tails, heads = generator.integers(0, count, (2, arcs))
    capacities = generator.integers(0, 10, arcs) * 10 ** generator.integers(0, 15)

    def cost(away: Any) -> int:
        return int(capacities[~away[tails] & away[heads]].sum())

    away = sink_side(count, tails, heads, capacities)
    assert away[1] and not away[0]
    sides = [np.array([False, True, *rest]) for rest in itertools.product([False, True], repeat=count - 2)]
    least = min(cost(side) for side in sides)
    assert cost(away) == least
    assert away.sum() == min(side.sum() for side in sides if cost(side) == least)
    order = generator.permutation(arcs)
    assert (sink_side(count, tails[order], heads[order], capacities[order]) == away).all()
