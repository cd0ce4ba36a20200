"""Taking times in turns: how often each candidate is sampled, and who decides that it is enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from opyard.placement.measuring import LEAST_ROUNDS, MOST_CALLS, Batch, device_clock, interleave
from opyard.testing import NullDevice

FOREVER = 1e9
DEVICE = NullDevice("null:0")


def nothing() -> None:
    """Takes much less than any sleep."""


def nap() -> None:
    time.sleep(1e-3)


def batches(*starts: Callable[[], None]) -> list[Batch]:
    return [Batch(start, DEVICE) for start in starts]


def never(batch: Batch) -> bool:
    return False


def test_without_enough_the_rounds_are_counted():
    found = batches(nothing, nothing)
    interleave(found, Random(0), time.perf_counter() + FOREVER, enough=never, most_rounds=7)
    assert [len(batch.samples) for batch in found] == [7, 7]
    assert all(1 < batch.calls <= MOST_CALLS for batch in found)


def test_enough_of_all_ends_it():
    found = batches(nothing, nothing)
    interleave(found, Random(0), time.perf_counter() + FOREVER, enough=lambda batch: len(batch.samples) >= 3)
    assert [len(batch.samples) for batch in found] == [3, 3]


def test_when_the_time_is_up_each_has_one_sample():
    found = batches(nothing, nap)
    interleave(found, Random(0), time.perf_counter() - 1, enough=never)
    assert [len(batch.samples) for batch in found] == [1, 1]


@pytest.mark.parametrize(("patience", "samples"), [(0.0, 1), (FOREVER, LEAST_ROUNDS)])
def test_patience_samples_the_hopeless_as_often(patience: float, samples: int):
    fast, slow = batches(nothing, nap)
    deadline = time.perf_counter() + FOREVER
    interleave([fast, slow], Random(0), deadline, enough=never, most_rounds=LEAST_ROUNDS, patience=patience)
    assert (len(fast.samples), len(slow.samples)) == (LEAST_ROUNDS, samples)


def test_a_batch_by_the_clock_of_a_device() -> None:
    assert device_clock(DEVICE) is None
    now = [0.0]
    device = NullDevice("null:0", clock=lambda: now[0])
    clock = device_clock(device)
    assert clock is not None

    def start() -> None:
        now[0] += 0.25

    batch = Batch(start, device, clock, most_calls=1)
    assert batch.warm() == 0.25
    batch.sample()
    assert (batch.calls, batch.samples) == (1, [0.25])


def test_the_most_calls_of_a_batch() -> None:
    batch = Batch(nothing, DEVICE, most_calls=3)
    batch.warm()
    assert batch.calls == 3
