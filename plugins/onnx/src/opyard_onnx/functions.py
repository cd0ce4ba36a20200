"""Functions of an exported model: ops that ONNX has no operator for, written as functions of standard operators.

A function has the domain and the name of its op: ``acme.swish`` is ``swish`` of the domain ``acme``, an op of opyard itself
lies in the domain ``opyard``. ONNX gives functions no types, but constants in their bodies have some, and a decomposition may
look at shapes and attributes. So a body is written for each call, and calls with equal bodies share a function; others are
overloads, which ONNX has from IR version 10 on. A numeric attribute of a scalar expression is named by the body and given by
the node, where its number survives the float32 of an ONNX attribute.

The metadata of function and node say which op it was, so that opyard finds it again where it is registered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard.ops import STANDARD
from opyard.ops.gradients import parts_of
from opyard_onnx.errors import ModelError, UnsupportedModel

if TYPE_CHECKING:
    from opyard_onnx.exporting import Writer

OWN_DOMAIN = "opyard"
TAKEN = ("ai.onnx", "com.microsoft", "com.ms")
"""Domains, with all within them, whose operators other runtimes have themselves."""

DEEPEST = 32
"""Functions that call each other, beyond which a decomposition is taken to have no end."""

OP_KEY, VERSION_KEY, ATTRIBUTES_KEY = "opyard.op", "opyard.version", "opyard.attributes"

WIDER = {
    **dict.fromkeys(("float16", "bfloat16"), "float32"),
    **dict.fromkeys(("int8", "uint8", "int16", "uint16", "uint32"), "int64"),
}
"""Dtypes that hold all numbers of these, in which ONNX has more operators."""

_SINGLE = ("float32", "float16", "bfloat16")


class Functions:
    """The functions of one model, with the versions of their domains."""

    def __init__(self, opset: int) -> None:
        self.protos: list[Any] = []
        self._opset = opset
        self._ops: dict[str, oy.Op] = {}
        self._versions: dict[str, int] = {}
        self._known: dict[bytes, Any] = {}
        self._pending: list[Any] = []

    def opsets(self) -> list[Any]:
        """The operator sets that the model imports."""
        from onnx import helper

        pairs = [("", self._opset), *sorted(self._versions.items())]
        return [helper.make_opsetid(domain, version) for domain, version in pairs]

    def parts(self, node: oy.Node) -> oy.Graph | None:
        """What a node computes in terms of other ops; None where nobody says."""
        found = parts(node, ())
        if found is None or any(part.call == node.call for part in found.nodes):
            return widened(node)
        return found

    def call(self, writer: Writer, node: oy.Node) -> list[str]:
        """Appends a call of the function that computes a node, and gives the names of its outputs.

        What is no more than one other op, or passes its inputs on, is written in its place.
        """
        from onnx import helper

        found = self.parts(node)
        if found is None:
            raise UnsupportedModel(_why_not(node))
        names = writer.inputs(node)
        alone = _is_standard(node.op) and any(part.op is node.op for part in found.nodes)
        if alone or len(found.nodes) <= _is_standard(node.op):
            return writer.inline(found, [name for name in names if name])
        referenced = _referenced(node.call)
        proto = self._function(node, parts(node, referenced) if referenced else found, referenced)
        outputs = [writer.fresh(value.name) for value in node.outputs]
        made = helper.make_node(proto.name, names, outputs, domain=proto.domain, overload=proto.overload)
        made.attribute.extend(_attributes(node.call))
        if (text := _as_json(node.call.attrs)) is not None:
            made.metadata_props.add(key=ATTRIBUTES_KEY, value=text)
        writer.nodes.append(made)
        return outputs

    def _function(self, node: oy.Node, part: oy.Graph | None, referenced: Sequence[str]) -> Any:
        """The function with the body ``part``; one that is there already if its body is equal."""
        op = node.op
        if self._ops.setdefault(op.name, op) is not op:
            raise UnsupportedModel(
                f"the graph has two ops called {op.name!r}, and functions of a model are known by their names; give one another name."
            )
        key = (op.name, node.call.inputs, node.call.attributes)
        if key in self._pending:
            raise UnsupportedModel(f"the decomposition of {op.name} calls itself (at {node.source}).")
        if len(self._pending) >= DEEPEST:
            raise UnsupportedModel(
                f"the decomposition of {op.name} nests more than {DEEPEST} ops (at {node.source}); does it call itself?"
            )
        self._pending.append(key)
        try:
            assert part is not None
            proto = self._body(op, part, referenced)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{error} (in {op.name})") from None
        finally:
            self._pending.pop()
        data = proto.SerializeToString(deterministic=True)
        if data not in self._known:
            count = sum((p.domain, p.name) == (proto.domain, proto.name) for p in self.protos)
            proto.overload = str(count + 1) if count else ""
            self._versions[proto.domain] = max(op.version, self._versions.get(proto.domain, 1))
            self._known[data] = proto
            self.protos.append(proto)
        return self._known[data]

    def _body(self, op: oy.Op, part: oy.Graph, referenced: Sequence[str]) -> Any:
        from onnx import helper

        from opyard_onnx.exporting import Writer

        writer = Writer(part, self)
        for name in referenced:
            writer.bind(part.inputs[name], _reference(writer, part.inputs[name], name))
        for node in part.nodes:
            writer.write(node)
        writer.finish(part.outputs)
        constants = [helper.make_node("Constant", [], [t.name], value=t) for t in writer.tensors]
        for constant in constants:
            constant.attribute[0].t.name = ""
        nodes = [*constants, *writer.nodes]
        domain, name = domain_of(op)
        inner = {node.domain for node in nodes if node.domain}
        proto = helper.make_function(
            *(domain, name, [n for n in part.inputs if n not in referenced], list(part.outputs), nodes),
            [entry for entry in self.opsets() if entry.domain in {"", *inner}],
            [key for key, _ in op.signature.attributes],
            doc_string=op.doc.strip().partition("\n")[0],
        )
        if op.name not in STANDARD or _is_standard(
            op
        ):  # under the name of a standard op that one would be found
            proto.metadata_props.add(key=OP_KEY, value=op.name)
            proto.metadata_props.add(key=VERSION_KEY, value=str(op.version))
        return proto


def domain_of(op: oy.Op) -> tuple[str, str]:
    """Domain and name of the function that an op becomes."""
    domain, _, name = op.name.rpartition(".")
    if any(domain == taken or domain.startswith(f"{taken}.") for taken in TAKEN):
        domain = f"{OWN_DOMAIN}.{domain}"
    return domain or OWN_DOMAIN, name


def parts(node: oy.Node, referenced: Sequence[str]) -> oy.Graph | None:
    """The graph of a node by other ops, with its inputs under their names; None for an op that has no parts.

    referenced  attributes of a scalar expression that are inputs of the graph, too, without dimensions
    """
    from opyard_onnx.operators.export_parts import PARTS

    call, graph = node.call, oy.Graph()
    names = _input_names(call)
    inputs = tuple(
        None if spec is None else graph.input(name, spec)
        for name, spec in zip(names, call.inputs, strict=True)
    )
    own = PARTS.get(call.op.name) if _is_standard(call.op) else None
    with graph:
        if own is not None:
            found = own(*inputs, **call.attrs)
        elif referenced:
            dtype = _like(call)
            values = {name: graph.input(name, oy.TensorSpec((), dtype)) for name in referenced}
            attributes = tuple((key, values.get(key, value)) for key, value in call.attributes)
            found = parts_of(oy.Call(call.op, call.inputs, attributes, call.outputs, call.is_tuple), inputs)
        else:
            found = parts_of(call, inputs)
        if found is None:
            return None
        results = found if isinstance(found, (tuple, list)) else (found,)
        for number, (result, spec) in enumerate(zip(results, call.outputs, strict=True)):
            name = _free(f"y{number}" if call.is_tuple else "y", names, referenced)
            graph.output(name, _promised(graph, result, spec))
    return _marked(graph, node)


def _marked(graph: oy.Graph, node: oy.Node) -> oy.Graph:
    for part in graph.nodes:
        part.mark = node.mark  # the user wrote the whole, not its parts
    return graph


def widened(node: oy.Node) -> oy.Graph | None:
    """The graph of the same op in a wider dtype of its inputs, and the result cast back; None where none is wider."""
    from opyard_onnx.operators.exports import EXPORTS

    call = node.call
    if not _is_standard(call.op) or call.op.name not in EXPORTS:
        return None
    dtypes = [None if spec is None else WIDER.get(spec.dtype.name) for spec in call.inputs]
    if not any(dtypes) or any(value in WIDER for _, value in call.attributes if isinstance(value, str)):
        return None
    graph = oy.Graph()
    inputs: list[Any] = []
    for name, spec, dtype in zip(_input_names(call), call.inputs, dtypes, strict=True):
        value = None if spec is None else graph.input(name, spec)
        inputs.append(oy.cast(value, dtype=dtype) if dtype else value)
    found = graph.apply(call.op, inputs, call.attrs)
    for number, (value, spec) in enumerate(
        zip(found if call.is_tuple else (found,), call.outputs, strict=True)
    ):
        graph.output(f"y{number}", _promised(graph, value, spec))
    return _marked(graph, node)


def _promised(graph: oy.Graph, result: Any, spec: oy.TensorSpec) -> oy.Value:
    """A result as a value of exactly the dtype and shape that its op infers."""
    value = result if isinstance(result, oy.Value) else graph.constant(np.asarray(result, spec.dtype))
    if value.dtype != spec.dtype:
        value = oy.cast(value, dtype=spec.dtype.name)
    found: oy.Value = value if value.shape == spec.shape else oy.broadcast_to(value, shape=spec.shape)
    return found


def _input_names(call: oy.Call) -> list[str]:
    names = list(call.input_names)
    if call.op.signature.variadic:
        last = names.pop()
        names += [f"{last}_{number}" for number in range(len(call.inputs) - len(names))]
    return names


def _free(name: str, *taken: Sequence[str]) -> str:
    while any(name in names for names in taken):
        name += "_"
    return name


def _is_standard(op: oy.Op) -> bool:
    return op.name in STANDARD and STANDARD[op.name].op is op


def _like(call: oy.Call) -> str:
    """The dtype that numbers in a scalar expression take."""
    return next(spec for spec in call.inputs if spec is not None).dtype.name


def _referenced(call: oy.Call) -> list[str]:
    """Attributes that the body of a scalar expression can take from the node.

    The inputs have one dtype then, in which float32 holds the number as exactly as the op's own attribute does.
    """
    op, dtypes = call.op, {spec.dtype for spec in call.inputs if spec is not None}
    if op.scalar is None or op.decompose is not None or _is_standard(op) or len(dtypes) != 1:
        return []
    (dtype,) = dtypes
    numbers = {k: v for k, v in call.attributes if isinstance(v, (int, float)) and not isinstance(v, bool)}
    if dtype.name in _SINGLE:
        return list(numbers)
    if dtype.name == "float64":
        return [key for key, value in numbers.items() if float(np.float32(value)) == value]
    if dtype.kind not in "iu":
        return []
    least, most = max(np.iinfo(dtype).min, -(2**63)), min(np.iinfo(dtype).max, 2**63 - 1)
    return [key for key, value in numbers.items() if isinstance(value, int) and least <= value <= most]


def _reference(writer: Writer, value: oy.Value, attribute: str) -> str:
    """The name of an attribute's number in a function body, in the dtype of ``value``."""
    from onnx import AttributeProto, NodeProto

    floating = value.dtype.name in (*_SINGLE, "float64")
    made = NodeProto(op_type="Constant", output=[writer.fresh(f"{attribute}_given")])
    kind = AttributeProto.FLOAT if floating else AttributeProto.INT
    made.attribute.add(name="value_float" if floating else "value_int", type=kind, ref_attr_name=attribute)
    writer.nodes.append(made)
    given: str = made.output[0]
    same = value.dtype.name == ("float32" if floating else "int64")
    return given if same else writer.cast(given, value.dtype.name)


