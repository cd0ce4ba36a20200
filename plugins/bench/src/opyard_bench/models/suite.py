"""The models of the suite by name, at any batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import SettingsError, did_you_mean
from opyard_bench.models import sequences, vision
from opyard_bench.models.layers import Builder, Layers

SCALES: Mapping[str, Mapping[str, Builder]] = {
    "full": {**vision.FULL, **sequences.FULL},
    "tiny": {**vision.TINY, **sequences.TINY},
}
"""Builders by scale and name: ``full`` are the sizes of the papers, ``tiny`` ones for tests."""

NAMES = tuple(SCALES["full"])


@dataclass(frozen=True, slots=True)
class Model:
    """A graph with its weights as constants, and arrays for its inputs."""

    name: str
    graph: oy.Graph
    feeds: Mapping[str, np.ndarray[Any, Any]]


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, or all where there are none. Raises SettingsError for an unknown one."""
    for name in names:
        if name not in NAMES:
            raise SettingsError(
                f"{name!r} is no model of the suite.{did_you_mean(name, NAMES)} There are {', '.join(NAMES)}."
            )
    return names or NAMES


def build(name: str, batch: int = 1, scale: str = "full", seed: int = 0) -> Model:
    """The model of a name. Raises SettingsError for an unknown one."""
    check_names((name,))
    layers = Layers(seed)
    with layers.graph:
        SCALES[scale][name](layers, batch)
    return Model(name, layers.graph, layers.feeds)
