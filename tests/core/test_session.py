"""Session: names in, arrays out; caches that hold, errors that explain, and kernels that fail without failing the run."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import Counter, add_host
from opyard.choosing import choose_devices
from opyard.errors import (
    DeviceError,
    DeviceUnavailable,
    GraphError,
    KernelError,
    PlacementError,
    SettingsError,
    SpecError,
)
from opyard.settings import num_threads
from opyard.testing import NullArray, NullDevice, ScriptedCosts, add_null_backend, prepare_null

OPS = ("add", "multiply", "negative", "abs", "exp", "gather", "softmax", "matmul")
Pair = namedtuple("Pair", "first second")
X = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.fixture(autouse=True)
def quiet_policy() -> Iterator[None]:
    """No setting of the machine that runs the tests decides."""
    with oy.using(strict=False):
        yield


def null_registry(*names: str, ops: tuple[str, ...] = OPS) -> oy.Registry:
    registry = oy.standard_registry()
    add_null_backend(registry, *(NullDevice(name) for name in names or ("null:0",)), ops=ops)
    return registry


def small_graph() -> oy.Graph:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("batch", 3), "float32"))
        y = graph.input("y", oy.TensorSpec(("batch", 3), "float32"))
        graph.output("double", oy.add(x, x))
        graph.output("sum", oy.add(x, y))
        graph.output(
            "size", oy.multiply(graph.constant(np.float32(2.0), "two"), graph.constant(np.float32(3.0)))
        )
    return graph


def session(graph: oy.Graph | None = None, **more: Any) -> oy.Session:
    return oy.Session(graph or small_graph(), **{"registry": oy.standard_registry(), **more})


def counted(op: str = "add") -> tuple[oy.Registry, Counter]:
    registry = oy.standard_registry()
    add_host(registry)
    return registry, Counter(registry, op)


# Fetches and feeds -----------------------------------------------------------------------------------------------


def test_fetches_keep_their_nesting() -> None:
    graph = small_graph()
    feeds = {"x": X, "y": 2 * X}
    with session(graph) as open_session:
        run = open_session.run
        np.testing.assert_array_equal(run("double", feeds), 2 * X)
        np.testing.assert_array_equal(run(graph.outputs["sum"], feeds), 3 * X)
        found = run({"a": ["sum", ("double",)], "b": Pair("x", graph.outputs["size"])}, feeds)
    np.testing.assert_array_equal(found["a"][0], 3 * X)
    assert isinstance(found["a"], list) and isinstance(found["a"][1], tuple)
    np.testing.assert_array_equal(found["a"][1][0], 2 * X)
    assert isinstance(found["b"], Pair) and found["b"].second == 6
    np.testing.assert_array_equal(found["b"].first, X)


def test_values_inside_the_graph_and_constants_can_be_fetched() -> None:
    assert session().run(["two", "multiply"]) == [2, 6]


def test_feeds_by_name_or_value() -> None:
    graph = small_graph()
    found = session(graph).run("sum", {graph.inputs["x"]: X, "y": X})
    np.testing.assert_array_equal(found, 2 * X)


def test_a_fetch_needs_only_its_own_feeds() -> None:
    open_session = session()
    np.testing.assert_array_equal(open_session.run("double", {"x": X}), 2 * X)
    assert open_session.run("size") == 6
    np.testing.assert_array_equal(  # a feed that is not needed is not looked at
        open_session.run("double", {"x": X, "y": "nonsense"}), 2 * X
    )


def test_symbolic_sizes_are_bound_by_the_feeds() -> None:
    open_session = session()
    for batch in (0, 1, 5):
        array = np.ones((batch, 3), "float32")
        assert open_session.run("double", {"x": array}).shape == (batch, 3)


@pytest.mark.parametrize(
    ("dtype", "feed"),
    [("float32", 3), ("int64", True), ("float64", 2.5), ("bool", False), ("complex64", 1j), ("uint8", 7)],
)
def test_numbers_take_the_dtype_of_the_input(dtype: str, feed: Any) -> None:
    graph = oy.Graph()
    value = graph.input("n", oy.TensorSpec((), dtype))
    found = session(graph).run(value, {"n": feed})
    assert found.dtype == dtype and found == feed


def test_lists_take_the_dtype_of_the_input() -> None:
    graph = oy.Graph()
    value = graph.input("n", oy.TensorSpec(("n",), "int32"))
    found = session(graph).run(value, {"n": [1, 2]})
    assert found.dtype == "int32" and found.tolist() == [1, 2]
    assert session(graph).run(value, {"n": []}).shape == (0,)


@pytest.mark.parametrize(
    ("feed", "why"),
    [
        ([1.5], "it holds float64 numbers"),
        (1j, "it holds complex128 numbers"),
        ([300], "Python integer 300 out of bounds"),
        ([[1], [2, 3]], "setting an array element"),
    ],
)
def test_lists_that_do_not_fit(feed: Any, why: str) -> None:
    graph = oy.Graph()
    value = graph.input("n", oy.TensorSpec(("n",), "uint8"))
    with pytest.raises(GraphError, match=rf"feed 'n' cannot become uint8\[n\]: {why}"):
        session(graph).run(value, {"n": feed})


def test_arrays_of_any_device_are_feeds() -> None:
    registry = null_registry()
    found = session(registry=registry).run("double", {"x": registry.device("null:0").upload(X)})
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, 2 * X)


def test_views_and_scalars_of_numpy_are_feeds() -> None:
    found = session().run("double", {"x": np.arange(12, dtype="float32").reshape(3, 4).T[::2]})
    np.testing.assert_array_equal(found, 2 * np.arange(12, dtype="float32").reshape(3, 4).T[::2])
    graph = oy.Graph()
    value = oy.exp(graph.input("n", oy.TensorSpec((), "float32")))
    assert session(graph).run(value, {"n": np.float32(0)}) == 1


def test_results_are_the_callers_own() -> None:
    open_session, fed = session(), X.copy()
    first = open_session.run(["x", "double", "two"], {"x": fed})
    for result in first:
        result += 1
    np.testing.assert_array_equal(fed, X)
    np.testing.assert_array_equal(open_session.run("double", {"x": fed}), 2 * X)
    assert open_session.run("two") == 2


# Errors of the user ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fetches", "feeds", "text"),
    [
        ("duble", {}, r"the graph has no value 'duble'\. Did you mean double\? Outputs: double, sum, size\."),
        (
            3,
            {},
            r"a fetch is a value of this session's graph, or its name; found 3\. Outputs: double, sum, size\.",
        ),
        ([], {}, r"nothing was asked for: name at least one fetch, such as 'double'\."),
        ("sum", {"z": X}, r"the graph has no input 'z'\..*Inputs: x, y\."),
        ("sum", {"double": X}, r"the graph has no input 'double'"),
        (
            "sum",
            {"x": X},
            r"the fetches need a feed for 'y': float32\[batch, 3\]; pass run\(fetches, \{'y': array\}\)\.",
        ),
        (
            "double",
            {"x": X.astype("float64")},
            r"feed 'x' is float64\[2, 3\], the graph's input is float32\[batch, 3\]; convert it: x\.astype\('float32'\)\.",
        ),
        ("double", {"x": X[0]}, r"feed 'x' is float32\[3\], the graph's input is float32\[batch, 3\]\."),
        (
            "double",
            {"x": X[:, :2]},
            r"feed 'x' is float32\[2, 2\], the graph's input is float32\[batch, 3\] with batch=2",
        ),
        (
            "sum",
            {"x": X, "y": X[:1]},
            r"feed 'y' is float32\[1, 3\], the graph's input is float32\[batch, 3\] with batch=2\.",
        ),
    ],
)
def test_mistakes_are_explained(fetches: Any, feeds: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        session().run(fetches, feeds)


def test_values_of_another_graph_are_no_fetches_and_no_feeds() -> None:
    other = small_graph()
    with pytest.raises(GraphError, match=r"a fetch is a value of this session's graph.*found <Value add"):
        session().run(other.outputs["sum"], {})
    with pytest.raises(GraphError, match="the graph has no input 'x'"):
        session().run("double", {other.inputs["x"]: X})


def test_an_array_of_an_unknown_type() -> None:
    with pytest.raises(SpecError, match="tensors hold numbers and booleans"):
        session().run("double", {"x": object()})


def test_an_empty_graph_names_nothing() -> None:
    with pytest.raises(GraphError, match="such as 'a value'"):
        session(oy.Graph()).run([])
    with pytest.raises(GraphError, match=r"the graph has no input 'x'\. Inputs: none\."):
        session(oy.trace(lambda: np.zeros(2))).run("output_0", {"x": 1})


# Devices ---------------------------------------------------------------------------------------------------------


def test_named_devices_are_the_only_ones_used() -> None:
    registry = null_registry("null:0", "null:1")
    used: Any = registry.device("null:0")
    placement = session(registry=registry, devices="null:0").placement("double", {"x": X})
    rows = [placement.decisions[0].chosen, *(a.candidate for a in placement.decisions[0].alternatives)]
    assert {row.device for row in rows} == {used}
    np.testing.assert_array_equal(
        session(registry=registry, devices=["null:0"]).run("double", {"x": X}), 2 * X
    )
    assert used.log == [
        "upload float32[2, 3]",
        *["download float32[2, 3]"] * 2,
        "upload float32[2, 3]",
        "download float32[2, 3]",
    ]
    assert registry.device("null:1").log == []  # type: ignore[attr-defined]


def test_an_op_that_the_named_device_cannot_run() -> None:
    registry = null_registry(ops=())
    with pytest.raises(PlacementError, match=r"no kernel can run add.*devices='auto' takes all"):
        session(registry=registry, devices="null:0").run("double", {"x": X})


def test_choosing_devices() -> None:
    registry = null_registry("null:0", "null:1")
    null, other = registry.device("null:0"), registry.device("null:1")
    assert choose_devices("null", registry) == (null,)
    assert choose_devices(other, registry) == (other,)
    assert choose_devices(["null:1", null, other], registry) == (other, null)
    assert choose_devices("auto", registry) == registry.devices()


def test_devices_that_are_not_here() -> None:
    text = r"there is no device 'null:7': backend 'null' has null:0\. Devices here: null:0, reference\."
    with pytest.raises(DeviceUnavailable, match=text):
        session(registry=null_registry(), devices="null:7")
    with pytest.raises(
        DeviceUnavailable,
        match=r"there is no device 'tpu': there is no backend called 'tpu'.*`opyard devices`",
    ):
        session(devices="tpu")
    with pytest.raises(
        DeviceUnavailable, match="no device was named; write devices='auto', or names from `opyard devices`"
    ):
        session(devices=[])


# Caches ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once_for_each_spec_and_fetch() -> None:
    registry, counter = counted()
    open_session = session(registry=registry)
    for _ in range(3):
        open_session.run("double", {"x": X})
    assert (counter.prepared, counter.run) == (1, 3)
    open_session.run("double", {"x": X[:1]})
    assert counter.prepared == 2
    open_session.run("sum", {"x": X, "y": X})
    assert counter.prepared == 3
    open_session.run("double", {"x": X, "y": X})
    open_session.run("double", {"x": X[:1]})
    assert counter.prepared == 3


def test_a_plan_is_made_anew_for_another_policy_and_registry_version() -> None:
    registry, counter = counted()
    open_session = session(registry=registry)
    open_session.run("double", {"x": X})
    with oy.using(block="toy", registry=registry):
        open_session.run("double", {"x": X})
    assert (counter.prepared, counter.run) == (1, 1)
    better = Counter(registry, "add", name="better")
    with oy.using(pin={"add": "toy/better"}, registry=registry):
        open_session.run("double", {"x": X})
    assert better.run == 1
    open_session.run("double", {"x": X})
    assert counter.prepared + better.prepared == 3


def test_closing_forgets_the_plans() -> None:
    registry, counter = counted()
    open_session = session(registry=registry)
    for _ in range(2):
        with open_session:
            open_session.run("double", {"x": X})
    assert counter.prepared == 2


def test_threads_share_one_plan() -> None:
    registry, counter = counted()
    open_session = session(registry=registry)

    def work(number: int) -> None:
        with oy.using(strict=False):
            for _ in range(20):
                found = open_session.run("double", {"x": X + number})
                np.testing.assert_array_equal(found, 2 * (X + number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (counter.prepared, counter.run) == (1, 160)


def test_composite_ops_stay_whole_only_where_a_kernel_is() -> None:
    graph = oy.trace(oy.softmax, oy.TensorSpec((2, 3), "float32"))
    plain = session(graph).placement(graph.result, {"x": X})
    assert [(d.match.title, d.chosen.kernel.id) for d in plain.decisions] == [
        ("softmax", "reference/reference")
    ]
    whole = session(graph, registry=null_registry(), devices="null:0").placement(graph.result, {"x": X})
    assert [(d.match.title, d.chosen.kernel.id) for d in whole.decisions] == [("softmax", "null/null")]


def test_the_registry_of_the_policy_is_the_default() -> None:
    registry = null_registry()
    with oy.using(registry=registry):
        assert oy.Session(small_graph()).registry is registry


# Explaining ------------------------------------------------------------------------------------------------------


def test_explain_takes_arrays_lists_and_specs() -> None:
    registry = null_registry()
    open_session = session(registry=registry)
    for feed in (X, X.tolist(), oy.TensorSpec((2, 3), "float32"), registry.device("null:0").upload(X)):
        placement = open_session.explain("double", {"x": feed})
        assert str(placement.decisions[0].match.work) == "add(float32[2, 3], float32[2, 3]) -> float32[2, 3]"


def test_explaining_prepares_no_kernel() -> None:
    registry, counter = counted()
    assert (
        session(registry=registry).explain("double", {"x": X}).decisions[0].chosen.kernel.id == "toy/counter"
    )
    assert counter.prepared == 0


def test_scripted_costs_decide() -> None:
    registry = null_registry()
    free = {("reference", "null:0"): 0.0, ("null:0", "reference"): 0.0}
    for seconds, device in ((1e-9, "null:0"), (1.0, "reference")):
        costs = ScriptedCosts({"null/null": seconds, "reference/reference": 1e-3}, free)
        placement = session(registry=registry, costs=costs).explain("double", {"x": X})
        assert placement.decisions[0].chosen.device.name == device


# The hot path ----------------------------------------------------------------------------------------------------


def test_callable_on_numpy_arrays() -> None:
    graph = small_graph()
    call = session(graph).callable({"s": "sum", "d": [graph.outputs["double"]]}, ["y", graph.inputs["x"]])
    found = call(10 * X, X)
    np.testing.assert_array_equal(found["s"], 11 * X)
    np.testing.assert_array_equal(found["d"][0], 2 * X)


def test_callable_leaves_results_where_its_arrays_are() -> None:
    registry = null_registry("null:0", "null:1")
    null: Any = registry.device("null:1")
    costs = ScriptedCosts(
        {"reference/reference": 1.0}, {("null:0", "null:1"): 1.0, ("null:1", "null:0"): 1.0}
    )
    call = session(registry=registry, costs=costs).callable("sum", ["x", "y"])
    x, y = null.upload(X), null.upload(X)
    null.log.clear()
    found = call(x, y)
    assert isinstance(found, NullArray) and found.device == "null:1"
    assert null.log == ["download float32[2, 3]"] * 2 + ["upload float32[2, 3]"]  # the kernel's own
    np.testing.assert_array_equal(null.download(found), 2 * X)


def test_callable_tells_devices_of_one_array_type_apart() -> None:
    registry = null_registry("null:0", "null:1", ops=())  # every op runs on the reference, between two copies
    call = session(registry=registry).callable("double", ["x"])
    for name in ("null:0", "null:1", "null:0"):
        device = registry.device(name)
        found = call(device.upload(X))
        assert found.device == name
        np.testing.assert_array_equal(device.download(found), 2 * X)


def test_callable_survives_a_failing_kernel() -> None:
    registry, counter = counted()
    call = session(registry=registry).callable("double", ["x"])
    np.testing.assert_array_equal(call(X), 2 * X)
    counter.error = RuntimeError("out of luck")
    with pytest.warns(oy.KernelWarning, match="reference/reference takes over"):
        np.testing.assert_array_equal(call(X), 2 * X)
    np.testing.assert_array_equal(call(X), 2 * X)


def test_callable_without_arrays() -> None:
    assert session().callable("size", [])() == 6


def test_callable_says_what_is_missing() -> None:
    with pytest.raises(
        GraphError, match=r"the fetches need the feeds y, which callable\(...\) was not given"
    ):
        session().callable("sum", ["x"])
    with pytest.raises(GraphError, match=r"this callable takes 2 arrays \(x, y\), 1 were given"):
        session().callable("sum", ["x", "y"])(X)


def test_callable_with_arrays_of_several_devices() -> None:
    registry = null_registry()
    call = session(registry=registry).callable("sum", ["x", "y"])
    text = r"the arrays live on different devices \(null:0, reference\); move them to one first: opyard.to_device\(x, 'null:0'\)"
    with pytest.raises(DeviceError, match=text):
        call(registry.device("null:0").upload(X), X)


def test_callable_with_a_strange_array() -> None:
    with pytest.raises(
        DeviceError, match="no device here has arrays of type object; convert it to a NumPy array"
    ):
        session().callable("double", ["x"])(object())


# Kernels that fail -----------------------------------------------------------------------------------------------


def test_another_kernel_takes_over_in_the_same_run() -> None:
    registry, counter = counted()
    counter.error = RuntimeError("out of luck")
    open_session = session(registry=registry)
    text = (
        r"kernel toy/counter of add raised RuntimeError: out of luck on add\(float32\[2, 3\], float32\[2, 3\]\) -> "
        r"float32\[2, 3\]; reference/reference takes over"
    )
    with pytest.warns(oy.KernelWarning, match=text) as caught:
        np.testing.assert_array_equal(open_session.run("double", {"x": X}), 2 * X)
    assert len(caught) == 1
    assert list(registry.failures) == ["add toy/counter"]
    assert "out of luck" in registry.failures["add toy/counter"]
    np.testing.assert_array_equal(
        open_session.run("double", {"x": X}), 2 * X
    )  # no second warning: it would raise
    np.testing.assert_array_equal(open_session.run("sum", {"x": X, "y": X}), 2 * X)
    assert counter.run == 1
    refused = open_session.explain("double", {"x": X}).decisions[0].alternatives[0]
    assert "out of luck" in str(refused)


def test_a_kernel_that_cannot_be_prepared_is_replaced_too() -> None:
    registry = oy.standard_registry()
    add_host(registry)
    registry.kernel("add", backend="toy", name="gone", load="opyard.no_such_module:add")
    with pytest.warns(oy.KernelWarning, match="kernel toy/gone of add raised ModuleNotFoundError"):
        np.testing.assert_array_equal(session(registry=registry).run("double", {"x": X}), 2 * X)


def test_several_kernels_may_fail_in_one_run() -> None:
    registry = oy.standard_registry()
    add_host(registry)
    counters = [Counter(registry, "add", name=name) for name in ("one", "two")] + [
        Counter(registry, "negative")
    ]
    for counter in counters:
        counter.error = ValueError("broken")
    graph = oy.trace(lambda x: oy.negative(oy.add(x, x)), oy.TensorSpec((2, 3), "float32"))
    with pytest.warns(oy.KernelWarning) as caught:
        np.testing.assert_array_equal(session(graph, registry=registry).run(graph.result, {"x": X}), -2 * X)
    assert len(caught) == 3
    assert set(registry.failures) == {"add toy/one", "add toy/two", "negative toy/counter"}


def test_the_reference_takes_over_where_only_one_device_was_named() -> None:
    registry = oy.standard_registry()
    add_host(registry)
    counter = Counter(registry, "add")
    counter.error = RuntimeError("no")
    with pytest.warns(oy.KernelWarning, match="reference/reference takes over"):
        np.testing.assert_array_equal(
            session(registry=registry, devices="toy").run("double", {"x": X}), 2 * X
        )


def test_strict_raises() -> None:
    registry, counter = counted()
    counter.error = RuntimeError("out of luck")
    text = r"kernel toy/counter failed on add\(.*: RuntimeError: out of luck \(OPYARD_STRICT=1\)"
    with oy.using(strict=True), pytest.raises(KernelError, match=text) as caught:
        session(registry=registry).run("double", {"x": X})
    assert caught.value.__cause__ is counter.error
    assert not registry.failures


def test_a_mistake_in_the_data_is_the_users_and_puts_nothing_aside() -> None:
    registry, counter = counted("gather")
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((3,), "float32"))
        graph.output("y", oy.gather(x, graph.input("i", oy.TensorSpec((2,), "int64"))))
    open_session = session(graph, registry=registry)
    feeds = {"x": np.zeros(3, "float32"), "i": np.array([0, 7])}
    with (
        warnings.catch_warnings(),
        pytest.raises(IndexError, match="index 7 is out of bounds") as caught,
    ):
        warnings.simplefilter("error")
        open_session.run("y", feeds)
    (note,) = caught.value.__notes__
    assert note.startswith("raised by kernel toy/counter in gather(float32[3], int64[2]")
    assert note.endswith("no other kernel can compute it either")
    assert not registry.failures
    assert open_session.run("y", {**feeds, "i": np.array([0, 1])}).shape == (2,)
    assert counter.run == 2


def test_a_failing_reference_is_not_put_aside() -> None:
    registry = oy.standard_registry()

    @oy.op("test.moody", infer=lambda x: x)
    def moody(x: Any) -> Any:
        raise RuntimeError("never works")

    registry.op(moody)
    graph = oy.trace(moody, oy.TensorSpec((2,), "float32"))
    with pytest.raises(RuntimeError, match="never works") as caught:
        session(graph, registry=registry).run(graph.result, {"x": [1, 2]})
    assert caught.value.__notes__[0].startswith("raised by kernel reference/reference in test.moody")
    assert not registry.failures


def test_where_the_policy_blocks_all_others_the_failure_is_raised() -> None:
    registry, counter = counted()
    counter.error = RuntimeError("alone")
    pinned = oy.using(pin={"add": "toy/counter"}, registry=registry)
    with pinned, pytest.raises(RuntimeError, match="alone"):
        session(registry=registry).run("double", {"x": X})
    assert not registry.failures


def test_what_cannot_be_a_session() -> None:
    with pytest.raises(
        GraphError, match=r"Session takes a Graph, such as trace\(function, \*specs\) gives; found None"
    ):
        oy.Session(None)  # type: ignore[arg-type]
    registry = oy.standard_registry()
    for devices in (3, None, [3]):
        with pytest.raises(
            DeviceUnavailable, match="devices is 'auto', a device, or several in a list; found"
        ):
            choose_devices(devices, registry)  # type: ignore[arg-type]


def test_feeds_are_a_dict() -> None:
    with pytest.raises(
        GraphError, match=r"feeds are a dict of inputs, or their names, and arrays; found \[1\]"
    ):
        oy.Session(oy.trace(lambda x: x * 2.0, oy.TensorSpec((1,)))).run("output_0", [1])  # type: ignore[arg-type]


def test_a_feed_is_named_once() -> None:
    with pytest.raises(
        GraphError, match=r"callable\(...\) was given the feed 'x' twice; name each feed once"
    ):
        oy.Session(small_graph(), registry=oy.standard_registry()).callable("double", ["x", "x"])


def test_feeds_that_no_tensor_can_be() -> None:
    session = oy.Session(oy.trace(oy.exp, oy.TensorSpec((3,))), registry=oy.standard_registry())
    text = "feed 'x': tensors hold numbers .* not '>f4'; convert it: x.astype"
    with pytest.raises(SpecError, match=text):
        session.run("output_0", {"x": np.ones(3, ">f4")})
    with pytest.raises(SpecError, match=text):
        session.callable("output_0", ["x"])(np.ones(3, ">f4"))


def test_a_size_of_an_input_that_is_not_computed_with() -> None:
    with oy.Graph() as graph:
        x, tall, wide = (
            graph.input(n, oy.TensorSpec((s,))) for n, s in (("x", "n"), ("tall", "m"), ("wide", "m"))
        )
        graph.output("y", oy.broadcast_to(oy.sum(x), shape=(wide.shape[0], tall.shape[0])))
    session = oy.Session(graph, registry=oy.standard_registry())
    for name in ("tall", "wide"):
        assert session.run("y", {"x": X[0], name: X[:, 0]}).shape == (2, 2)
        assert session.callable("y", ["x", name])(X[0], X[0]).shape == (3, 3)
    with pytest.raises(GraphError, match=r"the fetches need a feed for 'tall': float32\[m\]; pass run"):
        session.run("y", {"x": X[0]})
    with pytest.raises(GraphError, match="the fetches need the feeds tall, which callable"):
        session.callable("y", ["x"])


def test_executables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opyard.session.SESSION_LIMIT", 2)
    session = oy.Session(small_graph(), registry=oy.standard_registry(), devices="reference")
    for rows in (1, 2, 3, 1):
        session.run("double", {"x": np.ones((rows, 3), "float32")})
    assert len(session._cache) == 2


# Threads ---------------------------------------------------------------------------------------------------------


class Threaded(NullDevice):
    """Notes in its log when it is told a number of threads, and when that ends."""

    @contextmanager
    def on_threads(self, threads: int) -> Iterator[None]:
        self.log.append(f"begin {threads}")
        yield
        self.log.append(f"end, {num_threads()} threads")


def threaded(monkeypatch: pytest.MonkeyPatch) -> tuple[oy.Registry, Threaded, list[int]]:
    """A device with a kernel that notes how many threads there are when it is prepared and when it runs."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(4), raising=False)
    registry, device, seen = oy.standard_registry(), Threaded("null:0"), list[int]()
    add_null_backend(registry, device)

    def prepare(call: oy.Call, device: oy.Device) -> Any:
        seen.append(num_threads())
        run = prepare_null(call, device)

        def noted(*arrays: Any) -> Any:
            seen.append(num_threads())
            return run(*arrays)

        return noted

    registry.kernel("exp", backend="null", name="noted", prepare=prepare)
    return registry, device, seen


