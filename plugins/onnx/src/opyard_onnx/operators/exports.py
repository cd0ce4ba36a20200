"""The ONNX forms of opyard's ops, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard.infer import normalize_axes
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.operators.export_creation import broadcast_to, full, iota, written_out
from opyard_onnx.operators.export_fused import attention, relu6
from opyard_onnx.operators.export_integers import floor_divide, remainder, shifted
from opyard_onnx.operators.export_windows import conv_transpose, windowed
from opyard_onnx.tensors import NUMBERS

if TYPE_CHECKING:
    from opyard_onnx.exporting import Export, Writer

UNARY = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh",
    "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp",
    "global_average_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool",
    "hard_swish": "HardSwish", "identity": "Identity", "log": "Log",
    "logical_not": "Not", "mish": "Mish", "negative": "Neg", "positive": "Identity", "reciprocal": "Reciprocal",
    "relu": "Relu", "shape_of": "Shape", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin",
    "sinh": "Sinh", "size_of": "Size", "softplus": "Softplus", "softsign": "Softsign", "sqrt": "Sqrt", "tan": "Tan",
    "tanh": "Tanh",
}  # fmt: skip
BINARY = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max", "minimum": "Min", "pow": "Pow",
    "matmul": "MatMul",
    "equal": "Equal", "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
    "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor",
}  # fmt: skip
WITH_ATTRIBUTES = {
    "celu": ("Celu", ("alpha",)), "elu": ("Elu", ("alpha",)), "leaky_relu": ("LeakyRelu", ("alpha",)),
    "thresholded_relu": ("ThresholdedRelu", ("alpha",)), "selu": ("Selu", ("alpha", "gamma")),
    "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")), "softmax": ("Softmax", ("axis",)),
    "log_softmax": ("LogSoftmax", ("axis",)), "flatten": ("Flatten", ("axis",)), "gelu": ("Gelu", ("approximate",)),
    "batch_normalization": ("BatchNormalization", ("epsilon",)),
    "instance_normalization": ("InstanceNormalization", ("epsilon",)), }  # fmt: skip
REDUCTIONS = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin", "mean": "ReduceMean", "logsumexp": "ReduceLogSumExp"}  # fmt: skip
POSITIONS = {"argmax": "ArgMax", "argmin": "ArgMin"}


def direct(op_type: str, names: tuple[str, ...] = ()) -> Export:
    """An operator with the same inputs, and these attributes under the same names."""
    return lambda writer, node: writer.add(
        op_type, writer.inputs(node), **{name: node.call.attrs[name] for name in names}
    )


def combined(op_type: str) -> Export:
    return lambda writer, node: writer.add(op_type, writer.alike(node))


def by_kind(kinds: str, op_type: str, other: str) -> Export:
    """One operator for dtypes of these kinds, another one for the rest."""

    def export(writer: Writer, node: oy.Node) -> Any:
        x = node.inputs[0]
        assert x is not None
        return writer.add(op_type if x.dtype.kind in kinds else other, writer.alike(node))

    return export


def tested(op_type: str) -> Export:
    """A question that ONNX asks of floating numbers alone."""

    def export(writer: Writer, node: oy.Node) -> Any:
        (x,) = writer.inputs(node)
        value = node.inputs[0]
        assert value is not None
        return writer.add(op_type, [x if value.dtype.kind in "fV" else writer.cast(x, "float64")])

    return export


def indexed(op_type: str, *names: str) -> Export:
    """An operator whose second input is indices, in int64."""

    def export(writer: Writer, node: oy.Node) -> Any:
        x, indices, *rest = writer.inputs(node)
        given = {name: node.call.attrs[name] for name in names}
        return writer.add(op_type, [x, writer.cast(indices, "int64"), *rest], **given)

    return export


def prelu(writer: Writer, node: oy.Node) -> Any:
    """In ONNX the slope alone is broadcast."""
    x, slope = writer.alike(node)
    value, shape = node.inputs[0], node.outputs[0].shape
    assert value is not None
    if value.shape != shape:
        x = writer.add("Expand", [x, writer.integers(shape)])
    return writer.add("PRelu", [x, slope])


def reduced(op_type: str) -> Export:
    def export(writer: Writer, node: oy.Node) -> Any:
        x = node.inputs[0]
        assert x is not None
        axes = normalize_axes(node.call.attrs["axis"], x.ndim)
        keep = int(node.call.attrs["keepdims"])
        if not axes:
            return writer.add("Identity", writer.inputs(node))
        if op_type == "ReduceMean" and 0 in x.shape:
            raise UnsupportedModel("ONNX does not define the mean of no numbers.")  # its parts do
        return writer.add(op_type, [*writer.inputs(node), writer.integers(axes)], keepdims=keep)

    return export


def position(op_type: str) -> Export:
    def export(writer: Writer, node: oy.Node) -> Any:
        x, attributes = node.inputs[0], node.call.attrs
        assert x is not None
        if attributes["axis"] is not None:
            return writer.add(
                op_type, writer.inputs(node), axis=attributes["axis"], keepdims=int(attributes["keepdims"])
            )
        flat = writer.add("Reshape", [*writer.inputs(node), writer.integers([-1])])
        found = writer.add(op_type, [flat], axis=0, keepdims=0)
        shape = node.outputs[0].shape
        return writer.add("Reshape", [found, writer.integers(shape)]) if shape else found

    return export


def square(writer: Writer, node: oy.Node) -> Any:
    (x,) = writer.inputs(node)
    return writer.add("Mul", [x, x])


def rsqrt(writer: Writer, node: oy.Node) -> Any:
    return writer.add("Reciprocal", [writer.add("Sqrt", writer.inputs(node))])


def silu(writer: Writer, node: oy.Node) -> Any:
    (x,) = writer.inputs(node)
    return writer.add("Mul", [x, writer.add("Sigmoid", [x])])


def not_equal(writer: Writer, node: oy.Node) -> Any:
    return writer.add("Not", [writer.add("Equal", writer.alike(node))])


def fmod(writer: Writer, node: oy.Node) -> Any:
    return writer.add("Mod", writer.alike(node), fmod=1)


def where(writer: Writer, node: oy.Node) -> Any:
    return writer.add("Where", writer.alike(node, skip=1))


def clip(writer: Writer, node: oy.Node) -> Any:
    """ONNX takes bounds without dimensions alone; others are limits of their own."""
    names, values = writer.alike(node), node.inputs
    found = names[0]
    for op_type, name, value in zip(("Max", "Min"), names[1:], values[1:], strict=False):
        if value is not None:
            found = writer.add(op_type, [found, name])
    return writer.add("Identity", [found]) if found == names[0] else found


def cast(writer: Writer, node: oy.Node) -> Any:
    if node.outputs[0].dtype.kind == "c":
        raise UnsupportedModel(f"ONNX has no Cast to {node.outputs[0].dtype.name}.")
    return writer.add("Cast", writer.inputs(node), to=NUMBERS[node.outputs[0].dtype.name])


def reshape(writer: Writer, node: oy.Node) -> Any:
    sizes = node.outputs[0].shape
    symbolic = [n for n in sizes if not isinstance(n, int)]
    wanted = [-1 if not isinstance(n, int) else n for n in sizes] if len(symbolic) == 1 else list(sizes)
    return writer.add("Reshape", [*writer.inputs(node), writer.integers(wanted)], allowzero=int(0 in sizes))


def with_integers(op_type: str, attribute: str) -> Export:
    """An operator whose second input is what opyard has as an attribute."""

    def export(writer: Writer, node: oy.Node) -> Any:
        value = node.call.attrs[attribute]
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers:
            return writer.add("Identity", writer.inputs(node))
        return writer.add(op_type, [*writer.inputs(node), writer.integers(numbers)])

    return export


def permute(writer: Writer, node: oy.Node) -> Any:
    rank = node.outputs[0].ndim
    if not rank:
        return writer.add("Identity", writer.inputs(node))
    return writer.add(
        "Transpose", writer.inputs(node), perm=[axis % rank for axis in node.call.attrs["axes"]]
    )


def concat(writer: Writer, node: oy.Node) -> Any:
    return writer.add("Concat", writer.alike(node), axis=node.call.attrs["axis"])


def stack(writer: Writer, node: oy.Node) -> Any:
    axis = node.call.attrs["axis"] % node.outputs[0].ndim
    place = writer.integers([axis])
    parts = [writer.add("Unsqueeze", [name, place]) for name in writer.alike(node)]
    return writer.add("Concat", parts, axis=axis)


def split(writer: Writer, node: oy.Node) -> Any:
    axis = node.call.attrs["axis"] % node.outputs[0].ndim
    sizes = writer.integers([value.shape[axis] for value in node.outputs])
    made = writer.add("Split", [*writer.inputs(node), sizes], len(node.outputs), axis=axis)
    return [made] if isinstance(made, str) else made


def slice_(writer: Writer, node: oy.Node) -> Any:
    given = node.call.attrs
    axes = given["axes"] if given["axes"] is not None else tuple(range(len(given["starts"])))
    steps = given["steps"] or (1,) * len(axes)
    if not axes:
        return writer.add("Identity", writer.inputs(node))
    far = np.iinfo(np.int64)
    starts = [
        n if n is not None else (0 if s > 0 else far.max) for n, s in zip(given["starts"], steps, strict=True)
    ]
    stops = [
        n if n is not None else (far.max if s > 0 else far.min)
        for n, s in zip(given["stops"], steps, strict=True)
    ]
    return writer.add(
        "Slice", [*writer.inputs(node), *map(writer.integers, map(_plain, (starts, stops, axes, steps)))]
    )


def _plain(numbers: Any) -> list[Any]:
    return [int(n) if isinstance(n, np.integer) else n for n in numbers]


def pad(writer: Writer, node: oy.Node) -> Any:
    given, x = node.call.attrs, node.inputs[0]
    assert x is not None
    pairs = given["pads"]
    if not pairs:
        return writer.add("Identity", writer.inputs(node))
    pads = writer.integers([*(before for before, _ in pairs), *(after for _, after in pairs)])
    inputs = [*writer.inputs(node), pads]
    if given["mode"] == "constant":
        inputs.append(writer.tensor(np.asarray(given["value"]).astype(x.dtype)))
    return writer.add("Pad", inputs, mode=given["mode"])


def take_along_axis(writer: Writer, node: oy.Node) -> Any:
    """ONNX does not broadcast the other axes."""
    x, indices = node.inputs
    assert x is not None and indices is not None
    axis, shape = node.call.attrs["axis"] % x.ndim, node.outputs[0].shape
    names = writer.inputs(node)
    wide = tuple(x.shape[axis] if i == axis else n for i, n in enumerate(shape))
    if x.shape != wide:
        names[0] = writer.add("Expand", [names[0], writer.integers(wide)])
    if indices.shape != shape:
        names[1] = writer.add("Expand", [names[1], writer.integers(shape)])
    return writer.add("GatherElements", [names[0], writer.cast(names[1], "int64")], axis=axis)


def tile(writer: Writer, node: oy.Node) -> Any:
    """As NumPy: what has fewer entries gets ones in front."""
    x, repetitions = node.inputs[0], node.call.attrs["repetitions"]
    assert x is not None
    (name,) = writer.inputs(node)
    rank = node.outputs[0].ndim
    if not rank:
        return writer.add("Identity", [name])
    if x.ndim < rank:
        name = writer.add("Unsqueeze", [name, writer.integers(range(rank - x.ndim))])
    return writer.add("Tile", [name, writer.integers([*[1] * (rank - len(repetitions)), *repetitions])])


def scatter(op_type: str) -> Export:
    def export(writer: Writer, node: oy.Node) -> Any:
        given = node.call.attrs
        x, indices, updates = writer.inputs(node)
        inputs = [x, writer.cast(indices, "int64"), updates]
        return writer.add(op_type, inputs, axis=given.get("axis"), reduction=given["reduction"])

    return export


def triangle(upper: int) -> Export:
    def export(writer: Writer, node: oy.Node) -> Any:
        k = writer.tensor(np.array(node.call.attrs["k"], np.int64))
        return writer.add("Trilu", [*writer.inputs(node), k], upper=upper)

    return export


def cumulative_sum(writer: Writer, node: oy.Node) -> Any:
    given = node.call.attrs
    axis = writer.tensor(np.array(given["axis"] or 0, np.int64))
    options = {name: int(given[name]) for name in ("exclusive", "reverse")}
    return writer.add("CumSum", [*writer.inputs(node), axis], **options)


def top_k(writer: Writer, node: oy.Node) -> Any:
    given = node.call.attrs
    options = {"axis": given["axis"], "largest": int(given["largest"]), "sorted": 1}
    return writer.add("TopK", [*writer.inputs(node), writer.integers([given["k"]])], 2, **options)


def layer_normalization(writer: Writer, node: oy.Node) -> Any:
    """ONNX needs a scale."""
    x, scale, _ = node.inputs
    assert x is not None
    given, names = node.call.attrs, writer.inputs(node)
    axis = given["axis"] % x.ndim
    if 0 in x.shape[axis:]:
        raise UnsupportedModel("LayerNormalization of no elements is not defined.")  # its parts are
    if scale is None:
        one = np.ones((), x.dtype)
        sizes = x.shape[axis:]
        ones = writer.add("Expand", [writer.tensor(one), writer.integers(sizes)])
        names = [names[0], ones, *names[2:]]
    names = [name and writer.cast(name, x.dtype.name) for name in names]
    return writer.add("LayerNormalization", names, axis=given["axis"], epsilon=given["epsilon"])


EXPORTS: dict[str, Export] = {
    **{name: direct(op_type) for name, op_type in UNARY.items()},
    **{name: combined(op_type) for name, op_type in BINARY.items()},
    **{name: direct(op_type, names) for name, (op_type, names) in WITH_ATTRIBUTES.items()},
    **{name: reduced(op_type) for name, op_type in REDUCTIONS.items()},
    **{name: position(op_type) for name, op_type in POSITIONS.items()},
    **dict.fromkeys(("arange", "eye", "linspace"), written_out),
    "average_pool": windowed("AveragePool", "ceil_mode", "count_include_pad"),
    "bitwise_and": by_kind("b", "And", "BitwiseAnd"),
    "bitwise_invert": by_kind("b", "Not", "BitwiseNot"),
    "bitwise_left_shift": shifted("LEFT"),
    "bitwise_or": by_kind("b", "Or", "BitwiseOr"),
    "bitwise_right_shift": shifted("RIGHT"),
    "bitwise_xor": by_kind("b", "Xor", "BitwiseXor"),
    "broadcast_to": broadcast_to,
    "cast": cast,
    "ceil": by_kind("fV", "Ceil", "Identity"),
    "clip": clip,
    "concat": concat,
    "conv": windowed("Conv", "group"),
    "conv_transpose": conv_transpose,
    "cumulative_sum": cumulative_sum,
    "expand_dims": with_integers("Unsqueeze", "axis"),
    "floor": by_kind("fV", "Floor", "Identity"),
    "floor_divide": floor_divide,
    "fmod": fmod,
    "full": full,
    "gather": indexed("Gather", "axis"),
    "gather_nd": indexed("GatherND", "batch_dims"),
    "iota": iota,
    "isinf": tested("IsInf"),
    "isnan": tested("IsNaN"),
    "layer_normalization": layer_normalization,
    "max_pool": windowed("MaxPool", "ceil_mode"),
    "not_equal": not_equal,
    "pad": pad,
    "permute_dims": permute,
    "prelu": prelu,
    "relu6": relu6,
    "remainder": remainder,
    "reshape": reshape,
    "round": by_kind("fV", "Round", "Identity"),
    "rsqrt": rsqrt,
    "scaled_dot_product_attention": attention,
    "scatter": scatter("ScatterElements"),
    "scatter_nd": scatter("ScatterND"),
    "silu": silu,
    "slice": slice_,
    "split": split,
    "square": square,
    "squeeze": with_integers("Squeeze", "axis"),
    "stack": stack,
    "take_along_axis": take_along_axis,
    "tile": tile,
    "top_k": top_k,
    "tril": triangle(0),
    "triu": triangle(1),
    "where": where,
}
