"""Plans: whatever the devices, the buffers, the views and the threads, results are those of the references."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import add_host
from opyard.executable import Executable, StepFailed
from opyard.plan import Copy, Free, Run
from opyard.testing import NullArray, ScriptedCosts, add_null_backend
from rigs import LazyArray, LazyDevice, prepare_view, rig_registry

SPEC = oy.TensorSpec((2, 3), "int64")


def evaluate(graph: oy.Graph, feeds: dict[str, Any]) -> dict[oy.Value, np.ndarray[Any, Any]]:
    """Every value of a graph by the references, node by node."""
    known = {graph.inputs[name]: array for name, array in feeds.items()} | dict(graph.constants)
    for node in graph.nodes:
        results = node.call.reference(*(None if v is None else known[v] for v in node.inputs))
        known.update(zip(node.outputs, results, strict=True))
    return known


def make_executable(
    function: Callable[..., Any],
    *specs: oy.TensorSpec,
    registry: oy.Registry,
    devices: tuple[str, ...],
    **more: Any,
) -> Executable:
    """The executable of a traced function, without any pass."""
    placed = oy.place(
        oy.trace(function, *specs),
        [registry.device(name) for name in devices],
        registry,
        more.pop("costs", ScriptedCosts()),
        **more,
    )
    return Executable(oy.make_plan(placed))


def vector_executable(function: Callable[..., Any], *specs: oy.TensorSpec) -> Executable:
    return make_executable(function, *specs, registry=rig_registry(), devices=("vector:0",))


# Random graphs on all devices -----------------------------------------------------------------------------------

STEPS = (
    "add",
    "subtract",
    "multiply",
    "maximum",
    "negative",
    "abs",
    "reshape",
    "permute",
    "flip",
    "pieces",
    "split",
)


def grow(x: Any, step: str, y: Any) -> list[Any]:
    """One or two new values of six elements each, from two old ones."""
    if step in ("add", "subtract", "multiply", "maximum"):
        return [getattr(oy, step)(x, y if y.shape == x.shape else oy.reshape(y, shape=x.shape))]
    if step in ("negative", "abs"):
        return [getattr(oy, step)(x)]
    if step == "reshape":
        return [oy.reshape(x, shape={(2, 3): (3, 2), (3, 2): (6,), (6,): (2, 3)}[x.shape])]
    if step == "permute":
        return [oy.permute_dims(x, axes=tuple(reversed(range(x.ndim))))]
    if step == "flip":
        return [oy.flip(x, axis=0)]
    first, second = oy.split(oy.reshape(x, shape=(6,)), sections=2)
    if step == "split":
        return [oy.concat(second, first), oy.concat(first, first)]
    return [oy.concat(oy.slice(oy.reshape(x, shape=(6,)), starts=(2,), stops=(5,)), second)]


@st.composite
def programs(draw: Any) -> tuple[oy.Graph, tuple[oy.Value, ...], ScriptedCosts, tuple[str, ...]]:
    """A graph with two inputs and a constant, some values to fetch, costs that scatter it, and devices."""
    with oy.Graph() as graph:
        values = [graph.input("x", SPEC), graph.input("y", SPEC)]
        values.append(graph.constant(np.arange(6).reshape(2, 3) * 3 - 5))
        for _ in range(draw(st.integers(1, 12))):
            x, y = (values[-1 - draw(st.integers(0, len(values) - 1))] for _ in range(2))
            values += grow(x, draw(st.sampled_from(STEPS)), y)
    fetches = tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))) + (values[-1],)
    devices = tuple(draw(st.permutations(("vector:0", "lazy:0", "null:0", "null:1", "reference"))))
    random = draw(st.randoms(use_true_random=False))
    kernels = (
        "vector/out",
        "vector/view",
        "lazy/out",
        "lazy/view",
        "null/out",
        "null/null",
        "reference/reference",
    )
    costs = {
        f"{op} {kernel}": random.choice((1e-6, 1e-3, 1.0))
        for op in (*STEPS, "permute_dims", "concat", "slice")
        for kernel in kernels
    }
    transfers = {(a, b): random.choice((0.0, 1e-9, 0.5)) for a in devices for b in devices if a != b}
    return graph, fetches, ScriptedCosts(costs, transfers), devices[: draw(st.integers(1, 5))]


def fresh_feeds(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-9, 9, SPEC.shape) for name in ("x", "y")}


@settings(max_examples=120, deadline=None)
@given(programs())
def test_random_graphs_give_what_the_references_give(program: Any) -> None:
    graph, fetches, costs, devices = program
    wanted = {seed: evaluate(graph, fresh_feeds(seed)) for seed in (0, 1)}
    constants = [array.copy() for array in graph.constants.values()]
    with oy.Session(graph, devices=devices, registry=rig_registry(), costs=costs) as session:
        for seed in (0, 1, 0):
            feeds = fresh_feeds(seed)
            results = session.run(fetches, feeds)
            for array in feeds.values():
                array += 1000  # the caller may write to what he fed,
            for number, result in enumerate(results):
                np.testing.assert_array_equal(result, wanted[seed][fetches[number]])
                result += 1000  # and to what he got: nothing else may change by it
    for array, before in zip(graph.constants.values(), constants, strict=True):
        np.testing.assert_array_equal(array, before)


@settings(max_examples=120, deadline=None)
@given(programs(), st.sets(st.integers(0, 20), min_size=1, max_size=3), st.sampled_from(("raise", "wrong")))
def test_whichever_kernels_fail_results_are_right_and_nothing_is_computed_twice(
    program: Any, failing: set[int], how: str
) -> None:
    """The n-th calls of kernels fail, for the numbers in ``failing``."""
    graph, fetches, costs, devices = program
    calls: list[Any] = []  # of kernels that did what they promise

    def wrap(prepare: Callable[..., Any]) -> Callable[..., Any]:
        def prepared(call: Any, device: Any) -> Callable[..., Any]:
            run = prepare(call, device)

            def moody(*arrays: Any, **out: Any) -> Any:
                calls.append(call)
                if len(calls) - 1 not in failing:
                    return run(*arrays, **out)
                calls[-1] = None
                if (
                    how == "wrong" and device.backend != "lazy"
                ):  # there it shows when somebody looks, as an error of its own
                    return (None,) * len(call.outputs) if call.is_tuple else None
                raise RuntimeError("not this time")

            return moody

        return prepared

    session = oy.Session(graph, devices=devices, registry=rig_registry(wrap=wrap), costs=costs)
    feeds = fresh_feeds()
    wanted = evaluate(graph, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oy.KernelWarning)
        results = session.run(fetches, feeds)
    for fetch, result in zip(fetches, results, strict=True):
        np.testing.assert_array_equal(result, wanted[fetch])
        result += 1000
    np.testing.assert_equal(feeds, fresh_feeds())
    if (
        how == "raise"
    ):  # what is wrong may be met late, after others computed with it, and be right the next time
        assert any(call is None for call in calls) == bool(session.registry.failures)
        # passes may make one call of two; without outputs they would leave nothing
        for number, fetch in enumerate(fetches):
            graph.output(f"fetch_{number}", fetch)
        nodes, fewer = ([node.call for node in g.nodes] for g in (graph, oy.simplify(graph)))
        allowed = {call: max(nodes.count(call), fewer.count(call)) for call in (*nodes, *fewer)}
        assert all(calls.count(call) <= allowed[call] for call in calls if call is not None)


@settings(max_examples=40, deadline=None)
@given(programs())
def test_arrays_of_another_device_as_feeds(program: Any) -> None:
    graph, fetches, costs, devices = program
    registry = rig_registry()
    session = oy.Session(graph, devices=devices, registry=registry, costs=costs)
    lazy, null = registry.device("lazy:0"), registry.device("null:1")
    call = session.callable(fetches, ["x", "y"])
    for home, kind in ((lazy, LazyArray), (null, NullArray)):
        pending = []
        for seed in (0, 1, 2):  # the results of a lazy device are looked at only after later runs
            wanted = evaluate(graph, fresh_feeds(seed))
            results = call(*(home.upload(array) for array in fresh_feeds(seed).values()))
            assert all(isinstance(result, kind) for result in results)
            pending += [(result, wanted[fetch]) for result, fetch in zip(results, fetches, strict=True)]
        for result, expected in pending:
            np.testing.assert_array_equal(home.download(result), expected)


@settings(max_examples=10, deadline=None)
@given(programs())
def test_eight_threads_on_one_executable(program: Any) -> None:
    graph, fetches, costs, devices = program
    session = oy.Session(graph, devices=devices, registry=rig_registry(), costs=costs)
    call = session.callable(fetches, ["x", "y"])
    expected = [evaluate(graph, fresh_feeds(seed)) for seed in range(4)]
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(8):
            seed = (number + turn) % 4
            results = call(*fresh_feeds(seed).values())
            for fetch, result in zip(fetches, results, strict=True):
                np.testing.assert_array_equal(result, expected[seed][fetch])
                result += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_runs_at_the_same_time_have_buffers_of_their_own() -> None:
    registry = oy.standard_registry()
    add_host(registry, "vector")
    meeting = threading.Barrier(1)

    def slow_abs(x: Any, out: Any = None) -> Any:
        result = np.abs(x, out=out)
        meeting.wait(10)  # both threads have written when either goes on
        return result

    registry.kernel("abs", backend="vector", name="slow", load=slow_abs, out=True)
    registry.kernel("negative", backend="vector", name="negative", load="numpy:negative", out=True)
    executable = make_executable(
        lambda x: oy.negative(oy.abs(x)), SPEC, registry=registry, devices=("vector:0",)
    )
    x, y = fresh_feeds().values()
    executable(x)
    meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(executable, (x, y)))
    np.testing.assert_array_equal(results[0][0], -abs(x))
    np.testing.assert_array_equal(results[1][0], -abs(y))
    assert len(executable.plan.buffers) == 1


# Buffers ---------------------------------------------------------------------------------------------------------


def chain(x: Any) -> Any:
    for _ in range(10):
        x = oy.add(oy.negative(x), x)
    return x


def test_a_chain_reuses_few_buffers() -> None:
    executable = vector_executable(chain, SPEC)
    runs = [step for step in executable.plan.steps if isinstance(step, Run)]
    assert len(runs) == 20
    assert len(executable.plan.buffers) == 3
    assert all((step.buffer is None) == (step is runs[-1]) for step in runs)
    assert [step.fresh for step in runs] == [False] * 19 + [True]


def test_a_buffer_is_not_reused_while_a_view_of_it_lives() -> None:
    def function(x: Any) -> Any:
        a = oy.negative(x)
        view = oy.permute_dims(a, axes=(1, 0))
        b = oy.negative(oy.add(oy.abs(x), x))  # must not overwrite `a`
        return oy.add(oy.reshape(view, shape=(6,)), oy.reshape(b, shape=(6,)))

    executable, array = vector_executable(function, SPEC), fresh_feeds()["x"]
    for _ in range(2):
        np.testing.assert_array_equal(
            executable(array)[0], (-array).T.reshape(6) - (abs(array) + array).reshape(6)
        )


def test_buffers_differ_by_spec_and_device() -> None:
    def function(x: Any, y: Any) -> Any:
        return oy.negative(oy.negative(oy.negative(x))), oy.negative(oy.negative(oy.negative(y)))

    other = oy.TensorSpec((2, 3), "float32")
    executable = vector_executable(function, SPEC, other)
    assert sorted(spec.dtype.name for _, spec in executable.plan.buffers) == [
        "float32",
        "float32",
        "int64",
        "int64",
    ]


def test_memory_that_another_device_reads_later_is_not_overwritten() -> None:
    """The lazy device reads the vector device's memory after the vector device went on, also where that used it again."""

    def function(x: Any) -> Any:
        a = oy.add(x, x)
        late = oy.abs(a)  # on the lazy device
        b = oy.multiply(a, a)  # a later use on its own device
        for _ in range(4):
            b = oy.multiply(oy.add(b, b), b)
        return late, b

    costs = ScriptedCosts(
        {"abs lazy/out": 1e-9, "vector/out": 1e-6},
        {("vector:0", "lazy:0"): 1e-9, ("lazy:0", "vector:0"): 1e-9},
    )
    executable = make_executable(
        function, SPEC, registry=rig_registry(), devices=("vector:0", "lazy:0"), costs=costs
    )
    kernels = [step.kernel.id for step in executable.plan.steps if isinstance(step, Run)]
    assert kernels.count("lazy/out") == 1 and executable.plan.copies == 2
    array = fresh_feeds()["x"]
    for _ in range(3):
        np.testing.assert_array_equal(executable(array)[0], abs(array + array))


