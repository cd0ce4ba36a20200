"""Donation: which steps of a plan write what is assigned to a variable into the array that it held before.

Such a step cannot be undone. So all steps that write to variables, and what lies between them, come last, and every
kernel there has promised not to raise (``inplace``): when the first of them runs, nothing is left that can fail.
Source of the idea: buffer donation of XLA; there a computation that fails has lost what was donated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Use:
    """What a step does with slots. ``is_sure``: it writes into an array that is there already, and does not raise."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    is_sure: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """The steps in the order to run, by their old numbers; those from the position ``begin`` on write to variables.

    ``donated`` are slots of feeds whose arrays the steps that make other slots write into: ``{made: feed}``.
    """

    order: tuple[int, ...]
    begin: int
    donated: Mapping[int, int]


def find_ending(
    uses: Sequence[Use], wanted: Mapping[int, int], memory: Sequence[set[int]], fetches: Sequence[int]
) -> Ending:
    """As many as possible of the donations that are ``wanted``, ``{made: feed}``.

    memory   for each slot the slots, itself included, whose memory it may share
    fetches  slots that are given back; what is assigned is among them
    A slot that is given back for anything else, or whose memory may be, is not donated; nor is one for a feed or a constant.
    """
    computed = {slot for use in uses for slot in use.outputs}
    given = [shared for slot in fetches for shared in memory[slot]]
    donated = {
        made: feed
        for made, feed in wanted.items()
        if made in computed and given.count(made) == 1 and feed not in given and memory[made] == {made}
    }
    while True:
        last = _last_steps(uses, donated, fetches)
        order = (*(i for i in range(len(uses)) if i not in last), *sorted(last))
        kept = {made: feed for made, feed in donated.items() if _fits(made, feed, uses, order, memory, last)}
        if len(kept) == len(donated):
            return Ending(order, len(uses) - len(last), donated)
        donated = kept


def _last_steps(uses: Sequence[Use], donated: Mapping[int, int], fetches: Sequence[int]) -> set[int]:
    """The steps that are sure, and that no others wait for."""
    last: set[int] = set()
    needed_before = {slot for slot in fetches if slot not in donated}
    for number in reversed(range(len(uses))):
        use = uses[number]
        if donated and use.is_sure and needed_before.isdisjoint(use.outputs):
            last.add(number)
        else:
            needed_before.update(slot for slot in use.inputs if slot is not None)
    return last


def _fits(
    made: int,
    feed: int,
    uses: Sequence[Use],
    order: Sequence[int],
    memory: Sequence[set[int]],
    last: set[int],
) -> bool:
    """Whether nothing reads the array of a feed, or a view of it, after the step that would write into it.

    The step itself may read the array, and no view: it then writes each element where it has read it.
    """
    views = {slot for slot, shared in enumerate(memory) if feed in shared}
    maker = next(number for number, use in enumerate(uses) if made in use.outputs)
    if maker not in last:
        return False
    position = order.index(maker)
    later = {slot for number in order[position + 1 :] for slot in uses[number].inputs}
    return views.isdisjoint(later) and (views - {feed}).isdisjoint(uses[maker].inputs)
