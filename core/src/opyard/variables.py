"""Variables: named arrays that last from run to run, and what graphs do with them.

A graph stays a function: what a variable holds is something that it takes, and what is assigned is something that it gives.
A session hands in and keeps, see transactions.py. Source of the interface: TensorFlow's tf.Variable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any, NoReturn

import numpy as np

from .bypass import make_bypass
from .dispatch import dispatcher
from .driver import Device, transfer
from .eager import default_registry
from .errors import DeviceError, GraphError, SpecError
from .graph import Graph, Value, current_graph
from .operation import Op
from .operators import Operators
from .ops.arithmetic import add, subtract
from .registry import Registry
from .scope import user_line
from .spec import TensorSpec, as_dtype, spec_of
from .subscript import subscript

_numbers = count(1)
_exchange = threading.Condition()
"""Held while what variables hold is looked up, or replaced, so that nobody sees some of one run and some of another."""

_ASSIGN = make_bypass("assign", 1, lambda cotangents, outputs, *inputs: cotangents)
"""Where a value is assigned: it stands for what is assigned, and is gone before anything is placed."""


class Variable(Operators):
    """A named array that lasts from run to run. Ops take it where they take arrays, and read what it holds then.

    initial  an array, numbers, or a function without parameters that gives one of these
    name     for messages and checkpoints; "variable_1" and so on by default
    dtype    that of ``initial`` by default
    device   where it lives, such as "opencl:0"; by default where the first run that assigns to it takes the least time

    Its shape and dtype never change. In a graph, assignments count in the order in which they are written; a run does those
    that what it fetches depends on, and a compiled function all of its own.
    """

    __slots__ = (
        *("__weakref__", "_array", "_device", "_home", "_settled", "reason"),
        *("at", "is_private", "loans", "lock", "name", "number", "spec", "writer"),
    )

    def __init__(self, initial: Any, *, name: str = "", dtype: Any = None, device: str | None = None) -> None:
        found = initial() if callable(initial) else initial
        if isinstance(found, Value):
            raise GraphError(
                "a variable begins with an array; make it outside of the graph and the traced function."
            )
        mine = isinstance(found, (np.ndarray, np.generic)) or not hasattr(found, "dtype")
        array = (
            found
            if hasattr(found, "dtype")
            else np.asarray(found, None if dtype is None else as_dtype(dtype))
        )
        if isinstance(array, (np.ndarray, np.generic)):
            array = np.array(array, None if dtype is None else as_dtype(dtype))  # a copy of its own
        self.number = next(_numbers)
        if not isinstance(name, str):
            raise SpecError(f"a variable's name is a string; found {name!r}.")
        self.name = name or f"variable_{self.number}"
        self.spec = spec_of(array, f"the variable {self.name!r}")
        self.lock = threading.RLock()
        self._device = device
        self._home: Device | None = None if device is None else default_registry().device(device)
        self._settled: tuple[Registry, int] | None = None
        self.reason = ""  # for living there
        self.at: Device | None = None  # where the array is, if that is known
        self.is_private = mine  # nobody else has the array
        self.loans = 0  # to runs that read it
        self.writer = 0  # the thread that writes into the array
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
        """The array that it holds, on its device; it stays as it is when others are assigned. Do not write to it: assign."""
        (array,) = borrow([self])
        self.is_private = False
        give_back([self])
        return array

    @property
    def device(self) -> str:
        """The name of the device where it lives."""
        return self.where(default_registry()).name

    def numpy(self) -> np.ndarray[Any, Any]:
        """What it holds, as a NumPy array of the caller's own."""
        return snapshot([self])[0]

    def assign(self, value: Any) -> Any:
        """Replaces what it holds, and gives it. Raises SpecError for another shape or dtype.

        In a graph it records the assignment, and gives the value; reading it afterwards gives this value, too.
        """
        graph = value.graph if isinstance(value, Value) else current_graph.get()
        if graph is not None:
            return self._record(current_graph.get() or graph, value)
        assign_all([(self, value)])
        return self.array

    def assign_add(self, value: Any) -> Any:
        """Adds to what it holds, and gives the sum."""
        with self.lock:
            return self.assign(add(self, value))

    def assign_sub(self, value: Any) -> Any:
        """Subtracts from what it holds, and gives the difference."""
        with self.lock:
            return self.assign(subtract(self, value))

    # Where it lives ----------------------------------------------------------------------------------------------

    @property
    def place(self) -> Any:
        """What a plan depends on of where it lives."""
        return self._home or (type(self._array), getattr(self._array, "device", None))

    def where(self, registry: Registry) -> Device:
        """The device where it lives. Raises DeviceError where the registry has none for its array."""
        if self._home is not None and self.is_settled(registry):
            return self._home
        found = registry.device_of(self._array)
        if found is None:
            raise DeviceError(
                f"the variable {self.name!r} holds an array of type {type(self._array).__name__}, which no device here has; assign a NumPy array, or see `opyard devices`."
            )
        return found

    @property
    def is_declared(self) -> bool:
        """Whether it was declared to live on a device."""
        return self._device is not None

    def is_settled(self, registry: Registry) -> bool:
        """Whether a run found a device for it, and nothing new is known about kernels since."""
        return self._settled == (registry, registry.version)

    def settle(self, device: Device, registry: Registry, reason: str = "") -> None:
        """Makes it live on a device, unless it was declared to live on another."""
        if self._device is None:
            self._home, self._settled = device, (registry, registry.version)
            self.reason = reason or self.reason

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

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"the variable {self.name!r} has no dimensions, and so no len().")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """``w[:, 0, None, ::2]``: integers, slices, ``...`` and None, as in NumPy."""
        return subscript(self, key, self.shape)

    def __setitem__(self, key: Any, item: Any) -> NoReturn:
        raise GraphError(
            f"the variable {self.name!r} is assigned as a whole; write w.assign(where(mask, x, w)), or scatter instead of where."
        )

    def _no_assignment(self, other: Any) -> NoReturn:
        raise GraphError(
            f"+= and its like would give the name another meaning, and leave the variable {self.name!r} as it is; write w.assign_add(x), w.assign_sub(x) or w.assign(w * x)."
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _no_assignment
    __imatmul__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _no_assignment

    def __bool__(self) -> bool:
        return bool(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def _number(self) -> Any:
        if current_graph.get() is not None:
            raise GraphError(
                f"the variable {self.name!r} is no Python number while a graph is built, for it may hold another when the graph runs; choose with cond(w, ...) or where(w, a, b) instead of if, convert with cast(w, dtype=...)."
            )
        return self.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if current_graph.get() is not None:
            super().__array__()  # raises: what it holds now is not what it will hold then
        return np.asarray(self.numpy(), dtype)

    def _placed(self, array: Any) -> Any:
        if self._home is None:
            return array
        owner = default_registry().device_of(array)
        return array if owner is None else transfer(array, owner, self._home)

    def _check(self, spec: TensorSpec, where: str = "") -> None:
        if spec != self.spec:
            raise SpecError(
                f"the variable {self.name!r} holds {self.spec!r}; {spec!r} was assigned. Convert it: cast(x, dtype={self.dtype.name!r}), reshape or broadcast_to.{where}"
            )

    def _record(self, graph: Graph, value: Any) -> Value:
        if graph.around:
            raise GraphError(
                f"the variable {self.name!r} is assigned in a branch or in the step of a loop; hand it on as a part of the result, and assign that outside."
            )
        if not isinstance(value, (Value, Variable)):
            value = _array_for(self, value)
        new: Value
        (new,) = graph.apply(_ASSIGN, (value,), {})
        self._check(new.spec, f" (at {user_line()})")
        graph.state.now[self] = new
        graph.state.writes.append((new, self))
        return new


# What runs do with variables --------------------------------------------------------------------------------------


def borrow(variables: Sequence[Variable]) -> list[Any]:
    """What variables hold at one moment. Nobody writes into these arrays until they are given back."""
    me = threading.get_ident()
    with _exchange:
        if any(variable.writer not in (0, me) for variable in variables):
            _exchange.wait_for(lambda: all(variable.writer in (0, me) for variable in variables))
        for variable in variables:
            variable.loans += 1
        return [variable._array for variable in variables]


def give_back(variables: Sequence[Variable]) -> None:
    """Ends the loan, and the writing of this thread if there was any."""
    me = threading.get_ident()
    with _exchange:
        for variable in variables:
            variable.loans -= 1
            if variable.writer == me:
                variable.writer = 0
                _exchange.notify_all()


def claim(variables: Sequence[Variable]) -> tuple[bool, ...]:
    """Which of the variables, all on loan to the caller, have arrays that nobody else has: the caller may write to these."""
    with _exchange:
        alone = tuple([variable.is_private and variable.loans == 1 for variable in variables])
        for variable, granted in zip(variables, alone, strict=True):
            if granted:
                variable.writer = threading.get_ident()
        return alone


def snapshot(variables: Sequence[Variable]) -> list[np.ndarray[Any, Any]]:
    """What variables hold at one moment, as NumPy arrays of the caller's own."""
    arrays = borrow(variables)
    try:
        owners = map(default_registry().device_of, arrays)
        return [np.array(a if d is None else d.download(a)) for a, d in zip(arrays, owners, strict=True)]
    finally:
        give_back(variables)


def assign_all(pairs: Sequence[tuple[Variable, Any]]) -> None:
    """Assigns arrays, numbers or variables to variables, all at one moment. Raises SpecError, and then assigns none."""
    placed = []
    for variable, value in pairs:
        array = _array_for(variable, value)
        mine = isinstance(array, (np.ndarray, np.generic))
        placed.append((variable, variable._placed(np.array(array) if mine else array), mine))
    with ExitStack() as stack:
        for variable in sorted((variable for variable, _ in pairs), key=lambda v: v.number):
            stack.enter_context(variable.lock)
        with _exchange:
            for variable, array, mine in placed:
                variable._array, variable.at, variable.is_private = array, None, mine


def _array_for(variable: Variable, value: Any) -> Any:
    array = value.array if isinstance(value, Variable) else value
    if isinstance(array, (bool, int, float, complex, list, tuple)):
        try:
            array = np.array(array, variable.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(
                f"what is assigned to {variable.name!r} cannot become {variable.spec!r}: {str(error).rstrip('.')}."
            ) from None
    if not hasattr(array, "dtype"):
        raise SpecError(
            f"the variable {variable.name!r} holds {variable.spec!r}; {type(array).__name__} was assigned. Assign an array, numbers or a variable."
        )
    variable._check(spec_of(array, f"what is assigned to {variable.name!r}"))
    return array


def replace_all(assigned: Sequence[tuple[Variable, Any, Device, bool]], exposed: Sequence[Variable]) -> None:
    """Assigns at one moment: variables, arrays of theirs, the devices where these are, and whether nobody else has them.

    The arrays of ``exposed`` are, at least in part, in the hands of others from now on.
    """
    with _exchange:
        for variable in exposed:
            variable.is_private = False
        for variable, array, device, is_private in assigned:
            variable._array, variable.at = array, device
            variable.is_private = is_private and not isinstance(
                array, np.generic
            )  # which nobody can write to
