"""Runs whose kernels fail on the way: what is computed stays, the rest is computed by others, and the right kernel is blamed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import Counter, add_host
from opyard import runtime
from opyard.errors import KernelError
from opyard.executable import Executable, StepFailed
from opyard.plan import make_plan
from opyard.testing import NullArray, NullDevice, ScriptedCosts, add_null_backend

X = np.arange(1, 7, dtype="float32").reshape(2, 3) / 6
SPEC = oy.TensorSpec.of(X)
BROKEN = RuntimeError("out of luck")


@pytest.fixture(autouse=True)
def quiet_policy() -> Iterator[None]:
    """No setting of the machine that runs the tests decides."""
    with oy.using(strict=False):
        yield


def toys(*ops: str, failing: str = "") -> tuple[oy.Registry, dict[str, Counter]]:
    """A host backend with a counting kernel for each op, of which one raises."""
    registry = oy.standard_registry()
    add_host(registry)
    counters = {op: Counter(registry, op) for op in ops}
    if failing:
        counters[failing].error = BROKEN
    return registry, counters


def chain(x: Any) -> Any:
    return oy.tanh(oy.exp(oy.abs(oy.negative(x))))


CHAIN = ("negative", "abs", "exp", "tanh")
RESULT = np.tanh(np.exp(np.abs(-X)))


def counts(counters: dict[str, Counter]) -> dict[str, int]:
    return {op: counter.run for op, counter in counters.items()}


def run(function: Callable[..., Any], registry: oy.Registry, *arrays: Any, **options: Any) -> Any:
    graph = oy.trace(function, *(oy.TensorSpec.of(a) for a in arrays))
    session = oy.Session(graph, registry=registry, **options)
    return session.run(graph.result, dict(zip(graph.inputs, arrays, strict=True)))


@pytest.mark.parametrize("failing", CHAIN)
def test_what_large_tensors_were_made_of_is_gone_and_made_again(failing: str) -> None:
    registry, _ = toys(*CHAIN, failing=failing)
    large = np.resize(X, 1 << 15)
    with pytest.warns(oy.KernelWarning, match=f"toy/counter of {failing} raised RuntimeError: out of luck"):
        found = run(chain, registry, large, devices=("toy:0", "reference"))
    np.testing.assert_allclose(found, np.tanh(np.exp(np.abs(-large))), rtol=1e-6)
    assert set(registry.failures) == {f"{failing} toy/counter"}


# What is computed stays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", CHAIN)
def test_every_kernel_runs_once_whichever_fails(failing: str) -> None:
    registry, counters = toys(*CHAIN, failing=failing)
    text = rf"kernel toy/counter of {failing} raised RuntimeError: out of luck on {failing}\(float32\[2, 3\]\) -> float32\[2, 3\]; reference/reference takes over"
    with pytest.warns(oy.KernelWarning, match=text) as caught:
        np.testing.assert_allclose(run(chain, registry, X), RESULT, rtol=1e-6)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert counts(counters) == dict.fromkeys(CHAIN, 1)
    assert list(registry.failures) == [f"{failing} toy/counter"]


@pytest.mark.parametrize("way", ["callable", "compile"])
def test_on_the_hot_path_too(way: str) -> None:
    registry, counters = toys(*CHAIN)
    if way == "compile":
        call: Callable[..., Any] = oy.compile(chain, registry=registry)
    else:
        call = oy.Session(oy.trace(chain, SPEC), registry=registry).callable("output_0", ["x"])
    np.testing.assert_allclose(call(X), RESULT, rtol=1e-6)
    counters["exp"].error = BROKEN
    with pytest.warns(oy.KernelWarning, match="toy/counter of exp .*reference/reference takes over"):
        np.testing.assert_allclose(call(X), RESULT, rtol=1e-6)
    assert counts(counters) == dict.fromkeys(CHAIN, 2)
    np.testing.assert_allclose(call(X), RESULT, rtol=1e-6)  # a whole plan, without a warning
    assert counts(counters) == {"negative": 3, "abs": 3, "exp": 2, "tanh": 3}


def test_failures_one_after_the_other() -> None:
    registry, counters = toys(*CHAIN, failing="abs")
    counters["tanh"].error = BROKEN
    second = Counter(registry, "abs", name="second", cost=lambda call, device: 1.0)
    second.error = ValueError("me neither")
    costs = ScriptedCosts({"reference/reference": 9.0})
    with pytest.warns(oy.KernelWarning) as caught:
        np.testing.assert_allclose(run(chain, registry, X, costs=costs), RESULT, rtol=1e-6)
    assert {**counts(counters), "second": second.run} == {**dict.fromkeys(CHAIN, 1), "second": 1}
    assert set(registry.failures) == {"abs toy/counter", "abs toy/second", "tanh toy/counter"}
    assert len(caught) == 3
    assert all("reference/reference takes over" in str(warning.message) for warning in caught)


def test_a_substitute_that_ran_before_another_failure_is_named() -> None:
    registry, counters = toys(*CHAIN, failing="abs")
    counters["tanh"].error = BROKEN
    second = Counter(registry, "abs", name="second", cost=lambda call, device: 1.0)
    costs = ScriptedCosts({"reference/reference": 9.0})
    with pytest.warns(oy.KernelWarning) as caught:
        np.testing.assert_allclose(run(chain, registry, X, costs=costs), RESULT, rtol=1e-6)
    assert second.run == 1
    text = " ".join(str(warning.message) for warning in caught)
    assert "toy/counter of abs" in text and "; toy/second takes over" in text


def test_kernels_with_several_outputs() -> None:
    def function(x: Any) -> Any:
        first, second, third = oy.split(oy.negative(x), sections=3, axis=1)
        used = oy.abs(first)  # `first` is forgotten before the failure, the others live on
        return oy.concat(oy.exp(used), second, third, axis=1)

    expected = np.concatenate([np.exp(X[:, :1]), -X[:, 1:]], axis=1)
    ops = ("negative", "split", "abs", "exp", "concat")
    for failing in ops:
        registry, counters = toys(*ops, failing=failing)
        with pytest.warns(oy.KernelWarning, match=f"toy/counter of {failing} "):
            np.testing.assert_allclose(run(function, registry, X), expected, rtol=1e-6)
        assert counts(counters) == dict.fromkeys(ops, 1)


def test_outputs_that_are_done_are_not_computed_again_and_are_the_callers_own() -> None:
    def function(x: Any) -> Any:
        y = oy.abs(x)
        return y, oy.permute_dims(x, axes=(1, 0)), oy.tanh(oy.exp(y)), x

    ops = ("abs", "permute_dims", "exp", "tanh")
    registry, counters = toys(*ops, failing="tanh")
    fed = X.copy()
    with pytest.warns(oy.KernelWarning, match="toy/counter of tanh "):
        results = run(function, registry, fed)
    assert counts(counters) == dict.fromkeys(ops, 1)
    for result, expected in zip(results, (X, X.T, RESULT, X), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    for number, result in enumerate(results):
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, other) for other in (fed, *results[:number]))


def test_what_a_run_left_in_buffers_is_not_overwritten() -> None:
    """Ten tensors that live on, in buffers of the run that failed, while later runs use buffers of their own."""
    registry = oy.standard_registry()
    add_host(registry)
    registry.kernel("add", backend="toy", name="add", load="numpy:add", out=True)
    registry.kernel("multiply", backend="toy", name="multiply", load="numpy:multiply", out=True)
    moody = Counter(registry, "tanh")

    def function(x: Any) -> Any:
        parts = [x]
        for _ in range(10):
            parts.append(oy.add(parts[-1], parts[-1]))
        total = oy.tanh(parts[-1])
        for part in parts:
            total = oy.multiply(oy.add(total, part), part)
        return total

    expected = run(function, oy.standard_registry(), X)
    call = oy.compile(function, registry=registry)
    np.testing.assert_allclose(call(X), expected, rtol=1e-6)
    moody.error = BROKEN
    with pytest.warns(oy.KernelWarning):
        np.testing.assert_allclose(call(X), expected, rtol=1e-6)
    np.testing.assert_allclose(call(X), expected, rtol=1e-6)


def test_constants_stay_constants() -> None:
    weights = X + 1
    registry, counters = toys("add", "multiply", "exp", failing="multiply")
    with pytest.warns(oy.KernelWarning):
        found = run(lambda x: oy.exp(oy.multiply(oy.add(x, weights), weights)), registry, X)
    np.testing.assert_allclose(found, np.exp((X + weights) * weights), rtol=1e-6)
    assert counts(counters) == {"add": 1, "multiply": 1, "exp": 1}


# Other devices and layouts ---------------------------------------------------------------------------------------

CHEAP = ScriptedCosts(
    {"null/counter": 1e-9, "null/null": 1e-9},
    {(a, b): 1e-9 for a in ("reference", "null:0") for b in ("reference", "null:0")},
)


def nulls(*ops: str) -> tuple[oy.Registry, dict[str, Counter], NullDevice]:
    """A device with a memory of its own, with a counting kernel for each op."""
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry)
    return registry, {op: Counter(registry, op, backend="null") for op in ops}, device


@pytest.mark.parametrize("failing", CHAIN)
def test_tensors_on_another_device_are_brought_home(failing: str) -> None:
    registry, counters, _ = nulls(*CHAIN)
    counters[failing].error = BROKEN
    with pytest.warns(oy.KernelWarning, match=f"null/counter of {failing} "):
        np.testing.assert_allclose(run(chain, registry, X, costs=CHEAP), RESULT, rtol=1e-6)
    assert counts(counters) == dict.fromkeys(CHAIN, 1)


def test_where_the_arrays_of_the_caller_live_the_results_live_again() -> None:
    registry, counters, device = nulls(*CHAIN)
    call = oy.compile(chain, registry=registry, costs=CHEAP)
    counters["exp"].error = BROKEN
    with pytest.warns(oy.KernelWarning, match="reference/reference takes over"):
        found = call(device.upload(X))
    assert isinstance(found, NullArray)
    np.testing.assert_allclose(device.download(found), RESULT, rtol=1e-6)
    assert counts(counters) == dict.fromkeys(CHAIN, 1)


def test_what_a_broken_device_does_not_give_back_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole device breaks down: what lies there is lost, what lies elsewhere is not."""
    registry, counters, device = nulls("abs", "exp", "tanh")
    add_host(registry)
    host = Counter(registry, "negative")
    costs = ScriptedCosts({"toy/counter": 1e-9, "reference/reference": 9.0, **CHEAP.kernels})
    download = device.download

    def broken(array: Any) -> Any:
        if counters["tanh"].run:
            raise OSError("the device is gone")
        return download(array)

    monkeypatch.setattr(device, "download", broken)
    counters["tanh"].error = BROKEN

    def function(x: Any) -> Any:
        at_home = oy.negative(x)
        return oy.add(oy.tanh(oy.exp(oy.abs(at_home))), at_home)

    with pytest.warns(oy.KernelWarning) as caught:
        np.testing.assert_allclose(run(function, registry, X, costs=costs), RESULT - X, rtol=1e-5)
    assert host.run == 1
    assert "null/counter of tanh raised RuntimeError: out of luck" in str(caught[0].message)
    assert all("null/counter of" in str(warning.message) for warning in caught)


