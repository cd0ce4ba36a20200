"""What becomes of kernels that fail, and of calls while the registry changes."""

from __future__ import annotations

import math
import threading
import time
import traceback
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import constant, raising
from opyard.errors import KernelError, SpecError
from opyard.kernels import Origin
from opyard.operation import Call
from opyard.registry import Registry
from opyard.testing import add_null_backend

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_kernel_that_raises_is_replaced_in_the_same_call_with_one_warning(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="bad", load=raising(RuntimeError("no such instruction\nmore")))
    line = "kernel toy/bad of exp raised RuntimeError: no such instruction on exp.float32.2, 3.. -> .*; reference/reference takes over"
    with pytest.warns(oy.KernelWarning, match=line) as caught:
        assert np.allclose(oy.exp(X), np.exp(X))
    assert [warning.filename for warning in caught] == [__file__], "the warning points at the call"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oy.exp(X)
    assert list(oy.failures()) == ["exp toy/bad"]
    assert oy.failures()["exp toy/bad"].startswith(
        "raised RuntimeError: no such instruction on exp(float32[2, 3])"
    )
    assert oy.exp.explain(X)[-1].refusal == oy.failures()["exp toy/bad"]


def test_the_next_candidates_are_tried_in_order(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="worst", load=constant(9), efficiency=0.1)
    registry.kernel("exp", backend="toy", name="bad", load=raising(ValueError("one")), efficiency=0.9)
    registry.kernel("exp", backend="toy", name="bad_too", load=raising(ValueError("two")), efficiency=0.8)
    with pytest.warns(oy.KernelWarning, match="toy/bad of exp .*toy/worst takes over"):
        assert oy.exp(X).max() == 9.0
    with pytest.warns(oy.KernelWarning, match="toy/bad_too of exp .*toy/worst takes over"):
        assert oy.exp(X).max() == 9.0
    assert oy.exp(X).max() == 9.0 and len(oy.failures()) == 2


@pytest.mark.parametrize("number", [X.tolist(), 1.0])
def test_a_kernel_that_raises_on_converted_arguments(registry: Registry, number: Any) -> None:
    registry.kernel("exp", backend="toy", name="bad", load=raising(RuntimeError("no")))
    with pytest.warns(oy.KernelWarning, match="toy/bad"):
        assert np.allclose(oy.exp(number), np.exp(number))


def add_large(registry: Registry, function: Any) -> None:
    """Beside a kernel for any size, one for large arrays."""
    registry.kernel("exp", backend="toy", name="any", load=constant(1))
    registry.kernel("exp", backend="toy", name="large", load=function, least_size=6, efficiency=2)


def test_large_arrays_have_a_kernel_of_their_own(registry: Registry) -> None:
    add_large(registry, constant(2))
    for _ in range(2):
        assert oy.exp(X).max() == 2 and oy.exp(X[:, :2]).max() == 1
    refused = next(row.refusal for row in oy.exp.explain(X[:, :2]) if row.kernel.id == "toy/large")
    assert refused == "takes results of at least 6 elements, not 4"


def test_a_kernel_for_large_arrays_that_fails_is_replaced_by_the_other_one(registry: Registry) -> None:
    add_large(registry, raising(RuntimeError("no")))
    with pytest.warns(oy.KernelWarning, match="toy/large of exp .*toy/any takes over"):
        assert oy.exp(X).max() == 1
    assert oy.exp(X).max() == 1 and list(oy.failures()) == ["exp toy/large"]