def _attributes(call: oy.Call) -> list[Any]:
    """The attributes that ONNX can hold; None, nested tuples and symbolic sizes are left out.

    One that the body names has the type that the body expects.
    """
    from onnx import helper

    floating = set(_referenced(call)) if _is_floating(call) else set()
    found = []
    for key, value in call.attributes:
        items = value if isinstance(value, tuple) else (value,)
        if not items or not (
            all(isinstance(item, str) for item in items)
            or all(isinstance(item, int) and abs(item) < 2**63 for item in items)
            or all(isinstance(item, (int, float)) for item in items)
        ):
            continue
        if isinstance(value, tuple) and any(isinstance(item, float) for item in items):
            value = tuple(map(float, items))
        if isinstance(value, bool):
            value = int(value)
        found.append(helper.make_attribute(key, float(value) if key in floating else value))
    return found


def _is_floating(call: oy.Call) -> bool:
    return any(spec is not None and spec.dtype.name in (*_SINGLE, "float64") for spec in call.inputs)


def _as_json(attributes: dict[str, Any]) -> str | None:
    """Attributes as text that gives back the same; None where one is no JSON, such as a symbolic size."""
    try:
        return json.dumps(attributes)
    except TypeError:
        return None


def _why_not(node: oy.Node) -> str:
    from opyard_onnx.operators.export_parts import WITHOUT

    name = node.op.name
    if _is_standard(node.op):
        why = WITHOUT.get(name, f"there is none for {', '.join(map(repr, filter(None, node.call.inputs)))}")
        return f"the op {name} (at {node.source}) has no ONNX form: {why}."
    return (
        f"the op {name} (at {node.source}) has neither decompose nor scalar, and ONNX has no operator of that meaning; "
        f"say what it is made of: @op({name!r}, ..., decompose=...), a function over other ops, or scalar='...'."
    )


# Import --------------------------------------------------------------------------------------------------------------


def call_registered(function: Any, node: Any, inputs: Sequence[Any]) -> list[Any] | None:
    """The outputs of a node that calls an exported op, by the op where it is registered here in the same version.

    None for every other function, whose body says what it computes.
    """
    about = {entry.key: entry.value for entry in function.metadata_props}
    given = {entry.key: entry.value for entry in node.metadata_props}
    if OP_KEY not in about or ATTRIBUTES_KEY not in given:
        return None
    op = oy.default_registry().ops.get(about[OP_KEY])
    if op is None or str(op.version) != about.get(VERSION_KEY):
        return None
    try:
        attributes = json.loads(given[ATTRIBUTES_KEY])
    except ValueError:
        attributes = None
    if not isinstance(attributes, dict):
        raise ModelError(
            f"the metadata {ATTRIBUTES_KEY!r} is no JSON object; remove it, and the function body is used."
        )
    graph = next((value.graph for value in inputs if value is not None), None)
    if graph is None:
        return None
    made = graph.apply(op, inputs, attributes)
    return list(made) if isinstance(made, tuple) else [made]
