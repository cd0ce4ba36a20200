"""Functions over arrays as graphs: ``compile`` traces a function once for each combination of specs, and runs a session."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from typing import Any, overload

import numpy as np

from .choosing import Devices, check_threads
from .costs import Costs
from .errors import SpecError
from .graph import Graph, Value, current_graph, weak_scalar
from .memo import remember
from .nest import leaves, map_leaves
from .opfunction import current_policy
from .placement import Limits, Placement, TuneReport, check_objective
from .profiles import Profile
from .registry import Registry
from .session import Session
from .spec import TensorSpec, spec_of
from .tracing import parameter_names, trace_named
from .variables import Variable

LIMIT = 256
"""Combinations of specs and static arguments that one compiled function remembers; beyond them the oldest is traced anew."""


_SLOT = type("SLOT", (), {"__repr__": lambda self: "SLOT"})()
_NUMBERS = (bool, int, float, complex)


class Arguments:
    """The arguments of one call: ``arrays`` by name, and ``tree``, the rest, with a mark where an array goes.

    Arrays are traced wherever they are in tuples, lists and dicts, and so are numbers given by position, and lists of
    numbers alone. Everything else is static: None, strings, and numbers given by keyword.

    leading  parameters of the function before those that the arguments are for: ``self`` of a method
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
        leading: int = 0,
    ) -> None:
        self.title = getattr(function, "__name__", repr(function))
        self.arrays: dict[str, Any] = {}
        names = parameter_names(function)[leading:]
        named = [
            (names[number] if number < len(names) else f"input_{number}", argument)
            for number, argument in enumerate(arguments)
        ]
        self.tree = (
            [self._take(argument, name, False) for name, argument in named],
            {name: self._take(argument, name, True) for name, argument in keywords.items()},
        )
        given = tuple(self.arrays.values())
        for name, array in self.arrays.items():
            if isinstance(array, _NUMBERS):
                self.arrays[name] = weak_scalar(array, given)

    def _take(self, argument: Any, name: str, by_keyword: bool) -> Any:
        if isinstance(argument, Mapping):
            return {key: self._take(item, f"{name}[{key!r}]", by_keyword) for key, item in argument.items()}
        if isinstance(argument, (tuple, list)):
            found = list(leaves(argument))
            if by_keyword or not found or not all(isinstance(leaf, _NUMBERS) for leaf in found):
                items = [self._take(v, f"{name}[{i}]", by_keyword) for i, v in enumerate(argument)]
                return type(argument)(*items) if hasattr(argument, "_fields") else type(argument)(items)
            argument = np.asarray(argument)
        if isinstance(argument, Variable):
            return argument
        if not (hasattr(argument, "dtype") and hasattr(argument, "shape")):
            if hasattr(argument, "__array__"):
                argument = np.asarray(argument)
            elif by_keyword or not isinstance(argument, _NUMBERS):
                return self._static(argument, name)
        while name in self.arrays:  # given twice: the function will say so
            name += "'"
        self.arrays[name] = argument
        return _SLOT

    def _static(self, argument: Any, name: str) -> Any:
        try:
            hash(argument)
        except TypeError:
            raise SpecError(
                f"{self.title}: argument {name!r} is of type {type(argument).__name__}, which is neither an array nor hashable; give arrays, numbers, strings or None, in tuples, lists or dicts."
            ) from None
        return argument

    @property
    def key(self) -> tuple[Any, ...]:
        """What a trace depends on. For arrays given by position alone it is what ``Compiled.__call__`` looks up."""
        arrays = tuple([(type(a), a.shape, a.dtype) for a in self.arrays.values()])
        positional, keywords = self.tree
        if keywords or any(item is not _SLOT for item in positional):
            return (_frozen(self.tree), *arrays)
        return arrays

    def specs(self) -> dict[str, TensorSpec]:
        """The specs of the arrays. Raises SpecError, naming the argument, for dtypes that no tensor has."""
        return {
            name: a if isinstance(a, TensorSpec) else spec_of(a, f"{self.title}: argument {name!r}")
            for name, a in self.arrays.items()
        }


