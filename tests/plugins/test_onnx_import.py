"""ONNX models as graphs: shapes, weights, functions, and what is said about models that cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import opyard as oy
import opyard_onnx
from onnx_models import model, reference, single
from opyard_onnx import ModelError, UnsupportedModel, load

RELU = "g (float[2] x) => (float[2] y) { y = Relu (x) }"


def run(graph: oy.Graph, **feeds: Any) -> Any:
    return oy.Session(graph, devices="reference").run(list(graph.outputs), feeds)


def test_importing_the_package_does_not_import_onnx():
    code = "import sys, opyard_onnx.plugin; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_bytes_and_a_proto_are_the_same_model(tmp_path: Path):
    proto = model(RELU)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    for source in (proto, path, str(path), path.read_bytes()):
        (found,) = run(load(source), x=np.array([-1, 2], "float32"))
        np.testing.assert_array_equal(found, [0, 2])


def test_open_sizes_are_symbolic_and_shapes_computed_of_them_too():
    proto = model(
        """g (float[batch, 2, 3] x) => (float[batch, 6] y) {
            s = Shape (x)
            first = Gather (s, zero)
            one = Unsqueeze (first, axes)
            shape = Concat <axis = 0> (one, rest)
            y = Reshape (x, shape)
        }""",
        zero=np.int64(0),
        axes=[0],
        rest=[-1],
    )
    graph = load(proto)
    assert [str(n) for n in graph.outputs["y"].shape] == ["batch", "6"]
    x = np.arange(24, dtype="float32").reshape(4, 2, 3)
    np.testing.assert_array_equal(run(graph, x=x)[0], x.reshape(4, 6))


def test_sizes_without_a_name_or_with_an_odd_one_get_a_name():
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }")
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "batch size/2"
    dims[1].ClearField("dim_value")
    assert [str(n) for n in load(proto).inputs["x"].shape] == ["batch_size_2", "x_1"]


def test_numbers_that_decide_about_shapes_are_given_as_constants():
    proto = model("g (float[2, 3] x, int64[n] shape) => (float[m, k] y) { y = Reshape (x, shape) }")
    with pytest.raises(
        UnsupportedModel,
        match=r"Reshape needs the numbers of 'shape' to know the shapes that follow, .* load\(\.\.\., constants=\{name: array\}\)",
    ):
        load(proto)
    graph = load(proto, constants={"shape": np.array([3, 2])})
    assert list(graph.inputs) == ["x"] and graph.outputs["y"].shape == (3, 2)
    with pytest.raises(oy.errors.GraphError, match="main_graph has no input 'form', for which a constant"):
        proto.graph.name = "main_graph"
        load(proto, constants={"form": np.array([3, 2]), "shape": np.array([3, 2])})


def test_specs_of_the_caller_go_before_those_of_the_model():
    proto = model(RELU)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedModel, match="does not say how many dimensions 'x' has; give its spec"):
        load(proto)
    assert load(proto, specs={"x": oy.TensorSpec(("n", 7))}).outputs["y"].shape[1] == 7


# Weights -----------------------------------------------------------------------------------------------------------


def external(folder: Path, array: np.ndarray[Any, Any], **entries: str) -> Any:
    """A model ``y = x + w`` whose weight lies in another file."""
    proto = model(f"g (float[{array.size}] x) => (float[{array.size}] y) {{ y = Add (x, w) }}")
    tensor = proto.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = "w", TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.extend(array.shape)
    for key, value in {"location": "w.bin", **entries}.items():
        added = tensor.external_data.add()
        added.key, added.value = key, value
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "w.bin").write_bytes(b"\0" * 8 + array.tobytes())
    (folder / "m" / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m" / "m.onnx"


def test_external_weights_are_mapped_and_not_copied(tmp_path: Path):
    weights = np.arange(5, dtype="float32")
    graph = load(external(tmp_path, weights, offset="8", length="20"))
    (found,) = graph.constants.values()
    np.testing.assert_array_equal(found, weights)
    base: Any = found
    while not isinstance(base, np.memmap):
        assert not base.flags.owndata
        base = base.base
    np.testing.assert_array_equal(run(graph, x=weights)[0], 2 * weights)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"location": "../outside"},
            r"the tensor 'w' lies in '\.\./outside', which is not in the model's folder",
        ),
        ({"location": "/outside"}, "'/outside', which is not in the model's folder"),
        ({"location": ""}, "lies in '', which is not in the model's folder"),
        ({"location": "link"}, "lies in 'link', which is not in the model's folder"),
        ({"location": "gone"}, "lies in 'gone', and there is no such file beside the model"),
        ({"offset": "many"}, "the tensor 'w' names a place in 'w.bin' that is no number"),
        ({"offset": "16"}, "takes 20 bytes; 'w.bin' was to hold 20 from 16, and has 28"),
        ({"offset": "-4"}, "takes 20 bytes; 'w.bin' was to hold 20 from -4, and has 28"),
        ({"length": "24"}, "takes 20 bytes; 'w.bin' was to hold 24 from 0, and has 28"),
    ],
)
def test_external_weights_that_are_not_there(tmp_path: Path, entries: dict[str, str], message: str):
    path = external(tmp_path, np.arange(5, dtype="float32"), **entries)
    (tmp_path / "outside").write_bytes(b"\0" * 64)
    (tmp_path / "m" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ModelError, match=message):
        load(path)


def test_external_weights_of_a_model_without_a_folder(tmp_path: Path):
    data = external(tmp_path, np.arange(5, dtype="float32")).read_bytes()
    with pytest.raises(ModelError, match=r"lies in the file 'w\.bin'; open the model by its path"):
        load(data)


NARROW = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
PACKED = ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")
NATIVE = ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "complex64", "complex128")  # fmt: skip


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", NATIVE + NARROW + PACKED)
def test_tensors_of_every_type(name: str, raw: bool):
    dtype = np.dtype(getattr(ml_dtypes, name) if name in NARROW + PACKED else name)
    array = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 1]]).astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
    else:
        tensor = helper.make_tensor("w", number, array.shape, array.ravel())
    proto = model("g (float[1] x) => (float[1] y) { y = Identity (x) }")
    proto.graph.node[0].input[0] = "w"
    proto.graph.initializer.append(tensor)
    del proto.graph.input[:]
    (found,) = run(load(proto))
    assert found.dtype == dtype and found.shape == (3, 3)
    assert found.tobytes() == array.tobytes()


def test_negative_packed_integers_keep_their_sign():
    array = np.array([-8, -1, 7, 3, -5]).astype(ml_dtypes.int4)
    proto = model("g () => (float[5] y) { y = Cast <to = 1> (w) }")
    proto.graph.initializer.append(numpy_helper.from_array(array, "w"))
    np.testing.assert_array_equal(run(load(proto))[0], [-8, -1, 7, 3, -5])


def test_sparse_weights_are_made_dense():
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 4.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2, 2], [0, 1, 1, 0])
    proto = model("g () => (float[2, 2] y) { y = Identity (w) }")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 2]))
    np.testing.assert_array_equal(run(load(proto))[0], [[0, 3], [4, 0]])


# Functions ---------------------------------------------------------------------------------------------------------


def test_functions_of_the_model_with_attributes():
    proto = model(
        "g (float[2] x) => (float[2] y) { y = acme.twice <slope = 0.5> (x) }",
        domains='"acme" : 1',
        functions="""<opset_import: ["" : 21], domain: "acme">
            twice <slope> (x) => (y) { z = LeakyRelu <alpha: float = @slope> (x)  y = Add (z, z) }""",
    )
    np.testing.assert_array_equal(run(load(proto), x=np.array([-2, 3], "float32"))[0], [-2, 6])


def test_standard_functions_stand_for_operators_without_a_converter():
    x = np.array([-2, -0.2, 0.3, 2], "float32")
    proto = single("Shrink", {"x": x}, lambd=0.5, bias=0.1)
    np.testing.assert_allclose(run(load(proto), x=x)[0], reference(proto, {"x": x})[0])


def test_a_function_that_calls_itself():
    proto = model(
        "g (float[2] x) => (float[2] y) { y = acme.again (x) }",
        domains='"acme" : 1',
        functions='<opset_import: ["" : 21, "acme" : 1], domain: "acme"> again (x) => (y) { y = acme.again (x) }',
    )
    with pytest.raises(ModelError, match="the function 'again' of the domain 'acme' calls itself"):
        load(proto)


# What cannot be imported -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y = Relu (z)", r"the value 'z' is used before anything makes it. \(in Relu\)"),
        ("y = Relu (x) y = Neg (x)", "the value 'y' is made twice, the second time by Neg"),
        ("y = Frobnicate (x)", "opyard-onnx has no operator Frobnicate of opset 21"),
        ("y = ai.onnx.ml.Frobnicate (x)", r"has no operator ai\.onnx\.ml\.Frobnicate of opset 1"),
        ("y = Conv <auto_pad = 'WIDE'> (x, x)", "auto_pad is NOTSET, SAME_UPPER, SAME_LOWER, VALID; found 'WIDE'"),
        ("y = Cast (x)", "Cast needs the attribute 'to'"),
        ("y = Cast <to = 99> (x)", "the ONNX element type 99 is not imported; known are 1 to 26"),
        ("y = Add (x)", "Add cannot be imported|add.* needs the input 'x2'"),
        ("y, m, s = Softmax (x)", r"the output 'm' of Softmax is not made"),
        ("y = MatMul (x, w)", r"matmul\(float32\[2\], float32\[3\]\).* \(in MatMul\)"),
        ("y = Dropout (x, w, t)", "Dropout in training mode draws random numbers that ONNX does not define"),
        ("y = Resize (x)", "Resize needs sizes or scales"),
        ("e = Optional <type = float> () y = OptionalGetElement (e)", "value of an optional that has none"),
        ("s = SequenceConstruct (x) y = SequenceAt (s, three)", "SequenceAt asks for element 3 of a sequence of 1"),
    ],
)  # fmt: skip
def test_nodes_that_make_no_sense(text: str, message: str):
    if "Optional <" in text:
        proto = model("g (float[2] x) => (float[2] y) { y = OptionalGetElement (e) }")
        proto.graph.node.insert(0, helper.make_node("Optional", [], ["e"]))
    else:
        text = text.replace("'", '"')
        proto = model(
            f"g (float[2] x) => (float[2] y) {{ {text} }}", w=np.ones(3, "f4"), t=True, three=np.int64(3)
        )
    with pytest.raises(ModelError, match=message):
        load(proto)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"dims": [-2]}, r"the tensor 'w' has the shape \(-2,\); sizes are not negative"),
        ({"dims": [3], "float_data": [1, 2]}, r"has the shape \(3,\) and 2 elements; the file is damaged"),
        ({"dims": [3], "raw_data": b"1234"}, "a tensor of 3 elements of float32 takes 12 bytes; found 4"),
        ({"dims": [3], "data_type": 77}, "the ONNX element type 77 is not imported"),
        ({"dims": [10**12], "raw_data": b"1234"}, "takes 4000000000000 bytes; found 4"),
    ],
)
def test_damaged_tensors(tensor: dict[str, Any], message: str):
    proto = model("g (float[2] x) => (float[2] y) { y = Add (x, w) }")
    proto.graph.initializer.append(TensorProto(**{"name": "w", "data_type": 1, **tensor}))
    with pytest.raises(ModelError, match=message):
        load(proto)


def test_sources_that_are_no_models(tmp_path: Path):
    with pytest.raises(ModelError, match=r"there is no file '.*none\.onnx'"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"a model is a path, bytes or an onnx\.ModelProto; found int"):
        load(3)
    with pytest.raises(ModelError, match="the model is no ONNX model: "):
        load(b"\xff\xff\xff")
    with pytest.raises(ModelError, match="the model holds no graph; is it an ONNX model"):
        load(b"")
    with pytest.raises(
        UnsupportedModel, match="is written for opset 999; the onnx installed here knows opsets up to"
    ):
        load(model(RELU, opset=999))


def test_what_a_graph_does_not_hold():
    text = model("g (string[2] x) => (string[2] y) { y = Identity (x) }")
    with pytest.raises(UnsupportedModel, match=r"'x' holds strings, .* use opyard_onnx\.Model"):
        load(text)
    sequence = model("g (seq(float[2]) x) => (float[2] y) { y = SequenceAt (x, i) }", i=np.int64(0))
    with pytest.raises(UnsupportedModel, match="the input 'x' is no tensor, and a graph takes tensors alone"):
        load(sequence)
    made = model("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct (x) }")
    with pytest.raises(UnsupportedModel, match="the output 'y' is a sequence, an optional or text"):
        load(made)


def test_symbolic_sizes_where_numbers_are_needed():
    proto = model(
        "g (float[n] x) => (float[m] y) { s = Shape (x) i = Squeeze (s, axes) y = Range (one, i, one) }",
        axes=[0],
        one=np.int64(1),
    )
    with pytest.raises(ModelError, match="Range with symbolic limits counts from 0 by 1 only"):
        load(proto)
    proto.graph.node[-1].input[0] = "zero"
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(0), "zero"))
    np.testing.assert_array_equal(run(load(proto), x=np.zeros(3, "f4"))[0], [0, 1, 2])
    tile = model("g (float[n] x) => (float[m] y) { s = Shape (x) y = TopK (x, s) }")
    with pytest.raises(
        ModelError, match=r"TopK needs the numbers of its input 1, which are the symbolic sizes \[n\]"
    ):
        load(tile)
    scaled = model(
        "g (float[n] x) => (float[n] y) { s = Shape (x) f = Cast <to = 1> (s) i = Cast <to = 7> (f) y = Expand (x, i) }"
    )
    with pytest.raises(ModelError, match="a symbolic size cannot become float32 before it is bound"):
        load(scaled)


def test_the_errors_are_opyards():
    assert issubclass(opyard_onnx.UnsupportedModel, ModelError) and issubclass(ModelError, oy.OpyardError)
