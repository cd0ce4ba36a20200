"""What is done to the numbers of a product on their way to memory: a bias, an activation, a residual, as instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from opyard import decompose
from opyard.graph import Graph, Node
from opyard.graph import Value as Variable
from opyard.kernels import Work
from opyard.operation import Call

from ..jit import scalars
from ..jit.code import Code, Value
from ..jit.single import region_of
from ..jit.space import is_elementwise

COLUMN, ALL, NUMBER = "column", "all", "number"
"""An operand has one number for each column, for each number of the result, or for all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The ops behind a product ``[rows, depth] @ [depth, columns]``, and what they take beside it.

    operands  inputs of the graph, whether they are COLUMN, ALL or NUMBER, and their places among the inputs of the kernel
    """

    rows: int
    depth: int
    columns: int
    product: Variable
    nodes: tuple[Node, ...]
    operands: tuple[tuple[Variable, str, int], ...]
    graph: Graph

    def emit(self, code: Code, number: Value, operands: Mapping[Variable, Value]) -> Value:
        """The instructions for one vector of the product."""
        known = {self.product: number, **operands}
        for value, array in self.graph.constants.items():
            known[value] = code.constant(array.reshape(-1)[0].item(), value.dtype.name)
        for node in self.nodes:
            inputs = [known[value] for value in node.inputs if value is not None]
            known[node.outputs[0]] = scalars.translate(code, node.call, inputs)
        (output,) = self.graph.outputs.values()
        return known[output]


@lru_cache(maxsize=1024)
def tail_of(work: Work) -> Tail | str:
    """The tail of a call of ``matmul`` or ``linear``, or of a pattern that begins with one; or why it is not compiled."""
    graph = region_of(work).graph if isinstance(work, Call) else decompose(work.graph, lambda call: False)
    given = [place for place, spec in enumerate(work.inputs) if spec is not None]
    places = dict(zip(graph.inputs.values(), given, strict=True))
    first, *rest = graph.nodes
    assert first.op.name == "matmul"
    x, weight = (value for value in first.inputs if value is not None)
    (product,) = first.outputs
    if len(weight.spec.shape) != 2 or not x.spec.shape:
        return f"takes a matrix of weights [k, n], not {weight.spec!r}"
    if not x.spec.size or not weight.spec.size:
        return "a product without elements needs no compiler"
    depth, columns = (int(size) for size in weight.spec.shape)
    operands = []
    for value, place in places.items():
        if value in {x, weight}:  # by identity: == would record an op
            continue
        kind = _kind(value, product, columns)
        if kind is None:
            return (
                f"{list(value.spec.shape)} is neither a number, nor [{columns}], nor as large as the result"
            )
        operands.append((value, kind, place))
    if reason := _refusal(graph, rest, product):
        return reason
    rows = int(product.spec.size) // columns
    return Tail(rows, depth, columns, product, tuple(rest), tuple(operands), graph)


def _kind(value: Variable, product: Variable, columns: int) -> str | None:
    shape = tuple(int(size) for size in value.spec.shape)
    if value.spec.size == 1:
        return NUMBER
    if shape[-1] == columns == value.spec.size:
        return COLUMN
    whole = tuple(int(size) for size in product.spec.shape)
    return ALL if shape == whole or (1,) * (len(whole) - len(shape)) + shape == whole else None


def _refusal(graph: Graph, nodes: list[Node], product: Variable) -> str | None:
    for node in nodes:
        if not is_elementwise(node):
            return f"{node.op.name} is not elementwise"
        if node.outputs[0].spec.size != product.spec.size or node.outputs[0].dtype != product.dtype:
            return f"{node.op.name} gives other shapes or dtypes than the product"
        if reason := scalars.refusal(node.call):
            return reason
    if any(array.size != 1 for array in graph.constants.values()):
        return "a constant has several elements"
    return None
