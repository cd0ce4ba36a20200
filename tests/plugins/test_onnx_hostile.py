"""Damaged and hostile models: a clear error, and neither much memory nor anything from outside of the model's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import opyard as oy
from onnx_models import model
from opyard_onnx import Model, ModelError, UnsupportedModel, evaluation, load
from opyard_onnx import limits as limits_module

MUTATIONS = Path(__file__).parents[1] / "bench" / "onnx_mutations.py"
RELU = "g (float[2] x) => (float[2] y) { y = Relu (x) }"


def test_mutated_files_are_opened_or_refused():
    """A bounded part of what the script does: no other exception, no process that dies."""
    done = subprocess.run(
        [sys.executable, str(MUTATIONS), "--count", "300", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    findings = [found for found in report["findings"] if found["kind"] != "slow"]  # this machine may be busy
    assert not findings and sum(report["counts"].values()) == 300
    assert report["counts"]["refused"] > 100 and report["counts"]["opened"] > 10


# Names, graphs and functions -----------------------------------------------------------------------------------------


def changed(change: Callable[[Any], Any], text: str = RELU, **constants: Any) -> ModelProto:
    proto: ModelProto = model(text, **constants)
    change(proto.graph)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (changed(lambda g: g.ClearField("output")), "g has no outputs, so there is nothing to compute"),
        (changed(lambda g: g.input.append(g.input[0])), "g has an input 'x' twice"),
        (changed(lambda g: g.output.append(g.output[0])), "g has an output 'y' twice"),
        (changed(lambda g: g.initializer.extend([TensorProto(name="w")] * 2)), "g has an initializer 'w' twice"),
        (changed(lambda g: g.initializer.add()), "g has an initializer without a name"),
        (changed(lambda g: g.input.add()), "g has an input without a name"),
        (changed(lambda g: g.ClearField("node")), "the value 'y' is used before anything makes it"),
        (changed(lambda g: g.node.reverse(), "g (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }"), r"the value 'a' is used before anything makes it. \(in Neg\)"),
        (changed(lambda g: g.initializer.add(name="w", data_type=1, dims=[2**62, 0, 2**62])), r"the tensor 'w' has the shape \(4611686018427387904, 0, 4611686018427387904\), which is too large"),
        (changed(lambda g: g.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", -3)), r"sizes are not negative; found -3 in shape \(-3,\)"),
        (changed(lambda g: g.input[0].type.tensor_type.__setattr__("elem_type", 99)), "the ONNX element type 99 is not imported"),
        (changed(lambda g: g.input[0].ClearField("type")), "the input 'x' is no tensor"),
    ],
)  # fmt: skip
def test_graphs_that_make_no_sense(proto: ModelProto, message: str):
    with pytest.raises(oy.OpyardError, match=message):
        load(proto)


def test_names_that_are_no_text():
    data = model("g (float[2] xyzzy) => (float[2] y) { y = Relu (xyzzy) }").SerializeToString()
    with pytest.raises(ModelError, match=r"has an input whose name is no UTF-8: b'xy\\xff\\xfey'"):
        load(data.replace(b"xyzzy", b"xy\xff\xfey"))


def chain(levels: int, calls: int, loop: bool = False) -> ModelProto:
    """Functions that each call the next so many times."""
    names = [f"f{i}" for i in range(levels)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    proto: ModelProto = model("g (float[2] x) => (float[2] y) { y = f.f0 (x) }", domains='"f" : 1')
    for name, following in zip(names, [*names[1:], names[0] if loop else ""], strict=True):
        nodes = [
            helper.make_node(following or "Relu", [f"v{i}"], [f"v{i + 1}"], domain="f" if following else "")
            for i in range(calls)
        ]
        proto.functions.append(helper.make_function("f", name, ["v0"], [f"v{calls}"], nodes, opsets))
    return proto


def test_functions_that_expand_without_end():
    with pytest.raises(
        ModelError,
        match="g has more than 100000 nodes once its functions are written out and its loops unrolled",
    ):
        load(chain(40, 2))
    with pytest.raises(
        ModelError, match="g: subgraphs and functions lie in each other more than 64 levels deep"
    ):
        load(chain(100, 1))
    with pytest.raises(ModelError, match="g: the function 'f0' of the domain 'f' calls itself"):
        load(chain(3, 1, loop=True))
    assert len(load(chain(5, 3)).nodes) == 3**5
    twice = chain(2, 1)
    twice.functions.append(twice.functions[0])
    with pytest.raises(ModelError, match="g has two functions 'f0' of the domain 'f'"):
        load(twice)


def test_loops_that_unroll_without_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("opyard_onnx.importer.MOST_NODES", 50)
    body = "b (int64 i, bool c, float[2] v) => (bool d, float[2] w) { d = Identity (c) w = Neg (v) }"
    proto = model(
        f"g (float[2] x) => (float[2] y) {{ y = Loop <body = {body}> (m, t, x) }}", m=np.int64(90), t=True
    )
    with pytest.raises(ModelError, match="g has more than 100000 nodes once its functions"):
        load(proto, unroll=True)
    assert [node.op.name for node in load(proto).nodes] == ["scan"]


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message, length-delimited."""
    size, found = len(data), bytes([number << 3 | 2])
    while size > 127:
        found, size = found + bytes([size & 127 | 128]), size >> 7
    return found + bytes([size]) + data


