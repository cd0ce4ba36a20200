"""The solvers of cost function networks against brute force, and against each other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.placement import frontier
from opyard.placement.dominance import useful_labels
from opyard.placement.dual import FORBIDDEN, TreeReweighted
from opyard.placement.elimination import Elimination
from opyard.placement.network import Network
from opyard.placement.orders import least_fill_first, smallest_first
from opyard.placement.reduction import Reduction
from opyard.placement.solver import Effort, solve


@st.composite
def networks(draw: Any, most: int = 5, forbid: bool = True) -> Network:
    """Small networks with some forbidden combinations; labels of equal cost are common."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    network = Network()
    sizes = [int(generator.integers(1, 4)) for _ in range(draw(st.integers(1, most)))]
    for size in sizes:
        network.add_variable(generator.integers(0, 9, size).astype(float))
    for first, second in itertools.combinations(range(len(sizes)), 2):
        if generator.random() < 0.6:
            table = generator.integers(0, 9, (sizes[first], sizes[second])).astype(float)
            if forbid:
                table[generator.random(table.shape) < 0.2] = np.inf
            network.add_table(second, first, table.T)
    return network


def grid(rows: int, columns: int, labels: int, seed: int = 0) -> Network:
    """A grid, whose width is the smaller of its sides."""
    generator = np.random.default_rng(seed)
    network = Network()
    for _ in range(rows * columns):
        network.add_variable(generator.integers(0, 50, labels).astype(float))
    for row, column in itertools.product(range(rows), range(columns)):
        here = row * columns + column
        for there in [here + 1] * (column + 1 < columns) + [here + columns] * (row + 1 < rows):
            network.add_table(here, there, generator.integers(0, 50, (labels, labels)).astype(float))
    return network


def assignments(network: Network) -> list[tuple[float, tuple[int, ...]]]:
    spaces = (range(len(costs)) for costs in network.unary)
    return [(network.cost(list(labels)), labels) for labels in itertools.product(*spaces)]


@settings(max_examples=500, deadline=None)
@given(networks())
def test_the_minimum_and_every_price_agree_with_brute_force(network: Network) -> None:
    everything = assignments(network)
    least = min(cost for cost, _ in everything)
    solution = solve(network)
    assert solution.cost == least == solution.bound
    if not np.isfinite(least):
        return
    assert solution.is_optimal
    assert network.cost(solution.labels) == least
    for variable, prices in enumerate(solution.prices()):
        for label, price in enumerate(prices):
            forced = min(cost for cost, labels in everything if labels[variable] == label)
            assert price == forced - least


@settings(max_examples=200, deadline=None)
@given(networks())
def test_dominated_labels_are_not_needed(network: Network) -> None:
    keep = useful_labels(network)
    assert all(len(labels) for labels in keep)
    assert Elimination(network.restricted(keep)).optimum == Elimination(network).optimum


@settings(max_examples=100, deadline=None)
@given(networks(forbid=False))
def test_message_passing_never_claims_too_much(network: Network) -> None:
    optimum = Elimination(network).optimum
    dual = TreeReweighted(network)
    dual.run(30)
    assert dual.bound <= optimum + 1e-6
    assert network.cost(dual.labels) == dual.cost >= optimum


@settings(max_examples=100, deadline=None)
@given(networks(forbid=False))
def test_terms_sum_to_the_cost_and_to_the_bound(network: Network) -> None:
    dual = TreeReweighted(network)
    dual.run(3)
    terms = list(dual.terms())
    least = sum(term.least for term in terms)
    assert least == pytest.approx(dual.bound, abs=1e-6) or dual.bound == dual.cost
    for cost, labels in assignments(network):
        parts = [
            term.costs[label] + sum(table[labels[other], label] for other, table in term.tables)
            for term, label in zip(terms, labels, strict=True)
        ]
        assert sum(parts) == pytest.approx(cost, abs=1e-6)
        assert all(part > term.least - 1e-6 for part, term in zip(parts, terms, strict=True))