def _frozen(tree: Any) -> Any:
    """The tree as a key: with types, for 1 == 1.0 == True, and by repr for numbers, for 0.0 == -0.0."""
    if isinstance(tree, Mapping):
        return (dict, tuple([(key, _frozen(item)) for key, item in tree.items()]))
    if isinstance(tree, (tuple, list)):
        return (type(tree), tuple(map(_frozen, tree)))
    return (type(tree), repr(tree) if isinstance(tree, _NUMBERS) else tree)


class _Instance:
    """What was traced for one instance of a class, and the arrays and numbers that were among its attributes then.

    ``made`` is emptied when one of these is replaced by another. The instance is held weakly where that can be done.
    """

    def __init__(self, instance: Any, forget: Callable[[Any], object]) -> None:
        self.made: dict[Any, Callable[..., Any]] = {}
        self._seen: dict[str, Any] = {}
        self.refer: Callable[[], Any]
        try:
            self.refer = weakref.ref(instance, forget)
        except TypeError:
            self.refer = lambda: instance

    def look(self) -> None:
        """Remembers the attributes, as after tracing with them."""
        self._seen = self._attributes()

    def forget_what_changed(self) -> None:
        """Forgets all traces if an attribute was replaced."""
        found, seen = self._attributes(), self._seen
        if self.made and (found.keys() != seen.keys() or not all(_same(found[k], seen[k]) for k in found)):
            self.made.clear()

    def _attributes(self) -> dict[str, Any]:
        attributes = list(getattr(self.refer(), "__dict__", {}).items())
        return {name: v for name, v in attributes if isinstance(v, _NUMBERS) or hasattr(v, "dtype")}


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, _NUMBERS) and _frozen(one) == _frozen(other))


