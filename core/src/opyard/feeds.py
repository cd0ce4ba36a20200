"""Feeds: arrays and numbers that a user gives, as what a run can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .driver import Device, plain_array, shares_arrays
from .errors import DeviceError, GraphError, did_you_mean
from .graph import Graph, Value
from .registry import Registry
from .rewrite import needed_inputs
from .spec import TensorSpec


def as_host_array(array: Any, name: str, declared: TensorSpec, registry: Registry) -> Any:
    """An array of any device as NumPy's; numbers and lists take the dtype of the input if that loses no fractions.

    Raises GraphError for numbers that cannot.
    """
    if isinstance(array, (bool, int, float, complex, list, tuple)):
        try:
            found = np.asarray(array)
            if found.size and found.dtype.kind in "fc" and declared.dtype.kind in "biu":
                raise TypeError(f"it holds {found.dtype.name} numbers")
            return np.asarray(array, declared.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise GraphError(f"feed {name!r} cannot become {declared!r}: {error}.") from None
    if not isinstance(array, (np.ndarray, np.generic)):
        owner = registry.device_of(array)
        array = owner.download(array) if owner else np.asarray(array)
    return np.asarray(plain_array(array))


def home_of(arrays: Iterable[Any], registry: Registry, host: Device) -> Device:
    """The device that all arrays live on; the host for none. Raises DeviceError for several, and for arrays of nobody's."""
    owners: list[Device] = []
    for array in arrays:
        owner = registry.device_of(array)
        if owner is None:
            raise DeviceError(
                f"no device here has arrays of type {type(array).__name__}; convert it to a NumPy array, or see `opyard devices`."
            )
        if not any(shares_arrays(owner, known) for known in owners):
            owners.append(owner)
    if len(owners) > 1:
        raise DeviceError(
            f"the arrays live on different devices ({', '.join(d.name for d in owners)}); move them to one first: opyard.to_device(x, {owners[0].name!r})."
        )
    return host if not owners or shares_arrays(owners[0], host) else owners[0]


def input_name(graph: Graph, key: Any) -> str:
    """The name of an input that a user named, or gave as a value. Raises GraphError for what is none."""
    name = key.name if isinstance(key, Value) else key
    if name not in graph.inputs or (isinstance(key, Value) and graph.inputs[name] is not key):
        known = tuple(graph.inputs)
        raise GraphError(
            f"the graph has no input {name!r}.{did_you_mean(str(name), known)} Inputs: {', '.join(known) or 'none'}."
        )
    return str(name)


def named_feeds(graph: Graph, feeds: Mapping[Any, Any], wanted: tuple[Value, ...]) -> dict[str, Any]:
    """The feeds that the wanted values need, by name, in the order of the inputs. Raises GraphError for missing ones."""
    if not isinstance(feeds, Mapping):
        raise GraphError(f"feeds are a dict of inputs, or their names, and arrays; found {feeds!r}.")
    named = {input_name(graph, key): array for key, array in feeds.items()}
    needed = needed_inputs(graph, wanted, named)
    missing = [name for name in needed if name not in named]
    if missing:
        lines = ", ".join(f"{name!r}: {graph.inputs[name].spec!r}" for name in missing)
        raise GraphError(
            f"the fetches need a feed for {lines}; pass run(fetches, {{{missing[0]!r}: array}})."
        )
    return {name: named[name] for name in graph.inputs if name in named and name in needed}


def check_names(graph: Graph, names: tuple[str, ...], wanted: tuple[Value, ...]) -> None:
    """Raises GraphError unless the named feeds are what the wanted values need, each once."""
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise GraphError(f"callable(...) was given the feed {doubles[0]!r} twice; name each feed once.")
    missing = [name for name in needed_inputs(graph, wanted, names) if name not in names]
    if missing:
        raise GraphError(
            f"the fetches need the feeds {', '.join(missing)}, which callable(...) was not given."
        )
