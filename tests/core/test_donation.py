"""Which steps of a plan may write into the arrays of variables, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.donation import Ending, Use, find_ending
from opyard.errors import RegistryError


def shares(*groups: tuple[int, ...], slots: int) -> list[set[int]]:
    """What each slot may share memory with: the first of a group is a view of the others."""
    return [{slot, *(s for view, *of in groups if view == slot for s in of)} for slot in range(slots)]


def test_what_is_assigned_is_written_last() -> None:
    uses = [Use((0, 1), (2,), True), Use((1,), (3,), False)]
    assert find_ending(uses, {2: 0}, shares(slots=4), (3, 2)) == Ending((1, 0), 1, {2: 0})


@pytest.mark.parametrize(
    ("uses", "memory", "fetches"),
    [
        pytest.param([Use((0,), (2,), False)], shares(slots=4), (2,), id="it may fail"),
        pytest.param(
            [Use((0,), (2,), True), Use((2,), (3,), False)],
            shares(slots=4),
            (2, 3),
            id="what reads it may fail",
        ),
        pytest.param(
            [Use((0,), (2,), True), Use((0,), (3,), True)],
            shares(slots=4),
            (2, 3),
            id="the rest is given back",
        ),
        pytest.param([Use((0,), (2,), True)], shares(slots=4), (0, 2), id="the old one is fetched"),
        pytest.param([Use((0,), (2,), True)], shares(slots=4), (2, 2), id="the new one is fetched"),
        pytest.param([Use((0,), (2,), True)], shares((2, 1), slots=4), (2,), id="it may be a view"),
        pytest.param(
            [Use((0,), (3,), False), Use((0, 3), (2,), True)],
            shares((3, 0), slots=4),
            (2,),
            id="a view is read by the step that writes",
        ),
    ],
)
def test_what_is_not_donated(uses: list[Use], memory: list[set[int]], fetches: tuple[int, ...]) -> None:
    found = find_ending(uses, {2: 0}, memory, fetches)
    if uses[-1].outputs == (3,) and uses[-1].is_sure:  # then it is read before the last steps
        assert found.order == (1, 0) and found.donated == {2: 0}
    else:
        assert not found.donated and found.begin == len(uses) and found.order == tuple(range(len(uses)))


def test_a_later_reader_among_the_last_steps_keeps_the_array() -> None:
    uses = [Use((0,), (2,), True), Use((0, 1), (3,), True)]
    found = find_ending(uses, {2: 0, 3: 1}, shares(slots=4), (2, 3))
    assert found == Ending((0, 1), 1, {3: 1})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_array_is_read_after_it_was_written_over(data: st.DataObject) -> None:
    """Steps on numbers: in the new order, with what is donated written over, every fetch is as in the old order."""
    feeds = data.draw(st.integers(1, 4))
    uses, memory, kinds = [], [{slot} for slot in range(feeds)], []
    for number in range(data.draw(st.integers(1, 10))):
        slot = feeds + number
        inputs = tuple(data.draw(st.lists(st.integers(0, slot - 1), min_size=1, max_size=2)))
        kind = data.draw(st.sampled_from(["sure", "sure", "unsure", "view"]))
        uses.append(Use(inputs, (slot,), kind == "sure"))
        memory.append({slot} | (set().union(*(memory[i] for i in inputs)) if kind == "view" else set()))
        kinds.append(kind)
    slots = feeds + len(uses)
    made = data.draw(st.lists(st.integers(feeds, slots - 1), unique=True, max_size=feeds))
    wanted = dict(zip(made, data.draw(st.permutations(range(feeds))), strict=False))
    fetches = (*data.draw(st.lists(st.integers(0, slots - 1), max_size=2)), *made)

    def run(order: Any, donated: Any) -> list[Any]:
        arrays: dict[int, list[Any]] = {slot: [f"feed {slot}"] for slot in range(feeds)}
        early: dict[int, Any] = {}
        for position, number in enumerate(order):
            if position == found.begin:
                early = {slot: arrays[slot][0] for slot in fetches if slot in arrays}
            use = uses[number]
            if kinds[number] == "view":  # the array of its first input, whatever becomes of that
                arrays[use.outputs[0]] = arrays[use.inputs[0]]
                continue
            contents = (number if kinds[number] != "view" else 0, *(arrays[i][0] for i in use.inputs))
            target = arrays[donated[use.outputs[0]]] if use.outputs[0] in donated else [None]
            target[0] = contents
            arrays[use.outputs[0]] = target
        return [arrays[slot][0] if slot not in early else early[slot] for slot in fetches]

    found = find_ending(uses, wanted, memory, fetches)
    assert sorted(found.order) == list(range(len(uses)))
    assert all(uses[number].is_sure for number in found.order[found.begin :])
    assert run(found.order, found.donated) == run(range(len(uses)), {})


def test_inplace_needs_out() -> None:
    registry = oy.standard_registry()
    with pytest.raises(
        RegistryError, match="inplace=True is about the array given as out; write out=True, too"
    ):
        registry.kernel("add", backend="toy", name="k", load=np.add, inplace=True)
    with pytest.raises(RegistryError, match="inplace is True or False; found 1"):
        registry.kernel("add", backend="toy", name="k", load=np.add, out=True, inplace=1)  # type: ignore[arg-type]