def test_a_kernel_that_writes_gives_a_new_array_for_each_fetch() -> None:
    """A cast to the same dtype may give back its input where nobody tells it where to write."""
    registry = oy.standard_registry()
    add_host(registry, "vector")

    def prepare(call: Any, device: Any) -> Any:
        def cast(x: Any, out: Any = None) -> Any:
            if out is None:
                return x
            np.copyto(out, x)
            return out

        return cast

    registry.kernel("cast", backend="vector", name="same", prepare=prepare, out=True)
    registry.kernel("add", backend="vector", name="add", load="numpy:add", out=True)
    executable = make_executable(
        lambda x: oy.cast(oy.add(x, x), dtype="int64"), SPEC, registry=registry, devices=("vector:0",)
    )
    x, y = fresh_feeds().values()
    first = executable(x)[0]
    executable(y)
    np.testing.assert_array_equal(first, x + x)


# Results are the caller's own ------------------------------------------------------------------------------------


def test_results_share_no_memory_with_anything() -> None:
    weights = np.arange(6).reshape(2, 3)

    def function(x: Any) -> Any:
        total = oy.add(x, weights)
        return x, oy.reshape(x, shape=(6,)), weights, total, oy.permute_dims(total, axes=(1, 0)), total

    executable, x = vector_executable(function, SPEC), fresh_feeds()["x"]
    kept: list[Any] = [x, weights]
    for _ in range(2):
        results = executable(x)
        for number, result in enumerate(results):
            assert result.flags.writeable
            assert not any(np.may_share_memory(result, other) for other in kept), number
            kept.append(result)


