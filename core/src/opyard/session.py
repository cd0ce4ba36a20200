"""Session: a graph on devices. ``run(fetches, feeds)`` prunes, simplifies, places, plans and runs, and remembers the result.

The flow of one new run is ``Session._prepare``: outputs -> bind -> simplify -> place -> plan -> executable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import runtime
from .choosing import Devices, check_threads, choose_devices, limited, on_threads
from .costs import Costs
from .driver import Device, plain_array
from .errors import GraphError, PlacementError
from .executable import Executable, StepFailed
from .feeds import as_host_array, check_names, home_of, input_name, named_feeds
from .graph import Graph, Value
from .memo import remember
from .nest import leaves, map_leaves
from .opfunction import current_policy
from .passes import simplify
from .placement import (
    Limits,
    MeasuredCosts,
    Placement,
    Resident,
    TuneReport,
    bindings,
    check_limits,
    check_objective,
    default_costs,
    place,
    tune,
)
from .plan import Plan, make_plan
from .profiles import Profile
from .profiling import profile
from .registry import REFERENCE, Registry
from .rehearsal import rehearse
from .rescue import Failures
from .resume import remaining
from .rewrite import bind, extract
from .selection import active_policy
from .spec import TensorSpec, spec_of
from .transactions import Effects, Transaction, guests
from .variables import Variable

SESSION_LIMIT = 1024
"""Executables that a session remembers; beyond them the oldest is forgotten."""

CALLABLE_LIMIT = 256
"""Combinations of specs that one callable remembers; the session's own cache keeps the executables."""


