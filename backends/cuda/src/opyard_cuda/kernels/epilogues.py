"""Products with a weight matrix, a bias and an activation in one kernel of cuBLASLt."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from opyard.operation import Call
from opyard.region import Region

from .. import cublaslt
from ..array_module import address, xp
from ..cublaslt import ALIGNMENT, Form, Product

Work = Call | Region

ACTIVATIONS = {"relu": cublaslt.RELU, "gelu": cublaslt.GELU}


def accepts(work: Work, device: Any) -> str | None:
    """Why cuBLASLt cannot compute this in one kernel, or None."""
    x, weight, *rest = work.inputs
    assert x is not None and weight is not None
    output = work.outputs[0]
    if weight.ndim != 2:
        return f"takes a weight of rank 2, not {weight.ndim}"
    if 0 in (*x.shape, *weight.shape):
        return "takes no empty arrays"
    columns = weight.shape[1]
    dtypes = {spec.dtype for spec in (*work.inputs, output) if spec is not None}
    if len(dtypes) > 1:
        return f"takes arrays of one dtype, not {', '.join(sorted(dtype.name for dtype in dtypes))}"
    for spec in rest:
        if spec is not None and (spec.size != columns or spec.shape[-1:] != (columns,)):
            return f"adds a bias of shape [{columns}], not {spec!r}"
        if spec is not None and spec.ndim > output.ndim:
            return f"adds a bias of at most {output.ndim} axes, not {spec.ndim}"
    return None


def prepare(work: Work, device: Any) -> Callable[..., Any]:
    """A function of the matrix or stack of rows ``x``, the weight and the bias."""
    nodes = work.graph.nodes if isinstance(work, Region) else ()
    epilogue = next((ACTIVATIONS[n.op.name] for n in nodes if n.op.name in ACTIVATIONS), cublaslt.DEFAULT)
    output, dtype = work.outputs[0], work.outputs[0].dtype.name
    cuda, number = device.cupy.cuda, device.number

    def run(x: Any, weight: Any, bias: Any = None, *, out: Any = None) -> Any:
        with device.handle:
            result = device.empty(output) if out is None or not out.flags.c_contiguous else out
            left, by_columns = _matrix(x.reshape(-1, x.shape[-1]))
            right, weight_by_columns = _matrix(weight)
            row = None if bias is None else xp().ascontiguousarray(bias)
            addend = None if row is None else address(row)
            places = address(left), address(right), addend, address(result)
            common = places[0] | places[1] | (addend or 0) | places[3]
            form = Form(
                *(left.shape[0], right.shape[1], left.shape[1], dtype, _with_bias(epilogue, addend)),
                transposed=(by_columns, weight_by_columns),
                alignment=min(ALIGNMENT, common & -common),
            )
            product = _product(form, number)
            space = cuda.alloc(product.workspace) if product.workspace else None
            product.launch(*places, space.ptr if space else 0, cuda.get_current_stream().ptr)
            if out is None or out is result:
                return result
            out[...] = result
            return out

    return run


def _with_bias(epilogue: int, addend: int | None) -> int:
    if addend is None:
        return epilogue
    return cublaslt.BIAS if epilogue == cublaslt.DEFAULT else epilogue | cublaslt.BIAS


def _matrix(array: Any) -> tuple[Any, bool]:
    """A matrix that the library can read, and whether it lies column by column; others are copied."""
    if array.flags.c_contiguous or not array.flags.f_contiguous:
        return xp().ascontiguousarray(array), False
    return array, True


_product = lru_cache(maxsize=1024)(Product)