def reverse(array: Any) -> Any:
    return np.flip(array.reshape(-1)).reshape(array.shape)


@pytest.mark.parametrize("conversion_fails", [False, True])
def test_tensors_in_a_layout_of_their_own(conversion_fails: bool) -> None:
    """The layout holds the elements in reverse order. Where it cannot be brought to plain, the tensor is computed anew."""
    registry, log = oy.standard_registry(), list[str]()
    add_null_backend(registry)

    def kernel(op: str, name: str, function: Callable[..., Any], **layouts: str) -> None:
        def prepare(call: oy.Call, device: NullDevice) -> Callable[..., Any]:
            def apply(array: Any) -> Any:
                log.append(name)
                return device.upload(function(device.download(array)))

            return apply

        registry.kernel(op, backend="null", name=name, prepare=prepare, layouts=layouts)

    def fail(array: Any) -> Any:
        raise BROKEN

    kernel("identity", "turn", reverse, output="backwards")
    kernel("identity", "back", fail if conversion_fails else reverse, x="backwards")
    kernel("negative", "plain", np.negative)
    kernel("exp", "odd", np.exp, x="backwards", output="backwards")
    kernel("tanh", "odd", fail, x="backwards", output="backwards")
    costs = ScriptedCosts(
        {f"null/{name}": 1e-9 for name in ("turn", "back", "plain", "odd")}, CHEAP.transfers
    )
    with pytest.warns(oy.KernelWarning) as caught:
        found = run(lambda x: oy.tanh(oy.exp(oy.negative(x))), registry, X, costs=costs)
    np.testing.assert_allclose(found, np.tanh(np.exp(-X)), rtol=1e-6)
    assert "null/odd of tanh raised RuntimeError: out of luck" in str(caught[0].message)
    assert log[:5] == ["plain", "turn", "odd", "odd", "back"]
    if conversion_fails:  # that is met again, in the rest, and put aside there
        assert set(registry.failures) == {"tanh null/odd", "identity null/back"}
        assert log.count("plain") == 1
    else:
        assert log[5:] == [] and len(caught) == 1


