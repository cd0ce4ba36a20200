"""Ops that ONNX has no operator for, as functions of the model: other runtimes run them, and opyard finds the ops again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from onnx_runtime import theirs
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard_onnx import ModelError, UnsupportedModel, export, load
from opyard_onnx.operators.export_parts import WITHOUT
from opyard_onnx.operators.exports import EXPORTS


@oy.op("acme.swish", scalar="x / (1 + exp(-alpha * x))")
def swish(x: Any, *, alpha: float = 1.0) -> Any: ...


@oy.op("other.swish", scalar="x * 2")
def other_swish(x: Any) -> Any: ...


@oy.op("acme.double", scalar="x + x", version=3)
def double(x: Any) -> Any: ...


def _scaled(x: Any, *, steps: tuple[float, ...] = (), title: str = "") -> Any:
    x = oy.multiply(x, float(x.shape[-1])) if x.ndim else x
    for step in steps:
        x = oy.add(swish(x, alpha=step), double(x))
    return x


@oy.op("acme.nn.scaled", infer=oy.infer.same_as_first(), decompose=_scaled)
def scaled(x: Any, *, steps: tuple[float, ...] = (), title: str = "") -> Any: ...


def _narrow(x: Any) -> Any:
    if x.dtype.name != "float32":
        return oy.cast(oy.tanh(oy.cast(x, dtype="float32")), dtype=x.dtype.name)
    return oy.tanh(x)


@oy.op("acme.narrow", infer=oy.infer.same_as_first(), decompose=_narrow)
def narrow(x: Any) -> Any: ...


@oy.op("acme.opaque", infer=oy.infer.same_as_first())
def opaque(x: Any) -> Any:
    return np.asarray(x)


ROWS = np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4)


def agree(graph: oy.Graph, *arrays: Any) -> Any:
    """The exported model, which ONNX Runtime and opyard, without the ops, run with the same outputs."""
    proto = export(graph)
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    expected = oy.Session(graph, devices="reference").run(list(graph.outputs), feeds)
    for found in (
        theirs(proto, feeds),
        oy.Session(load(proto), devices="reference").run(list(graph.outputs), feeds),
    ):
        for ours, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, ours, rtol=2e-6, atol=1e-6)
            assert ours.dtype == other.dtype
    return proto


def functions(proto: Any) -> list[tuple[str, str, str]]:
    return [(f.domain, f.name, f.overload) for f in proto.functions]


def spec(*shape: Any, dtype: str = "float32") -> oy.TensorSpec:
    return oy.TensorSpec(shape, dtype)


def test_an_op_is_a_function_of_its_domain():
    proto = agree(oy.trace(lambda x: double(swish(x)), spec("batch", 4)), ROWS)
    assert functions(proto) == [("acme", "swish", ""), ("acme", "double", "")]
    assert [(n.domain, n.op_type) for n in proto.graph.node] == [
        ("acme", "swish"),
        ("acme", "double"),
        ("", "Identity"),
    ]
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 21), ("acme", 3)]
    assert [list(f.attribute) for f in proto.functions] == [["alpha"], []]


def test_a_body_names_attributes_where_their_float32_is_exact():
    proto = agree(oy.trace(lambda x: swish(swish(x, alpha=0.1), alpha=3), spec(3, 4)), ROWS)
    assert functions(proto) == [("acme", "swish", "")]
    assert [n.attribute[0].f for n in proto.graph.node[:2]] == pytest.approx([0.1, 3.0])
    double_rows = ROWS.astype("float64")
    proto = agree(
        oy.trace(
            lambda x: swish(swish(swish(x, alpha=0.5), alpha=0.1), alpha=2.0), spec(3, 4, dtype="float64")
        ),
        double_rows,
    )
    assert functions(proto) == [("acme", "swish", ""), ("acme", "swish", "2")]
    assert [n.overload for n in proto.graph.node] == ["", "2", "", ""]


def test_an_integer_is_an_integer_in_the_body():
    @oy.op("acme.shift_by", scalar="x * 3 + count", infer=oy.infer.elementwise("integer"))
    def shift_by(x: Any, *, count: int) -> Any: ...

    proto = agree(
        oy.trace(lambda x: shift_by(shift_by(x, count=5), count=-7), spec(3, dtype="int32")),
        np.arange(3, dtype="i4"),
    )
    assert len(proto.functions) == 1


def test_bodies_that_differ_are_overloads_and_equal_ones_are_shared():
    def calls(x: Any, y: Any) -> Any:
        return (
            *(
                scaled(x, steps=(0.5,)),
                scaled(x, steps=(0.5,), title="the same"),
                scaled(x, steps=(0.5, 2.0)),
            ),
            scaled(y, steps=(0.5,)),  # the body knows the last size
        )

    proto = agree(oy.trace(calls, spec(3, 4), spec(2)), ROWS, np.ones(2, "float32"))
    assert [f for f in functions(proto) if f[0] == "acme.nn"] == [
        ("acme.nn", "scaled", ""),
        ("acme.nn", "scaled", "2"),
        ("acme.nn", "scaled", "3"),
    ]
    assert [n.overload for n in proto.graph.node[:4]] == ["", "", "2", "3"]
    assert [o.domain for o in proto.functions[-1].opset_import] == ["", "acme"]


def test_bodies_that_depend_on_dtypes():
    proto = agree(
        oy.trace(lambda x, y: (narrow(x), narrow(y)), spec(3, 4), spec(2, dtype="float16")),
        ROWS,
        np.ones(2, "float16"),
    )
    assert functions(proto) == [("acme", "narrow", ""), ("acme", "narrow", "2")]


def test_equal_names_in_two_domains():
    proto = agree(oy.trace(lambda x: other_swish(swish(x)), spec(4)), ROWS[0])
    assert functions(proto) == [("acme", "swish", ""), ("other", "swish", "")]


@pytest.mark.parametrize(("name", "domain"), [("ai.onnx.Relu", "opyard.ai.onnx"), ("com.microsoft.Gelu", "opyard.com.microsoft"), ("plain", "opyard"), ("relu", "opyard"), ("opyard.log1p", "opyard")])  # fmt: skip
def test_names_that_others_have(name: str, domain: str):
    """Not what ONNX, the runtime, or opyard means by the name."""

    @oy.op(name, scalar="x * 3 - 1")
    def mine(x: Any) -> Any: ...

    graph = oy.trace(lambda x: oy.log1p(oy.relu(mine(x))), spec(4))
    proto = agree(graph, ROWS[2])
    assert (proto.functions[0].domain, proto.functions[0].name) == (domain, name.rpartition(".")[2])


def test_two_ops_of_one_name():
    @oy.op("acme.swish", scalar="x * 5 + 1")
    def another(x: Any) -> Any: ...

    with pytest.raises(
        UnsupportedModel,
        match=r"the graph has two ops called 'acme\.swish', and functions of a model are known by their names",
    ):
        export(oy.trace(lambda x: another(swish(x)), spec(4)))


def test_inputs_and_outputs_of_all_kinds():
    @oy.op(
        "acme.pair",
        infer=lambda x, y=None: (x, x),
        decompose=lambda x, y=None: (oy.relu(x), x if y is None else oy.add(x, y)),
    )
    def pair(x: Any, y: Any = None) -> Any: ...

    @oy.op("acme.total", infer=lambda *xs: xs[0], decompose=lambda *xs: oy.add(oy.add(xs[0], xs[0]), xs[-1]))
    def total(*xs: Any) -> Any: ...

    @oy.op("acme.one", infer=lambda x: x, decompose=lambda x: np.ones((), "float32"))
    def one(x: Any) -> Any: ...

    @oy.op("acme.same", infer=lambda x: x, decompose=lambda x: x)
    def same(x: Any) -> Any: ...

    @oy.op(
        "acme.none",
        infer=lambda *, n: oy.TensorSpec((n,)),
        decompose=lambda *, n: oy.full(shape=(n,), value=2.0),
    )
    def none(*, n: int) -> Any: ...

    def everything(x: Any) -> Any:
        return (*pair(x), *pair(x, x), total(x), total(x, x, x), one(x), same(x), oy.add(x, none(n=4)))

    agree(oy.trace(everything, spec(3, 4)), ROWS)


def test_bodies_with_symbolic_sizes_ask_the_inputs():
    def flattened(x: Any) -> Any:
        rows, columns = x.shape
        return oy.broadcast_to(oy.reshape(x, shape=(1, rows * columns)), shape=(2, rows * columns))

    @oy.op("acme.flattened", infer=lambda x: x.with_shape((2, x.size)), decompose=flattened)
    def flat(x: Any) -> Any: ...

    agree(oy.trace(lambda x: flat(x), spec("batch", "width")), ROWS)


def test_marks_for_gradients_are_left_out():
    proto = agree(oy.trace(lambda x: oy.tanh(oy.stop_gradient(x)), spec(4)), ROWS[0])
    assert [n.op_type for n in proto.graph.node] == ["Tanh", "Identity"] and not proto.functions


# What cannot be ------------------------------------------------------------------------------------------------------


def test_an_op_without_parts_says_what_to_add():
    message = (
        r"the op acme\.opaque \(at test_onnx_functions\.py:\d+\) has neither decompose nor scalar, and ONNX has no operator of that meaning; "
        r"say what it is made of: @op\('acme\.opaque', \.\.\., decompose=\.\.\.\), a function over other ops, or scalar='\.\.\.'\."
    )
    with pytest.raises(UnsupportedModel, match=message + "$"):
        export(oy.trace(lambda x: opaque(x), spec(4)))

    @oy.op("acme.around", infer=lambda x: x, decompose=lambda x: oy.add(opaque(x), opaque(x)))
    def around(x: Any) -> Any: ...

    with pytest.raises(UnsupportedModel, match=message + r" \(in acme\.around\)"):
        export(oy.trace(lambda x: around(x), spec(4)))


def test_a_decomposition_that_calls_itself():
    @oy.op("acme.again", infer=lambda x, **_: x, decompose=lambda x, *, n: oy.add(again(x, n=1 - n), x))
    def again(x: Any, *, n: int) -> Any: ...

    with pytest.raises(
        UnsupportedModel,
        match=r"the decomposition of acme\.again calls itself \(at test_onnx_functions\.py:\d+\)\. \(in acme\.again\)",
    ):
        export(oy.trace(lambda x: again(x, n=0), spec(4)))


def test_a_decomposition_without_an_end():
    @oy.op("acme.deeper", infer=lambda x, **_: x, decompose=lambda x, *, n: oy.add(deeper(x, n=n + 1), x))
    def deeper(x: Any, *, n: int) -> Any: ...

    with pytest.raises(
        UnsupportedModel,
        match=r"the decomposition of acme\.deeper nests more than 32 ops \(at .*\); does it call itself\?",
    ):
        export(oy.trace(lambda x: deeper(x, n=0), spec(4)))


def test_variables_and_what_is_too_large_or_unknown():
    state = oy.Variable(np.zeros(4, "float32"), name="weights")
    with oy.Graph() as graph:
        graph.output("y", oy.add(graph.input("x", spec(4)), state))
    with pytest.raises(
        UnsupportedModel, match=r"the graph reads the variable '.*', and an exported model has none"
    ):
        export(graph)
    with oy.Graph() as graph:
        graph.output("y", graph.apply(oy.arange.op, (), {"start": 2**21}))
    with pytest.raises(
        UnsupportedModel,
        match=r"arange makes int64\[2097152\] \(at .*\), and no more than 1048576 elements are written into a model",
    ):
        export(graph)
    with pytest.raises(
        UnsupportedModel,
        match="roll along an axis of the symbolic size n is not exported; bind it to a number",
    ):
        export(oy.trace(lambda x: oy.roll(x, shift=1, axis=0), spec("n")))
    with pytest.raises(UnsupportedModel, match=r"ONNX has no Cast to complex64"):
        export(oy.trace(lambda x: oy.cast(x, dtype="complex64"), spec(2)))


def _exported(op: oy.Op) -> bool:
    """Whether any case of the op is exported."""
    for number, case in enumerate(op.cases()):
        arrays = case.arrays(number)
        graph = oy.Graph()
        values = [
            None if a is None else graph.input(f"in{i}", oy.TensorSpec.of(a)) for i, a in enumerate(arrays)
        ]
        graph.apply(op, values, dict(case.attributes))
        try:
            export(graph)
        except UnsupportedModel:
            continue
        return True
    return False


def test_what_is_not_exported_is_listed():
    assert {name for name, function in STANDARD.items() if not _exported(function.op)} == set(WITHOUT)


def test_the_documentation_lists_what_is_not_exported():
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")
    section = text.partition("### What is not exported")[2].partition("## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)) == WITHOUT
    own = len(EXPORTS.keys() & STANDARD.keys())
    rest = len(STANDARD) - own - len(WITHOUT)
    counts = (
        f"Of the {len(STANDARD)} standard ops {own} have an ONNX operator, or a few, {rest} become functions"
    )
    assert counts in section and f"and {len(WITHOUT)} are not exported" in section


# Import --------------------------------------------------------------------------------------------------------------


def names_of(graph: oy.Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def test_registered_ops_are_found_again(registry: Registry):
    proto = export(
        oy.trace(lambda x: scaled(double(swish(x, alpha=1 / 3)), steps=(0.1,), title="t"), spec("batch", 4))
    )
    assert names_of(load(proto))[:3] == ["exp", "add", "divide"] or "exp" in names_of(load(proto))
    registry.ops_from({"swish": swish, "double": double, "scaled": scaled})
    back = load(proto)
    assert [node.op for node in back.nodes if "." in node.op.name] == [swish.op, double.op, scaled.op]
    assert back.nodes[0].call.attrs == {"alpha": 1 / 3}  # in full, not the float32 of ONNX
    assert back.nodes[2].call.attrs == {"steps": (0.1,), "title": "t"}


def test_an_op_of_another_version_is_not_the_same(registry: Registry):
    proto = export(oy.trace(lambda x: double(x), spec(4)))

    @oy.op("acme.double", scalar="x * 100", version=4)
    def newer(x: Any) -> Any: ...

    registry.op(newer)
    np.testing.assert_array_equal(
        oy.Session(load(proto), devices="reference").run("output_0", {"x": ROWS[0]}), ROWS[0] * 2
    )


def test_composites_of_the_library_come_back_whole():
    graph = oy.trace(lambda x: oy.rms_normalization(x, axis=-1), spec("batch", 4))
    assert names_of(load(agree(graph, ROWS)))[0] == "rms_normalization"


def test_symbolic_attributes_come_back_by_the_body(registry: Registry):
    @oy.op(
        "acme.spread",
        infer=lambda x, *, n: x.with_shape((n, *x.shape)),
        decompose=lambda x, *, n: oy.broadcast_to(oy.negative(x), shape=(n, *x.shape)),
    )
    def spread(x: Any, *, n: Any) -> Any: ...

    registry.op(spread)
    graph = oy.trace(lambda x: spread(x, n=x.shape[0]), spec("n"))
    assert "acme.spread" not in names_of(load(agree(graph, ROWS[0])))


def test_damaged_metadata(registry: Registry):
    registry.op(swish)
    proto = export(oy.trace(lambda x: swish(x), spec(4)))
    for text, message in [
        ("{", "the metadata 'opyard.attributes' is no JSON object; remove it, and the function body is used"),
        ("[1]", "is no JSON object"),
        ('{"beta": 1}', r"acme\.swish.* has no attribute 'beta'"),
        ('{"alpha": {}}', r"an attribute is a number, a string"),
    ]:
        proto.graph.node[0].metadata_props[0].value = text
        with pytest.raises(ModelError, match=message):
            load(proto)
