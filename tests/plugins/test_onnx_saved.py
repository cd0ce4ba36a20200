"""Saved models: written whole, opened by strangers, checked when they are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import opyard as oy
import opyard_onnx
from opyard.errors import RegistryError
from opyard.ops import STANDARD
from opyard_onnx import ModelError, UnsupportedModel
from opyard_onnx.operators.exports import EXPORTS
from opyard_onnx.saved import writing
from opyard_onnx.saved.versions import versions
from opyard_onnx.saved.writing import UNFINISHED, name_outputs, sweep, unfinished
from opyard_onnx.tensors import DTYPE_NAMES

onnxruntime.set_default_logger_severity(4)
KILLING = Path(__file__).parents[1] / "killing.py"
BATCH = oy.TensorSpec(("batch", 4), "float32")


def weights_of(seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)


def network(seed: int = 0) -> oy.Graph:
    weights, bias = weights_of(seed), np.arange(3, dtype=np.float32)
    with oy.Graph() as graph:
        x = graph.input("x", BATCH)
        graph.output("y", oy.softmax(oy.matmul(x, weights) * 0.5 + bias))
    return graph


def by_strangers(folder: Path, feeds: dict[str, Any]) -> list[Any]:
    """The outputs by ONNX Runtime, after the checker of onnx has seen the model and safetensors its weights."""
    graph = folder / "graph.onnx"
    onnx.checker.check_model(str(graph), full_check=True)
    proto = onnx.load(graph)
    stored = {t.name: onnx.numpy_helper.to_array(t, str(folder)) for t in proto.graph.initializer}
    with safe_open(folder / "weights.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
            np.testing.assert_array_equal(file.get_tensor(name), stored[name])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feeds)
    return found


# Writing and opening -------------------------------------------------------------------------------------------------


def test_a_saved_model_is_what_was_saved_for_us_and_for_strangers(tmp_path: Path):
    graph, x = network(), np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    expected = oy.Session(graph).run("y", {"x": x})
    assert oy.save(tmp_path / "net", graph, metadata={"author": "me"}) == tmp_path / "net" / "1"
    assert sorted(p.name for p in (tmp_path / "net" / "1").iterdir()) == [
        *("graph.onnx", "manifest.json", "weights.safetensors")
    ]
    model = oy.load(tmp_path / "net")
    assert (model.path, model.version, dict(model.metadata)) == (tmp_path / "net" / "1", 1, {"author": "me"})
    np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(model(x=x), expected)
    reference = oy.Session(model.graph, devices="reference").run("y", {"x": x})
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(opyard_onnx.Model(tmp_path / "net").run({"x": x})[0], expected)
    np.testing.assert_allclose(by_strangers(model.path, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
    assert list(opyard_onnx.load(tmp_path / "net" / "1").outputs) == ["y"]


def test_the_manifest_tells_all(tmp_path: Path):
    folder = oy.save(tmp_path / "net", network(), metadata={"labels": "ä, b"})
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert data["format"] == "opyard saved model" and data["format_version"] == 1
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert data["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}]
    assert (data["opset"], data["opyard"], data["metadata"]) == (21, oy.__version__, {"labels": "ä, b"})
    assert set(data["files"]) == {"graph.onnx", "weights.safetensors"}
    for name, facts in data["files"].items():
        found = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True)
        assert facts == {"size": (folder / name).stat().st_size, "sha256": found.stdout.split()[0]}


def test_equal_graphs_give_equal_bytes(tmp_path: Path):
    one, two, three = (oy.save(tmp_path / "net", network(seed)) for seed in (0, 0, 1))
    for name in ("graph.onnx", "weights.safetensors", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (one / "weights.safetensors").read_bytes() != (three / "weights.safetensors").read_bytes()


def test_weights_are_mapped_and_not_copied(tmp_path: Path):
    weights = np.ones((1024, 1024), np.float32)
    folder = oy.save(tmp_path / "net", oy.trace(lambda x: oy.matmul(x, weights), oy.TensorSpec((2, 1024))))
    (found,) = oy.load(folder).graph.constants.values()
    base: Any = found
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and Path(base.filename) == folder / "weights.safetensors"
    assert found.flags.aligned and not found.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links here")
def test_installers_may_link_the_files(tmp_path: Path):
    version = oy.save(tmp_path / "model", network())
    for name in ("graph.onnx", "weights.safetensors"):
        os.link(version / name, tmp_path / name)
    feeds = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(oy.load(tmp_path / "model")(**feeds), oy.Session(network()).run("y", feeds))


def test_versions(tmp_path: Path):
    net = tmp_path / "models" / "net"
    assert [oy.save(net, network(seed)).name for seed in (1, 2)] == ["1", "2"]
    assert oy.save(net, network(3), version=7).name == "7"
    assert oy.save(net, network(4)).name == "8"
    (net / "007").mkdir()
    (net / "notes.txt").write_text("not a version")
    (net / "9").write_text("a file is no version, and its number is taken")
    assert oy.load(net).version == 8
    assert oy.save(net, network(5)).name == "10"
    assert versions(net) == [1, 2, 7, 8, 10]
    np.testing.assert_array_equal(next(iter(oy.load(net, 2).graph.constants.values())), weights_of(2))
    assert oy.load(net / "2").version == oy.load(net / "2", version=2).version == 2
    (net / "1").rename(tmp_path / "elsewhere")
    assert oy.load(tmp_path / "elsewhere").version is None
    for wrong in (0, -1, True, "3", 1.0):
        with pytest.raises(ModelError, match=r"a version is a whole number from 1 on; found "):
            oy.save(net, network(), version=wrong)
    with pytest.raises(
        ModelError,
        match=r"version 7 of .*net is there already, and versions never change; leave out version=7",
    ):
        oy.save(net, network(), version=7)
    with pytest.raises(ModelError, match=r"version 7 of .*net is there already"):
        writing._publish(oy.save(tmp_path / "other", network()), net, 7)
    with pytest.raises(ModelError, match=r"net has no version 3\. Versions: 2, 7, 8, 10\."):
        oy.load(net, 3)
    with pytest.raises(ModelError, match=r"2 is a version of a saved model; leave out version=7\."):
        oy.load(net / "2", 7)
    with pytest.raises(
        ModelError, match=r"8 is a version of a saved model; save to the folder around it: .*net\."
    ):
        oy.save(net / "8", network())
    with pytest.raises(
        ModelError, match=r"a saved model is a folder, and .*notes\.txt is a file; name another one\."
    ):
        oy.save(net / "notes.txt", network())
    with pytest.raises(
        ModelError, match=r"empty holds no saved model: it has no folder that is named by a number\."
    ):
        (tmp_path / "empty").mkdir()
        opyard_onnx.Model(tmp_path / "empty")
    with pytest.raises(
        RegistryError,
        match=r"no installed plugin opens the folder '.*empty'\. A saved model is a folder with",
    ):
        oy.load(tmp_path / "empty")


def test_the_folder_we_are_in_may_be_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    oy.save(".", network())
    by_strangers(tmp_path / "1", {"x": np.ones((1, 4), np.float32)})
    assert oy.load(".").path == tmp_path / "1"
    assert onnx.load("1/graph.onnx", load_external_data=False).graph.name == tmp_path.name


def test_what_has_no_onnx_form_leaves_nothing_behind(tmp_path: Path):
    with oy.Graph() as graph:
        graph.output("y", oy.random_normal(graph.input("key", oy.TensorSpec((2,), "uint32")), shape=(3,)))
    with pytest.raises(UnsupportedModel, match="the op random_normal"):
        oy.save(tmp_path / "net", graph)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", DTYPE_NAMES.values())
def test_every_dtype(tmp_path: Path, name: str):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    graph = oy.Graph()
    graph.output("y", graph.constant(array, "weights"))
    folder = oy.save(tmp_path / "net", graph)
    (found,) = oy.load(folder).graph.constants.values()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype("complex128"), array.astype("complex128"))
    (tensor,) = onnx.load(folder / "graph.onnx").graph.initializer
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(tensor).astype("complex128"), array.astype("complex128")
    )
    with safe_open(folder / "weights.safetensors", "np") as file:
        assert list(file.keys()) == ["weights"]


def test_odd_arrays_and_names(tmp_path: Path):
    turned, big = weights_of().T, weights_of().astype(">f4")
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2, 3)))
        y = oy.matmul(x, graph.constant(turned, "__metadata__"))
        y = oy.concat(y, graph.constant(big[:2, :0].astype("f4"), "nothing"), axis=1)
        graph.output("logits", oy.add(y, graph.constant(np.float32(2), "logits")))
        graph.output("again", y)
        graph.output("copy", x)
        graph.output("turned", graph.constant(turned, "__metadata__"))
    x = np.ones((2, 3), np.float32)
    model = oy.load(oy.save(tmp_path / "net", graph))
    found = model(x)
    np.testing.assert_allclose(found["logits"], x @ turned + 2, rtol=1e-5)
    np.testing.assert_array_equal(found["turned"], turned)
    for ours, theirs in zip(found.values(), by_strangers(model.path, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    nothing = oy.trace(lambda x: oy.add(x, 1.0), BATCH)
    folder = oy.save(tmp_path / "nothing", nothing)
    by_strangers(folder, {"x": np.ones((1, 4), np.float32)})


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_constants_of_every_form_may_lie_beside_the_model(tmp_path: Path, name: str):
    """The checker infers shapes; what it needs the numbers of must not lie in the file of weights."""
    op = STANDARD[name].op
    for number, case in enumerate(op.cases()):
        arrays = case.arrays(number)
        if any(a is not None and a.dtype.kind not in "fib" for a in arrays):
            continue
        graph = oy.Graph()
        values = [
            a if a is None or position else graph.input("x", oy.TensorSpec.of(a))
            for position, a in enumerate(arrays)
        ]
        made = graph.apply(op, values, dict(case.attributes))
        for index, value in enumerate(made if isinstance(made, tuple) else (made,)):
            graph.output(f"y{index}", value)
        try:
            folder = writing.write_version(tmp_path / "net", graph)
        except UnsupportedModel:
            continue
        onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)
        opyard_onnx.load(folder)
        return
    pytest.skip("no case of ordinary dtypes has a form")


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5), seed=st.integers(0, 99)
)
def test_any_constants_come_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], seed: int
):
    generator = np.random.default_rng(seed)
    graph = oy.Graph()
    arrays = [
        np.asarray(generator.integers(0, 9, shape)).astype(generator.choice(["f4", "i8", "u1", "f8"]))
        for shape in shapes
    ]
    for number, array in enumerate(arrays):
        graph.output(f"y{number}", graph.constant(array, "a name / of its own"))
    model = oy.load(writing.write_version(tmp_path_factory.mktemp("net"), graph))
    for array, value in zip(arrays, model.graph.outputs.values(), strict=True):
        assert value.node is not None and value.node.inputs[0] is not None
        found = model.graph.constants[
            value.node.inputs[0]
        ]  # an output that is a constant is an identity of it
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_outputs_take_their_names_without_a_copy():
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x, bool c) => (float[2] y, float[2] z, float[2] w, float[2] i) {
            a = Neg (x)  b = If (c) <then_branch = t () => (float[2] r) { r = Abs (a) }, else_branch = e () => (float[2] s) { s = Exp (a) }>
            y = Identity (a)  z = Identity (a)  w = Identity (b)  i = Identity (x)
        }"""
    proto = onnx.parser.parse_model(text)
    name_outputs(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Neg", "If", "Identity", "Identity"]
    feeds = {"x": np.array([1, -2], np.float32), "c": np.array(True)}
    run = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    assert [part.tolist() for part in run] == [[-1, 2], [-1, 2], [1, 2], [1, -2]]


# Crashes and company -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked and killed")
def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path: Path):
    command = [sys.executable, "-W", "error", str(KILLING), str(tmp_path / "net"), "60", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] == seen["newest_was_whole"] == 60
    assert seen["whole"] == seen["versions"] > 1
    assert seen["interrupted"] >= 10, "hardly any kill came while a version was written"
    assert seen["left_over"] == []


