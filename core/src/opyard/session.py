"""Session: a graph on devices. ``run(fetches, feeds)`` prunes, simplifies, places, plans and runs, and remembers the result.

The flow of one new run is ``Session._prepare``: outputs -> bind -> simplify -> place -> plan -> executable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import runtime
from .costs import Costs
from .driver import Device, plain_array
from .errors import DeviceUnavailable, GraphError, PlacementError, did_you_mean
from .executable import Executable, StepFailed
from .feeds import as_host_array, home_of
from .graph import Graph, Value
from .nest import leaves, map_leaves
from .opfunction import current_policy
from .passes import simplify
from .placement import (
    Limits,
    MeasuredCosts,
    Placement,
    TuneReport,
    bindings,
    check_limits,
    check_objective,
    default_costs,
    place,
    tune,
)
from .plan import make_plan
from .profiles import Profile
from .profiling import profile
from .registry import REFERENCE, Registry
from .rehearsal import rehearse
from .rescue import Failures
from .resume import remaining
from .rewrite import bind, extract, needed_inputs
from .selection import active_policy
from .spec import TensorSpec, spec_of
from .variables import Effects, Variable, bring

Devices = str | Device | Sequence[str | Device]
"""A device name, several, or "auto" for all devices of this machine."""


def choose_devices(devices: Devices, registry: Registry) -> tuple[Device, ...]:
    """The devices that a user named; with "auto", all of them. Raises DeviceUnavailable for one that is not here.

    The reference joins "auto" alone: whoever names devices gets these and nothing else.
    """
    if isinstance(devices, (str, Device)):
        devices = registry.devices() if devices == "auto" else [devices]
    if not isinstance(devices, Iterable) or not all(isinstance(d, (str, Device)) for d in devices):
        raise DeviceUnavailable(
            f"devices is 'auto', a device, or several in a list; found {devices!r}. `opyard devices` lists names."
        )
    found = tuple(registry.device(d) if isinstance(d, str) else d for d in devices)
    if not found:
        raise DeviceUnavailable("no device was named; write devices='auto', or names from `opyard devices`.")
    return tuple(dict.fromkeys(found))


SESSION_LIMIT = 1024
"""Executables that a session remembers; beyond them the oldest is forgotten."""

CALLABLE_LIMIT = 256
"""Combinations of specs that one callable remembers; the session's own cache keeps the executables."""


def remember(cache: dict[Any, Any], key: Any, item: Any, limit: int) -> None:
    """Stores an item and forgets the oldest ones beyond the limit; safe in threads."""
    for old in list(cache)[: max(0, len(cache) - limit + 1)]:
        cache.pop(old, None)
    cache[key] = item


