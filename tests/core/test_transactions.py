"""What runs do with variables: where these live, what is written in place, and that all of a run counts or nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import DeviceError, GraphError, KernelError
from opyard.executable import Executable
from opyard.rewrite import needed_inputs
from opyard.testing import NullArray, ScriptedCosts
from rigs import rig_registry

F32 = np.float32
ONES = np.ones((2, 3), F32)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Executable]]:
    """The executables that ran, in order; those inside of others left out."""
    ran: list[Executable] = []
    run = Executable.__call__

    def spy(self: Executable, *feeds: Any, **options: Any) -> Any:
        if not self.inside:
            ran.append(self)
        return run(self, *feeds, **options)

    monkeypatch.setattr(Executable, "__call__", spy)
    yield ran


def adam_step(device: str, steps: int) -> tuple[Callable[..., Any], list[oy.Variable], list[float]]:
    """A small network, trained for some steps, and its losses."""
    generator = np.random.default_rng(0)
    weights = oy.Variable(generator.standard_normal((8, 16), F32) * F32(0.1), name="weights")
    bias = oy.Variable(np.zeros(16, F32), name="bias")
    last = oy.Variable(generator.standard_normal((16, 3), F32) * F32(0.1), name="last")
    optimizer = oy.optimizers.adam(1e-2)

    @oy.compile(devices=device)
    def train(x, y):
        loss = -oy.mean(oy.sum(oy.log_softmax(oy.relu(x @ weights + bias) @ last) * y, axis=1))
        optimizer.minimize(loss, [weights, bias, last])
        return loss

    x = generator.standard_normal((32, 8), F32)
    y = np.eye(3, dtype=F32)[generator.integers(0, 3, 32)]
    losses = [float(train(x, y)) for _ in range(steps)]
    return lambda: train(x, y), [weights, bias, last, *optimizer.variables], losses


# Homes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu:0", "opencl:0"])
def test_a_training_step_moves_no_variable_and_makes_no_new_array(
    device: str, plans: list[Executable]
) -> None:
    with oy.using(block=("opencl/fused", "cpu/jit")):  # a kernel of several outputs is not written in place
        step, variables, losses = adam_step(device, 3)
        assert losses[-1] < losses[0]
        assert all(variable.device == device for variable in variables)
        before = [variable._array for variable in variables]
        step()
    plan = plans[-1].plan
    assert plan is plans[0].plan
    moved = sorted(str(plan.tensors[s.input].value.spec) for s in plan.steps if type(s).__name__ == "Copy")
    assert moved == ([] if device == "cpu:0" else ["float32[32, 3]", "float32[32, 8]", "float32[]"])
    same = {v.name for v, array in zip(variables, before, strict=True) if v._array is array}
    assert same >= {v.name for v in variables} - {"adam/step"}  # its power may have to be known before


def test_the_first_placement_that_assigns_decides_where_a_variable_lives(
    plans: list[Executable],
) -> None:
    registry = rig_registry(null_devices=1)
    costs = ScriptedCosts({"null/out": 1e-6, "vector/out": 1.0, "null/null": 1.0})
    w = oy.Variable(np.ones((2, 3), F32), name="w")
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2, 3)))
        graph.output("read", oy.negative(w))
        graph.output("update", w.assign(w * x + 1.0))
    session = oy.Session(graph, devices=["vector:0", "null:0"], registry=registry, costs=costs)
    null: Any = registry.device("null:0")

    assert "variable on vector:0: w" in str(session.explain("read"))
    placement = session.explain([], {"x": ONES}, updates=True)
    assert "variable on null:0: w; on vector:0 a run would take" in str(placement)
    assert placement.to_json()["residents"][0] | {"reason": ""} == {
        "name": "w",
        "kind": "variable",
        "device": "null:0",
        "reason": "",
    }
    assert w.where(registry).name == "vector:0"  # explaining moves nothing

    run = session.callable([], ["x"], updates=True)
    run(ONES)
    assert isinstance(w._array, NullArray)
    run(ONES)
    assert plans[-1].plan.copies == 1  # the feed
    np.testing.assert_array_equal(null.download(w._array), np.full((2, 3), 3))
    assert "variable on null:0: w; on vector:0 a run would" in str(session.explain("read"))
    np.testing.assert_array_equal(session.run("read"), np.full((2, 3), -3))
    assert plans[-1].plan.copies == 1  # the result
    w.assign(np.zeros((2, 3), F32))
    assert isinstance(w._array, NullArray)  # it goes where it lives


def test_what_is_measured_may_move_a_variable() -> None:
    registry = rig_registry(null_devices=1)
    costs = ScriptedCosts({"null/out": 1e-6, "vector/out": 1.0, "null/null": 1.0})
    w = oy.Variable(np.ones((2, 3), F32))
    with oy.Graph() as graph:
        w.assign(w * 2.0 + 1.0)
    session = oy.Session(graph, devices=["vector:0", "null:0"], registry=registry, costs=costs)
    session.run([], updates=True)
    costs.kernels |= {"vector/out": 1e-9, "null/out": 1.0}
    session.run([], updates=True)
    assert isinstance(w._array, NullArray)  # nothing says that the costs changed
    registry.changed()
    session.run([], updates=True)
    assert w._array.tolist() == [[15] * 3] * 2


def test_a_declared_device_holds_whatever_it_costs() -> None:
    w = oy.Variable(np.ones((2, 3), F32), device="opencl:0", name="w")
    step = oy.compile(lambda x: w.assign_add(x), devices="cpu:0")
    assert isinstance(step(ONES), np.ndarray)
    assert w.device == "opencl:0" and not isinstance(w._array, np.ndarray)
    np.testing.assert_array_equal(w.numpy(), np.full((2, 3), 2))
    assert "variable on opencl:0: w" in str(step.explain(ONES))
    read = oy.compile(lambda: w * 2.0)
    assert isinstance(read(), np.ndarray)  # without arrays among the arguments, results are NumPy's
    assert oy.Variable(0).device == "cpu:0"


def test_fed_arrays_stay_on_their_device(plans: list[Executable]) -> None:
    registry = rig_registry(null_devices=1)
    graph = oy.trace(lambda x, y: oy.add(x, x) * y, oy.TensorSpec((2, 3)), oy.TensorSpec((2, 3)))
    costs = ScriptedCosts({"null/out": 1e-9, "vector/out": 1.0, "null/null": 1.0})
    session = oy.Session(graph, devices=["vector:0", "null:0"], registry=registry, costs=costs)
    null: Any = registry.device("null:0")
    x = null.upload(ONES)
    np.testing.assert_array_equal(session.run("output_0", {"x": x, "y": ONES}), 2 * ONES)
    assert plans[-1].plan.copies == 2  # y and the result
    assert "feed on null:0: x" in str(session.explain("output_0", {"x": x, "y": ONES}))
    assert "feed on" not in str(session.explain("output_0", {"x": ONES, "y": ONES}))


def test_a_variable_that_no_device_of_the_session_has() -> None:
    w = oy.Variable(oy.to_device(np.zeros(2, F32), "opencl:0"), name="w")
    with oy.Graph() as graph:
        graph.output("y", w + 1.0)
    with pytest.raises(
        DeviceError, match="the variable 'w' holds an array of type Array, which no device here has; assign a"
    ):
        oy.Session(graph, registry=oy.standard_registry()).run("y")


def test_a_run_on_other_devices_takes_its_variables_along(plans: list[Executable]) -> None:
    w = oy.Variable(np.zeros((2, 3), F32))
    first = oy.compile(lambda x: w.assign_add(x) * 1.0, devices="cpu:0")
    second = oy.compile(lambda x: w.assign_add(x) * 1.0, devices="opencl:0")
    for run, device in [(first, "cpu:0"), (second, "opencl:0")] * 2:
        for _ in range(3):
            run(ONES)
        assert w.device == device
        assert plans[-1].plan.copies == (2 if run is second else 0)  # x and the result
        w.assign(w.numpy())
        assert w.device == device and isinstance(w._array, np.ndarray) == (run is first)
    assert set(w.numpy().flat) == {12}
    assert len({id(executable) for executable in plans}) == 2


def test_what_is_added_to_a_graph_is_done_by_the_next_run() -> None:
    n = oy.Variable(0)
    with oy.Graph() as graph:
        n.assign_add(1)
    session = oy.Session(graph)
    session.run(None, updates=True)
    with graph:
        n.assign_add(10)
    session.run(None, updates=True)
    assert int(n) == 12


# All assignments -------------------------------------------------------------------------------------------------


def test_updates_are_done_without_being_fetched() -> None:
    v, n = oy.Variable(np.zeros(2, F32)), oy.Variable(0)
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2,)))
        v.assign_add(x)
        n.assign_add(1)
        graph.output("double", x * 2.0)
    session = oy.Session(graph)
    feeds = {"x": np.ones(2, F32)}
    session.run("double", feeds)
    assert int(n.numpy()) == 0
    assert session.run("double", feeds, updates=True).tolist() == [2, 2]
    assert session.run([], feeds, updates=True) == []
    assert session.callable({}, ["x"], updates=True)(np.ones(2, F32)) == {}
    assert (v.numpy().tolist(), int(n.numpy())) == ([3, 3], 3)
    with pytest.raises(GraphError, match="the fetches need a feed for 'x': float32"):
        session.run([], updates=True)
    with pytest.raises(GraphError, match="nothing was asked for: name at least one fetch, such as 'double'"):
        session.run([])


# In place --------------------------------------------------------------------------------------------------------


def test_what_others_hold_never_changes() -> None:
    w = oy.Variable(np.zeros(3, F32), name="w")
    step = oy.compile(lambda x: (w.assign_add(x), w * 1.0)[1])
    old = oy.compile(lambda x: ((before := w + 0.0), w.assign_add(x), before)[2])
    whole = oy.compile(lambda x: w.assign_add(x))
    x = np.ones(3, F32)
    held: list[tuple[Any, float]] = []
    for number in range(0, 24, 4):
        held.append((w.array, number))
        held.append((np.asarray(w), number))
        held.append((oy.reshape(w, shape=(3, 1)), number))
        held.append((step(x), number + 1))
        held.append((old(x), number + 1))
        held.append((whole(x), number + 3))
        step(x)
    for array, number in held:
        assert (np.asarray(array) == number).all()


def test_a_variable_may_hold_what_another_holds_and_what_was_fed() -> None:
    one, two = oy.Variable(np.zeros((2, 2), F32)), oy.Variable(np.zeros((4,), F32))
    for device in ("cpu:0", "opencl:0"):
        share = oy.compile(lambda: two.assign(oy.reshape(one, shape=(4,))) * 1.0, devices=device)
        take = oy.compile(lambda x: two.assign(x) * 1.0, devices=device)
        bump = oy.compile(lambda: one.assign_add(1.0) * 1.0, devices=device)
        raise_two = oy.compile(lambda: two.assign_add(1.0) * 1.0, devices=device)
        one.assign(np.zeros((2, 2), F32))
        for _ in range(3):
            bump()
        share()
        for _ in range(3):
            bump()
        assert (one.numpy().max(), two.numpy().max()) == (6, 3)
        fed = oy.to_device(np.full(4, 5, F32), device)
        take(fed)
        for _ in range(3):
            raise_two()
        assert (oy.to_numpy(fed).max(), two.numpy().max()) == (5, 8)


def test_a_run_that_fails_late_changes_nothing() -> None:
    table, w = oy.Variable(np.arange(4, dtype=F32)), oy.Variable(np.zeros(4, F32))

    @oy.compile(devices="cpu:0")
    def step(positions):
        w.assign_add(1.0)
        found = oy.gather(table, positions)
        table.assign_sub(oy.sum(found) + w)
        return found

    good = np.zeros(2, np.int64)
    for _ in range(3):
        step(good)
    before = table.numpy(), w.numpy()
    with pytest.raises(IndexError):
        step(np.full(2, 9))
    assert [v.numpy().tolist() for v in (table, w)] == [array.tolist() for array in before]
    step(good)
    assert w.numpy().tolist() == [4] * 4


def raising_registry(late: list[Callable[[], None]]) -> oy.Registry:
    """A registry whose ``maximum`` on vector:0 does what is in ``late`` before it writes."""
    registry = rig_registry(inplace=True)

    def maximum(x: Any, y: Any, out: Any = None) -> Any:
        for action in late:
            action()
        return np.maximum(x, y, out=out)

    registry.kernel("maximum", backend="vector", name="late", load=maximum, out=True, inplace=True)
    return registry


def late_session(registry: oy.Registry) -> tuple[Callable[[], Any], oy.Variable, oy.Variable]:
    one, two = oy.Variable(np.zeros(2, F32), name="one"), oy.Variable(np.zeros(2, F32), name="two")
    with oy.Graph() as graph:
        one.assign(one + 1.0)
        two.assign(oy.maximum(two + 1.0, -1.0))
    costs = ScriptedCosts({"vector/late": 1e-9, "vector/out": 1e-8})
    session = oy.Session(graph, devices="vector:0", registry=registry, costs=costs)
    return session.callable([], [], updates=True), one, two


def test_a_kernel_that_breaks_its_promise_is_survived_at_first_and_told_later() -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    late: list[Callable[[], None]] = [fail]
    run, one, two = late_session(raising_registry(late))
    with pytest.warns(oy.KernelWarning, match="vector/late of maximum raised RuntimeError: no memory"):
        run()
    assert (one.numpy().tolist(), two.numpy().tolist()) == ([1, 1], [1, 1])

    late.clear()
    run, one, two = late_session(raising_registry(late))
    run()
    run()
    late.append(fail)
    text = r"a kernel that promised not to raise \(inplace=True\) did: RuntimeError: no memory. It wrote in place, so what these hold is not known; restore a checkpoint: variable one, variable two"
    with pytest.raises(KernelError, match=text):
        run()
    late.clear()
    one.assign(np.zeros(2, F32))
    run()
    assert one.numpy().tolist() == [1, 1]


def test_ctrl_c_waits_until_all_is_assigned() -> None:
    late: list[Callable[[], None]] = []
    run, one, two = late_session(raising_registry(late))
    for _ in range(2):
        run()
    late.append(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run()
    late.clear()
    assert (one.numpy().tolist(), two.numpy().tolist()) == ([3, 3], [3, 3])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run()
    assert one.numpy().tolist() == [4, 4]


def test_a_reader_that_began_earlier_reads_what_was_there() -> None:
    reading, go_on = threading.Event(), threading.Event()
    late: list[Callable[[], None]] = []
    registry = rig_registry(inplace=True)

    def slow(x: Any, out: Any = None) -> Any:
        for action in late:
            action()
        return np.abs(x, out=out)

    registry.kernel("abs", backend="vector", name="slow", load=slow)
    w = oy.Variable(np.zeros(2, F32))
    with oy.Graph() as graph:
        graph.output("abs", oy.abs(w))
        graph.output("next", w.assign(w + 1.0) * 1.0)
    costs = ScriptedCosts({"vector/slow": 1e-9, "vector/out": 1e-8})
    session = oy.Session(graph, devices="vector:0", registry=registry, costs=costs)
    for _ in range(3):
        session.run(["next"])
    found: list[Any] = []
    session.run("abs")
    late += [reading.set, lambda: go_on.wait(10)]
    thread = threading.Thread(target=lambda: found.append(session.run("abs")))
    thread.start()
    assert reading.wait(10)
    session.run(["next"])  # does not wait for the reader
    session.run(["next"])
    assert w.numpy().tolist() == [5, 5]
    go_on.set()
    thread.join()
    assert found[0].tolist() == [3, 3]


@pytest.mark.parametrize("device", ["cpu:0", "opencl:0"])
def test_eight_threads_with_variables_in_place(device: str) -> None:
    """Different fetches and the same, readers and writers; nobody sees half of a step, none is lost."""
    n = oy.Variable(0, name="n")
    one, two = oy.Variable(np.zeros(4096, F32)), oy.Variable(np.zeros(4096, F32))
    with oy.Graph() as graph:
        graph.output("both", (one * 1.0, two * 1.0)[0])
        graph.output("difference", oy.max(oy.abs(one - two)))
        one.assign(one + 1.0)
        two.assign(two + 1.0)
        n.assign_add(1)
        graph.output("after", oy.min(one - two))
    session = oy.Session(graph, devices=device)
    step = session.callable("after", [], updates=True)
    look = session.callable("difference", [])
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(25):
            if float(np.asarray(step())) != 0 or float(np.asarray(look())) != 0:
                wrong.append("difference")
            held = one.numpy() if number % 2 else session.run("both")
            if np.unique(held).size != 1:
                wrong.append(held)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (int(n.numpy()), set(one.numpy()), set(two.numpy())) == (200, {200}, {200})
    assert one.loans == one.writer == 0


# Random programs -------------------------------------------------------------------------------------------------

OPS = ("add", "subtract", "multiply", "maximum", "negative", "abs", "view", "assign", "fetch")


def record(program: list[tuple[str, int, int, int]], variables: list[oy.Variable], x: Any) -> list[Any]:
    """The values that a program fetches: of arrays, at once, as of a graph."""
    known: list[Any] = [x]
    fetched = []
    for op, first, second, target in program:
        pool = [*known, *variables]
        one, two = pool[first % len(pool)], pool[second % len(pool)]
        if op == "assign":
            variables[target % len(variables)].assign(one if not isinstance(one, oy.Variable) else one * 1)
        elif op == "fetch":
            fetched.append(one if not isinstance(one, oy.Variable) else oy.abs(one))
        elif op == "view":
            known.append(oy.flip(oy.flip(one, axis=0), axis=0))
        elif op in ("negative", "abs"):
            known.append(getattr(oy, op)(one))
        else:
            known.append(getattr(oy, op)(one, two))
    return fetched


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(OPS), *[st.integers(0, 12)] * 3), min_size=3, max_size=14),
    st.lists(st.sampled_from(["vector:0", "lazy:0", "null:0"]), min_size=1, max_size=3, unique=True),
    st.integers(0, 2**16),
)
def test_random_programs_give_what_python_gives(
    program: list[tuple[str, int, int, int]], devices: list[str], seed: int
) -> None:
    registry = rig_registry(null_devices=1, inplace=True)
    generator = np.random.default_rng(seed)
    costs = ScriptedCosts(
        {
            f"{op} {d}/out": float(generator.integers(1, 9)) * 1e-6
            for op in OPS
            for d in ("vector", "lazy", "null")
        }
    )
    begin = [generator.integers(-4, 4, (2, 3)) for _ in range(3)]
    placed = [oy.Variable(array, name=f"v{n}") for n, array in enumerate(begin)]
    plain = [oy.Variable(array, name=f"v{n}") for n, array in enumerate(begin)]
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2, 3), "int64"))
        fetched = record(program, placed, x)
    if not fetched and not graph.state.writes:
        return
    session = oy.Session(graph, devices=devices, registry=registry, costs=costs)
    wanted = [*fetched, *(value for value, _ in graph.state.writes)]
    held: list[tuple[Any, Any]] = []
    for number in range(4):
        array = generator.integers(-3, 3, (2, 3))
        feeds = {"x": array} if needed_inputs(graph, wanted) else {}
        found = session.run(fetched, feeds, updates=True)
        with oy.using(registry=rig_registry(null_devices=1), prefer="reference"):
            expected = record(program, plain, array)
        held += list(zip(found, [np.array(e) for e in expected], strict=True))
        for one, other in zip(placed, plain, strict=True):
            owner: Any = registry.device_of(one._array)
            np.testing.assert_array_equal(owner.download(one._array), other.numpy())
        if number == 1 and held:
            held[0][0][...] = held[0][1]  # results are the caller's own to write to
    for found_then, expected_then in held:
        np.testing.assert_array_equal(found_then, expected_then)
