"""Graph: a program of ops as single-assignment dataflow in topological order, with a checker and a printer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GraphError, SpecError, did_you_mean
from .nest import leaves, map_leaves
from .operation import Call, Op, freeze
from .ops import arithmetic, comparison, exponential, linear_algebra, logic
from .spec import Shape, TensorSpec, as_dtype
from .subscript import subscript

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


_Operator = Callable[["Value", Any], Any]


def _operators(function: Callable[..., Any]) -> tuple[_Operator, _Operator]:
    """The methods for a value on the left-hand side, and on the right-hand side, of an operator."""
    return lambda self, other: function(self, other), lambda self, other: function(other, self)


class Value:
    """A tensor of a graph: an input, a constant, or an output of a node. Ops take it where they take arrays."""

    __slots__ = ("graph", "index", "name", "node", "spec")
    __array_ufunc__ = None  # lets NumPy arrays on the left-hand side defer to the operators below

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

    def __getitem__(self, key: Any) -> Any:
        """``x[:, 0, None, ::2]``: integers, slices, ``...`` and None, as in NumPy."""
        return subscript(self, key, self.shape)

    def __neg__(self) -> Any:
        return arithmetic.negative(self)

    def __pos__(self) -> Any:
        return arithmetic.positive(self)

    def __invert__(self) -> Any:
        return logic.bitwise_invert(self)

    def __abs__(self) -> Any:
        return arithmetic.abs(self)

    __add__, __radd__ = _operators(arithmetic.add)
    __sub__, __rsub__ = _operators(arithmetic.subtract)
    __mul__, __rmul__ = _operators(arithmetic.multiply)
    __truediv__, __rtruediv__ = _operators(arithmetic.divide)
    __floordiv__, __rfloordiv__ = _operators(arithmetic.floor_divide)
    __mod__, __rmod__ = _operators(arithmetic.remainder)
    __pow__, __rpow__ = _operators(exponential.pow)
    __matmul__, __rmatmul__ = _operators(linear_algebra.matmul)
    __and__, __rand__ = _operators(logic.bitwise_and)
    __or__, __ror__ = _operators(logic.bitwise_or)
    __xor__, __rxor__ = _operators(logic.bitwise_xor)
    __lshift__, __rlshift__ = _operators(logic.bitwise_left_shift)
    __rshift__, __rrshift__ = _operators(logic.bitwise_right_shift)

    def __lt__(self, other: Any) -> Any:
        return comparison.less(self, other)

    def __le__(self, other: Any) -> Any:
        return comparison.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return comparison.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return comparison.greater_equal(self, other)


class Node:
    """One call of an op in a graph. ``source`` is the user's line that made it, as "file:line"."""

    __slots__ = ("call", "inputs", "outputs", "source")

    def __init__(self, call: Call, inputs: tuple[Value | None, ...], source: str) -> None:
        self.call = call
        self.inputs = inputs
        self.outputs: tuple[Value, ...] = ()
        self.source = source

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

    ``result`` is what a traced function returned: values in any nesting of tuples, lists and dicts.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.constants: dict[Value, np.ndarray[Any, Any]] = {}
        self.nodes: list[Node] = []
        self.outputs: dict[str, Value] = {}
        self.result: Any = None
        self._names: set[str] = set()
        self._constant_of: dict[int, Value] = {}

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.check()

    # Building ----------------------------------------------------------------------------------------------------

    def input(self, name: str, spec: TensorSpec) -> Value:
        """A value that is fed on each run. Raises GraphError when the name is taken or empty."""
        if not name or name in self._names:
            raise GraphError(
                f"a graph's input needs a name of its own; {name!r} is {'taken' if name else 'empty'}."
            )
        if not isinstance(spec, TensorSpec):
            raise GraphError(
                f"graph.input({name!r}, ...) takes a TensorSpec such as TensorSpec((1, 64), 'float32'); found {spec!r}."
            )
        self._names.add(name)
        self.inputs[name] = Value(self, name, spec)
        return self.inputs[name]

    def constant(self, array: Any, name: str = "") -> Value:
        """A value that never changes. The array is not copied; do not write to it afterwards."""
        array = np.asarray(array)
        known = self._constant_of.get(id(array))
        if known is not None:
            return known
        value = Value(self, self._unique(name or "constant"), TensorSpec.of(array))
        self.constants[value] = array
        self._constant_of[id(array)] = value  # the array stays alive in `constants`, so its id stays its own
        return value

    def output(self, name: str, value: Value) -> Value:
        """Names a value as an output of the graph, to be fetched by that name."""
        if name in self.outputs:
            raise GraphError(f"the graph has an output {name!r} already.")
        if not isinstance(value, Value) or value.graph is not self:
            raise GraphError(f"output {name!r} must be a value of this graph; found {value!r}.")
        self.outputs[name] = value
        return value

    def apply(self, op: Op, arguments: Iterable[Any], attributes: Mapping[str, Any]) -> Any:
        """Appends a call of ``op`` and gives its output value, or a tuple of them. Arrays and numbers become constants."""
        given = tuple(arguments)
        inputs = tuple(None if a is None else self._as_value(a, given, op) for a in given)
        try:
            call = op.call(*(None if v is None else v.spec for v in inputs), **attributes)
        except SpecError as error:
            raise SpecError(f"{error} (at {_user_line()})") from None
        outputs = self.append(call, inputs, _user_line())
        return outputs if call.is_tuple else outputs[0]

    def append(self, call: Call, inputs: tuple[Value | None, ...], source: str) -> tuple[Value, ...]:
        """Appends a node for a call that is already made, and gives its outputs."""
        node = Node(call, inputs + (None,) * (len(call.inputs) - len(inputs)), source)
        node.outputs = tuple(
            Value(self, self._unique(call.op.name), spec, node, index)
            for index, spec in enumerate(call.outputs)
        )
        self.nodes.append(node)
        return node.outputs

    def _as_value(self, argument: Any, arguments: tuple[Any, ...], op: Op) -> Value:
        if isinstance(argument, Value):
            if argument.graph is not self:
                raise GraphError(
                    f"{op.name}: the value {argument.name!r} belongs to another graph; build both in one graph, or feed it."
                )
            return argument
        if isinstance(argument, (bool, int, float, complex)):
            return self.constant(weak_scalar(argument, arguments))
        return self.constant(argument)

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

    def values(self) -> Iterator[Value]:
        """All values: inputs, constants, then node outputs in order."""
        yield from self.inputs.values()
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
        made: set[Value] = {*self.inputs.values(), *self.constants}
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


