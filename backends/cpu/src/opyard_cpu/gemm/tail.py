"""What is done to the numbers of a product on their way to memory: a bias, an activation, a residual, as instructions.

A product may be split along its columns into equal sections that are combined, as the gates of a recurrent cell are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

COLUMN, ALL, SECTION, NUMBER = "column", "all", "section", "number"
"""An operand has one number for each column, for each number of the product, for each of a section of it, or for all of them."""


SPLIT = "split"

MOST_SECTIONS = 4
"""Sections of a product at most: a tile has a vector of each in registers."""


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The ops behind a product ``[rows, depth] @ [depth, columns]``, and what they take beside it.

    operands  inputs of the graph, whether they are COLUMN, ALL, SECTION or NUMBER, and their places among the inputs of the kernel
    sections  into how many equal parts the columns are split; 1 where they are not
    """

    rows: int
    depth: int
    columns: int
    product: Variable
    nodes: tuple[Node, ...]
    operands: tuple[tuple[Variable, str, int], ...]
    graph: Graph
    sections: int = 1

    @property
    def size(self) -> int:
        """Columns of a section."""
        return self.columns // self.sections

    @property
    def outputs(self) -> int:
        """How many results there are."""
        return len(self.graph.outputs)

    def emit(
        self, code: Code, numbers: Sequence[Value], operands: Sequence[Mapping[Variable, Value]]
    ) -> list[Value]:
        """The instructions for one vector of each section of the product, with the operands there; one vector of each output.

        Operands of the kind SECTION are among those of the first section.
        """
        constants = {
            value: code.constant(array.reshape(-1)[0].item(), value.dtype.name)
            for value, array in self.graph.constants.items()
        }
        sections = [
            {self.product: number, **given, **constants}
            for number, given in zip(numbers, operands, strict=True)
        ]
        for node in self.nodes:
            if node.op.name == SPLIT:
                parts = [known[value] for known in sections for value in node.inputs if value is not None]
                sections = [{**sections[0], **dict(zip(node.outputs, parts, strict=True))}]
                continue
            for known in sections:
                inputs = [known[value] for value in node.inputs if value is not None]
                known[node.outputs[0]] = scalars.translate(code, node.call, inputs)
        return [sections[0][value] for value in self.graph.outputs.values()]

    @property
    def weight(self) -> float:
        """About how many instructions on single numbers all of it takes."""
        nodes = (node for node in self.nodes if node.op.name != SPLIT)
        return float(sum(scalars.weight(node.call) * int(node.outputs[0].spec.size) for node in nodes))


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
    split = next((node for node in rest if node.op.name == SPLIT), None)
    sections = len(split.outputs) if split else 1
    operands = []
    for value, place in places.items():
        if value in {x, weight}:  # by identity: == would record an op
            continue
        kind = _kind(value, product, split)
        if kind is None:
            return (
                f"{list(value.spec.shape)} is neither a number, nor [{columns}], nor as large as the result"
            )
        operands.append((value, kind, place))
    if reason := _refusal(graph, rest, product):
        return reason
    rows = int(product.spec.size) // columns
    return Tail(rows, depth, columns, product, tuple(rest), tuple(operands), graph, sections)


def _kind(value: Variable, product: Variable, split: Node | None) -> str | None:
    """How a value is laid out beside the product, or beside its sections where it is used behind the split."""
    if value.spec.size == 1:
        return NUMBER
    shape = tuple(int(size) for size in value.spec.shape)
    whole = tuple(int(size) for size in product.spec.shape)
    columns = whole[-1]
    if split is not None and shape[-1] != columns:
        whole = (*whole[:-1], columns // len(split.outputs))
        return SECTION if shape == whole else None
    if shape[-1] == columns == value.spec.size:
        return COLUMN
    return ALL if shape == whole or (1,) * (len(whole) - len(shape)) + shape == whole else None


def _refusal(graph: Graph, nodes: list[Node], product: Variable) -> str | None:
    size = int(product.spec.size)
    for number, node in enumerate(nodes):
        if node.op.name == SPLIT:
            if reason := _split_refusal(node, nodes[:number], product):
                return reason
            size //= len(node.outputs)
            continue
        if not is_elementwise(node):
            return f"{node.op.name} is not elementwise"
        if node.outputs[0].spec.size != size or node.outputs[0].dtype != product.dtype:
            return f"{node.op.name} gives other shapes or dtypes than the product"
        if reason := scalars.refusal(node.call):
            return reason
    if any(value.spec.size != size for value in graph.outputs.values()):
        return "a result is needed that is split"
    if any(array.size != 1 for array in graph.constants.values()):
        return "a constant has several elements"
    return None


def _split_refusal(node: Node, before: list[Node], product: Variable) -> str | None:
    """Why a product is not split in this way, or None."""
    whole, sizes = product.spec.shape, {int(value.spec.shape[-1]) for value in node.outputs}
    if any(value.spec.shape[:-1] != whole[:-1] for value in node.outputs) or len(sizes) > 1:
        return "splits the columns of a product into equal parts, and nothing else"
    if any(other.op.name == SPLIT for other in before):
        return "splits a product once"
    if len(node.outputs) > MOST_SECTIONS:
        return f"splits a product into {MOST_SECTIONS} parts at most, not {len(node.outputs)}"
    return None
