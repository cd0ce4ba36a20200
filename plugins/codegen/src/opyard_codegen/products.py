"""A matrix product with what follows it element by element, as one kernel for devices with groups of items and memory of their own.

Written by hand in the macros of kernels; the epilogue is generated. Tiles of TILE x TILE results, GROUP items each: a kernel that is
right everywhere and fast enough where no library has one, as for integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opyard import Node
from opyard.errors import SpecError
from opyard.operation import Call
from opyard.region import Region
from opyard.spec import as_dtype

from .dialect import Dialect
from .elementwise import Body
from .kernels import ports, prelude
from .layout import broadcast_strides, sizes_of
from .printing import Printer, type_of, variable_text
from .regions import Names, rounded
from .terms import Term, computing, variable

TILE, GROUP, NAME = 16, 64, "product"
_EACH = TILE * TILE // GROUP


def product_refusal(call: Call) -> str | None:
    """Why a call is no product of matrices that is generated, or None."""
    left, right = call.inputs[0], call.inputs[1] if len(call.inputs) > 1 else None
    if call.op.name != "matmul" or left is None or right is None:
        return f"{call.op.name} is no product that is generated"
    if min(left.ndim, right.ndim) < 2:
        return "takes matrices, not vectors"
    if not call.output.size or call.output.dtype.kind == "b":
        return "takes matrices of numbers that are not empty"
    return None


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """A product and its epilogue.

    product    name and dtype of the product's value
    operands   numbers, among the arrays of ``body``, of the matrices on the left and on the right
    sizes      batches, rows, depth, width
    axes       those of the output; ``strides`` those of each array: of operands along the batches alone
    constants  arrays that are read behind the inputs
    """

    body: Body
    product: tuple[str, str]
    operands: tuple[int, int]
    sizes: tuple[int, int, int, int]
    axes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    constants: tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]

    @property
    def largest(self) -> int:
        """Elements of the largest array, at most."""
        batches, rows, depth, width = self.sizes
        return batches * max(rows * width, rows * depth, depth * width)

    @property
    def tiles(self) -> int:
        """How many groups have something to do."""
        batches, rows, _, width = self.sizes
        return batches * -(-rows // TILE) * -(-width // TILE)


def product_plan(region: Region) -> ProductPlan:
    """The plan of a region. Raises SpecError, with a sentence, for one that is not a product and what follows it."""
    names = Names.of(region)
    product = _product(region)
    (result,) = product.outputs
    axes = sizes_of(result.spec)
    for spec in region.outputs:
        if sizes_of(spec) != axes:
            raise SpecError(f"it gives {spec!r}, which has not the shape {axes} of the product")
    operands = [value for value in product.inputs if value is not None]
    place, matrices = {value: number for number, value in enumerate(names.arrays)}, set(operands)
    for node in region.graph.nodes:
        if node is not product and not matrices.isdisjoint(node.inputs):
            raise SpecError("it uses a matrix of the product beside it")
    if not matrices <= set(place):
        raise SpecError("it computes what the product takes")
    strides = []
    for value in names.arrays:
        along = _along_batches if value in matrices else broadcast_strides
        strides.append(tuple(along(axes, sizes_of(value.spec))))
    body = Body(
        tuple((names.name(value), value.dtype.name) for value in names.arrays),
        tuple(names.step(node) for node in region.graph.nodes if node is not product),
        tuple((names.name(value), value.dtype.name) for value in region.graph.outputs.values()),
    )
    left, right = (place[value] for value in operands)
    rows, width, depth = axes[-2], axes[-1], sizes_of(operands[0].spec)[-1]
    sizes = math.prod(axes[:-2]), rows, depth, width
    return ProductPlan(
        body,
        (names.name(result), result.dtype.name),
        (left, right),
        sizes,
        axes,
        tuple(strides),
        names.constants,
    )


def _product(region: Region) -> Node:
    found = [node for node in region.graph.nodes if node.op.name == "matmul"]
    if len(found) != 1:
        raise SpecError(f"it has {len(found)} products; a kernel is for one")
    return found[0]


def _along_batches(axes: tuple[int, ...], own: tuple[int, ...]) -> list[int]:
    """Strides of a matrix, or of several, along the axes before the last two."""
    strides = broadcast_strides((*axes[:-2], *own[-2:]), own)
    return [*strides[:-2], 0, 0]


def product_program(dialect: Dialect, plan: ProductPlan) -> str:
    """The program with the kernel NAME, for groups of GROUP items.

    Parameters behind the arrays, inputs first: ``batches, rows, depth, width, rank, table``, the table as of elementwise kernels.
    """
    printer, body = Printer(dialect), plan.body
    kind = computing(as_dtype(plan.product[1]))
    name, left, right = plan.product[0], *plan.operands
    epilogue = [i for i in range(len(body.inputs)) if i not in plan.operands]
    lines = [f"const T {variable_text(name)} = {printer.text(_result(plan, kind))};"]
    for i in epilogue:
        own, dtype = body.inputs[i]
        lines.append(f"const {dialect.formats[dtype].compute} {variable_text(own)} = LOAD_P{i}(p{i}, o{i});")
    for own, term in body.steps:
        lines.append(
            f"const {type_of(computing(term.dtype), dialect)} {variable_text(own)} = {printer.text(term)};"
        )
    lines += [f"STORE_R{i}(r{i}, i, {variable_text(own)});" for i, (own, _) in enumerate(body.outputs)]
    formats = {f"P{i}": dialect.formats[dtype] for i, (_, dtype) in enumerate(body.inputs)}
    formats |= {f"R{i}": dialect.formats[dtype] for i, (_, dtype) in enumerate(body.outputs)}
    parameters = [f"GLOBAL const P{i} *RESTRICT p{i}" for i in range(len(body.inputs))]
    parameters += [f"GLOBAL R{i} *RESTRICT r{i}" for i in range(len(body.outputs))]
    text = _KERNEL.format(
        type=type_of(kind, dialect),
        tile=TILE,
        each=_EACH,
        parameters=", ".join(parameters),
        starts=" ".join(f"INDEX o{i} = 0;" for i in range(len(body.inputs))),
        batches=_advance(plan.operands),
        places=_advance(tuple(epilogue)),
        again=" ".join(f"o{i} = 0;" for i in epilogue),
        left=left,
        right=right,
        epilogue="\n                ".join(lines),
    )
    return "\n".join((prelude(dialect), ports(formats), printer.definitions(), text))


def _result(plan: ProductPlan, kind: np.dtype[np.generic]) -> Term:
    return rounded(variable("sum[j]", kind), as_dtype(plan.product[1]))


def _advance(arrays: tuple[int, ...]) -> str:
    return " ".join(f"o{i} += index * table[{i + 1} * rank + axis];" for i in arrays)


_KERNEL = """
typedef {type} T;
#define TILE {tile}
#define EACH {each}
#define PITCH (TILE + 1)  // one more than needed: columns then lie in different banks

