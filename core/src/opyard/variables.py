"""Variables: named arrays that last from run to run, and what graphs do with them.

A graph stays a function: what a variable holds is something that it takes, and what is assigned is something that it gives.
A session hands in and keeps (``Effects``). Source of the interface: TensorFlow's tf.Variable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from .dispatch import dispatcher
from .driver import Device, transfer
from .eager import default_registry
from .errors import GraphError, SpecError
from .graph import Graph, Value, current_graph
from .operation import Op
from .operators import Operators
from .ops.arithmetic import add, identity, subtract
from .registry import Registry
from .rewrite import ancestors
from .spec import TensorSpec, as_dtype, spec_of

_numbers = count(1)
_exchange = threading.Lock()
"""Held while what variables hold is looked up, or replaced, so that nobody sees some of one run and some of another."""


class Variable(Operators):
    """A named array that lasts from run to run. Ops take it where they take arrays, and read what it holds then.

    initial  an array, numbers, or a function without parameters that gives one of these
    name     for messages and checkpoints; "variable_1" and so on by default
    dtype    that of ``initial`` by default
    device   where it lives, such as "opencl:0"; by default where what was assigned last was computed

    Its shape and dtype never change. In a graph, assignments count in the order in which they are written; a run does those
    that what it fetches depends on, and a compiled function all of its own.
    """

    __slots__ = ("__weakref__", "_array", "_device", "lock", "name", "number", "spec")

    def __init__(self, initial: Any, *, name: str = "", dtype: Any = None, device: str | None = None) -> None:
        found = initial() if callable(initial) else initial
        if isinstance(found, Value):
            raise GraphError(
                "a variable begins with an array; make it outside of the graph and the traced function."
            )
        array = (
            found
            if hasattr(found, "dtype")
            else np.asarray(found, None if dtype is None else as_dtype(dtype))
        )
        if isinstance(array, (np.ndarray, np.generic)):
            array = np.array(array, None if dtype is None else as_dtype(dtype))  # a copy of its own
        self.number = next(_numbers)
        self.name = name or f"variable_{self.number}"
        self.spec = spec_of(array, f"the variable {self.name!r}")
        self.lock = threading.RLock()
        self._device = device
        self._array = self._placed(array)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.spec.ndim

    @property
    def array(self) -> Any:
        """The array that it holds, on its device. Do not write to it: assign."""
        return self._array

    def numpy(self) -> np.ndarray[Any, Any]:
        """What it holds, as a NumPy array of the caller's own."""
        registry = default_registry()
        owner = registry.device_of(self._array)
        return np.array(self._array if owner is None else owner.download(self._array))

    def assign(self, value: Any) -> Any:
        """Replaces what it holds, and gives it. Raises SpecError for another shape or dtype.

        In a graph it records the assignment, and gives the value; reading it afterwards gives this value, too.
        """
        graph = value.graph if isinstance(value, Value) else current_graph.get()
        if graph is not None:
            return self._record(current_graph.get() or graph, value)
        array = value.array if isinstance(value, Variable) else value
        array = (
            np.array(array, self.dtype)
            if isinstance(array, (bool, int, float, complex, list, tuple))
            else array
        )
        self._check(spec_of(array, f"what is assigned to {self.name!r}"))
        with self.lock:
            self.keep(np.array(array) if isinstance(array, np.ndarray) else array)
        return self._array

    def assign_add(self, value: Any) -> Any:
        """Adds to what it holds, and gives the sum."""
        with self.lock:
            return self.assign(add(self, value))

    def assign_sub(self, value: Any) -> Any:
        """Subtracts from what it holds, and gives the difference."""
        with self.lock:
            return self.assign(subtract(self, value))

    def keep(self, array: Any) -> None:
        """Takes an array of its shape and dtype that nobody else writes to; for sessions."""
        placed = self._placed(array)
        with _exchange:
            self._array = placed

    def value_in(self, graph: Graph) -> Value:
        """The value that stands for what it holds at this point of a graph."""
        state = graph.state
        if self not in state.now:
            if graph.around:
                return graph.adopt(self.value_in(graph.around[0]), self.name)
            value = Value(graph, f"variable {self.name}", self.spec)
            state.reads[self] = state.now[self] = value
        found: Value = state.now[self]
        return found

    def apply_op(self, op: Op, arguments: tuple[Any, ...], attributes: Any) -> Any:
        """What the function of an op does when this is among its arguments."""
        other = next((a for a in arguments if hasattr(a, "apply_op") and not isinstance(a, Variable)), None)
        if other is not None:
            return other.apply_op(op, arguments, attributes)
        graph = current_graph.get()
        if graph is not None:
            return graph.apply(op, arguments, attributes)
        arrays = tuple(a.array if isinstance(a, Variable) else a for a in arguments)
        return dispatcher.call(op, arrays, dict(attributes))

    def __repr__(self) -> str:
        return f"<Variable {self.name}: {self.spec!r}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if current_graph.get() is not None:
            super().__array__()  # raises: what it holds now is not what it will hold then
        return np.asarray(self.numpy(), dtype)

    def _placed(self, array: Any) -> Any:
        if self._device is None:
            return array
        registry = default_registry()
        target, owner = registry.device(self._device), registry.device_of(array)
        return array if owner is None or owner is target else transfer(array, owner, target)

    def _check(self, spec: TensorSpec) -> None:
        if spec != self.spec:
            raise SpecError(
                f"the variable {self.name!r} holds {self.spec!r}; {spec!r} was assigned. Convert it: cast(x, dtype={self.dtype.name!r}), reshape or broadcast_to."
            )

    def _record(self, graph: Graph, value: Any) -> Value:
        if graph.around:
            raise GraphError(
                f"the variable {self.name!r} is assigned in a branch or in the step of a loop; hand it on as a part of the result, and assign that outside."
            )
        if isinstance(value, (bool, int, float, complex, list, tuple)):
            value = np.asarray(value, self.dtype)
        new: Value = graph.apply(identity.op, (value,), {})
        self._check(new.spec)
        graph.state.now[self] = new
        graph.state.writes.append((new, self))
        return new