def test_a_session_keeps_to_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, device, seen = threaded(monkeypatch)
    made = session(oy.trace(oy.exp, oy.TensorSpec((3,))), registry=registry, devices="null:0", threads=2)
    made.run(list(made.graph.outputs), dict.fromkeys(made.graph.inputs, X[0]))
    assert seen == [2, 2] and num_threads() == 4
    assert [line for line in device.log if "exp" not in line and "load" not in line][-2:] == [
        "begin 2",
        "end, 4 threads",
    ]
    made.callable(list(made.graph.outputs), list(made.graph.inputs))(device.upload(X[0]))
    made.profile(list(made.graph.outputs), dict.fromkeys(made.graph.inputs, X[0]), runs=1)
    assert set(seen) == {2}
    assert device.log.count("begin 2") == device.log.count("end, 4 threads") == 3


def test_compiled_functions_keep_to_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, device, seen = threaded(monkeypatch)
    for threads, expected in ((1, 1), (None, 4), (100, 4)):
        seen.clear()
        oy.compile(oy.exp, registry=registry, devices="null:0", threads=threads)(device.upload(X[0]))
        assert seen == [expected, expected]


def test_an_error_ends_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _, _ = threaded(monkeypatch)
    made = session(registry=registry, threads=1)
    with pytest.raises(GraphError):
        made.run("no such name")
    assert num_threads() == 4


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_number(threads: Any) -> None:
    with pytest.raises(SettingsError, match="threads is a whole number from 1 on; found "):
        session(threads=threads)
    with pytest.raises(SettingsError, match="threads is a whole number from 1 on; found "):
        oy.compile(oy.exp, threads=threads)
