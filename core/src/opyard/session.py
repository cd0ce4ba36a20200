"""Session: a graph on devices. ``run(fetches, feeds)`` prunes, simplifies, places, plans and runs, and remembers the result.

The flow of one new run is ``Session._prepare``: outputs -> bind -> simplify -> decompose -> place -> plan -> executable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import runtime
from .costs import Costs
from .device import Device, shares_arrays
from .dispatch import report_failure
from .errors import DeviceError, DeviceUnavailable, GraphError, KernelError, did_you_mean
from .graph import Graph, Value
from .nest import leaves, map_leaves
from .operation import Call
from .opfunction import current_policy
from .passes import decompose, simplify
from .placement import Placement, place
from .plan import Executable, StepFailed, make_plan
from .registry import REFERENCE, Registry, describe_error
from .rewrite import Rewrite, bind
from .selection import PRIOR, active_policy, candidates
from .spec import TensorSpec

Devices = str | Device | Sequence[str | Device]
"""A device name, several, or "auto" for all devices of this machine."""

Failed = list[tuple[Call, StepFailed]]


def choose_devices(devices: Devices, registry: Registry) -> tuple[Device, ...]:
    """The devices that a user named; with "auto", all of them. Raises DeviceUnavailable for one that is not here.

    The reference joins "auto" alone: whoever names devices gets these and nothing else.
    """
    if isinstance(devices, (str, Device)):
        devices = registry.devices() if devices == "auto" else [devices]
    found = tuple(registry.device(d) if isinstance(d, str) else d for d in devices)
    if not found:
        raise DeviceUnavailable("no device was named; write devices='auto', or names from `opyard devices`.")
    return tuple(dict.fromkeys(found))


CALLABLE_LIMIT = 256
"""Combinations of specs that one callable remembers; the session's own cache keeps the executables."""