def test_processes_that_save_at_once_get_versions_of_their_own(tmp_path: Path):
    code = f"import sys; sys.path.insert(0, {str(KILLING.parent)!r}); from killing import *\n"
    code += f"for n in range(8): write_version(Path({str(tmp_path / 'net')!r}), tagged(n), metadata={{'tag': str(n)}})"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        mine = list(pool.map(lambda n: oy.save(tmp_path / "net", network(n)), range(12)))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(set(mine)) == 12
    assert versions(tmp_path / "net") == list(range(1, 29))
    assert all(oy.load(tmp_path / "net", number).version == number for number in range(1, 29))
    assert len(list((tmp_path / "net").iterdir())) == 28


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    oy.save(tmp_path / "net", network())

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    monkeypatch.setattr(writing, "sync_folder", lambda folder: None)
    with pytest.raises(OSError, match="No space left"):
        oy.save(tmp_path / "net", network())
    monkeypatch.undo()
    monkeypatch.setattr(writing.os, "rename", lambda *_: full(None))
    with pytest.raises(OSError, match="No space left"):
        oy.save(tmp_path / "net", network())
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["1"]


def test_folders_of_dead_writers_are_swept_up_and_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("fcntl")
    dead = tmp_path / f"{UNFINISHED}0"
    dead.mkdir()
    with unfinished(tmp_path) as alive:
        sweep(tmp_path)
        assert alive.exists() and not dead.exists()
    assert not alive.exists()
    dead.mkdir()
    monkeypatch.setitem(
        sys.modules, "fcntl", None
    )  # as on Windows: nothing can be known, so nothing is removed
    oy.save(tmp_path, network())
    assert dead.exists() and oy.load(tmp_path).version == 1


