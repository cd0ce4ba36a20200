"""Dense layers: a product with a matrix and the bias added to it become the op ``linear``, so that its kernels compete, too."""

from __future__ import annotations

from collections import Counter

from ..graph import Graph, Node, Value
from ..ops.arithmetic import add
from ..ops.linear_algebra import linear, matmul
from ..rewrite import Rewrite


def merge_linear(graph: Graph) -> Graph:
    """The graph with ``linear`` for such pairs of float32 or float64, to the bit: narrow floats it would round once and not twice.

    Products that anybody else reads stay.
    """
    readers = Counter(value for node in graph.nodes for value in node.inputs)
    readers.update(graph.outputs.values())
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        found = _parts(node, readers) if node.op is add.op else None
        if found is None:
            rewrite.copy(node)
            continue
        inputs = tuple(rewrite[value] for value in found)
        call = linear.op.call(*(value.spec for value in inputs))
        (rewrite[node.outputs[0]],) = rewrite.graph.append(call, inputs, node.mark)
    return rewrite.finish()


def _parts(node: Node, readers: Counter[Value | None]) -> tuple[Value, Value, Value] | None:
    """The operands of the product, and the bias, of a sum that is a dense layer."""
    for product, bias in (node.inputs, node.inputs[::-1]):
        if product is None or bias is None or product.node is None or product.node.op is not matmul.op:
            continue
        x, weight = product.node.inputs
        assert x is not None and weight is not None
        fits = weight.ndim == 2 and bias.shape == weight.shape[1:] and readers[product] == 1
        dtypes = {x.dtype.name, weight.dtype.name, bias.dtype.name}
        if fits and dtypes in ({"float32"}, {"float64"}) and product.node.mark[1:] == node.mark[1:]:
            return x, weight, bias
    return None