def test_read_only_views_of_intermediates_come_as_writeable_copies() -> None:
    registry = rig_registry()
    registry.kernel("broadcast_to", backend="vector", name="view", prepare=prepare_view)
    executable = make_executable(
        lambda x: oy.broadcast_to(oy.add(x, x), shape=(4, 2, 3)),
        SPEC,
        registry=registry,
        devices=("vector:0",),
    )
    (result,) = executable(fresh_feeds()["x"])
    result[0] += 1
    assert not np.array_equal(result[0], result[1])


def test_a_view_of_a_constant_on_a_device_that_shares_host_memory_is_copied() -> None:
    table = np.arange(12).reshape(4, 3)
    registry = rig_registry()

    @oy.op("rig.pick", infer=lambda table, row: oy.TensorSpec((3,), table.dtype))
    def pick(table: Any, row: Any) -> Any:
        return table[int(row)]

    def prepare(call: Any, device: LazyDevice) -> Any:
        return lambda table, row: LazyArray(table.contents[int(device.download(row))])

    registry.op(pick)
    registry.kernel("rig.pick", backend="lazy", name="view", prepare=prepare)
    executable = make_executable(
        lambda row: pick(table, row),
        oy.TensorSpec((), "int64"),
        registry=registry,
        devices=("lazy:0",),
        home=registry.device("reference"),
    )
    (result,) = executable(np.array(2))
    result += 100
    np.testing.assert_array_equal(table, np.arange(12).reshape(4, 3))