class Session:
    """Runs a graph. Executables are cached by fetches, feed specs, registry version and policy; it is safe in threads.

    devices    "auto", a device name, or several; the placement uses these alone
    registry   the default one unless given
    costs      times for the placement; what ``tune`` measured here, else the roofline, unless given
    memory     the most bytes that a run may keep on a device, by its name: a number, or a text such as "2GiB"
    objective  "sum": the least sum of all times; "makespan": the earliest end where devices work at the same time
    """

    def __init__(
        self,
        graph: Graph,
        *,
        devices: Devices = "auto",
        registry: Registry | None = None,
        costs: Costs | None = None,
        memory: Limits | None = None,
        objective: str = "sum",
    ) -> None:
        check_objective(objective)
        if not isinstance(graph, Graph):
            raise GraphError(
                f"Session takes a Graph, such as trace(function, *specs) gives; found {graph!r}."
            )
        self.graph = graph
        self.registry = registry or active_policy().registry or runtime.registry()
        self.devices = choose_devices(devices, self.registry)
        self.costs: Costs = default_costs() if costs is None else costs
        self.memory = check_limits(memory or {}, self.devices)
        self.objective = objective
        self._cache: dict[Any, Executable] = {}
        self._lock = threading.Lock()
        self._host = next(
            (d for d in self.devices if d.memory == "host" and d.array_type is np.ndarray),
            self.registry.device(REFERENCE),
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._cache.clear()

    def run(self, fetches: Any, feeds: Mapping[Any, Any] | None = None) -> Any:
        """Computes the fetches: values of the graph or their names, in any nesting, which the result has, too.

        ``feeds`` maps inputs, or their names, to arrays or numbers. Results are NumPy arrays of the caller's own.
        Raises GraphError for unknown or missing names and for arrays that do not fit.
        """
        wanted = self._values(fetches)
        given = self._feeds(feeds or {}, wanted)
        arrays = {name: self._on_host(name, array) for name, array in given.items()}
        effects = Effects.of(self.graph, wanted)
        with effects.held() as held:
            state = [bring(array, self._host, self.registry) for array in held]
            arrays.update(zip(effects.names, state, strict=True))
            results = iter(self._run((*wanted, *effects.values), arrays, self._host))
            found = map_leaves(lambda _: np.asarray(next(results)), fetches)
            effects.keep(results)
        return found

    def callable(self, fetches: Any, feeds: Sequence[Any]) -> Callable[..., Any]:
        """A function of the feeds' arrays, in this order, that gives the fetches: the hot path, without checks by name.

        Arrays must be native to one device, on which the results are left: NumPy in, NumPy out. NumPy results are the
        caller's own; results on other devices may be views of the arrays given, as their libraries make them.
        Raises DeviceError when the arrays live on several devices.
        """
        names = tuple(self._input(feed) for feed in feeds)
        if effects := Effects.of(self.graph, self._values(fetches)):
            run = self._callable((fetches, list(effects.values)), (*names, *effects.names))
            return effects.around(run, self.registry)
        return self._callable(fetches, names)

    def _callable(self, fetches: Any, names: tuple[str, ...]) -> Callable[..., Any]:
        wanted = self._values(fetches)
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise GraphError(f"callable(...) was given the feed {doubles[0]!r} twice; name each feed once.")
        missing = [name for name in needed_inputs(self.graph, wanted, names) if name not in names]
        if missing:
            raise GraphError(
                f"the fetches need the feeds {', '.join(missing)}, which callable(...) was not given."
            )
        single = isinstance(fetches, (str, Value))
        hot: dict[Any, Callable[..., tuple[Any, ...]]] = {}

        def call(*arrays: Any) -> Any:
            try:
                key = (
                    *[(type(a), a.shape, a.dtype, getattr(a, "device", None)) for a in arrays],
                    self.registry.version,
                    current_policy.get(),
                )
                executable = hot.get(key)
                if executable is None:
                    executable = self._executable(wanted, names, arrays)
                    remember(hot, key, executable, CALLABLE_LIMIT)
                results = executable(*arrays)
            except (StepFailed, AttributeError) as error:  # the long way finds out what is to blame
                feeds = self._named(names, tuple(map(plain_array, arrays)))
                met = error if isinstance(error, StepFailed) else None
                results = self._run(wanted, feeds, home_of(arrays, self.registry, self._host), met)
            if single:
                return results[0]
            rest = iter(results)
            return map_leaves(lambda _: next(rest), fetches)

        return call

    def _executable(
        self, wanted: tuple[Value, ...], names: tuple[str, ...], arrays: tuple[Any, ...]
    ) -> Callable[..., tuple[Any, ...]]:
        named = self._named(names, tuple(map(plain_array, arrays)))
        specs = {name: self._spec(name, array) for name, array in named.items()}
        made = self._prepare(wanted, specs, home_of(arrays, self.registry, self._host))
        if all(plain is given for plain, given in zip(named.values(), arrays, strict=True)):
            return made
        return lambda *given: made(*map(plain_array, given))

    def _named(self, names: tuple[str, ...], arrays: tuple[Any, ...]) -> dict[str, Any]:
        if len(arrays) != len(names):
            raise GraphError(
                f"this callable takes {len(names)} arrays ({', '.join(names)}), {len(arrays)} were given."
            )
        return dict(zip(names, arrays, strict=True))

    def placement(self, fetches: Any, feeds: Mapping[Any, Any] | None = None) -> Placement:
        """Where everything would run, why, and what pins, colocation and memory limits cost. Feeds may be TensorSpecs."""
        graph, _ = self._bound(fetches, feeds)
        found = self._place(graph, self._host)

        def seconds(other: Graph, memory: Limits) -> float:
            return self._place(other, self._host, memory=memory).minimised

        return replace(found, bindings=bindings(found, graph, self.memory, seconds))

    explain = placement

    def tune(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, **options: Any) -> TuneReport:
        """Measures what can change the placement, keeps it for all sessions on this machine, and places anew.

        Feeds may be arrays or TensorSpecs; ``options`` are those of placement/tuning.py, such as ``budget_seconds``.
        Raises PlacementError for a session that was given costs which keep nothing.
        """
        if not isinstance(self.costs, MeasuredCosts):
            raise PlacementError(
                f"this session was given costs that keep no measurements ({type(self.costs).__name__}); leave out costs=..., or pass MeasuredCosts(CostStore(path))."
            )
        graph, given = self._bound(fetches, feeds)
        arrays = {n: self._on_host(n, f) for n, f in given.items() if not isinstance(f, TensorSpec)}
        report = tune(
            lambda costs: self._place(graph, self._host, costs=costs),
            *(self.costs, self.registry),
            arrays=arrays,
            rehearse=lambda placement, seconds: rehearse(placement, arrays, seconds),
            **options,
        )
        self.registry.changed()  # so that what was chosen by older knowledge is chosen anew
        return report

    def profile(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, runs: int = 10) -> Profile:
        """Where the time of ``run(fetches, feeds)`` goes: by node, op, kernel and device, with copies and memory.

        The steps of ``runs`` runs are timed, in turns with runs as they are. They work on copies of what variables hold, and
        assign nothing. Raises what ``run`` raises, and GraphError for a number of runs that is none.
        """
        wanted = self._values(fetches)
        given = self._feeds(feeds or {}, wanted)
        arrays = {name: self._on_host(name, array) for name, array in given.items()}
        effects = Effects.of(self.graph, wanted)
        with effects.held() as held:
            state = [np.array(bring(array, self._host, self.registry)) for array in held]
        arrays.update(zip(effects.names, state, strict=True))
        wanted = (*wanted, *effects.values)

        def prepare(failure: StepFailed | None) -> Executable:
            self._run(wanted, arrays, self._host, failure)  # so that what fails is replaced, and not timed
            return self._prepare(wanted, {n: self._spec(n, a) for n, a in arrays.items()}, self._host)

        return profile(prepare, tuple(arrays.values()), runs, effects.writes)

    def _bound(self, fetches: Any, feeds: Mapping[Any, Any] | None) -> tuple[Graph, dict[str, Any]]:
        """What a run would place, and the feeds by name, which may be TensorSpecs."""
        wanted = self._values(fetches)
        given = self._feeds(feeds or {}, wanted)
        specs = {name: self._spec(name, feed) for name, feed in given.items()}
        effects = Effects.of(self.graph, wanted)
        return self._graph((*wanted, *effects.values), {**specs, **effects.specs}), given

    # Names and feeds ---------------------------------------------------------------------------------------------

    def _values(self, fetches: Any) -> tuple[Value, ...]:
        found = []
        for leaf in leaves(fetches):
            value = self.graph.value(leaf) if isinstance(leaf, str) else leaf
            value = value.value_in(self.graph) if isinstance(value, Variable) else value
            if not isinstance(value, Value) or value.graph is not self.graph:
                raise GraphError(
                    f"a fetch is a value of this session's graph, or its name; found {leaf!r}. Outputs: {', '.join(self.graph.outputs) or 'none'}."
                )
            found.append(value)
        if not found:
            raise GraphError(
                f"nothing was asked for: name at least one fetch, such as {next(iter(self.graph.outputs), 'a value')!r}."
            )
        return tuple(found)

    def _input(self, key: Any) -> str:
        name = key.name if isinstance(key, Value) else key
        if name not in self.graph.inputs or (isinstance(key, Value) and self.graph.inputs[name] is not key):
            known = tuple(self.graph.inputs)
            raise GraphError(
                f"the graph has no input {name!r}.{did_you_mean(str(name), known)} Inputs: {', '.join(known) or 'none'}."
            )
        return str(name)

    def _feeds(self, feeds: Mapping[Any, Any], wanted: tuple[Value, ...]) -> dict[str, Any]:
        named = {self._input(key): array for key, array in feeds.items()}
        needed = needed_inputs(self.graph, wanted, named)
        missing = [name for name in needed if name not in named]
        if missing:
            lines = ", ".join(f"{name!r}: {self.graph.inputs[name].spec!r}" for name in missing)
            raise GraphError(
                f"the fetches need a feed for {lines}; pass run(fetches, {{{missing[0]!r}: array}})."
            )
        return {name: named[name] for name in self.graph.inputs if name in named and name in needed}

    def _spec(self, name: str, feed: Any) -> TensorSpec:
        if isinstance(feed, TensorSpec):
            return feed
        return spec_of(feed if hasattr(feed, "dtype") else self._on_host(name, feed), f"feed {name!r}")

    def _on_host(self, name: str, feed: Any) -> Any:
        return as_host_array(feed, name, self.graph.inputs[name].spec, self.registry)

    # Compiling and running ---------------------------------------------------------------------------------------

    def _run(
        self,
        wanted: tuple[Value, ...],
        arrays: dict[str, Any],
        home: Device,
        failure: StepFailed | None = None,
    ) -> tuple[Any, ...]:
        """Runs. When a kernel fails, what is computed stays and the rest is placed anew and run without that kernel.

        Only when all is done it is put aside for good. ``failure`` is one that was met already.
        """
        specs = {name: self._spec(name, array) for name, array in arrays.items()}
        failed = Failures()
        graph, feeds = None, tuple(arrays.values())
        while True:
            if failure is not None:
                failed.note(failure)
                if failure.plan is not None:
                    graph, feeds = remaining(failure.plan, failure.arrays, self.registry)
                    failure.arrays = {}  # what nothing needs any more goes
            try:
                if not failed:
                    executable = self._prepare(wanted, specs, home)
                else:
                    graph = graph or self._graph(wanted, specs)
                    executable = Executable(make_plan(self._place(graph, home, failed)), checked=True)
                    failed.plans.append(executable.plan)
                results = executable(*feeds)
            except StepFailed as error:
                failure = error
            except PlacementError:
                if not failed:
                    raise
                raise failed.final() from None
            else:
                failed.report(self.registry)
                return results

    def _with_reference(self) -> tuple[Device, ...]:
        return tuple(dict.fromkeys((*self.devices, self.registry.device(REFERENCE))))

    def _prepare(
        self, wanted: tuple[Value, ...], specs: Mapping[str, TensorSpec], home: Device
    ) -> Executable:
        key = (wanted, tuple(specs.items()), home.name, self.registry.version, active_policy())
        found = self._cache.get(key)
        if found is not None:
            return found
        with self._lock:
            found = self._cache.get(key)
            if found is None:
                found = Executable(make_plan(self._place(self._graph(wanted, specs), home)))
                remember(self._cache, key, found, SESSION_LIMIT)
            return found

    def _graph(self, wanted: tuple[Value, ...], specs: Mapping[str, TensorSpec]) -> Graph:
        return simplify(bind(extract(self.graph, wanted, specs), specs))

    def _place(
        self,
        graph: Graph,
        home: Device,
        failed: Failures | None = None,
        costs: Costs | None = None,
        memory: Limits | None = None,
    ) -> Placement:
        devices = (
            self._with_reference() if failed else self.devices
        )  # a failing kernel may be the only one here
        return place(
            *(graph, devices, self.registry, costs or self.costs),
            home=home,
            unavailable=failed.unavailable if failed else (),
            memory=self.memory if memory is None else memory,
            objective=self.objective,
        )