class Session:
    """Runs a graph. Executables are cached by fetches, feed specs, registry version and policy; it is safe in threads.

    devices   "auto", a device name, or several; the placement uses these alone
    registry  the default one unless given
    costs     estimated times for the placement; the roofline prior unless given
    """

    def __init__(
        self,
        graph: Graph,
        *,
        devices: Devices = "auto",
        registry: Registry | None = None,
        costs: Costs = PRIOR,
    ) -> None:
        self.graph = graph
        self.registry = registry or active_policy().registry or runtime.registry()
        self.devices = choose_devices(devices, self.registry)
        self.costs = costs
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
        arrays = {name: self._as_host_array(name, array) for name, array in given.items()}
        results = iter(self._run(wanted, arrays, self._host))
        return map_leaves(lambda _: np.asarray(next(results)), fetches)

    def callable(self, fetches: Any, feeds: Sequence[Any]) -> Callable[..., Any]:
        """A function of the feeds' arrays, in this order, that gives the fetches: the hot path, without checks by name.

        Arrays must be native to one device, on which the results are left: NumPy in, NumPy out. NumPy results are the
        caller's own; results on other devices may be views of the arrays given, as their libraries make them.
        Raises DeviceError when the arrays live on several devices.
        """
        wanted = self._values(fetches)
        names = tuple(self._input(feed) for feed in feeds)
        missing = [name for name in self._needed(wanted) if name not in names]
        if missing:
            raise GraphError(
                f"the fetches need the feeds {', '.join(missing)}, which callable(...) was not given."
            )
        single = isinstance(fetches, (str, Value))
        hot: dict[Any, Executable] = {}

        def call(*arrays: Any) -> Any:
            try:
                key = (
                    *[(type(a), a.shape, a.dtype, getattr(a, "device", None)) for a in arrays],
                    self.registry.version,
                    current_policy.get(),
                )
                executable = hot.get(key)
                if executable is None:
                    if len(hot) >= CALLABLE_LIMIT:
                        hot.clear()
                    executable = hot[key] = self._executable(wanted, names, arrays)
                results = executable(*arrays)
            except (StepFailed, AttributeError):  # the long way finds out what is to blame
                feeds = self._named(names, arrays)
                results = self._run(wanted, feeds, self._home_of(arrays))
            if single:
                return results[0]
            rest = iter(results)
            return map_leaves(lambda _: next(rest), fetches)

        return call

    def _executable(
        self, wanted: tuple[Value, ...], names: tuple[str, ...], arrays: tuple[Any, ...]
    ) -> Executable:
        named = self._named(names, arrays)
        specs = {name: TensorSpec(array.shape, array.dtype) for name, array in named.items()}
        return self._prepare(wanted, specs, self._home_of(arrays), ())

    def _named(self, names: tuple[str, ...], arrays: tuple[Any, ...]) -> dict[str, Any]:
        if len(arrays) != len(names):
            raise GraphError(
                f"this callable takes {len(names)} arrays ({', '.join(names)}), {len(arrays)} were given."
            )
        return dict(zip(names, arrays, strict=True))

    def placement(self, fetches: Any, feeds: Mapping[Any, Any] | None = None) -> Placement:
        """Where everything would run, and why. Feeds may be arrays or TensorSpecs."""
        wanted = self._values(fetches)
        specs = {name: self._spec(name, feed) for name, feed in self._feeds(feeds or {}, wanted).items()}
        return self._place(wanted, specs, self._host, ())

    explain = placement

    # Names and feeds ---------------------------------------------------------------------------------------------

    def _values(self, fetches: Any) -> tuple[Value, ...]:
        found = []
        for leaf in leaves(fetches):
            value = self.graph.value(leaf) if isinstance(leaf, str) else leaf
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
        needed = self._needed(wanted)
        missing = [name for name in needed if name not in named]
        if missing:
            lines = ", ".join(f"{name!r}: {self.graph.inputs[name].spec!r}" for name in missing)
            raise GraphError(
                f"the fetches need a feed for {lines}; pass run(fetches, {{{missing[0]!r}: array}})."
            )
        return {name: named[name] for name in self.graph.inputs if name in named and name in needed}

    def _needed(self, wanted: tuple[Value, ...]) -> tuple[str, ...]:
        """Inputs that the values depend on, in the graph's order."""
        seen: set[Value] = set()
        stack = list(wanted)
        while stack:
            value = stack.pop()
            if value not in seen:
                seen.add(value)
                stack += [v for v in (value.node.inputs if value.node else ()) if v is not None]
        return tuple(name for name, value in self.graph.inputs.items() if value in seen)

    def _spec(self, name: str, feed: Any) -> TensorSpec:
        if isinstance(feed, TensorSpec):
            return feed
        return TensorSpec.of(feed if hasattr(feed, "dtype") else self._as_host_array(name, feed))

    def _as_host_array(self, name: str, array: Any) -> Any:
        """``array`` of any device as NumPy's; numbers and lists take the dtype of the input if that loses no fractions."""
        if isinstance(array, (bool, int, float, complex, list, tuple)):
            declared = self.graph.inputs[name].spec
            try:
                found = np.asarray(array)
                if found.size and found.dtype.kind in "fc" and declared.dtype.kind in "biu":
                    raise TypeError(f"it holds {found.dtype.name} numbers")
                return np.asarray(array, declared.dtype)
            except (TypeError, ValueError, OverflowError) as error:
                raise GraphError(f"feed {name!r} cannot become {declared!r}: {error}.") from None
        if not isinstance(array, (np.ndarray, np.generic)):
            owner = self.registry.device_of(array)
            array = owner.download(array) if owner else np.asarray(array)
        return np.asarray(array)

    def _home_of(self, arrays: Iterable[Any]) -> Device:
        owners: list[Device] = []
        for array in arrays:
            owner = self.registry.device_of(array)
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
        return self._host if not owners or shares_arrays(owners[0], self._host) else owners[0]

    # Compiling and running ---------------------------------------------------------------------------------------

    def _run(self, wanted: tuple[Value, ...], arrays: dict[str, Any], home: Device) -> tuple[Any, ...]:
        """Runs, and runs again without a kernel that raised; only then is that kernel put aside for good."""
        specs = {name: TensorSpec(array.shape, array.dtype) for name, array in arrays.items()}
        failed: Failed = []
        while True:
            try:
                results = self._prepare(wanted, specs, home, failed)(*arrays.values())
            except StepFailed as failure:
                self._note(failure, failed)
                continue
            for call, past in failed:
                report_failure(
                    self.registry, call, past.step.kernel, past.error, self._substitute(call, past)
                )
            return results

    def _note(self, failure: StepFailed, failed: Failed) -> None:
        """Remembers a failure; raises where there is nothing left to try."""
        step, error = failure.step, failure.error
        if isinstance(
            error, Warning
        ):  # the user's warning filter made an error of it: no fault of the kernel
            raise error
        if active_policy().strict:
            raise KernelError(
                f"kernel {step.kernel.id} failed on {step.call}: {describe_error(error)} (OPYARD_STRICT=1)."
            ) from error
        rows = candidates(step.call, self._with_reference(), self.registry, active_policy(), self.costs)
        tried = {f.step.kernel.id for c, f in failed if c.op is step.call.op} | {step.kernel.id}
        if step.kernel.backend == REFERENCE or not any(
            c.refusal is None and c.kernel.id not in tried for c in rows
        ):
            first = next((f for c, f in failed if c.op is step.call.op), failure)
            first.error.add_note(
                f"raised by kernel {first.step.kernel.id} in {first.step.call}; no other kernel can compute it either"
            )
            raise first.error
        failed.append((step.call, failure))

    def _substitute(self, call: Call, failure: StepFailed) -> Any:
        rows = candidates(call, self._with_reference(), self.registry, active_policy(), self.costs)
        return next(c.kernel for c in rows if c.refusal is None and c.kernel.id != failure.step.kernel.id)

    def _with_reference(self) -> tuple[Device, ...]:
        return tuple(dict.fromkeys((*self.devices, self.registry.device(REFERENCE))))

    def _prepare(
        self, wanted: tuple[Value, ...], specs: Mapping[str, TensorSpec], home: Device, failed: Sequence[Any]
    ) -> Executable:
        key = (wanted, tuple(specs.items()), home.name, self.registry.version, active_policy())
        if not failed:
            found = self._cache.get(key)
            if found is not None:
                return found
        with self._lock:
            found = self._cache.get(key)
            if found is None or failed:
                made = Executable(make_plan(self._place(wanted, specs, home, failed)))
                if failed:
                    return made
                self._cache[key] = found = made
            return found

    def _place(
        self, wanted: tuple[Value, ...], specs: Mapping[str, TensorSpec], home: Device, failed: Sequence[Any]
    ) -> Placement:
        graph = simplify(bind(_with_outputs(self.graph, wanted, tuple(specs)), specs))
        devices = (
            self._with_reference() if failed else self.devices
        )  # a failing kernel may be the only one here
        policy = active_policy()

        def has_kernel(call: Call) -> bool:
            rows = candidates(call, devices, self.registry, policy, self.costs)
            return any(row.refusal is None and row.kernel.backend != REFERENCE for row in rows)

        graph = simplify(decompose(graph, has_kernel))
        banned = [(call.op.name, failure.step.kernel.id) for call, failure in failed]
        return place(graph, devices, self.registry, self.costs, home=home, policy=policy, unavailable=banned)


def _with_outputs(graph: Graph, wanted: tuple[Value, ...], inputs: tuple[str, ...]) -> Graph:
    """The part of a graph that makes the wanted values, with these as its outputs and the named inputs only."""
    needed: set[Value] = set()
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            stack += [v for v in (value.node.inputs if value.node else ()) if v is not None]
    part = Graph()
    part.inputs = {name: graph.inputs[name] for name in inputs}
    part.constants = {v: array for v, array in graph.constants.items() if v in needed}
    part.nodes = [node for node in graph.nodes if any(v in needed for v in node.outputs)]
    part.outputs = {f"fetch_{number}": value for number, value in enumerate(wanted)}
    rewrite = Rewrite(part)
    for node in part.nodes:
        rewrite.copy(node)
    return rewrite.finish()