def test_a_fed_array_of_another_type_is_never_handed_out_itself() -> None:
    registry = rig_registry()
    null = registry.device("null:0")
    executable = make_executable(lambda x: (x, x), SPEC, registry=registry, devices=("null:0",), home=null)
    fed = null.upload(fresh_feeds()["x"])
    first, second = executable(fed)
    assert first is not fed and second is not fed and first is not second
    np.testing.assert_array_equal(null.download(first), null.download(fed))


# Source and steps ------------------------------------------------------------------------------------------------


def test_the_source_is_straight_line() -> None:
    executable = vector_executable(lambda x: oy.permute_dims(oy.add(oy.negative(x), x), axes=(1, 0)), SPEC)
    lines = executable.source.splitlines()
    assert lines == [
        "def run(v0):",
        "  before = ignore()",
        "  try:",
        "    v1 = k0(v0, out=b0)",
        "    v2 = k1(v1, v0, out=new1())",
        "    v1 = None",
        "    v3 = k3(v2)",
        "    if v3.shape != s3 or v3.dtype is not d3: check(c3, v3)",
        "    return (own3(v3),)",
        "  finally:",
        "    restore(before)",
    ]
    assert len(executable.lines) == len(lines) - 6


def test_floating_point_errors_are_ignored_in_a_run_and_what_was_set_before_comes_back() -> None:
    from opyard.executable import ignoring_floating_point

    ignore, restore = ignoring_floating_point()
    with np.errstate(all="raise"):
        before = ignore()
        assert set(np.geterr().values()) == {"ignore"}
        assert np.isinf(np.ones(1) / np.zeros(1)).all()
        restore(before)
        assert set(np.geterr().values()) == {"raise"}


def test_optional_inputs_and_tuples_of_one() -> None:
    def function(x: Any) -> Any:
        (only,) = oy.split(oy.clip(x, None, x), sections=1)
        return only

    executable = make_executable(function, SPEC, registry=rig_registry(), devices=("vector:0", "reference"))
    assert "(v0, None, v0)" in executable.source and "v2, = " in executable.source
    x = fresh_feeds()["x"]
    np.testing.assert_array_equal(executable(x)[0], x)