@settings(max_examples=200, deadline=None)
@given(networks(most=7), st.integers(1, 3), st.sampled_from([1, 2, 1024]))
def test_a_sweep_finds_the_optimum_or_bounds_it(network: Network, sweeps: int, states: int) -> None:
    network = network.bounded(FORBIDDEN)
    optimum = Elimination(network).optimum
    dual = TreeReweighted(network)
    dual.run(sweeps)
    labels, bound = frontier.sweep(dual, np.inf, states)
    assert labels is not None
    assert bound <= optimum + 1e-3
    assert network.cost(labels) >= optimum
    if states == 1024:
        assert network.cost(labels) == optimum == pytest.approx(bound, abs=1e-2)
    assert frontier.sweep(dual, optimum, 1024) == (None, optimum)  # nothing is better


def test_of_equal_states_some_go_on() -> None:
    network = Network()
    for _ in range(8):
        network.add_variable([0.0] * 5)
    for one, other in itertools.combinations(range(8), 2):
        network.add_table(one, other, np.zeros((5, 5)))
    assert frontier.sweep(TreeReweighted(network), np.inf, 1) == ([0] * 8, 0)


def test_frontiers_with_more_labellings_than_whole_numbers_are_told_apart() -> None:
    network = Network()
    for variable in range(70):
        network.add_variable([1.0, 0.0] if variable % 2 else [0.0, 1.0])
    last = network.add_variable([0.0, 0.0])
    for variable in range(
        1, 70
    ):  # all are open until the last has come, but for the first, which closes before
        network.add_table(variable, last, np.array([[0.0, 1.0], [0.0, 1.0]]))
        network.add_table(variable - 1, variable, np.array([[3.0, 0.0], [0.0, 3.0]]))
    network.add_table(0, 69, np.array([[2.0, 0.0], [0.0, 2.0]]))
    labels, bound = frontier.sweep(TreeReweighted(network), np.inf, 4096)
    assert labels == [0, 1] * 35 + [0]
    assert bound == 0


@settings(max_examples=200, deadline=None)
@given(networks(most=8))
def test_a_reduced_network_has_the_same_minimum(network: Network) -> None:
    reduction = Reduction(network)
    assert all(len(others) > 2 for others in reduction.core.neighbours)
    core = Elimination(reduction.core)
    assert core.optimum + reduction.constant == Elimination(network).optimum
    labels = reduction.labels(core.labels())
    if np.isfinite(core.optimum):
        assert network.cost(labels) == core.optimum + reduction.constant


@settings(max_examples=200, deadline=None)
@given(networks(most=7))
def test_any_order_gives_the_same_minimum(network: Network) -> None:
    order = least_fill_first(network, 1e9, 1e9)
    assert order is not None
    assert sorted(variable for variable, _ in order) == list(range(len(network.unary)))
    assert Elimination(network, order).optimum == Elimination(network).optimum


def test_the_order_of_least_fill_is_given_only_where_its_tables_are_small_enough() -> None:
    network = grid(6, 6, 3)
    assert least_fill_first(network, 3.0**4, 1e9) is None
    assert least_fill_first(network, 1e9, 3.0**7) is None
    assert least_fill_first(network, 3.0**8, 1e9) is not None


def test_a_wide_part_and_a_narrow_one_are_bounded_together() -> None:
    network, chain = grid(14, 14, 6), grid(1, 30, 3, seed=1)
    first = len(network.unary)
    for costs in chain.unary:
        network.add_variable(costs)
    for (a, b), table in chain.tables.items():
        network.add_table(first + a, first + b, table)
    effort = Effort(turns=1, backtracks=0)
    alone, both = solve(grid(14, 14, 6), effort), solve(network, effort)
    narrow = Elimination(chain).optimum
    assert both.cost == alone.cost + narrow
    assert both.bound == alone.bound + narrow