@pytest.mark.parametrize("levels", [40, 200, 20_000])
def test_subgraphs_that_nest_too_deeply(levels: int):
    """Written as bytes, for protobuf refuses to make such a message."""
    graph = b""
    for _ in range(levels):
        attribute = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
        if len(graph) > 10**5:
            break
    with pytest.raises(ModelError, match=r"is no ONNX model: .*Depth|has no outputs"):
        load(field(7, graph))


# Absurd sizes --------------------------------------------------------------------------------------------------------

BIG, WIDE = 2**40, 2**62


@pytest.mark.parametrize(
    ("text", "constants", "message"),
    [
        ("y = Range (z, n, o)", {"z": 0, "n": BIG, "o": 1}, "Range has 1099511627776 elements; no more than 16777216 are computed when a model is imported"),
        ("y = OneHot (i, n, v)", {"i": [1], "n": BIG, "v": [0, 1]}, "the depth of OneHot has 1099511627776 elements"),
        ("y = HannWindow (n)", {"n": BIG}, "Range has 1099511627776 elements"),
        ("y = MelWeightMatrix (n, m, o, f, f)", {"n": 2**30, "m": 2**30, "o": 8000, "f": 1.0}, "MelWeightMatrix, with 1024 columns at least, has"),
        ("y = STFT (x3, n, w, n)", {"n": BIG, "w": np.ones(4, "f4"), "x3": np.ones((1, 100, 1), "f4")}, "STFT has 1099511627776 elements"),
        ("y = EyeLike (e)", {"e": np.zeros((2**13, 2**13), "i1")}, "EyeLike has 67108864 elements"),
        ("y, j = MaxPool <kernel_shape = [1073741824], pads = [536870912, 536870912]> (x3)", {"x3": np.ones((1, 1, 4), "f4")}, "the table of the windows has"),
        ("y = MaxUnpool <kernel_shape = [1073741824], strides = [1073741824]> (x3, j)", {"x3": np.ones((1, 1, 4), "f4"), "j": np.zeros((1, 1, 4), "i8")}, "MaxUnpool has 4294967296 elements"),
        ("y = Col2Im (x3, s, b)", {"x3": np.ones((1, 4, 4), "f4"), "s": [2**30, 2], "b": [2, 2]}, "the table of the windows has"),
        ("y = ReverseSequence <time_axis = 0, batch_axis = 1> (x9, l)", {"l": [1, 1]}, "the time axis of ReverseSequence has 1099511627776 elements"),
        ("c = CenterCropPad (x2, s) y = Resize <mode = \"linear\"> (c, , , t)", {"x2": np.ones((2, 2), "f4"), "s": [4, 2], "t": [2**30, 2]}, "the weights of a resize, 1024 at least for each row, has"),
        ("y = ReduceMax <keepdims = 1> (k, a)", {"a": [0]}, "the reduction of nothing has 1099511627776 elements"),
        ("y = TfIdfVectorizer <max_gram_length = 1, min_gram_length = 1, max_skip_count = 9, mode = \"TF\", ngram_counts = [0], ngram_indexes = [1099511627776], pool_int64s = [1]> (i)", {"i": [1]}, "TfIdfVectorizer has 1099511627777 elements"),
        ("y = Split <num_outputs = 2147483648> (x)", {}, "Split: 2147483648 parts; no more than 10000 are imported"),
        ("q = SplitToSequence (x9, one) y = SequenceAt (q, one)", {"one": 1}, "SplitToSequence: 1099511627776 parts"),
        ("q = SplitToSequence <keepdims = 0> (x9) y = SequenceAt (q, one)", {"one": 1}, "SplitToSequence: 1099511627776 parts"),
        ("h, y = GRU <hidden_size = 1> (t3, w, r)", {"w": np.ones((1, 3, 2), "f4"), "r": np.ones((1, 3, 1), "f4")}, "a recurrent layer over time: 1099511627776 parts"),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused_before_they_are_made(text: str, constants: dict[str, Any], message: str):
    inputs = f"float[2] x, float[{BIG}, 2] x9, float[{BIG}, 1, 2] t3, float[0, {BIG}] k"
    proto = model(f"g ({inputs}) => (y) {{ {text} }}", **constants)
    with pytest.raises(ModelError, match=message):
        load(proto)


def test_what_no_memory_holds_is_refused_at_once():
    proto = model("g (float[1] x) => (float[a, b] y) { y = ConstantOfShape (s) }", s=np.array([WIDE, 4]))
    message = r"ConstantOfShape makes float32\[4611686018427387904, 4\], which no memory holds\."
    for opened in (load, lambda proto: Model(proto).run({"x": np.ones(1, "f4")})):
        with pytest.raises(ModelError, match=message):
            opened(proto)


def test_a_loop_that_doubles_its_state_is_refused_early():
    body = "b (int64 i, bool c, float[k] v) => (bool d, float[j] w) { d = Identity (c) w = Concat <axis = 0> (v, v) }"
    text = f"g (float[2] x) => (float[k] y) {{ y = Loop <body = {body}> (m, t, x) }}"
    with pytest.raises(ModelError, match=r"Concat makes float32\[70368744177664\], which no memory holds"):
        load(model(text, m=np.int64(10_000), t=True))


def test_running_what_this_memory_does_not_hold():
    proto = model("g (float[1] x) => (float[a, b] y) { y = ConstantOfShape (s) }", s=np.array([2**42, 4]))
    with pytest.raises(ModelError, match="g needs more memory than there is here: "):
        Model(proto, devices="reference").run({"x": np.ones(1, "f4")})


def test_skips_beyond_the_text_take_no_time():
    attributes = (
        "max_gram_length = 9223372036854775807, min_gram_length = 1, max_skip_count = 9223372036854775807"
    )
    proto = model(
        f'g (int64[3] x) => (float[2] y) {{ y = TfIdfVectorizer <{attributes}, mode = "TF", ngram_counts = [0, 1], ngram_indexes = [0, 1], pool_int64s = [1, 1, 2]> (x) }}'
    )
    assert Model(proto).run({"x": np.array([1, 5, 2])})[0].tolist() == [1, 1]


def test_computing_at_import_has_a_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "LARGEST_SUM", 100)
    nodes = " ".join(f"c{i + 1} = Add (c{i}, c{i})" for i in range(9))
    proto = model(f"g (float[1] x) => (y) {{ c0 = ConstantOfShape (s) {nodes} d = ReduceMax <keepdims = 0> (c9) n = Cast <to = 7> (d) y = Expand (x, n) }}", s=[20])  # fmt: skip
    with pytest.raises(UnsupportedModel, match="Expand needs the numbers of 'cast' to know the shapes"):
        load(proto)


def test_sparse_weights_of_absurd_size():
    proto = model(RELU)
    sparse = proto.graph.sparse_initializer.add(dims=[2**20, 2**20])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, "f4"), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([5]), ""))
    with pytest.raises(ModelError, match="the sparse tensor 's' has 1099511627776 elements"):
        load(proto)


