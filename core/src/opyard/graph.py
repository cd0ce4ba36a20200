"""Graph: a program of ops as single-assignment dataflow in topological order, with a checker and a printer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NoReturn

import numpy as np

from .driver import plain_array
from .errors import GraphError, SpecError, did_you_mean
from .operation import Call, Op, check_dtypes, describe_call, freeze
from .operators import Operators, op_called
from .scope import Mark, current_group, current_scope, current_segments, user_line
from .spec import Shape, TensorSpec, as_dtype
from .state import State
from .subscript import subscript

current_graph: ContextVar[Graph | None] = ContextVar("opyard_graph", default=None)
"""The graph that is being built here, by ``with graph:`` or by ``trace``: it records ops whose only trace of it is a size."""


class Value(Operators):
    """A tensor of a graph: an input, a constant, or an output of a node. Ops take it where they take arrays."""

    __slots__ = ("graph", "index", "name", "node", "spec")

    def __init__(
        self, graph: Graph, name: str, spec: TensorSpec, node: Node | None = None, index: int = 0
    ) -> None:
        self.graph = graph
        self.name = name
        self.spec = spec
        self.node = node
        self.index = index

    @property
    def shape(self) -> Shape:
        """Sizes, some of which may be symbolic."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.spec.ndim

    def apply_op(self, op: Op, arguments: tuple[Any, ...], attributes: Mapping[str, Any]) -> Any:
        """What the function of an op does when this is among its arguments; a body records values around it, too."""
        inner = current_graph.get()
        graph = inner if inner is not None and self.graph in inner.around else self.graph
        return graph.apply(op, arguments, attributes)

    def __repr__(self) -> str:
        return f"<Value {self.name}: {self.spec!r}>"

    def __bool__(self) -> bool:
        raise GraphError(
            f"the graph's value {self.name!r} has no truth value while the graph is built; choose with where(condition, a, b) instead of if."
        )

    def __iter__(self) -> Iterator[Any]:
        raise GraphError(
            f"the graph's value {self.name!r} cannot be iterated over while the graph is built; use split(x, sections=..., axis=...)."
        )

    def __len__(self) -> int:
        raise GraphError(
            f"the graph's value {self.name!r} has no len(); write x.shape[0], which may be symbolic."
        )

    def _no_number(self) -> NoReturn:
        raise GraphError(
            f"the graph's value {self.name!r} is no Python number while the graph is built; call ops of opyard on it, such as cast(x, dtype='float32') for float(x)."
        )

    __float__ = __int__ = __complex__ = __index__ = _no_number

    def __setitem__(self, key: Any, item: Any) -> NoReturn:
        raise GraphError(
            f"the graph's value {self.name!r} cannot be written to; make a new one: where(mask, a, b), scatter or concat."
        )

    def __getattr__(self, name: str) -> NoReturn:
        call = "" if name.startswith("_") else op_called(name)
        raise AttributeError(
            f"a graph's value has no attribute {name!r}; "
            + (f"call {call}." if call else "what is computed from it is written as ops."),
            name=name,
            obj=self,
        )

    def __getitem__(self, key: Any) -> Any:
        """``x[:, 0, None, ::2]``: integers, slices, ``...`` and None, as in NumPy."""
        return subscript(self, key, self.shape)


class Node:
    """One call of an op in a graph. ``mark`` tells where it comes from."""

    __slots__ = ("call", "inputs", "mark", "outputs")

    def __init__(self, call: Call, inputs: tuple[Value | None, ...], mark: Mark) -> None:
        self.call = call
        self.inputs = inputs
        self.outputs: tuple[Value, ...] = ()
        self.mark = mark

    @property
    def source(self) -> str:
        """The user's line that made the node, as "file:line"."""
        return self.mark.source

    @property
    def op(self) -> Op:
        """The op that is called."""
        return self.call.op

    @property
    def name(self) -> str:
        """The name of the first output, which names the node, too."""
        return self.outputs[0].name

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.call}>"