def trace(function: Callable[..., Any], *specs: TensorSpec) -> Graph:
    """The graph of a Python function of arrays, recorded by calling it once with values of these specs."""
    graph = Graph()
    code = getattr(function, "__code__", None)
    names = code.co_varnames[hasattr(function, "__self__") : code.co_argcount] if code else ()
    values = []
    for number, spec in enumerate(specs):
        values.append(graph.input(names[number] if number < len(names) else f"input_{number}", spec))
    result = map_leaves(
        lambda leaf: leaf if isinstance(leaf, Value) else graph.constant(leaf), function(*values)
    )
    graph.result = result
    for number, value in enumerate(leaves(result)):
        graph.output(f"output_{number}", value)
    return graph


def weak_scalar(number: Any, others: Iterable[Any]) -> np.ndarray[Any, Any]:
    """A Python number as a 0-d array, of the dtype that it takes beside the other arguments (NEP 50)."""
    dtypes = [as_dtype(other.dtype) for other in others if hasattr(other, "dtype")]
    if not dtypes:
        return np.asarray(freeze(number))
    extended = [dtype for dtype in dtypes if dtype.kind == "V"]
    dtype = extended[0] if extended else np.result_type(*dtypes, number)
    return np.asarray(number, dtype)


def _user_line() -> str:
    """File and line of the nearest caller outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename == "<string>"
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