def test_wide_networks_get_a_bound_and_are_deterministic() -> None:
    network = grid(14, 14, 6)
    first, second = (
        solve(network, Effort(turns=2, backtracks=0)),
        solve(grid(14, 14, 6), Effort(turns=2, backtracks=0)),
    )
    assert (first.labels, first.cost, first.bound) == (second.labels, second.cost, second.bound)
    assert first.bound <= first.cost == network.cost(first.labels)
    assert (first.cost - first.bound) / first.cost < 0.03
    for variable, prices in enumerate(first.prices()):
        assert prices[first.labels[variable]] == 0
        assert prices.min() >= 0  # no single change helps


def test_a_small_effort_gives_a_worse_bound_but_a_true_one() -> None:
    network = grid(14, 14, 6)
    little, much = (
        solve(network, Effort(turns=1, backtracks=0)),
        solve(network, Effort(turns=3, backtracks=0)),
    )
    assert little.bound <= much.bound <= much.cost <= little.cost


def test_moves_are_tried_as_a_whole() -> None:
    """Forty variables have a third label that pays only where all have it; a search from elsewhere finds no part of it."""
    network, none = Network(), Effort(turns=0, backtracks=0)
    rng = np.random.default_rng(0)
    for number in range(45):
        network.add_variable([*rng.integers(1, 9, 2), -99.0 if number == 0 else 0.0])
    for first, second in itertools.combinations(range(45), 2):
        table = rng.integers(0, 9, (3, 3)).astype(float)
        if second < 40:
            table[2, :2] = table[:2, 2] = np.inf
            table[2, 2] = 0
        elif first < 40:
            table[2] = 0
        network.add_table(first, second, table)
    move = dict.fromkeys(range(40), 2)
    without = solve(network, none)
    network.moves = [{44: 1}, move, {0: 0, 1: 2}]
    found = solve(network, none)
    assert found.labels[:40] == [2] * 40 and found.cost < without.cost
    rests = itertools.product(range(3), repeat=5)
    assert found.cost == min(network.cost([2] * 40 + list(rest)) for rest in rests)
    assert solve(network, none).labels == found.labels


def test_elimination_stops_at_the_largest_table_and_goes_on_from_fixed_labels() -> None:
    network = grid(6, 6, 3)
    part = Elimination(network, smallest_first(network, largest=3.0**4))
    assert part.left
    whole = Elimination(network)
    best = whole.labels()
    labels = part.labels({variable: best[variable] for variable in part.left})
    assert network.cost(labels) == whole.optimum


def test_tables_of_one_pair_add_up_in_either_order() -> None:
    network = Network()
    first, second = network.add_variable([0, 1]), network.add_variable([0, 5, 9])
    network.add_table(first, second, np.arange(6.0).reshape(2, 3))
    network.add_table(second, first, np.ones((3, 2)))
    assert network.cost([1, 2]) == 1 + 9 + 5 + 1
    np.testing.assert_array_equal(network.costs_towards(first, [second], [0, 2]), [3, 7])


def test_a_variable_with_one_label_has_no_neighbours() -> None:
    """However many a variable is tied to: arrays have at most 64 axes."""
    network = Network()
    centre = network.add_variable([0.0, 0.0])
    for _ in range(100):
        network.add_table(network.add_variable([1.0]), centre, np.array([[5.0, 2.0]]))
    assert not network.tables
    assert not any(network.neighbours)
    solution = solve(network)
    assert (solution.cost, solution.labels[centre]) == (100 + 200, 1)
    assert solution.prices()[centre].tolist() == [300, 0]


def test_everything_forbidden_costs_infinity() -> None:
    network = Network()
    a, b = network.add_variable([0.0]), network.add_variable([0.0])
    network.add_table(a, b, np.full((1, 1), np.inf))
    assert solve(network).cost == np.inf


@pytest.mark.parametrize("count", [1, 7])
def test_networks_without_tables(count: int) -> None:
    network = Network()
    for _ in range(count):
        network.add_variable([3.0, 1.0, 2.0])
    solution = solve(network)
    assert solution.labels == [1] * count
    assert solution.cost == count