# Composites ------------------------------------------------------------------------------------------------------


def test_composites_that_are_still_to_come_stay_whole() -> None:
    registry, counters = toys("exp", "softmax", failing="exp")
    pinned = oy.using(pin={"softmax": "toy/counter"}, registry=registry)
    with pinned, pytest.warns(oy.KernelWarning, match="toy/counter of exp "):
        found = run(lambda x: oy.softmax(oy.exp(x)), registry, X)
    np.testing.assert_allclose(
        found, run(lambda x: oy.softmax(oy.exp(x)), oy.standard_registry(), X), rtol=1e-6
    )
    assert counts(counters) == {"exp": 1, "softmax": 1}


def test_a_pinned_composite_that_fails_is_not_taken_apart() -> None:
    registry, counters = toys("exp", "softmax", failing="softmax")
    with (
        oy.using(pin={"softmax": "toy/counter"}, registry=registry),
        pytest.raises(RuntimeError, match="out of luck") as caught,
    ):
        run(lambda x: oy.softmax(oy.exp(x)), registry, X)
    assert caught.value.__notes__[-1].startswith("raised by kernel toy/counter in softmax(")
    assert counts(counters) == {"exp": 1, "softmax": 1} and not registry.failures
    caught.value.__notes__.clear()


def test_a_composite_that_fails_is_computed_by_its_parts() -> None:
    registry, counters = toys("abs", "softmax", "negative", failing="softmax")
    costs = ScriptedCosts({"softmax reference/reference": 9.0})
    with pytest.warns(oy.KernelWarning, match="of softmax .*; other kernels, for its parts, takes over"):
        found = run(lambda x: oy.negative(oy.softmax(oy.abs(x))), registry, X, costs=costs)
    np.testing.assert_allclose(found, -np.exp(X) / np.exp(X).sum(-1, keepdims=True), rtol=1e-6)
    assert counts(counters) == {"abs": 1, "softmax": 1, "negative": 1}


