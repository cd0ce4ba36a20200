"""save and load: variables become a checkpoint, programs a saved model, and each says where the other belongs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard import models, runtime
from opyard.entrypoints import EntryPoint
from opyard.errors import CheckpointError, GraphError, RegistryError

X = oy.TensorSpec(("batch", 2), "float32")


def training() -> tuple[oy.Graph, oy.Variable, oy.Variable]:
    """A graph with an inference output, a loss, and a step of training."""
    w, steps = oy.Variable(np.ones((2, 3), np.float32), name="w"), oy.Variable(0, name="steps")
    with oy.Graph() as graph:
        x, labels = graph.input("x", X), graph.input("labels", oy.TensorSpec(("batch",), "int64"))
        logits = graph.output("logits", oy.matmul(x, w))
        loss = graph.output("loss", oy.softmax_cross_entropy(logits, labels))
        oy.optimizers.sgd(0.1).minimize(loss, [w])
        graph.output("steps", steps.assign_add(1))
        graph.output("w", w.value_in(graph))
    return graph, w, steps


# Programs ------------------------------------------------------------------------------------------------------------


def test_variables_become_constants_and_training_is_left_out(tmp_path: Path):
    graph, w, _ = training()
    x = np.ones((4, 2), np.float32)
    model = oy.load(oy.save(tmp_path / "m", graph, outputs="logits"))
    assert list(model.graph.inputs) == ["x"] and list(model.graph.outputs) == ["logits"]
    assert [node.op.name for node in model.graph.nodes] == ["matmul"]
    assert not model.graph.variables and len(graph.variables) >= 2
    assert [value.name for value in model.graph.constants] == ["w"]
    np.testing.assert_array_equal(model(x), x @ w.numpy())
    w.assign(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(model(x), np.full((4, 3), 2, np.float32))  # what it held then
    assert oy.load(oy.save(tmp_path / "m", graph, outputs="logits"))(x).sum() == 0


def test_what_would_lose_its_state_is_refused(tmp_path: Path):
    graph, _, _ = training()
    with pytest.raises(
        GraphError,
        match=r"the outputs steps depend on assignments to steps, and a saved model keeps no state; name outputs",
    ):
        oy.save(tmp_path / "m", graph, outputs=["steps"])
    with pytest.raises(GraphError, match=r"logits, loss, steps, w depend on assignments to .*w"):
        oy.save(tmp_path / "m", graph)
    assert not list(tmp_path.iterdir())


def test_ways_to_name_outputs():
    graph, w, _ = training()
    assert list(models.frozen(graph, "logits").outputs) == ["logits"]
    assert list(models.frozen(graph, ["loss", graph.outputs["logits"]]).outputs) == ["loss", "logits"]
    assert list(models.frozen(graph, {"scores": "logits"}).outputs) == ["scores"]
    assert list(models.frozen(graph, {"scores": graph.outputs["logits"]}).outputs) == ["scores"]
    with oy.Graph() as inner:
        y = oy.matmul(oy.exp(inner.input("x", X)), w)
    assert list(models.frozen(inner, y).outputs) == ["matmul"]
    assert list(models.frozen(inner, [w]).outputs) == ["variable w"] and not models.frozen(inner, [w]).inputs
    with pytest.raises(
        GraphError, match=r"the graph has no outputs; name some: graph\.output\('y', value\), or save"
    ):
        models.frozen(inner)
    with pytest.raises(GraphError, match=r"the graph has no value 'logit'\. Did you mean logits"):
        models.frozen(graph, ["logit"])
    for wrong in (y, 3):
        with pytest.raises(GraphError, match=r"an output is a value of the graph, or its name; found "):
            models.frozen(graph, [wrong])


def test_sizes_that_an_input_alone_tells_keep_that_input():
    with oy.Graph() as graph:
        x = graph.input("x", X)
        graph.input("unused", X)
        graph.output("ones", oy.ones(shape=(x.shape[0],)))
    assert list(models.frozen(graph).inputs) == ["x"]


def test_graphs_sessions_and_models_are_saved_alike(tmp_path: Path):
    graph = oy.trace(lambda x: oy.relu(x), X)
    for thing in (graph, oy.Session(graph)):
        assert oy.save(tmp_path / "m", thing).parent == tmp_path / "m"
    again = oy.save(tmp_path / "m", oy.load(tmp_path / "m"), metadata={"copy": 1})
    assert again.name == "3" and oy.load(tmp_path / "m").metadata == {"copy": "1"}


def test_what_is_neither_variables_nor_a_program(tmp_path: Path):
    for thing in (np.exp, oy.compile(np.exp)):
        with pytest.raises(
            GraphError,
            match=r"save takes variables or a Graph; found .* Trace a function first: save\(path, opyard\.trace",
        ):
            oy.save(tmp_path / "m", thing)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint is of variables, in a list or a dict; found int"
    ):
        oy.save(tmp_path / "m", 3)
    for options in ({"outputs": ["y"]}, {"version": 1}):
        with pytest.raises(
            GraphError,
            match=r"outputs and version are for saving a Graph; a checkpoint of variables has neither",
        ):
            oy.save(tmp_path / "m", [oy.Variable(1)], **options)


def test_all_variables_are_of_one_moment(tmp_path: Path):
    """A run that assigns to two variables is never seen half."""
    a, b = oy.Variable(np.zeros(100_000), name="a"), oy.Variable(np.zeros(100_000), name="b")

    @oy.compile(devices="reference")
    def step(x: Any) -> Any:
        a.assign_add(x)
        b.assign_add(x)
        return oy.sum(x)

    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(()))
        graph.output("difference", oy.max(oy.abs(oy.subtract(a, b))) + oy.cast(x, dtype="float64"))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            step(np.ones(100_000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            held = models.frozen(graph).constants.values()
            large = [array for array in held if array.size > 1]
            assert len(large) == 2 and len({float(array[0]) for array in large}) == 1
    finally:
        stop.set()
        thread.join()
    assert a.numpy()[0] > 0


# Calling what was loaded ---------------------------------------------------------------------------------------------


def test_calls(tmp_path: Path):
    with oy.Graph() as graph:
        x, y = graph.input("x", X), graph.input("y", X)
        graph.output("sum", x + y)
        graph.output("product", x * y)
    model = oy.SavedModel(graph, tmp_path)
    one, two = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)
    for found in (model(one, two), model(one, y=two), model(y=two, x=one)):
        assert list(found) == ["sum", "product"]
        assert found["sum"].tolist() == [[3, 3]] and found["product"].tolist() == [[2, 2]]
    with pytest.raises(
        GraphError, match=r"the model takes x, y, each once; 3 arrays by position were given\."
    ):
        model(one, one, one)
    with pytest.raises(
        GraphError, match=r"the model takes x, y, each once; 1 arrays by position were given, and x\."
    ):
        model(one, x=one)
    with pytest.raises(GraphError, match=r"the fetches need a feed for 'y'"):
        model(one)
    with pytest.raises(GraphError, match=r"the graph has no input 'z'"):
        model(one, two, z=one)
    with (
        oy.Graph() as other,
        pytest.raises(GraphError, match="has no contents while the graph is built"),
    ):
        model(other.input("x", X), two)


# Plugins -------------------------------------------------------------------------------------------------------------


def without_plugins(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    found = type(runtime.inspect_plugins())(oy.standard_registry())
    found.load(list(entries))
    monkeypatch.setattr(runtime, "inspect_plugins", lambda: found)


def test_without_the_plugin_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    graph = oy.trace(oy.relu, X)
    oy.save(tmp_path / "m", graph)
    without_plugins(monkeypatch)
    hint = r"it comes with opyard-onnx\. Type: `pip install "
    with pytest.raises(RegistryError, match=rf"saving a model needs a plugin: {hint}"):
        oy.save(tmp_path / "m", graph)
    with pytest.raises(RegistryError, match=rf"opening the folder '.*m' needs a plugin: {hint}"):
        oy.load(tmp_path / "m")
    monkeypatch.setenv("OPYARD_BLOCK", "onnx")
    without_plugins(monkeypatch, EntryPoint("onnx", "opyard-onnx", "1", "opyard_onnx.plugin"))
    with pytest.raises(
        RegistryError,
        match=r"needs a plugin: opyard-onnx is installed, and blocked: OPYARD_BLOCK names onnx\.",
    ):
        oy.load(tmp_path / "m")


def test_what_cannot_be_loaded(tmp_path: Path):
    with pytest.raises(RegistryError, match=r"there is no file or folder '.*none'\."):
        oy.load(tmp_path / "none")
    oy.save(tmp_path / "c", [oy.Variable(1, name="v")])
    with pytest.raises(
        RegistryError, match=r"no installed plugin opens the file '.*c'\. .*opyard\.restore reads checkpoints"
    ):
        oy.load(tmp_path / "c")
    with pytest.raises(
        RegistryError, match=r"'.*c' is a file, and versions lie in folders; leave out version=1\."
    ):
        oy.load(tmp_path / "c", 1)
    oy.save(tmp_path / "m", oy.trace(oy.relu, X))
    with pytest.raises(IsADirectoryError):
        oy.save(tmp_path / "m", [oy.Variable(1, name="v")])
    with pytest.raises(
        CheckpointError,
        match=r"m is a folder, and a checkpoint is a file; opyard\.load opens the folder of a saved model\.",
    ):
        oy.restore(tmp_path / "m", [oy.Variable(1, name="v")])


def test_a_plugin_may_give_a_graph_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    graph = oy.trace(oy.relu, X)
    file = tmp_path / "net.acme"
    file.write_bytes(b"")
    asked: list[Any] = []

    def model(hook: str, **arguments: Any) -> Any:
        asked.append((hook, arguments))
        return graph

    monkeypatch.setattr(runtime.inspect_plugins(), "model", model)
    found = oy.load(file)
    assert (found.graph, found.path, found.version, found.metadata) == (graph, file, None, {})
    assert asked == [("opyard_open_model", {"path": str(file), "version": None, "verify": True})]