class Graph:
    """A program of ops. Build it by hand, by ``trace``, or from a model file.

        with Graph() as graph:
            x = graph.input("x", TensorSpec(("batch", 64), "float32"))
            graph.output("y", softmax(matmul(x, weights)))

    ``result``: what a traced function returned, in any nesting; ``around``: for a body, the graphs that it lies in, nearest first;
    ``notes``: sentences of who made the graph, such as what a model file became, which explanations show.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.constants: dict[Value, np.ndarray[Any, Any]] = {}
        self.nodes: list[Node] = []
        self.outputs: dict[str, Value] = {}
        self.result: Any = None
        self.around: tuple[Graph, ...] = ()
        self.notes: list[str] = []
        self.state = State()
        self._names: set[str] = set()
        self._constant_of: dict[int, Value] = {}
        self._entered: list[Token[Graph | None]] = []

    def __enter__(self) -> Graph:
        self._entered.append(current_graph.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        current_graph.reset(self._entered.pop())
        if error[0] is None:
            self.check()

    # Building ----------------------------------------------------------------------------------------------------

    def input(self, name: str, spec: TensorSpec) -> Value:
        """A value that is fed on each run. Raises GraphError when the name is taken or empty."""
        _check_name(name, "input")
        if name in self._names:
            raise GraphError(f"a graph's input needs a name of its own; {name!r} is taken.")
        if not isinstance(spec, TensorSpec):
            raise GraphError(
                f"graph.input({name!r}, ...) takes a TensorSpec such as TensorSpec((1, 64), 'float32'); found {spec!r}."
            )
        self._names.add(name)
        self.inputs[name] = Value(self, name, spec)
        return self.inputs[name]

    def constant(self, array: Any, name: str = "") -> Value:
        """A value that never changes. The array is not copied; do not write to it afterwards."""
        array = np.asarray(plain_array(array))
        known = self._constant_of.get(id(array))
        if known is not None:
            return known
        value = Value(self, self._unique(name or "constant"), TensorSpec.of(array))
        self.constants[value] = array
        self._constant_of[id(array)] = value  # the array stays alive in `constants`, so its id stays its own
        return value

    def output(self, name: str, value: Value) -> Value:
        """Names a value as an output of the graph, to be fetched by that name."""
        _check_name(name, "output")
        if name in self.outputs:
            raise GraphError(f"the graph has an output {name!r} already.")
        if not isinstance(value, Value) or value.graph is not self:
            raise GraphError(f"output {name!r} must be a value of this graph; found {value!r}.")
        self.outputs[name] = value
        return value

    def apply(self, op: Op, arguments: Iterable[Any], attributes: Mapping[str, Any]) -> Any:
        """Appends a call of ``op`` and gives its output value, or a tuple of them. Arrays and numbers become constants."""
        given = tuple(arguments)
        try:
            check_dtypes(op, given)
            inputs = tuple(None if a is None else self._as_value(a, given, op) for a in given)
            call = op.call(*(None if v is None else v.spec for v in inputs), **attributes)
        except SpecError as error:
            raise SpecError(f"{error} (at {user_line()})") from None
        mark = Mark(user_line(), current_scope(), current_group.get(), current_segments.get())
        outputs = self.append(call, inputs, mark)
        return outputs if call.is_tuple else outputs[0]

    def append(self, call: Call, inputs: tuple[Value | None, ...], mark: Mark) -> tuple[Value, ...]:
        """Appends a node for a call that is already made, and gives its outputs."""
        node = Node(call, inputs + (None,) * (len(call.inputs) - len(inputs)), mark)
        node.outputs = tuple(
            Value(self, self._unique(call.op.name), spec, node, index)
            for index, spec in enumerate(call.outputs)
        )
        self.nodes.append(node)
        return node.outputs

    def enter(self, found: Any, user: str) -> Value:
        """What a value, a variable or an array is in this graph. Raises GraphError and SpecError, for other things ValueError."""
        if hasattr(found, "value_in"):
            found = found.value_in(self)
        return self.adopt(found, user) if isinstance(found, Value) else self.constant(found)

    def adopt(self, value: Value, user: str) -> Value:
        """The value as one of this graph. Raises GraphError, naming who uses it, where it belongs to another."""
        if value.graph is not self:
            raise GraphError(
                f"{user}: the value {value.name!r} belongs to another graph; build both in one graph, or feed it."
            )
        return value

    def outside(self, value: Value) -> Value | None:
        """For an input of a body: the value of the graph around that it stands for. None for every other value."""
        return None

    def _as_value(self, argument: Any, arguments: tuple[Any, ...], op: Op) -> Value:
        if isinstance(argument, (bool, int, float, complex)):
            return self.constant(weak_scalar(argument, arguments))
        return self.enter(argument, op.name)

    def _unique(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._names:
            name, number = f"{stem}_{number}", number + 1
        if number > 1:
            name = f"{stem}_{len(self._names)}"  # keeps long graphs from counting up one by one
            while name in self._names:
                name += "_"
        self._names.add(name)
        return name

    # Looking -----------------------------------------------------------------------------------------------------

    @property
    def variables(self) -> tuple[Any, ...]:
        """The variables that the program reads or assigns."""
        return self.state.variables

    def values(self) -> Iterator[Value]:
        """All values: inputs, what variables hold, constants, then node outputs in order."""
        yield from self.inputs.values()
        yield from self.state.reads.values()
        yield from self.constants
        for node in self.nodes:
            yield from node.outputs

    def value(self, name: str) -> Value:
        """The value of this name: an output's name, an input's, or that of a node. Raises GraphError."""
        if name in self.outputs:
            return self.outputs[name]
        found = {value.name: value for value in self.values()}
        if name not in found:
            known = [*self.outputs, *found]
            raise GraphError(
                f"the graph has no value {name!r}.{did_you_mean(name, known)} Outputs: {', '.join(self.outputs) or 'none'}."
            )
        return found[name]

    def check(self) -> Graph:
        """Raises GraphError unless every node uses values made before it and has the specs that its op infers."""
        made: set[Value] = {*self.inputs.values(), *self.state.reads.values(), *self.constants}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value not in made:
                    raise GraphError(
                        f"node {node.name!r} ({node.source}) uses {value.name!r}, which is not made before it in this graph."
                    )
            specs = tuple(None if value is None else value.spec for value in node.inputs)
            again = node.op.call(*specs, **node.call.attrs)
            if again.outputs != tuple(value.spec for value in node.outputs):
                raise GraphError(
                    f"node {node.name!r} ({node.source}) claims {node.call.outputs}, its op infers {again.outputs}."
                )
            made.update(node.outputs)
        for name, value in self.outputs.items():
            if value not in made:
                raise GraphError(f"output {name!r} is not made in this graph.")
        return self

    def __str__(self) -> str:
        rows = [f"graph({', '.join(f'{name}: {value.spec!r}' for name, value in self.inputs.items())}):"]
        rows += [f"  {value.name} = constant  # {value.spec!r}" for value in self.constants]
        for node in self.nodes:
            arguments = ["none" if value is None else value.name for value in node.inputs]
            arguments += [f"{key}={value!r}" for key, value in node.call.attributes]
            outputs = ", ".join(value.name for value in node.outputs)
            specs = ", ".join(repr(value.spec) for value in node.outputs)
            rows.append(f"  {outputs} = {node.op.name}({', '.join(arguments)})  # {specs}")
        rows.append(
            "  return "
            + ", ".join(
                f"{name}: {value.name}" if name != value.name else name
                for name, value in self.outputs.items()
            )
        )
        return "\n".join(rows)


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name:
        raise GraphError(f"a graph's {what} needs a name, a string that is not empty; found {name!r}.")


@contextmanager
def recording(graph: Graph) -> Iterator[None]:
    """Makes ``graph`` the one that records ops without values of a graph, but with a symbolic size."""
    token = current_graph.set(graph)
    try:
        yield
    finally:
        current_graph.reset(token)


def record(op: Op, arguments: tuple[Any, ...], attributes: Mapping[str, Any]) -> Any:
    """Appends a call to the graph that is being built here. Raises SpecError where none is."""
    graph = current_graph.get()
    if graph is None:
        called = describe_call(op.name, (), attributes.items())
        raise SpecError(
            f"{called} has a symbolic size and no value of a graph; call it where the graph is built: inside `with graph:`, or in the function that is traced."
        )
    return graph.apply(op, arguments, attributes)


def weak_scalar(number: Any, others: Iterable[Any]) -> np.ndarray[Any, Any]:
    """A Python number as a 0-d array, of the dtype that it takes beside the other arguments (NEP 50)."""
    dtypes = [as_dtype(other.dtype) for other in others if hasattr(other, "dtype")]
    if not dtypes:
        return np.asarray(freeze(number))
    extended = [dtype for dtype in dtypes if dtype.kind == "V"]
    dtype = extended[0] if extended else np.result_type(*dtypes, number)
    return np.asarray(number, dtype)