def test_dead_tensors_are_forgotten_and_copies_made_once() -> None:
    registry = rig_registry()
    costs = ScriptedCosts(
        {"add null/null": 1e-9, "null/out": 1.0, "negative vector/out": 1e-9, "add vector/out": 1.0}
    )
    plan = make_executable(
        lambda x: oy.negative(oy.add(oy.add(x, x), x)),
        SPEC,
        registry=registry,
        devices=("vector:0", "null:0"),
        costs=costs,
    ).plan
    assert [type(step) for step in plan.steps] == [Copy, Run, Run, Copy, Free, Run, Free]
    assert plan.copies == 2
    freed = [slot for step in plan.steps if isinstance(step, Free) for slot in step.slots]
    assert sorted(freed) == sorted(set(range(6)) - {*plan.feeds, *plan.fetches})
    copied, ran, *_ = rows = json.loads(json.dumps(plan.to_json()))
    assert copied == {"step": "copy", "from": "vector:0", "to": "null:0", "input": 0, "output": 1}
    assert ran == {
        "step": "run",
        "work": "add(int64[2, 3], int64[2, 3]) -> int64[2, 3]",
        "plans": [],
        "kernel": "null/null",
        "device": "null:0",
        "inputs": [1, 1],
        "outputs": [2],
        "buffer": None,
        "donated": None,
        "fresh": False,
    }
    assert rows[4] == {"step": "free", "slots": [1, 2, 3]}  # the first two might be viewed by the third
    assert rows[5]["fresh"] is True


def test_constants_are_uploaded_once() -> None:
    registry = rig_registry()
    null: Any = registry.device("null:0")
    weights = np.arange(6).reshape(2, 3)
    executable = make_executable(
        lambda x: oy.add(oy.add(x, weights), weights), SPEC, registry=registry, devices=("null:0",), home=null
    )
    null.log.clear()
    fed = null.upload(weights)
    for _ in range(3):
        executable(fed)
    assert executable.plan.copies == 0
    assert len(executable.plan.constants) == 1


@pytest.mark.parametrize("failing", ["negative", "abs", "add"])
def test_a_failure_is_mapped_to_its_step(failing: str) -> None:
    registry = oy.standard_registry()
    add_null_backend(registry, ops=[op for op in ("negative", "abs", "add") if op != failing])
    error = RuntimeError("the driver is gone\nsecond line")

    def broken(*arrays: Any) -> Any:
        raise error

    registry.kernel(failing, backend="null", name="broken", load=broken)
    executable = make_executable(
        lambda x: oy.add(oy.abs(oy.negative(x)), x), SPEC, registry=registry, devices=("null:0",)
    )
    with pytest.raises(StepFailed, match=r"^null/broken: RuntimeError: the driver is gone$") as caught:
        executable(registry.device("null:0").upload(fresh_feeds()["x"]))
    assert caught.value.step.work.title == failing
    assert caught.value.error is error


def test_a_kernel_that_cannot_be_prepared_is_a_failed_step() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry)

    def prepare(call: Any, device: Any) -> Any:
        raise OSError("no compiler")

    registry.kernel("abs", backend="null", name="broken", prepare=prepare)
    with pytest.raises(StepFailed, match=r"null/broken: OSError: no compiler"):
        make_executable(oy.abs, SPEC, registry=registry, devices=("null:0",))


def test_a_copy_that_fails_raises_what_the_device_raised() -> None:
    registry = rig_registry()
    null: Any = registry.device("null:0")

    def full(array: Any) -> Any:
        raise MemoryError("the device is full")

    executable = make_executable(
        oy.abs, SPEC, registry=registry, devices=("null:0",), home=registry.device("reference")
    )
    null.upload = full
    with pytest.raises(MemoryError, match="the device is full"):
        executable(fresh_feeds()["x"])


def test_after_a_failure_the_executable_still_works() -> None:
    registry = oy.standard_registry()
    add_host(registry, "vector")
    moods = iter((False, True, False))

    def moody(x: Any) -> Any:
        if next(moods):
            raise ValueError("not today")
        return np.abs(x)

    registry.kernel("abs", backend="vector", name="moody", load=moody)
    executable = make_executable(oy.abs, SPEC, registry=registry, devices=("vector:0",))
    x = fresh_feeds()["x"]
    np.testing.assert_array_equal(executable(x)[0], abs(x))
    with pytest.raises(StepFailed, match="not today"):
        executable(x)
    np.testing.assert_array_equal(executable(x)[0], abs(x))