KERNEL product({parameters}, INDEX batches, INDEX rows, INDEX depth, INDEX width, int rank,
               GLOBAL const INDEX *RESTRICT table WORK_ITEM) {{
    LOCAL T lefts[TILE * PITCH];
    LOCAL T rights[TILE * PITCH];
    const INDEX across = (width + TILE - 1) / TILE, down = (rows + TILE - 1) / TILE;
    const int x = GROUP_ITEM % TILE, y = GROUP_ITEM / TILE * EACH;
    for (INDEX tile = GROUP; tile < batches * down * across; tile += GROUPS) {{
        const INDEX column = tile % across * TILE + x, row = tile / across % down * TILE + y;
        {starts}
        INDEX first = tile / (across * down);
        for (int axis = rank - 3; axis >= 0; axis--) {{
            const INDEX index = first % table[axis];
            first /= table[axis];
            {batches}
        }}
        T v_sum[EACH];
        for (int j = 0; j < EACH; j++) v_sum[j] = 0;
        for (INDEX start = 0; start < depth; start += TILE) {{
            for (int j = 0; j < EACH; j++) {{
                lefts[(y + j) * PITCH + x] = row + j < rows && start + x < depth
                    ? (T)LOAD_P{left}(p{left}, o{left} + (row + j) * depth + start + x) : (T)0;
                rights[(y + j) * PITCH + x] = start + y + j < depth && column < width
                    ? (T)LOAD_P{right}(p{right}, o{right} + (start + y + j) * width + column) : (T)0;
            }}
            BARRIER;
            for (int k = 0; k < TILE; k++) {{
                const T other = rights[k * PITCH + x];
                for (int j = 0; j < EACH; j++) v_sum[j] += lefts[(y + j) * PITCH + k] * other;
            }}
            BARRIER;
        }}
        for (int j = 0; j < EACH; j++) {{
            if (row + j < rows && column < width) {{
                const INDEX i = (tile / (across * down) * rows + row + j) * width + column;
                INDEX rest = i;
                {again}
                for (int axis = rank - 1; axis >= 0; axis--) {{
                    const INDEX index = rest % table[axis];
                    rest /= table[axis];
                    {places}
                }}
                {epilogue}
            }}
        }}
    }}
}}
"""