def test_a_failure_within_a_composite_keeps_its_parts() -> None:
    parts = [node.op.name for node in oy.decompose(oy.trace(oy.softmax, SPEC), lambda call: False).nodes]
    for failing in dict.fromkeys(parts):
        registry, counters = toys(*dict.fromkeys(parts), failing=failing)
        costs = ScriptedCosts({"toy/counter": 1e-9, "softmax reference/reference": 9.0})
        with pytest.warns(oy.KernelWarning, match=f"toy/counter of {failing} "):
            found = run(oy.softmax, registry, X, costs=costs)
        np.testing.assert_allclose(found, np.exp(X) / np.exp(X).sum(-1, keepdims=True), rtol=1e-6)
        assert counts(counters) == {op: 1 if op == failing else parts.count(op) for op in counters}


# Wrong results ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "shape": (
        lambda a: a[:1],
        r"returned shape \(1, 3\) where exp\(.*\) -> float32\[2, 3\] promises \(2, 3\)",
    ),
    "dtype": (lambda a: a.astype("float64"), r"returned float64 where exp\(.* promises float32"),
    "number": (lambda a: 3.0, r"returned float where exp\(.* promises an array float32\[2, 3\]"),
    "nothing": (lambda a: None, r"returned NoneType where exp\(.* promises an array float32\[2, 3\]"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("last", [True, False])
def test_a_wrong_result_is_noticed_where_it_is_fetched(kind: str, last: bool) -> None:
    change, text = WRONG[kind]
    registry, counters = toys("abs", "exp", "negative")
    counters["exp"].result = change

    def function(x: Any) -> Any:
        y = oy.exp(oy.abs(x))
        return (y,) if last else (y, oy.negative(x))

    with pytest.warns(
        oy.KernelWarning, match=f"kernel toy/counter of exp {text}; reference/reference takes over"
    ):
        results = run(function, registry, X)
    for result, expected in zip(results, (np.exp(X), -X), strict=False):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        assert result.dtype == "float32"
    assert list(registry.failures) == ["exp toy/counter"]
    assert counters["abs"].run == counters["exp"].run == 1


def test_a_wrong_result_on_another_device_is_noticed_there() -> None:
    registry, counters, device = nulls("abs", "exp")
    counters["exp"].result = lambda array: device.upload(device.download(array)[:1])
    with pytest.warns(oy.KernelWarning, match=r"null/counter of exp returned shape \(1, 3\) where"):
        found = run(lambda x: oy.exp(oy.abs(x)), registry, X, costs=CHEAP)
    np.testing.assert_allclose(found, np.exp(X), rtol=1e-6)
    assert counts(counters) == {"abs": 1, "exp": 1}


def test_an_output_of_several_that_is_wrong() -> None:
    registry, counters = toys("negative", "split")
    counters["split"].result = lambda parts: (parts[0], parts[1].astype("float64"))
    with pytest.warns(oy.KernelWarning, match=r"split returned float64 where split\(.* promises float32"):
        first, second = run(lambda x: oy.split(oy.negative(x), sections=2), registry, X)
    np.testing.assert_array_equal(np.concatenate([first, second]), -X)
    assert counts(counters) == {"negative": 1, "split": 1}


def test_what_was_made_of_a_wrong_result_is_computed_anew() -> None:
    """The maker is blamed by the step that raises; what does not depend on it stays."""
    registry, counters = toys("negative", "exp", "abs", "add")
    counters["exp"].result = lambda array: array[:, :2]

    def function(x: Any) -> Any:
        wrong = oy.exp(x)
        return oy.add(oy.negative(x), wrong), oy.abs(wrong)

    text = r"exp returned shape \(2, 2\) where exp\(.* promises \(2, 3\); reference/reference takes over"
    with pytest.warns(oy.KernelWarning, match=text):
        total, copy = run(function, registry, X)
    np.testing.assert_allclose(total, np.exp(X) - X, rtol=1e-6)
    np.testing.assert_allclose(copy, np.exp(X), rtol=1e-6)
    assert counters["negative"].run == counters["exp"].run == 1
    assert list(registry.failures) == ["exp toy/counter"]


def test_a_wrong_result_that_nobody_blamed_is_not_relied_on() -> None:
    """Another kernel raises, while a wrong dtype and what was made of it lie about."""
    registry, counters = toys("negative", "exp", "tanh", "add")
    counters["exp"].result = lambda array: array.astype("float64")
    counters["tanh"].error = BROKEN

    def function(x: Any) -> Any:
        return oy.add(oy.add(oy.exp(x), x), oy.tanh(oy.negative(x)))

    with pytest.warns(oy.KernelWarning) as caught:
        found = run(function, registry, X)
    np.testing.assert_allclose(found, np.exp(X) + X + np.tanh(-X), rtol=1e-5)
    assert found.dtype == "float32"
    assert set(registry.failures) == {"tanh toy/counter", "exp toy/counter"} and len(caught) == 2
    assert counters["negative"].run == 1


@pytest.mark.parametrize("later", [(), ("negative",), ("negative", "abs", "sqrt")])
def test_the_first_kernel_that_was_wrong_is_blamed(later: tuple[str, ...]) -> None:
    """Kernels that pass a wrong dtype on are innocent, also where the array that was wrong first is forgotten."""
    registry, counters = toys("exp")
    counters["exp"].result = lambda array: array.astype("float64")
    for op in later:
        registry.kernel(op, backend="toy", name="numpy", load=f"numpy:{op}")

    def function(x: Any) -> Any:
        y = oy.exp(x)
        for op in later:
            y = getattr(oy, op)(y)
        return y

    expected = run(function, oy.standard_registry(), X)
    with pytest.warns(oy.KernelWarning, match="toy/counter of exp returned float64") as caught:
        np.testing.assert_allclose(run(function, registry, X), expected, rtol=1e-6)
    assert len(caught) == 1 and list(registry.failures) == ["exp toy/counter"]


def test_a_wrong_result_that_nobody_else_can_compute_is_an_error() -> None:
    registry, counters = toys("exp")
    counters["exp"].result = lambda array: array[0]
    text = r"^kernel toy/counter returned shape \(3,\) where exp\(.*promises \(2, 3\)"
    with (
        oy.using(pin={"exp": "toy/counter"}, registry=registry),
        pytest.raises(KernelError, match=text) as caught,
    ):
        run(oy.exp, registry, X)
    assert caught.value.__notes__[0].endswith("no other kernel can compute it either")
    assert not registry.failures
    with (
        oy.using(strict=True),
        pytest.raises(KernelError, match=r"KernelError: kernel toy/counter returned .*STRICT"),
    ):
        run(oy.exp, registry, X)


def test_equal_dtypes_need_not_be_one_object() -> None:
    registry, counters = toys("exp")
    other = np.dtype("float32", metadata={"unit": "m"})
    assert other is not np.dtype("float32")
    counters["exp"].result = lambda array: array.astype(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(run(oy.exp, registry, X), np.exp(X), rtol=1e-6)
    assert counters["exp"].run == 1


# What is no failure, and what comes with one ---------------------------------------------------------------------


def test_interrupts_and_warnings_made_errors_are_the_users() -> None:
    for error in (KeyboardInterrupt(), UserWarning("look")):
        registry, counters = toys(*CHAIN)
        counters["exp"].error = error
        with pytest.raises(type(error)):
            run(chain, registry, X)
        assert not registry.failures and counts(counters) == {"negative": 1, "abs": 1, "exp": 1, "tanh": 0}


def test_a_kernel_that_cannot_be_prepared_in_the_rest_is_replaced_as_well() -> None:
    registry, counters = toys(*CHAIN, failing="abs")
    registry.kernel("abs", backend="toy", name="gone", load="opyard.no_such_module:abs", cost=lambda *_: 1e-9)
    registry.kernel("abs", backend="toy", name="lost", load="opyard.no_such_module:abs", cost=lambda *_: 1.0)
    costs = ScriptedCosts({"abs toy/gone": 2.0, "abs toy/lost": 3.0, "abs reference/reference": 4.0})
    with pytest.warns(oy.KernelWarning) as caught:
        np.testing.assert_allclose(run(chain, registry, X, costs=costs), RESULT, rtol=1e-6)
    assert len(caught) == 3
    assert counts(counters) == dict.fromkeys(CHAIN, 1)


def test_observers_hear_what_replaced_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(runtime, "emit", lambda event, detail: heard.append((event, detail)))
    registry, _ = toys(*CHAIN, failing="exp")
    with pytest.warns(oy.KernelWarning):
        run(chain, registry, X)
    ((event, detail),) = heard
    assert event == "kernel_failed" and detail["op"] == "exp"
    assert (detail["kernel"], detail["substitute"]) == ("toy/counter", "reference/reference")
    assert detail["reason"].startswith("raised RuntimeError: out of luck on exp(")


def test_threads_that_meet_the_failure_at_once() -> None:
    registry, counters = toys(*CHAIN, failing="exp")
    session = oy.Session(oy.trace(chain, SPEC), registry=registry)

    def work(number: int) -> None:
        with oy.using(strict=False):
            for turn in range(10):
                x = X + number + turn
                np.testing.assert_allclose(
                    session.run("output_0", {"x": x}), np.tanh(np.exp(np.abs(-x))), rtol=1e-6
                )

    with pytest.warns(oy.KernelWarning) as caught, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(caught) == 1
    assert counters["negative"].run == counters["abs"].run == counters["tanh"].run == 80
    assert 1 <= counters["exp"].run <= 80


def test_a_failed_step_tells_what_was_computed() -> None:
    registry, _ = toys(*CHAIN, failing="exp")
    placed = oy.place(
        oy.trace(chain, SPEC),
        [registry.device("toy:0")],
        registry,
        ScriptedCosts(),
        home=registry.device("toy:0"),
    )
    executable = Executable(make_plan(placed))
    with pytest.raises(StepFailed) as caught:
        executable(X)
    failure = caught.value
    assert failure.plan is executable.plan
    held = {failure.plan.tensors[slot].value.name: array for slot, array in failure.arrays.items()}
    assert sorted(held) == ["abs", "negative", "x"]  # `abs` might be a view of `negative`
    np.testing.assert_array_equal(held["abs"], X)