def test_a_folder_that_is_swept_up_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lock, calls = writing._lock, []

    def late(folder: Path, *, wait: bool) -> int | None:
        if not calls:
            folder.rmdir()
        calls.append(folder)
        return lock(folder, wait=wait) if folder.exists() else None

    monkeypatch.setattr(writing, "_lock", late)
    with unfinished(tmp_path) as folder:
        assert folder.exists() and folder == calls[1]


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_others_may_read_a_saved_model_as_any_file(tmp_path: Path):
    (tmp_path / "plain").write_bytes(b"")
    folder = oy.save(tmp_path / "net", network())
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


# Damage --------------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[place] ^= 1
    path.write_bytes(contents)


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def lead_out(folder: Path) -> None:
    outside = folder.parent.parent / "outside.safetensors"
    (folder / "weights.safetensors").rename(outside)
    (folder / "weights.safetensors").symlink_to(outside)


def as_folder(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").mkdir()


def relocate(location: str) -> Callable[[Path], None]:
    """A graph whose weights lie elsewhere, with a manifest that fits."""

    def change(folder: Path) -> None:
        proto = onnx.load(folder / "graph.onnx", load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder.parent.parent / "secret").write_bytes(bytes(1000))
        (folder / "unlisted").write_bytes(bytes(1000))
        (folder / "graph.onnx").write_bytes(proto.SerializeToString())
        refresh(folder)

    return change


def refresh(folder: Path) -> None:
    from opyard_onnx.saved.manifest import FileFacts

    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    for name in data["files"]:
        facts = FileFacts.of(folder / name)
        data["files"][name] = {"size": facts.size, "sha256": facts.sha256}
    path.write_text(json.dumps(data))


def shorten(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


FACTS = {"graph.onnx": {"size": 1, "sha256": ""}}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit of the weights": (
        lambda f: flip(f / "weights.safetensors", -1),
        r"net/1 is damaged: the contents of weights\.safetensors do not have the SHA-256 that is noted for them\.",
    ),
    "a flipped bit of the graph": (
        lambda f: flip(f / "graph.onnx", 40),
        r"net/1 is damaged: the contents of graph\.onnx",
    ),
    "weights cut short": (
        shorten,
        r"net/1 is damaged: weights\.safetensors has \d+ bytes, \d+ were written\.",
    ),
    "no weights": (
        lambda f: remove(f, "weights.safetensors"),
        r"net/1 is damaged: weights\.safetensors is missing\.",
    ),
    "a folder for weights": (as_folder, r"weights\.safetensors is missing"),
    "no graph": (lambda f: remove(f, "graph.onnx"), r"graph\.onnx is missing"),
    "no manifest": (lambda f: remove(f, "manifest.json"), r"1 is no saved model: it has no manifest\.json\."),
    "a link that leads out": (lead_out, r"weights\.safetensors is a link that leads out of the folder\."),
    "another format": (
        edit(format="zip"),
        r"is no manifest of a saved model: its format is not 'opyard saved model'\.",
    ),
    "a later format": (
        edit(format_version=2),
        r"is of format version 2; the opyard-onnx installed here reads version 1\. Upgrade",
    ),
    "no format version": (edit(format_version=None), r"is of format version None"),
    "a list of files": (edit(files=[]), r"manifest\.json is damaged: AttributeError"),
    "no files": (edit(files={}), r"is damaged: ValueError: it lists no graph\.onnx\."),
    "a file elsewhere": (edit(files={"../x": {}}), r"the file name '\.\./x' leads out of the folder"),
    "an absolute file": (
        edit(files={"/etc/passwd": {}}),
        r"the file name '/etc/passwd' leads out of the folder",
    ),
    "a file of no name": (edit(files={"": {}}), r"the file name '' leads out"),
    "a file of two dots": (edit(files={"..": {}}), r"the file name '\.\.' leads out"),
    "no size": (edit(files={"graph.onnx": {"sha256": ""}}), r"is damaged: KeyError: 'size'"),
    "a size that is none": (
        edit(files={"graph.onnx": {"size": "many", "sha256": ""}}),
        r"is damaged: ValueError",
    ),
    "another size": (edit(files=FACTS), r"graph\.onnx has \d+ bytes, 1 were written"),
    "no inputs": (edit(inputs=None), r"is damaged: TypeError"),
    "other inputs": (
        edit(inputs=[]),
        r"manifest\.json and graph\.onnx contradict each other about inputs and outputs",
    ),
    "metadata that is no dict": (edit(metadata=3), r"is damaged: AttributeError"),
    "no JSON": (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json is damaged: "),
    "no text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\xff"), r"manifest\.json is damaged: "),
    "a number": (lambda f: (f / "manifest.json").write_text("3"), r"its format is not"),
    "nested deeply": (
        lambda f: (f / "manifest.json").write_text("[" * 200_000),
        r"manifest\.json is damaged: ",
    ),
    "a huge manifest": (
        lambda f: os.truncate(f / "manifest.json", 2**25),
        r"has more than 16777216 bytes, and is no manifest",
    ),
    "weights outside": (relocate("../../secret"), r"which is not in the model's folder"),
    "weights that are not listed": (
        relocate("unlisted"),
        r"lies in 'unlisted', which the manifest does not list\.",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_a_clear_error(tmp_path: Path, how: str):
    damage, text = DAMAGES[how]
    folder = oy.save(tmp_path / "net", network())
    damage(folder)
    with pytest.raises(ModelError, match=text):
        oy.load(tmp_path / "net")
    oy.save(tmp_path / "net", network())
    assert oy.load(tmp_path / "net").version == 2, "the damage of one version is none of another"


def test_a_folder_between_versions_without_a_manifest_is_not_skipped(tmp_path: Path):
    """The newest version is damaged: an error, and not silently an older one."""
    oy.save(tmp_path / "net", network())
    (tmp_path / "net" / "2").mkdir()
    with pytest.raises(ModelError, match=r"2 is no saved model: it has no manifest\.json\."):
        oy.load(tmp_path / "net")
    assert oy.load(tmp_path / "net", 1).version == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("read_text", r"manifest\.json cannot be read: Permission denied\."),
        ("hash", r"graph\.onnx cannot be read: Permission denied\."),
        ("scandir", r"net cannot be read: Permission denied\."),
    ],
)
def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str):
    oy.save(tmp_path / "net", network())

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    if place == "read_text":
        monkeypatch.setattr(Path, "read_text", denied)
    elif place == "hash":
        monkeypatch.setattr("opyard_onnx.saved.manifest.hashlib.file_digest", denied)
    else:
        monkeypatch.setattr("opyard_onnx.saved.versions.os.scandir", denied)
    with pytest.raises(ModelError, match=text):
        oy.load(tmp_path / "net")


