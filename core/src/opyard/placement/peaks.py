"""Peaks: the most bytes that the tensors of a run keep in each memory at once, as a plan brings and forgets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..graph import Graph, Value
from ..selection import Candidate
from .homes import Homes
from .match import Match
from .places import Places


def peak_bytes(
    graph: Graph, places: Places, homes: Homes, steps: Sequence[tuple[Match, Candidate]]
) -> dict[int, tuple[int, int]]:
    """For each address space in use the most bytes that lie there at once, and the step at which they do.

    As a plan does it: a tensor is brought to a place when it is first read there, and forgotten after it was last read there.
    """
    spans: dict[tuple[Value, int], list[int]] = {}
    made_in = {value: places.space(places.of(homes.of(value))) for value in graph.inputs.values()}
    whole = set(made_in.items())
    for number, (match, candidate) in enumerate(steps):
        here = places.space(places.of(candidate.device))
        for value in {v for node in match.nodes for v in node.inputs if v is not None}:
            if value in graph.constants:
                whole.add((value, here))
            elif value in made_in:
                _read(spans, made_in, value, here, number)
        for value in match.outputs:
            made_in[value] = here
            spans[value, here] = [number, number]
    for value, devices in homes.wanted.items():
        for device in devices if value in made_in else ():
            _read(spans, made_in, value, places.space(places.of(device)), len(steps))
    changes: dict[int, npt.NDArray[np.float64]] = {}
    for (value, space), (begin, end) in {**spans, **{key: [0, len(steps)] for key in whole}}.items():
        row = changes.setdefault(space, np.zeros(len(steps) + 2))
        row[begin] += value.spec.nbytes
        row[end + 1] -= value.spec.nbytes
    usage = {space: np.cumsum(row[:-1]) for space, row in changes.items()}
    return {space: (int(row.max()), int(row.argmax())) for space, row in sorted(usage.items())}


def _read(
    spans: dict[tuple[Value, int], list[int]],
    made_in: Mapping[Value, int],
    value: Value,
    here: int,
    step: int,
) -> None:
    """Notes that a tensor is read at a place: it lies there until then, and where it comes from until it is copied."""
    span = spans.setdefault((value, here), [step, step])
    span[1] = step
    source = made_in[value]
    if source != here and (value, source) in spans:
        spans[value, source][1] = max(spans[value, source][1], span[0])