def test_whatever_else_goes_wrong_is_an_error_of_the_model(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr("opyard_onnx.importer.to_array", broken)
    proto = model(RELU, w=np.ones(2, "f4"))
    for opened in (load, lambda source: Model(source).run({"x": np.ones(2, "f4")})):
        with pytest.raises(ModelError, match=r"g cannot be imported: MemoryError: no memory"):
            opened(proto)
    assert limits_module.DEEPEST == 64


# Files ---------------------------------------------------------------------------------------------------------------


def beside(folder: Path, location: str, dims: tuple[int, ...] = (2,), **entries: str) -> Path:
    """A model whose weights lie in the file ``location``."""
    proto = model("g (float[2] x) => (float[2] y) { y = Add (x, w) }")
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=dims, data_location=1)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, beside which a secret lies, with ways out of it."""
    (tmp_path / "secret.bin").write_bytes(b"secret!!")
    found = tmp_path / "model"
    found.mkdir()
    (found / "w.bin").write_bytes(np.ones(2, "f4").tobytes())
    (found / "folder").mkdir()
    (found / "link.bin").symlink_to(tmp_path / "secret.bin")
    (found / "circle.bin").symlink_to(found / "circle.bin")
    (found / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", found / "hard.bin")
    if hasattr(os, "mkfifo"):
        os.mkfifo(found / "fifo.bin")
    return found


OUTSIDE, MISSING = "which is not in the model's folder", "there is no such file beside the model"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", OUTSIDE),
        ("folder/../../secret.bin", OUTSIDE),
        ("link.bin", OUTSIDE),
        ("linked/secret.bin", OUTSIDE),
        ("/etc/passwd", OUTSIDE),
        ("/dev/zero", OUTSIDE),
        ("", OUTSIDE),
        ("hard.bin", "'hard.bin', a hard link to a file that has other names, too; put a copy in its place"),
        ("fifo.bin", MISSING),
        ("folder", MISSING),
        (".", MISSING),
        ("none.bin", MISSING),
        ("circle.bin", "which is no path|there is no such file"),
        ("a\x00b", "which is no path: embedded null byte"),
        ("x" * 5000, "which is no path: "),
    ],
)
def test_weights_are_read_from_the_folder_alone(folder: Path, location: str, message: str):
    with pytest.raises(ModelError, match=message):
        load(beside(folder, location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "4"}, "'w.bin' was to hold 8 from 4, and has 8"),
        ({"offset": "-8"}, "was to hold 8 from -8, and has 8"),
        ({"offset": "9" * 30}, "from 999999999999999999999999999999, and has 8"),
        ({"offset": "9" * 5000}, "names a place in 'w.bin' that is no number"),
        ({"offset": "nan"}, "names a place in 'w.bin' that is no number"),
        ({"length": "4"}, "takes 8 bytes; 'w.bin' was to hold 4 from 0, and has 8"),
        ({"length": "-1"}, "was to hold -1 from 0"),
        ({"dims": (WIDE, WIDE)}, "and has 8"),
        ({"dims": (-2,)}, r"has the shape \(-2,\); sizes are not negative"),
    ],
)
def test_weights_that_reach_beyond_the_file(folder: Path, entries: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        load(beside(folder, "w.bin", **entries))


def test_absolute_locations_are_refused_even_in_the_folder(folder: Path):
    with pytest.raises(ModelError, match=OUTSIDE):
        load(beside(folder, str(folder / "w.bin")))
    assert load(beside(folder, "w.bin")).outputs["y"].shape == (2,)


def test_paths_that_are_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ModelError, match=r"model holds no saved model: it has no folder"):
        load(folder)
    with pytest.raises(ModelError, match=r"fifo\.bin' is no file; name an ONNX file, or the folder"):
        load(folder / "fifo.bin")

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = beside(folder, "w.bin")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ModelError, match=r"m\.onnx' cannot be read: Permission denied"):
        load(path)