class Session:
    """Runs a graph. Executables are cached by fetches, feed specs, registry version and policy; it is safe in threads.

    devices    "auto", a device name, or several; the placement uses these alone
    registry   the default one unless given
    costs      times for the placement; what ``tune`` measured here, else the roofline, unless given
    memory     the most bytes that a run may keep on a device, by its name: a number, or a text such as "2GiB"
    objective  "sum": the least sum of all times; "makespan": the earliest end where devices work at the same time
    threads    the most that its kernels on processors use; as many as opyard may, unless given
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
        threads: int | None = None,
    ) -> None:
        check_objective(objective)
        self.threads = check_threads(threads)
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
        self._cache: dict[Any, tuple[Executable, tuple[Resident, ...]]] = {}
        self._lock = threading.Lock()
        self._host = next(
            (d for d in self.devices if d.memory == "host" and d.array_type is np.ndarray),
            self.registry.device(REFERENCE),
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._cache.clear()

    @limited
    def run(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, updates: bool = False) -> Any:
        """Computes the fetches: values of the graph or their names, in any nesting, which the result has, too.

        ``feeds`` maps inputs, or their names, to arrays or numbers. Results are NumPy arrays of the caller's own.
        Assignments to variables are done where a fetch depends on them; with ``updates`` all of the graph are,
        and ``fetches`` may be None.
        Raises GraphError for unknown or missing names and for arrays that do not fit.
        """
        wanted, effects = self._asked(fetches, updates)
        given = named_feeds(self.graph, feeds or {}, (*wanted, *effects.values))
        arrays = {name: self._native(name, array) for name, array in given.items()}
        with Transaction(effects, self.registry) as state:
            results, plan = self._run(wanted, arrays, self._host, state)
            state.keep(results, plan)
        rest = iter(results)
        return None if fetches is None else map_leaves(lambda _: np.asarray(next(rest)), fetches)

    def callable(self, fetches: Any, feeds: Sequence[Any], *, updates: bool = False) -> Callable[..., Any]:
        """A function of the feeds' arrays, in this order, that gives the fetches: the hot path, without checks by name.

        Arrays must be native to one device, else DeviceError; there results are left: NumPy in, NumPy out. NumPy results are
        the caller's own; results on other devices may be views of the arrays given, as their libraries make them.
        """
        names = tuple(input_name(self.graph, feed) for feed in feeds)
        wanted, effects = self._asked(fetches, updates)
        check_names(self.graph, names, (*wanted, *effects.values))
        nothing = Transaction(effects, self.registry)
        single = isinstance(fetches, (str, Value))
        flat = type(fetches) is list and all(isinstance(fetch, (str, Value)) for fetch in fetches)
        hot: dict[Any, tuple[Executable, bool]] = {}

        def run(arrays: tuple[Any, ...], state: Transaction) -> tuple[tuple[Any, ...], Plan]:
            try:
                specs = [(type(a), a.shape, a.dtype, getattr(a, "device", None)) for a in arrays]
                known = (*specs, self.registry.version, current_policy.get())
                key = (*known, state.places) if effects else known
                executable, is_plain = hot.get(key) or (None, True)
                if executable is None:
                    executable, is_plain = self._executable(wanted, names, arrays, state)
                    key = (*known, state.places) if effects else known  # where variables live from now on
                    remember(hot, key, (executable, is_plain), CALLABLE_LIMIT)
                given = arrays if is_plain else map(plain_array, arrays)
                if not effects:
                    return executable(*given), executable.plan
                kept = state.feeds(executable.plan)
                return executable(*given, *kept, claim=state.claim), executable.plan
            except (StepFailed, AttributeError) as error:  # the long way finds out what is to blame
                feeds = self._named(names, tuple(map(plain_array, arrays)))
                met = error if isinstance(error, StepFailed) else None
                return self._run(wanted, feeds, home_of(arrays, self.registry, self._host), state, met)

        def call(*arrays: Any) -> Any:
            if effects:
                with Transaction(effects, self.registry) as state:
                    results, plan = run(arrays, state)
                    state.keep(results, plan)
            else:
                results, _ = run(arrays, nothing)
            if single or flat:
                return results[0] if single else [*results]
            rest = iter(results)
            return None if fetches is None else map_leaves(lambda _: next(rest), fetches)

        return call if self.threads is None else on_threads(self.threads, self.devices)(call)

    def _executable(
        self, wanted: tuple[Value, ...], names: tuple[str, ...], arrays: tuple[Any, ...], state: Transaction
    ) -> tuple[Executable, bool]:
        """The executable for arrays of these specs, and whether they are as kernels expect them."""
        named = self._named(names, tuple(map(plain_array, arrays)))
        made = self._prepare(wanted, named, home_of(arrays, self.registry, self._host), state.effects)
        return made, all(plain is given for plain, given in zip(named.values(), arrays, strict=True))

    def _named(self, names: tuple[str, ...], arrays: tuple[Any, ...]) -> dict[str, Any]:
        if len(arrays) != len(names):
            raise GraphError(
                f"this callable takes {len(names)} arrays ({', '.join(names)}), {len(arrays)} were given."
            )
        return dict(zip(names, arrays, strict=True))

    @limited
    def placement(
        self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, updates: bool = False
    ) -> Placement:
        """Where everything would run, why, and what pins, colocation and memory limits cost. Feeds may be TensorSpecs."""
        graph, _, residents = self._bound(fetches, feeds, updates)
        found = self._place(graph, self._host, residents)

        def seconds(other: Graph, memory: Limits) -> float:
            return self._place(other, self._host, found.residents, memory=memory).minimised

        return replace(found, bindings=bindings(found, graph, self.memory, seconds))

    explain = placement

    @limited
    def tune(
        self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, updates: bool = False, **options: Any
    ) -> TuneReport:
        """Measures what can change the placement, keeps it for all sessions on this machine, and places anew.

        Feeds may be arrays or TensorSpecs; ``options`` are those of placement/tuning.py, such as ``budget_seconds``.
        Raises PlacementError for a session that was given costs which keep nothing.
        """
        if not isinstance(self.costs, MeasuredCosts):
            raise PlacementError(
                f"this session was given costs that keep no measurements ({type(self.costs).__name__}); leave out costs=..., or pass MeasuredCosts(CostStore(path))."
            )
        graph, given, residents = self._bound(fetches, feeds, updates)
        arrays = {n: self._on_host(n, f) for n, f in given.items() if not isinstance(f, TensorSpec)}
        report = tune(
            lambda costs: self._place(graph, self._host, residents, costs=costs),
            *(self.costs, self.registry),
            arrays=arrays,
            rehearse=lambda placement, seconds: rehearse(placement, arrays, seconds),
            **options,
        )
        self.registry.changed()  # so that what was chosen by older knowledge is chosen anew
        return report

    @limited
    def profile(
        self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, runs: int = 10, updates: bool = False
    ) -> Profile:
        """Where the time of ``run(fetches, feeds)`` goes: by node, op, kernel and device, with copies and memory.

        The steps of ``runs`` runs are timed, in turns with runs as they are. They read what variables hold, and assign
        nothing. Raises what ``run`` raises, and GraphError for a number of runs that is none.
        """
        wanted, effects = self._asked(fetches, updates)
        given = named_feeds(self.graph, feeds or {}, (*wanted, *effects.values)).items()
        arrays = {name: self._native(name, array) for name, array in given}
        with Transaction(effects, self.registry, assigns=False) as state:

            def prepare(failure: StepFailed | None) -> tuple[Executable, tuple[Any, ...]]:
                self._run(wanted, arrays, self._host, state, failure)  # what fails is replaced, and not timed
                executable = self._prepare(wanted, arrays, self._host, effects)
                return executable, (*arrays.values(), *state.feeds(executable.plan))

            return profile(prepare, runs, effects.writes)

    def _bound(
        self, fetches: Any, feeds: Mapping[Any, Any] | None, updates: bool
    ) -> tuple[Graph, dict[str, Any], tuple[Resident, ...]]:
        """What a run would place, the feeds by name, which may be TensorSpecs, and what lives elsewhere than on the host."""
        wanted, effects = self._asked(fetches, updates)
        given = named_feeds(self.graph, feeds or {}, (*wanted, *effects.values))
        residents = self._residents(given, self._host, effects)
        return self._graph(wanted, given, effects), given, residents

    # Names and feeds ---------------------------------------------------------------------------------------------

    def _asked(self, fetches: Any, updates: bool) -> tuple[tuple[Value, ...], Effects]:
        """The values to fetch, and what fetching them does with variables."""
        found = self._values(fetches)
        effects = Effects.of(self.graph, found, updates)
        if not found and not effects.writes:
            raise GraphError(
                f"nothing was asked for: name at least one fetch, such as {next(iter(self.graph.outputs), 'a value')!r}."
            )
        return found, effects

    def _values(self, fetches: Any) -> tuple[Value, ...]:
        found = []
        for leaf in leaves(() if fetches is None else fetches):
            value = self.graph.value(leaf) if isinstance(leaf, str) else leaf
            value = value.value_in(self.graph) if isinstance(value, Variable) else value
            if not isinstance(value, Value) or value.graph is not self.graph:
                raise GraphError(
                    f"a fetch is a value of this session's graph, or its name; found {leaf!r}. Outputs: {', '.join(self.graph.outputs) or 'none'}."
                )
            found.append(value)
        return tuple(found)

    def _spec(self, name: str, feed: Any) -> TensorSpec:
        if isinstance(feed, TensorSpec):
            return feed
        return spec_of(feed if hasattr(feed, "dtype") else self._on_host(name, feed), f"feed {name!r}")

    def _native(self, name: str, feed: Any) -> Any:
        """An array where it is; numbers, and what no device has, as NumPy arrays."""
        if hasattr(feed, "dtype") and not isinstance(feed, (np.ndarray, np.generic)):
            return feed if self.registry.device_of(feed) else self._on_host(name, feed)
        return self._on_host(name, feed)

    def _on_host(self, name: str, feed: Any) -> Any:
        return as_host_array(feed, name, self.graph.inputs[name].spec, self.registry)

    # Compiling and running ---------------------------------------------------------------------------------------

    def _run(
        self,
        wanted: tuple[Value, ...],
        feeds: dict[str, Any],
        home: Device,
        state: Transaction,
        failure: StepFailed | None = None,
    ) -> tuple[tuple[Any, ...], Plan]:
        """Runs, and gives the results with the plan that made them. When a kernel fails, what is computed stays and the
        rest is placed anew and run without that kernel.

        Only when all is done it is put aside for good. ``failure`` is one that was met already.
        """
        failed, effects = Failures(), state.effects
        rest: tuple[Graph, tuple[Any, ...]] | None = None
        while True:
            if failure is not None:
                failed.note(failure)
                if failure.plan is not None:
                    rest = remaining(failure.plan, failure.arrays, self.registry)
                    failure.arrays = {}  # what nothing needs any more goes
            try:
                if not failed:
                    executable = self._prepare(wanted, feeds, home, effects)
                else:
                    residents = self._residents(feeds, home, effects)
                    if rest:  # what is left is all fed at home
                        residents = tuple(replace(resident, input="") for resident in residents)
                    graph = rest[0] if rest else self._graph(wanted, feeds, effects)
                    placement = self._place(graph, home, residents, failed)
                    executable = Executable(make_plan(placement), checked=True)
                    failed.plans.append(executable.plan)
                given = rest[1] if rest else (*feeds.values(), *state.feeds(executable.plan))
                results = executable(*given, claim=state.claim)
            except StepFailed as error:
                failure = error
            except PlacementError:
                if not failed:
                    raise
                raise failed.final() from None
            else:
                failed.report(self.registry)
                return results, executable.plan

    def _with_reference(self) -> tuple[Device, ...]:
        return tuple(dict.fromkeys((*self.devices, self.registry.device(REFERENCE))))

    def _prepare(
        self, wanted: tuple[Value, ...], feeds: Mapping[str, Any], home: Device, effects: Effects
    ) -> Executable:
        """The executable for feeds like these. The first one that assigns to a variable decides where it lives."""

        def key(residents: tuple[Resident, ...]) -> Any:
            lives = tuple(resident.key for resident in residents)
            every = (*wanted, *effects.values)
            return every, specs, home.name, lives, self.registry.version, active_policy()

        specs = tuple((name, self._spec(name, feed)) for name, feed in feeds.items())
        residents = self._residents(feeds, home, effects)
        found = self._cache.get(key(residents))
        if found is None:
            with self._lock:
                found = self._cache.get(key(residents))
                if found is None:
                    placement = self._place(self._graph(wanted, feeds, effects), home, residents)
                    found = Executable(make_plan(placement)), placement.residents
                    for known in {key(residents), key(found[1])}:
                        remember(self._cache, known, found, SESSION_LIMIT)
        effects.settle(found[1], self.registry)
        return found[0]

    def _residents(self, feeds: Mapping[str, Any], home: Device, effects: Effects) -> tuple[Resident, ...]:
        """What lives elsewhere than at home: variables, and feeds that are arrays of other devices."""
        return (*guests(feeds, self.registry, home), *effects.residents(self.registry, self.devices))

    def _graph(self, wanted: tuple[Value, ...], feeds: Mapping[str, Any], effects: Effects) -> Graph:
        specs = {**{name: self._spec(name, feed) for name, feed in feeds.items()}, **effects.specs}
        return simplify(bind(extract(self.graph, (*wanted, *effects.values), specs), specs))

    def _place(
        self,
        graph: Graph,
        home: Device,
        residents: Sequence[Resident],
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
            residents=residents,
            unavailable=failed.unavailable if failed else (),
            memory=self.memory if memory is None else memory,
            objective=self.objective,
        )
