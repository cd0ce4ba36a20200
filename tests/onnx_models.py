"""Small ONNX models for tests, written in onnx's own text format."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper, parser


def model(text: str, opset: int = 21, domains: str = "", functions: str = "", **constants: Any) -> Any:
    """A ModelProto of a graph such as ``g (float[2] x) => (float[2] y) { y = Relu (x) }``, with these initializers."""
    opsets = ", ".join(filter(None, [f'"" : {opset}', domains]))
    found = parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{text}\n{functions}")
    for name, array in constants.items():
        found.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return found


def reference(proto: Any, feeds: dict[str, Any]) -> list[Any]:
    """The outputs by the onnx package's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    found: list[Any] = ReferenceEvaluator(proto).run(None, feeds)
    return found


def single(op_type: str, inputs: dict[str, Any], outputs: int = 1, opset: int = 21, **attributes: Any) -> Any:
    """A model of one node with these arrays as inputs; None leaves one out."""
    names = ["" if array is None else name for name, array in inputs.items()]
    made = [f"y{number}" for number in range(outputs)]
    node = helper.make_node(op_type, names, made, **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in inputs.items()
        if a is not None
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in made]
    graph = helper.make_graph([node], "single", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
