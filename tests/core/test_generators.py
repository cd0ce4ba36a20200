"""A generator with a state gives the numbers of its keys, in programs, graphs and compiled functions alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import GraphError, SpecError

DRAWS = {
    "uniform": (
        lambda g: g.uniform((2, 3), low=-1.0, high=3.0),
        oy.random_uniform,
        {"low": -1.0, "high": 3.0},
    ),
    "normal": (
        lambda g: g.normal((2, 3), mean=1.0, standard_deviation=2.0, dtype="float64"),
        oy.random_normal,
        {"mean": 1.0, "standard_deviation": 2.0, "dtype": "float64"},
    ),
    "bernoulli": (
        lambda g: g.bernoulli((2, 3), probability=0.25),
        oy.random_bernoulli,
        {"probability": 0.25},
    ),
}


def keys_of(seed: int, count: int) -> list[Any]:
    """What the documentation says."""
    state, found = np.array([seed % 2**32, seed >> 32], np.uint32), []
    for _ in range(count):
        state = oy.split_key(state)[0]
        found.append(oy.split_key(state)[1])
    return found


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_draws_are_functions_of_the_split_keys(name: str, seed: int) -> None:
    draw, op, attributes = DRAWS[name]
    generator = oy.Generator(seed)
    for key in keys_of(seed, 3):
        expected = op(key, shape=(2, 3), **attributes)
        np.testing.assert_array_equal(draw(generator), expected, strict=True)


def test_keys_and_dropout() -> None:
    first, second = keys_of(5, 2)
    generator = oy.Generator(5)
    np.testing.assert_array_equal(generator.keys(4), oy.split_key(first, count=4))
    x = np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(generator.dropout(x, rate=0.3), oy.dropout(x, second, rate=0.3))


def test_programs_graphs_and_compiled_functions_draw_alike() -> None:
    program, traced, inside = (oy.Generator(3) for _ in range(3))
    expected = [program.uniform((4,)) for _ in range(6)]

    @oy.compile
    def pair() -> Any:
        return traced.uniform((4,)), traced.uniform((4,))

    with oy.Graph() as graph:
        graph.output("x", inside.uniform((4,)))
        graph.output("y", inside.uniform((4,)))
    session = oy.Session(graph)
    for turn in range(3):
        for found in (pair(), session.run(["x", "y"])):
            np.testing.assert_array_equal(found, expected[2 * turn : 2 * turn + 2])
    np.testing.assert_array_equal(program.state.numpy(), traced.state.numpy())
    np.testing.assert_array_equal(program.state.numpy(), inside.state.numpy())


def test_what_is_not_fetched_is_not_drawn() -> None:
    generator = oy.Generator()
    with oy.Graph() as graph:
        graph.output("x", generator.uniform())
        graph.output("y", generator.uniform())
        graph.output("constant", graph.constant(np.zeros(3)))
    session, program = oy.Session(graph), oy.Generator()
    session.run("constant")
    np.testing.assert_array_equal(generator.state.numpy(), program.state.numpy())
    assert session.run("x") == program.uniform()
    program.uniform()
    assert session.run("y") == program.uniform(), "those before it count, fetched or not"


def test_threads_draw_each_key_once() -> None:
    generator = oy.Generator(1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: bytes(np.asarray(generator.key())), range(200)))
    assert set(found) == {bytes(np.asarray(key)) for key in keys_of(1, 200)}


def test_a_checkpoint_repeats_what_follows(tmp_path: Path) -> None:
    generator = oy.Generator(9, name="noise")
    generator.normal((3,))
    oy.save(tmp_path / "state.ckpt", [generator.state])
    expected = generator.normal((3,))
    other = oy.Generator(name="noise")
    oy.restore(tmp_path / "state.ckpt", [other.state])
    np.testing.assert_array_equal(other.normal((3,)), expected)


def test_in_a_branch_keys_come_from_outside() -> None:
    generator = oy.Generator()
    x = oy.TensorSpec((3,))
    with pytest.raises(GraphError, match="the variable 'generator' is assigned in a branch"):
        oy.trace(lambda v: oy.cond(oy.sum(v) > 0.0, lambda: v * generator.uniform(), lambda: v), x)

    @oy.compile
    def noisy(v: Any) -> Any:
        key = generator.key()
        return oy.cond(oy.sum(v) > 0.0, lambda: v * oy.random_uniform(key, shape=(3,)), lambda: v)

    ones = np.ones(3, np.float32)
    assert np.any(noisy(ones) != noisy(ones))
    np.testing.assert_array_equal(noisy(-ones), -ones)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "0", None])
def test_seeds(seed: Any) -> None:
    with pytest.raises(SpecError, match=r"the seed of a generator is an integer from 0 to 2\^64 - 1, not "):
        oy.Generator(seed)


def test_its_name_is_shown() -> None:
    assert repr(oy.Generator(name="noise")) == "<Generator noise>"
    assert oy.Generator(np.int64(3)).state.shape == (2,)