def test_without_verification_sizes_alone_are_compared(tmp_path: Path):
    folder = oy.save(tmp_path / "net", network())
    flip(folder / "weights.safetensors", -1)
    assert oy.load(tmp_path / "net", verify=False).version == 1
    shorten(folder)
    with pytest.raises(ModelError, match="were written"):
        oy.load(tmp_path / "net", verify=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_of_a_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Whatever a byte becomes: the model is refused, or means the same, as when it is in the metadata or in white space."""
    folder = oy.save(tmp_path_factory.mktemp("net"), network(), metadata={"note": "text"})
    expected = oy.load(folder)
    name = data.draw(st.sampled_from(["graph.onnx", "weights.safetensors", "manifest.json"]))
    contents = bytearray((folder / name).read_bytes())
    place, value = data.draw(st.integers(0, len(contents) - 1)), data.draw(st.integers(0, 255))
    before, contents[place] = contents[place], value
    (folder / name).write_bytes(contents)
    try:
        found = oy.load(folder)
    except ModelError:
        return
    assert name == "manifest.json" or value == before
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(found(x), expected(x))


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def opyard(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    from opyard.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_commands_take_folders_as_they_take_files(
    opyard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = oy.save(tmp_path / "net", network())
    monkeypatch.chdir(tmp_path)
    for target in (str(tmp_path / "net"), str(folder), "net", "net/1"):
        status, out, _ = opyard("run", target, "--device", "reference", "--compare", "onnxruntime")
        assert (
            status == 0
            and "output y  float32[1, 3]" in out
            and "differs from onnxruntime at most by  y: " in out
        )
        status, out, _ = opyard("explain", target, "f32[2,4]")
        assert status == 0 and out.startswith("predicted ")
    assert json.loads(opyard("run", "net", "--json")[1])["model"] == "net/1"
    tuned = opyard("tune", "net", "f32[2,4]", "--seconds", "0.05", "--no-calibration", "--json")
    assert tuned[0] == 0 and "plans" in json.loads(tuned[1])
    timed = opyard(
        "bench", "--model", "net", "f32[2,4]", "--seconds", "0.01", "--no-calibration", "--json", "-"
    )
    assert timed[0] == 0 and "matmul" in timed[1]


def test_inspect(opyard: Any, tmp_path: Path):
    oy.save(tmp_path / "net", network())
    folder = oy.save(tmp_path / "net", network(), metadata={"author": "me"})
    status, out, _ = opyard("inspect", str(tmp_path / "net"))
    assert status == 0
    for row in (
        "version          2 of 1, 2",
        "input            x: float32[batch, 4]",
        "output           y: float32[batch, 3]",
    ):
        assert row in out
    assert (
        "metadata author  me" in out
        and "weights.safetensors, " in out
        and "All files are as they were written." in out
    )
    data = json.loads(opyard("inspect", str(folder), "--json")[1])
    assert (data["version"], data["versions"], data["metadata"]) == (2, [1, 2], {"author": "me"})
    folder.rename(tmp_path / "copy")
    assert "version          copy" in opyard("inspect", str(tmp_path / "copy"))[1]


@pytest.mark.parametrize("command", ["run", "explain", "tune", "inspect"])
def test_a_damaged_model_on_the_command_line(opyard: Any, tmp_path: Path, command: str):
    flip(oy.save(tmp_path / "net", network()) / "weights.safetensors", -1)
    status, out, err = opyard(command, str(tmp_path / "net"))
    assert (status, out) == (1, "")
    assert (
        err.startswith("error: net/1 is damaged: the contents of weights.safetensors")
        and err.count("\n") == 1
    )
    status, _, err = opyard("inspect", str(tmp_path / "none"))
    assert status == 1 and err.startswith("error: there is no folder '")