class Compiled:
    """A Python function over arrays, traced, placed and planned once for each combination of specs and static arguments.

    What the function reads beside its arguments is fixed when it is traced. A method is traced for each instance by itself,
    and anew when an attribute of the instance that is an array or a number was replaced; what lies deeper, or was written
    into an array, is not noticed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        devices: Devices = "auto",
        registry: Registry | None = None,
        costs: Costs | None = None,
        memory: Limits | None = None,
        objective: str = "sum",
        threads: int | None = None,
    ) -> None:
        if not callable(function):
            raise SpecError(
                f"compile takes a function over arrays; found {function!r}. Options are given by name: compile(f, devices='cpu:0')."
            )
        self.function = function
        self.devices = devices
        self.registry = registry
        self.costs = costs
        self.memory = memory
        check_objective(objective)
        self.objective = objective
        self.threads = check_threads(threads)
        self._made: dict[Any, Callable[..., Any]] = {}
        self._leading: tuple[Any, ...] = ()
        self._instance: _Instance | None = None
        self._instances: dict[int, _Instance] = {}
        self._owner: type | None = None
        update_wrapper(
            self, function, updated=()
        )  # the attributes of an op's function would hide those of this class

    def __repr__(self) -> str:
        return f"<compiled {getattr(self, '__qualname__', repr(self.function))}>"

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: Any, owner: type | None = None) -> Compiled:
        """The compiled method of an instance, with traces of its own."""
        if instance is None:
            return self
        bound = object.__new__(Compiled)
        bound.__dict__.update(self.__dict__)
        bound._leading = (instance,)
        bound._instance = self._traces_of(instance)
        bound._made = bound._instance.made
        return bound

    def _traces_of(self, instance: Any) -> _Instance:
        instances, number = self._instances, id(instance)
        found = instances.get(number)
        if found is None or found.refer() is not instance:
            found = _Instance(instance, lambda _: instances.pop(number, None))
            remember(instances, number, found, LIMIT)
        return found

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's result for these arguments, on the device that their arrays live on.

        Numbers given by position take the dtype that they have beside the arrays; see Arguments for what else may be
        given. Within a graph that is being built, on values of it, the function is recorded as a part of that graph.
        """
        if not keywords and not self._leading:
            try:
                key = (current_policy.get(), *[(type(a), a.shape, a.dtype) for a in arguments])
                found = self._made.get(key)
            except (AttributeError, TypeError):
                found = None
            if found is not None:
                return found(*arguments)
        if not self._leading and self._owner and arguments and isinstance(arguments[0], self._owner):
            return self.__get__(arguments[0])(*arguments[1:], **keywords)
        return self._slowly(arguments, keywords)

    def _slowly(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        taken = self._take(arguments, keywords)
        recorded = not taken.arrays and current_graph.get() is not None
        if recorded or any(isinstance(array, Value) for array in taken.arrays.values()):
            return self.function(*self._leading, *arguments, **keywords)
        if self._instance is not None:
            self._instance.forget_what_changed()
        key = (current_policy.get(), *taken.key)
        found = self._made.get(key)
        if found is None:
            session = self._session(taken)
            found = session.callable(session.graph.result, list(session.graph.inputs), updates=True)
            if self._instance is not None:
                self._instance.look()
            remember(self._made, key, found, LIMIT)
        return found(*taken.arrays.values())

    def _take(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Arguments:
        return Arguments(self.function, arguments, keywords, len(self._leading))

    def _trace(self, taken: Arguments) -> Graph:
        def call(*values: Any) -> Any:
            rest = iter(values)
            positional, keywords = map_leaves(lambda leaf: next(rest) if leaf is _SLOT else leaf, taken.tree)
            return self.function(*self._leading, *positional, **keywords)

        return trace_named(call, taken.specs(), taken.title)

    def _session(self, taken: Arguments) -> Session:
        return Session(
            self._trace(taken),
            devices=self.devices,
            registry=self.registry,
            costs=self.costs,
            memory=self.memory,
            objective=self.objective,
            threads=self.threads,
        )

    def graph(self, *arguments: Any, **keywords: Any) -> Graph:
        """The traced graph for these arguments, in which TensorSpecs may stand for arrays."""
        return self._trace(self._take(arguments, keywords))

    def explain(self, *arguments: Any, **keywords: Any) -> Placement:
        """Where everything would run for these arguments, in which TensorSpecs may stand for arrays, and why."""
        taken = self._take(arguments, keywords)
        session = self._session(taken)
        return session.explain(session.graph.result, taken.arrays, updates=True)

    def profile(self, *arguments: Any, runs: int = 10, **keywords: Any) -> Profile:
        """Where the time of a call with these arguments goes. See Session.profile."""
        taken = self._take(arguments, keywords)
        session = self._session(taken)
        return session.profile(session.graph.result, taken.arrays, runs=runs, updates=True)

    def tune(self, *arguments: Any, **options: Any) -> TuneReport:
        """Measures what can change the placement for these arguments or TensorSpecs; for options see Session.tune."""
        taken = self._take(arguments, {})
        session = self._session(taken)
        return session.tune(session.graph.result, taken.arrays, updates=True, **options)


@overload
def compile(
    function: Callable[..., Any],
    *,
    devices: Devices = "auto",
    registry: Registry | None = None,
    costs: Costs | None = None,
    memory: Limits | None = None,
    objective: str = "sum",
    threads: int | None = None,
) -> Compiled: ...


@overload
def compile(
    *,
    devices: Devices = "auto",
    registry: Registry | None = None,
    costs: Costs | None = None,
    memory: Limits | None = None,
    objective: str = "sum",
    threads: int | None = None,
) -> Callable[[Callable[..., Any]], Compiled]: ...


def compile(
    function: Callable[..., Any] | None = None,
    *,
    devices: Devices = "auto",
    registry: Registry | None = None,
    costs: Costs | None = None,
    memory: Limits | None = None,
    objective: str = "sum",
    threads: int | None = None,
) -> Any:
    """Makes a function over arrays run as one placed graph; a decorator with or without options. See Compiled and Session."""
    if function is None:
        options: dict[str, Any] = {"devices": devices, "registry": registry, "costs": costs, "memory": memory}
        return partial(Compiled, **options, objective=objective, threads=threads)
    return Compiled(function, devices, registry, costs, memory, objective, threads)
