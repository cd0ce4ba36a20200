"""Profiles and traces of runs. No time is asserted, only what times must add up to and in which order they are."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import add_host
from opyard.driver import Device
from opyard.errors import GraphError
from opyard.executable import Executable
from opyard.plan import make_plan
from opyard.stopwatch import Stopwatch
from opyard.takeover import KernelWarning
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend, prepare_null
from tracing import check_trace, counters, lanes

F32 = np.float32
X = np.ones(4, F32)
SPEC = oy.TensorSpec((4,), "float32")


def later_clock() -> float:
    """A device's clock that has nothing to do with the host's."""
    return time.perf_counter() + 1e6


def two_devices(clock: Callable[[], float] | None = None) -> oy.Registry:
    """A host and an accelerator with memory of its own, both with kernels for what the tests use."""
    made = oy.standard_registry()
    add_host(made)
    for op in ("exp", "abs", "add", "reshape"):
        made.kernel(op, backend="toy", name="np", prepare=prepare_numpy, cost=lambda c, d: 2e-6)
    add_null_backend(made, NullDevice("far:0", clock=clock))
    for op in ("exp", "abs", "add"):
        made.kernel(op, backend="far", name="null", prepare=prepare_null, cost=lambda c, d: 3e-6)
    return made


def prepare_numpy(call: Any, device: Device) -> Callable[..., Any]:
    """The reference, which gives views where NumPy does."""
    return lambda *arrays: call.reference(*arrays)[0]


def session_of(function: Callable[..., Any], made: oy.Registry, *specs: oy.TensorSpec) -> oy.Session:
    graph = oy.trace(function, *(specs or (SPEC,)))
    return oy.Session(graph, registry=made, devices=["toy:0", "far:0"], costs=ScriptedCosts())


def there_and_back(x: Any) -> Any:
    y = oy.exp(x)
    with oy.device("far"):
        y = oy.abs(y)
    return oy.add(y, x)


# Sums ------------------------------------------------------------------------------------------------------------


def check_sums(profile: oy.Profile) -> None:
    """What holds for every profile whose devices take turns."""
    busy = profile.kernel_seconds + profile.copy_seconds
    assert profile.overhead + busy == pytest.approx(profile.timed_seconds)
    shares = [row.share for row in profile.nodes] + [row.share for row in profile.copies]
    assert sum(shares) == pytest.approx(1.0 if busy else 0.0)
    for totals in (profile.devices, profile.ops, profile.kernels):
        assert sum(total.seconds for total in totals) == pytest.approx(profile.kernel_seconds)
        assert sum(total.calls for total in totals) == sum(r.calls for r in profile.nodes if r.kernel)
        assert list(totals) == sorted(totals, key=lambda total: -total.seconds)
    assert list(profile.nodes) == sorted(profile.nodes, key=lambda row: -row.seconds)
    trace = check_trace(profile.trace())
    measured = [p.arguments["measured_seconds"] for p in profile.slices if p.kind in ("kernel", "copy")]
    assert sum(measured) == pytest.approx(busy)
    whole = sum(event["dur"] for event in lanes(trace)["host (Python)"] if event["cat"] == "run")
    for name, slices in lanes(trace).items():
        kernels = [event["dur"] for event in slices if event["cat"] in ("kernel", "copy")]
        assert sum(kernels) <= whole + 1e-3 * len(kernels), name


def test_the_times_of_all_that_runs_add_up_to_that_of_the_run() -> None:
    profile = session_of(there_and_back, two_devices()).profile("output_0", {"x": X}, runs=3)
    check_sums(profile)
    assert profile.runs == 3 and profile.seconds > 0
    assert {row.op: (row.device, row.kernel) for row in profile.nodes} == {
        "exp": ("toy:0", "toy/np"),
        "abs": ("far:0", "far/null"),
        "add": ("toy:0", "toy/np"),
    }
    assert all(row.calls == 1 and row.median > 0 for row in profile.nodes)
    assert {(row.source, row.target, row.nbytes, row.calls) for row in profile.copies} == {
        ("toy:0", "far:0", 16, 1),
        ("far:0", "toy:0", 16, 1),
    }


def test_rows_say_what_was_computed_where_it_was_written_and_what_was_predicted() -> None:
    costs = ScriptedCosts(
        {"toy/np": 5e-6, "far/null": 7e-6}, {("toy:0", "far:0"): 1e-5, ("far:0", "toy:0"): 2e-5}
    )
    graph = oy.trace(there_and_back, SPEC)
    session = oy.Session(graph, registry=two_devices(), devices=["toy:0", "far:0"], costs=costs)
    profile = session.profile("output_0", {"x": X}, runs=1)
    rows = {row.op: row for row in profile.nodes}
    assert rows["add"].inputs == ("float32[4]", "float32[4]") and rows["add"].outputs == ("float32[4]",)
    assert rows["exp"].source.startswith("test_profile.py:")
    assert rows["exp"].predicted == 5e-6 and rows["abs"].predicted == 7e-6
    assert {row.target: row.predicted for row in profile.copies} == {"far:0": 1e-5, "toy:0": 2e-5}
    row = rows["add"]
    assert row.flops_per_second == pytest.approx(row.flops / row.median)
    assert row.bytes_per_second == pytest.approx(48 / row.median)
    copy = profile.copies[0]
    assert copy.bytes_per_second == pytest.approx(16 / copy.median)


def test_a_profile_is_a_table_and_plain_data() -> None:
    profile = session_of(there_and_back, two_devices()).profile("output_0", {"x": X}, runs=2)
    text = str(profile)
    assert text.startswith("a run takes ") and "the median of 2; with its steps timed " in text
    assert "toy:0 -> far:0" in text and "far/null" in text and "memory host: at most " in text
    table = text.split("\n\n")[1].splitlines()
    assert table[0].split()[:4] == ["time", "share", "calls", "median"]
    assert [line.split()[-2] for line in table[1:]] == [row.node for row in profile.nodes]
    data = json.loads(json.dumps(profile.to_json(), allow_nan=False))
    assert data["runs"] == 2 and len(data["nodes"]) == 3 and len(data["copies"]) == 2
    assert data["nodes"][0]["bytes_per_second"] == profile.nodes[0].bytes_per_second
    assert {use["memory"] for use in data["memory"]} == {"host", "far:0"}
    assert data["clocks"] == dict.fromkeys(("toy:0", "far:0"), "the host's clock; waited for after each step")


def test_long_tables_end_with_what_they_leave_out() -> None:
    def chain(x: Any) -> Any:
        for _ in range(20):
            x = oy.exp(oy.abs(x))
        return x

    profile = session_of(chain, two_devices()).profile("output_0", {"x": np.zeros(4, F32)}, runs=1)
    assert "\n10 more nodes: " in str(profile)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(["exp", "abs", "add"]), st.booleans()), max_size=8), st.booleans())
def test_every_chain_adds_up(chain: list[tuple[str, bool]], clock: bool) -> None:
    def function(x: Any) -> Any:
        for name, far in chain:
            with oy.device("far" if far else "toy"):
                x = oy.abs(x) if name == "abs" else oy.add(x, 1) if name == "add" else oy.exp(-oy.abs(x))
        return x

    profile = session_of(function, with_negative(two_devices(later_clock if clock else None))).profile(
        "output_0", {"x": X}, runs=1
    )
    check_sums(profile)


def with_negative(made: oy.Registry) -> oy.Registry:
    made.kernel("negative", backend="toy", name="np", prepare=prepare_numpy)
    made.kernel("negative", backend="far", name="null", prepare=prepare_null)
    return made


# Clocks ----------------------------------------------------------------------------------------------------------


def test_a_device_with_a_clock_of_its_own_is_timed_by_it() -> None:
    profile = session_of(there_and_back, two_devices(later_clock)).profile("output_0", {"x": X}, runs=2)
    assert profile.clocks == {
        "toy:0": "the host's clock; waited for after each step",
        "far:0": "its own clock, brought to the host's time",
    }
    check_sums(profile)
    trace = profile.trace()
    assert trace["otherData"]["clocks"] == profile.clocks
    found = lanes(trace)
    assert list(found) == ["host (Python)", "toy:0", "far:0", "copies"]
    (kernel,) = found["far:0"]
    assert kernel["name"] == "abs" and kernel["cat"] == "kernel"
    host = {event["name"]: event for event in found["host (Python)"]}
    assert set(host) == {"run", "start abs", "wait for far:0"}
    start, wait = host["start abs"], host["wait for far:0"]
    assert start["ts"] <= kernel["ts"] + 1e-3 and kernel["ts"] + kernel["dur"] <= wait["ts"] + wait["dur"] + 1
    (there, back) = found["copies"]
    assert there["args"]["from"] == "toy:0" and there["args"]["to"] == "far:0"
    assert back["args"]["bytes"] == 16 and back["name"] == "far:0 -> toy:0"


def test_the_slices_tell_what_they_are() -> None:
    profile = session_of(there_and_back, two_devices()).profile("output_0", {"x": X}, runs=1)
    trace = profile.trace("a title")
    assert trace["traceEvents"][0]["args"] == {"name": "a title"}
    (first, last) = lanes(trace)["toy:0"]
    about = first["args"]
    assert about["measured_seconds"] == pytest.approx(first["dur"] * 1e-6, abs=2e-9)
    del about["measured_seconds"], about["source"]
    assert about == {
        "op": "exp",
        "node": "exp",
        "inputs": ("float32[4]",),
        "outputs": ("float32[4]",),
        "kernel": "toy/np",
        "backend": "toy",
        "device": "toy:0",
        "predicted_seconds": 2e-6,
    }
    assert last["name"] == "add"


def test_an_executable_without_a_watch_is_as_ever() -> None:
    placement = session_of(there_and_back, two_devices()).placement("output_0", {"x": X})
    plan = make_plan(placement)
    plain, watched = Executable(plan), Executable(plan, watch=Stopwatch().watch(plan))
    assert plain.source == watched.source
    np.testing.assert_array_equal(plain(X)[0], watched(X)[0])


# Branches and loops ----------------------------------------------------------------------------------------------


def test_the_steps_of_a_loop_lie_inside_of_it() -> None:
    @oy.compile(devices="cpu")
    def count(x: Any) -> Any:
        return oy.exp(oy.while_loop(lambda s: oy.sum(s) < 15, lambda s: s + 1, x))

    profile = count.profile(np.zeros(4, F32), runs=2)
    check_sums(profile)
    rows = {row.node: row for row in profile.nodes}
    assert rows["while_loop/body/add"].calls == 4  # 0, 4, 8, 12, 16
    assert rows["while_loop/condition/less"].calls == 1
    loop = rows["while_loop"]
    assert loop.kernel == "" and loop.share == 0 and loop.flops is None and loop.op == "while_loop"
    inside = sum(row.seconds for row in profile.nodes if row.node.startswith("while_loop/"))
    assert loop.seconds >= inside
    slices = lanes(profile.trace())["cpu:0"]
    (whole,) = [event for event in slices if event["cat"] == "control flow"]
    bodies = [event for event in slices if event["name"] == "body"]
    assert [event["args"]["number"] for event in bodies] == [1, 2, 3, 4]
    assert next(event["name"] for event in slices if event["cat"] == "body") == "condition"
    for body in bodies:
        assert whole["ts"] <= body["ts"] and body["ts"] + body["dur"] <= whole["ts"] + whole["dur"] + 1e-3
    assert f"({rows['while_loop'].op})" not in str(profile)


def test_only_the_branch_that_runs_is_there() -> None:
    @oy.compile
    def choose(x: Any) -> Any:
        return oy.cond(oy.sum(x) > 0, lambda v: oy.exp(v), lambda v: oy.log(v), x)

    names = [row.node for row in choose.profile(X, runs=1).nodes]
    assert "cond/then/exp" in names and not any("log" in name for name in names)


def test_loops_within_loops_and_what_they_keep() -> None:
    @oy.compile
    def nested(x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            inner = oy.while_loop(lambda s: oy.sum(s) < 6, lambda s: s + 1, row)
            return carry + inner, carry

        return oy.scan(step, x[0], x)

    x = np.zeros((3, 2), F32)
    profile = nested.profile(x, runs=1)
    check_sums(profile)
    (row,) = [row for row in profile.nodes if row.node.endswith("while_loop/body/add")]
    assert row.node.startswith("scan/body/") and row.calls == 9
    (host,) = profile.memory
    assert host.changes[-1][1] <= host.peak_bytes
    end = host.changes[-1][1]
    assert end >= x.nbytes + 2 * 4 + 3 * 2 * 4  # what is fed, the carry, and what is collected


# Edges -----------------------------------------------------------------------------------------------------------


def test_a_graph_without_nodes() -> None:
    graph = oy.trace(lambda x: x, SPEC)
    profile = oy.Session(graph).profile("output_0", {"x": X}, runs=2)
    assert profile.nodes == profile.copies == () and profile.kernel_seconds == 0
    assert profile.overhead == pytest.approx(profile.timed_seconds)
    assert [event["name"] for event in lanes(check_trace(profile.trace()))["host (Python)"]] == ["run"]
    assert str(profile).count("\n\n") == 1  # nothing but the memory
    assert oy.Profile.joined([("one", profile), ("two", profile)]).nodes == ()


@pytest.mark.parametrize("runs", [0, -1, 2.0, True, "3"])
def test_a_number_of_runs_that_is_none(runs: Any) -> None:
    session = session_of(there_and_back, two_devices())
    with pytest.raises(GraphError, match="runs is a whole number from 1 on; found "):
        session.profile("output_0", {"x": X}, runs=runs)


def test_wrong_feeds_are_refused_as_by_a_run() -> None:
    session = session_of(there_and_back, two_devices())
    with pytest.raises(GraphError, match="the fetches need a feed for 'x'"):
        session.profile("output_0")


def test_variables_keep_what_they_hold() -> None:
    held = oy.Variable(np.zeros(4, F32), name="held")

    @oy.compile
    def step(x: Any) -> Any:
        held.assign_add(x)
        return oy.sum(held)

    profile = step.profile(X, runs=3)
    assert held.numpy().tolist() == [0, 0, 0, 0]
    events = [e for e in check_trace(profile.trace())["traceEvents"] if e["ph"] == "i"]
    assert [event["name"] for event in events] == ["assign held"] and events[0]["args"]["bytes"] == 16
    assert "variable held" in [tensor.name for tensor in profile.memory[0].tensors]
    assert float(step(X)) == 4.0


@pytest.mark.parametrize("good", [0, 2])
def test_a_kernel_that_fails_is_replaced_and_not_timed(good: int) -> None:
    """At once, or only when its steps are timed."""
    made = two_devices()
    calls = []

    def flaky(x: Any) -> Any:
        calls.append(1)
        if len(calls) > good:
            raise RuntimeError("out of order")
        return np.abs(x)

    made.kernel("abs", backend="toy", name="flaky", load=flaky, cost=lambda c, d: 1e-9)
    session = session_of(oy.abs, made)
    with pytest.warns(KernelWarning, match="toy/flaky of abs raised RuntimeError: out of order"):
        profile = session.profile("output_0", {"x": X}, runs=2)
    assert [row.kernel for row in profile.nodes] == ["toy/np"]


def test_profiles_are_joined_one_after_the_other() -> None:
    one = session_of(there_and_back, two_devices()).profile("output_0", {"x": X}, runs=2)
    two = session_of(oy.exp, two_devices()).profile("output_0", {"x": X}, runs=2)
    both = oy.Profile.joined([("first", one), ("second", two)])
    check_sums(both)
    assert both.seconds == one.seconds + two.seconds and both.runs == 2
    assert {row.node for row in both.nodes} == {"first/exp", "first/abs", "first/add", "second/exp"}
    assert {row.tensor.partition("/")[0] for row in both.copies} == {"first"}
    runs = [s for s in both.slices if s.kind == "run"]
    assert [piece.title for piece in runs] == ["first: run", "second: run"]
    assert runs[1].begin == runs[0].end
    memory = {use.memory: use for use in both.memory}
    assert memory["far:0"].peak_bytes == 32 and memory["far:0"].changes[-1] == (runs[1].begin, 0)
    assert memory["host"].peak_bytes == max(one.memory[0].peak_bytes, two.memory[0].peak_bytes)


# Memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_what_is_fed_made_and_not_yet_forgotten() -> None:
    graph = oy.trace(lambda x: oy.exp(oy.abs(oy.exp(x))), SPEC)
    session = oy.Session(graph, registry=two_devices(), devices="toy:0", memory={"toy:0": "1MB"})
    profile = session.profile("output_0", {"x": X}, runs=1)
    (host,) = profile.memory
    assert [size for _, size in host.changes] == [16, 32, 48, 32, 48, 32]
    assert host.peak_bytes == 48 and host.peak_at > 0 and host.memory == "host"
    assert [tensor.nbytes for tensor in host.tensors] == [16, 16, 16] and "x" in {
        t.name for t in host.tensors
    }
    assert counters(profile.trace())["memory: host"][0] == (0.0, 16)


def test_large_tensors_are_forgotten_behind_their_last_use() -> None:
    """Each of these kernels might give a view of its input, and none does: two tensors at once, and not five."""
    graph = oy.trace(lambda x: oy.exp(oy.abs(oy.exp(oy.abs(x)))), oy.TensorSpec((1 << 15,), "float32"))
    session = oy.Session(graph, registry=two_devices(), devices="toy:0")
    (host,) = session.profile("output_0", {"x": np.ones(1 << 15, np.float32)}, runs=1).memory
    size = 1 << 17
    assert [found / size for _, found in host.changes] == [1, 2, 3, 2, 3, 2, 3, 2]


def test_without_limits_small_tensors_stay_as_long_as_there_may_be_views_of_them() -> None:
    (host,) = (
        session_of(lambda x: oy.exp(oy.abs(x)), two_devices()).profile("output_0", {"x": X}, runs=1).memory
    )
    assert [size for _, size in host.changes] == [16, 32, 48]


def test_views_take_no_memory_of_their_own_and_keep_that_which_they_show() -> None:
    session = session_of(lambda x: oy.exp(oy.reshape(oy.abs(x), shape=(2, 2))), two_devices())
    (host,) = session.profile("output_0", {"x": X}, runs=1).memory
    assert [size for _, size in host.changes] == [16, 32, 48]


def test_each_memory_has_a_timeline_of_its_own() -> None:
    profile = session_of(there_and_back, two_devices()).profile("output_0", {"x": X}, runs=1)
    sizes = {use.memory: [size for _, size in use.changes] for use in profile.memory}
    assert sizes["far:0"] == [0, 16, 32, 0]
    assert {use.memory: use.peak_bytes for use in profile.memory} == {"host": 48, "far:0": 32}


def test_weights_and_buffers_count_from_the_beginning() -> None:
    weights = np.ones((4, 4), F32)
    session = oy.Session(
        oy.trace(lambda x: oy.relu(oy.matmul(x, weights)) + 1, oy.TensorSpec((2, 4))), devices="cpu"
    )
    profile = session.profile("output_0", {"x": np.ones((2, 4), F32)}, runs=1)
    (host,) = profile.memory
    assert host.changes[0][1] >= weights.nbytes + 32
    assert ("constant", 64) in host.tensors


def test_the_default_of_overlaps_knows_views_of_numpy() -> None:
    device = oy.default_registry().device("reference")
    x = np.ones((2, 2))
    assert device.overlaps(x, x[1]) and not device.overlaps(x, x.copy())
    null = NullDevice("null:0")
    array = null.upload(x)
    assert null.overlaps(array, array) and not null.overlaps(array, null.upload(x))


# Real devices ----------------------------------------------------------------------------------------------------


def test_copies_between_cpu_and_opencl() -> None:
    pytest.importorskip("pyopencl")
    devices = [d for d in oy.devices() if d.backend in ("cpu", "opencl")]
    if {d.backend for d in devices} != {"cpu", "opencl"}:
        pytest.skip("no OpenCL device here")

    @oy.compile
    def function(x: Any) -> Any:
        with oy.device("opencl"):
            y = oy.exp(x)
        with oy.device("cpu"):
            return oy.matmul(y, y)

    x = np.zeros((64, 64), F32)
    profile = function.profile(x, runs=3)
    assert [(row.source.partition(":")[0], row.nbytes) for row in profile.copies if row.nbytes > 4]
    assert {row.op: row.device.partition(":")[0] for row in profile.nodes} == {
        "exp": "opencl",
        "matmul": "cpu",
    }
    trace = check_trace(profile.trace())
    assert len(lanes(trace)["copies"]) == len(profile.copies) == 2
    (exp,) = lanes(trace)[next(d.name for d in devices if d.backend == "opencl")]
    assert exp["name"] == "exp"
    (use,) = profile.memory  # a processor and its OpenCL driver have one memory
    assert use.memory == "host" and use.peak_bytes < 4 * x.nbytes


def test_views_of_opencl_arrays_overlap() -> None:
    pytest.importorskip("pyopencl")
    found = [d for d in oy.devices() if d.backend == "opencl"]
    if not found:
        pytest.skip("no OpenCL device here")
    array = found[0].upload(X)
    assert found[0].overlaps(array, array.view((2, 2))) and not found[0].overlaps(
        array, found[0].upload(X + 1)
    )


def test_profiling_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session_of(there_and_back, two_devices(later_clock)).profile("output_0", {"x": X - 2}, runs=1)