WRONG: dict[str, tuple[Any, str]] = {
    "shape": (
        lambda x: x[0],
        r"returned shape \(3,\) where exp\(float32\[2, 3\]\) -> float32\[2, 3\] promises \(2, 3\)",
    ),
    "dtype": (lambda x: x.astype("float64"), r"returned float64 where exp\(.*promises float32"),
    "number": (lambda x: 1.5, r"returned float where exp\(.*promises an array float32\[2, 3\]"),
    "nothing": (lambda x: None, r"returned NoneType where exp\(.*promises an array float32\[2, 3\]"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("form", ["load", "prepare", "rival", "list", "subclass"])
def test_a_wrong_result_is_noticed_the_first_time(registry: Registry, kind: str, form: str) -> None:
    function, reason = WRONG[kind]
    facts: Any = {"prepare": lambda call, device: function} if form == "prepare" else {"load": function}
    registry.kernel("exp", backend="toy", name="bad", **facts)
    if form == "rival":  # as wrong, and never chosen
        registry.kernel("exp", backend="toy", name="slow", load=function, efficiency=0.1)
    given: Any = {"list": X.tolist(), "subclass": X.view(np.matrix)}.get(form, X)
    if form == "list":
        given = [np.float32(1), np.float32(2)]
        reason = reason.replace("2, 3", "2").replace(r"\(3,\)", r"\(\)").replace(r"\(2\)", r"\(2,\)")
    with pytest.warns(oy.KernelWarning, match=f"kernel toy/bad of exp {reason}; .* takes over") as caught:
        found = oy.exp(given)
    assert caught[0].filename == __file__ and type(found) is np.ndarray and found.dtype == "float32"
    np.testing.assert_allclose(found, np.exp(np.asarray(given)), rtol=1e-6)
    assert oy.failures()["exp toy/bad"].startswith("returned ")


def test_wrong_tuples_are_noticed(registry: Registry) -> None:
    promised = r"split\(float32\[2, 3\], sections=2, axis=0\) -> float32\[1, 3\], float32\[1, 3\] promises"
    wrong = {
        "one": (lambda x, **_: x[:1], f"returned ndarray where {promised} 2 arrays"),
        "three": (lambda x, **_: (x[:1],) * 3, f"returned 3 arrays where {promised} 2 arrays"),
        "second": (lambda x, **_: (x[:1], x), rf"returned shape \(2, 3\) where {promised} \(1, 3\)"),
    }
    for name, (function, reason) in wrong.items():
        registry.kernel("split", backend="toy", name=name, load=function)
        with pytest.warns(oy.KernelWarning, match=f"toy/{name} of split {reason}"):
            first, second = oy.split(X, sections=2)
        np.testing.assert_array_equal([first, second], X.reshape(2, 1, 3))
    registry.kernel("split", backend="toy", name="list", load=lambda x, **_: [x[:1], x[1:]])
    assert len(oy.split(X, sections=2)) == 2 and "split toy/list" not in oy.failures()


def test_each_combination_of_shapes_is_looked_at_where_shapes_matter(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="k", prepare=lambda call, device: lambda x: np.exp(x[:2]))
    assert oy.exp(X[0, :2]).shape == (2,)
    with pytest.warns(oy.KernelWarning, match=r"returned shape \(2,\) where exp\(float32\[3\]\)"):
        assert oy.exp(X[0]).shape == (3,)


def test_a_wrong_result_that_nobody_else_can_compute_is_an_error_each_time(registry: Registry) -> None:
    (null,) = add_null_backend(registry)
    array = null.upload(X)
    for name, facts in (("exp", {"load": lambda x: 3}), ("log", {"prepare": lambda *_: lambda x: 3})):
        registry.kernel(name, backend="null", name="k", **facts)
        text = rf"^kernel null/k returned int where {name}\(.*promises an array"
        for _ in range(2):  # it was not remembered as a good one
            with pytest.raises(KernelError, match=text) as raised:
                getattr(oy, name)(array)
            assert raised.value.__notes__[0].endswith("no other kernel can compute it either")
    assert not oy.failures()
    with (
        oy.using(strict=True),
        pytest.raises(KernelError, match=r"KernelError: kernel null/k returned .*STRICT=1"),
    ):
        oy.exp(array)


def test_a_substitute_whose_result_is_wrong_takes_nothing_over(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="bad", load=raising(RuntimeError("no")))
    registry.kernel("exp", backend="toy", name="worse", load=lambda x: x[0], efficiency=0.5)
    with pytest.warns(oy.KernelWarning, match="toy/bad of exp .*reference/reference takes over"):
        np.testing.assert_allclose(oy.exp(X), np.exp(X), rtol=1e-6)


def test_a_kernel_of_another_op_stays_in_use(registry: Registry) -> None:
    function = raising(RuntimeError("no"))
    registry.kernel("exp", backend="toy", name="k", load=function)
    registry.kernel("log", backend="toy", name="k", load=constant(5))
    with pytest.warns(oy.KernelWarning):
        oy.exp(X)
    assert oy.log(X).max() == 5.0


def test_a_direct_kernel_whose_registry_changes_while_it_runs(registry: Registry) -> None:
    def bad(x: Any) -> Any:
        registry.kernel("log", backend="toy", name="meanwhile", load=constant(1))
        raise RuntimeError("no")

    registry.kernel("exp", backend="toy", name="bad", load=bad)
    with pytest.warns(oy.KernelWarning, match="toy/bad of exp raised RuntimeError: no"):
        assert np.allclose(oy.exp(X), np.exp(X))


@pytest.mark.parametrize("form", ["load", "prepare", "missing", "accepts"])
def test_kernels_that_do_not_load(registry: Registry, form: str) -> None:
    facts: dict[str, dict[str, Any]] = {
        "load": {"load": "a_module_nobody_has:f"},
        "missing": {"load": "numpy:ad"},
        "prepare": {"prepare": raising(RuntimeError("no compiler"))},
        "accepts": {"load": "numpy:ad", "accepts": lambda call, device: None},
    }
    registry.kernel("add", backend="toy", name="broken", **facts[form])
    reason = {"load": "ModuleNotFoundError: No module", "prepare": "RuntimeError: no compiler"}.get(
        form, "RegistryError: module numpy has no 'ad'"
    )
    with pytest.warns(oy.KernelWarning, match=f"toy/broken of add raised {reason}") as caught:
        assert oy.add(X, X).tolist() == (X + X).tolist()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert oy.add(X, X).tolist() == (X + X).tolist() and list(oy.failures()) == ["add toy/broken"]


@pytest.mark.parametrize("answer", [True, False, ZeroDivisionError()])
def test_accepts_that_does_not_work(registry: Registry, answer: Any) -> None:
    def accepts(call: Call, device: oy.Device) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry.kernel("add", backend="toy", name="k", load=constant(9), accepts=accepts)
    assert oy.add(X, X).tolist() == (X + X).tolist()
    assert "its accepts function " in str(oy.add.explain(X, X)[-1])


def test_a_prepared_kernel_that_is_no_function(registry: Registry) -> None:
    registry.kernel("add", backend="toy", name="none", prepare=lambda call, device: None)
    with pytest.warns(
        oy.KernelWarning, match="toy/none of add raised TypeError: 'NoneType' object is not callable"
    ):
        assert oy.add(X, X).tolist() == (X + X).tolist()


def test_strict_raises_what_happened(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = RuntimeError("no")
    registry.kernel("exp", backend="toy", name="bad", load=raising(cause))
    registry.kernel("log", backend="toy", name="bad", prepare=raising(cause))
    registry.kernel("tanh", backend="toy", name="bad", load="numpy:unheard")
    with oy.using(strict=True):
        with pytest.raises(
            KernelError, match=r"kernel toy/bad failed on exp\(.*: RuntimeError: no \(OPYARD_STRICT=1\)"
        ) as raised:
            oy.exp(X)
        assert raised.value.__cause__ is cause
        with pytest.raises(
            KernelError,
            match=r"kernel toy/bad cannot be prepared for log\(.*RuntimeError: no \(OPYARD_STRICT=1\)",
        ) as raised:
            oy.log(X)
        assert raised.value.__cause__ is cause
        with pytest.raises(KernelError, match=r"kernel toy/bad cannot be prepared for tanh.*RegistryError"):
            oy.tanh.resolve(X)
    assert not oy.failures()


def test_when_every_kernel_fails_the_first_error_is_seen(registry: Registry) -> None:
    (null,) = add_null_backend(registry)
    registry.kernel("exp", backend="null", name="one", load=raising(ValueError("first")))
    registry.kernel("exp", backend="null", name="two", load=raising(ValueError("second")), efficiency=0.5)
    with pytest.raises(ValueError, match="first") as raised:
        oy.exp(null.upload(X))
    assert raised.value.__notes__ == [
        "raised by kernel null/one in exp(float32[2, 3]) -> float32[2, 3]; no other kernel can compute it either"
    ]
    assert not oy.failures(), "nobody knows whose fault it is"
    assert "_StepFailed" not in "".join(traceback.format_exception(raised.value))


def test_when_no_kernel_loads_all_reasons_are_given(registry: Registry) -> None:
    (null,) = add_null_backend(registry)
    registry.kernel("exp", backend="null", name="one", load="a_module_nobody_has:f")
    registry.kernel("exp", backend="null", name="two", load=constant(1), dtypes=("int8",))
    message = "no kernel can run exp.*: null/two: takes x of int8, not float32; null/one: ModuleNotFoundError: No module.*"
    with pytest.raises(KernelError, match=message):
        oy.exp(null.upload(X))


def test_a_users_mistake_about_shapes_is_explained_and_blames_no_kernel(registry: Registry) -> None:
    registry.kernel("add", backend="toy", name="k", load="numpy:add")
    message = r"add\(float32\[2, 3\], float32\[4\]\): shapes .* do not broadcast: sizes 3 and 4 differ"
    for _ in range(2):
        with pytest.raises(SpecError, match=message) as raised:
            oy.add(X, np.ones(4, np.float32))
        assert "_StepFailed" not in "".join(traceback.format_exception(raised.value))
        oy.add(X, X)  # from now on the failing call finds a kernel in the cache
    assert not oy.failures() and oy.add.resolve(X, X) is np.add


@pytest.mark.parametrize("form", ["load", "prepare"])
def test_a_users_mistake_about_values_is_the_original_error_with_a_note(
    registry: Registry, form: str
) -> None:
    def take(x: Any, indices: Any, **attributes: Any) -> Any:
        if indices.max() >= 2:
            raise IndexError(f"index {indices.max()} is out of range")
        return x[indices]

    facts: Any = {"load": take} if form == "load" else {"prepare": lambda call, device: take}
    registry.kernel("gather", backend="toy", name="k", **facts)
    with pytest.raises(IndexError, match="index 7 is out of range") as raised:
        oy.gather(X, np.array([7]), axis=0)
    assert raised.value.__notes__[0].startswith("raised by kernel toy/k in gather(")
    assert not oy.failures()
    assert oy.gather(X, np.array([1]), axis=0).tolist() == X[[1]].tolist()


def test_an_error_keeps_its_cause(registry: Registry) -> None:
    def bad(x: Any) -> Any:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    (null,) = add_null_backend(registry)
    for name, facts in (("exp", {"load": bad}), ("log", {"prepare": lambda call, device: bad})):
        registry.kernel(name, backend="null", name="k", **facts)
        with pytest.raises(ValueError, match="outer") as raised:
            getattr(oy, name)(null.upload(X))
        assert isinstance(raised.value.__cause__, KeyError)


def test_an_interrupt_is_no_failure_of_the_kernel(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="k", load=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        oy.exp(X)
    assert not oy.failures()


def test_errors_while_a_graph_is_recorded_come_as_they_are(registry: Registry) -> None:
    with oy.Graph() as graph:
        x, y = graph.input("x", oy.TensorSpec((2, 3))), graph.input("y", oy.TensorSpec((4,)))
        assert oy.add(x, x).spec == x.spec and oy.add(x, 1.0).spec == x.spec and oy.add(X, x).spec == x.spec
        for _ in range(2):
            with pytest.raises(SpecError, match=r"do not broadcast.*test_dispatch_failures.py:\d+"):
                oy.add(x, y)
        with pytest.raises(SpecError, match="do not broadcast"):
            oy.add(x, np.ones(4, np.float32))
    assert not oy.failures()


# Threads -------------------------------------------------------------------------------------------------------------


def test_threads_never_meet_a_kernel_that_was_not_registered(registry: Registry) -> None:
    """Eight threads call one op while kernels of it are registered, overridden, taken back and found to be broken."""
    x = np.zeros(2, np.float32)
    spans: dict[float, list[float]] = {}  # result of a kernel -> before its registration, after its end
    errors: list[str] = []
    calls = [0] * 8
    stop = threading.Event()

    def register(number: int) -> None:
        facts: Any = {"load": constant(number)}
        if number % 2:  # half of them are looked up by shape
            facts = {"prepare": lambda call, device: constant(number)}
        registry.kernel("exp", backend="toy", name="k", override=True, **facts)

    def override(number: int, previous: int) -> None:
        spans[number] = [time.perf_counter(), math.inf]
        with registry.transaction(Origin("p", f"opyard-{10**6 - number}", "1")):  # the first name wins
            register(number)
        spans[previous][1] = time.perf_counter()

    def take_back(number: int) -> None:
        spans[number] = [time.perf_counter(), math.inf]
        with suppress(ZeroDivisionError), registry.transaction(Origin("q", "aaa", "1")):
            register(number)
            time.sleep(0.0005)
            raise ZeroDivisionError
        spans[number][1] = time.perf_counter()

    def work(form: int) -> None:
        array = (x, x.reshape(1, 2))[form % 2]
        with oy.using(registry=registry):
            while not stop.is_set():
                before = time.perf_counter()
                try:
                    found = float(oy.exp(array).max())
                except Exception as error:
                    errors.append("".join(traceback.format_exception(error)))
                    break
                since, until = spans[found]
                if not (since <= time.perf_counter() and before <= until):
                    errors.append(f"{found} is of a kernel that was gone")
                calls[form] += 1

    spans |= {0: [0.0, math.inf], 2: [0.0, math.inf]}
    override(2, 0)
    threads = [threading.Thread(target=work, args=(form,)) for form in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oy.KernelWarning)
        for thread in threads:
            thread.start()
        number, end = 2, time.monotonic() + 1.5
        while number < 900 and not errors and (time.monotonic() < end or number <= 20 or not all(calls)):
            override(number + 3, number)
            take_back(number + 1)
            registry.kernel("exp", backend="toy", name=f"a_bad{number}", load=raising(RuntimeError("no")))
            time.sleep(0.001)
            number += 3
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == [] and all(calls)
    for array in (x, x.reshape(1, 2)):
        assert oy.exp(array).max() == number


def test_the_final_choice_after_many_changes_is_right(registry: Registry) -> None:
    for number in range(20):
        with registry.transaction(Origin(f"p{number}", f"opyard-{99 - number}", "1")):
            registry.kernel("exp", backend="toy", name="k", load=constant(number))
        assert oy.exp(X).max() == number