@dataclass(frozen=True, slots=True)
class Effects:
    """What a run does with variables: ``names`` stand for what the ``reads`` hold, ``values`` are for the ``writes``."""

    reads: tuple[Variable, ...]
    names: tuple[str, ...]
    writes: tuple[Variable, ...]
    values: tuple[Value, ...]

    @staticmethod
    def of(graph: Graph, wanted: Sequence[Value]) -> Effects:
        """The effects of fetching some values: all assignments that they depend on, the last one for each variable."""
        needed = ancestors(wanted)
        last = {
            variable: value.node.inputs[0]
            for value, variable in graph.state.writes
            if value in needed and value.node
        }
        reads = {variable: value for variable, value in graph.state.reads.items() if value in needed}
        names = tuple(value.name for value in reads.values())
        return Effects(tuple(reads), names, tuple(last), tuple(v for v in last.values() if v is not None))

    def __bool__(self) -> bool:
        return bool(self.reads or self.writes)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The specs of what is read, by name."""
        return {name: variable.spec for name, variable in zip(self.names, self.reads, strict=True)}

    @contextmanager
    def held(self) -> Iterator[list[Any]]:
        """The arrays of what is read, while no other run writes what this one does."""
        with ExitStack() as stack:
            for variable in sorted(self.writes, key=lambda v: v.number):
                stack.enter_context(variable.lock)
            with _exchange:
                arrays = [variable.array for variable in self.reads]
            yield arrays

    def keep(self, results: Iterable[Any]) -> None:
        """Assigns the results of a run."""
        for variable, array in zip(self.writes, results, strict=True):
            variable.keep(array)

    def around(self, run: Callable[..., Any], registry: Registry) -> Callable[..., Any]:
        """A function of arrays, by one of these and of the variables, that gives its result and what is to be assigned."""

        def call(*arrays: Any) -> Any:
            with self.held() as held:
                home = next((d for d in map(registry.device_of, (*arrays, *held)) if d is not None), None)
                found, new = run(*arrays, *(bring(array, home, registry) for array in held))
                self.keep(new)
            return found

        return call


def bring(array: Any, home: Device | None, registry: Registry) -> Any:
    """The array on a device."""
    owner = registry.device_of(array)
    return array if owner is None or home is None else transfer(array, owner, home)
