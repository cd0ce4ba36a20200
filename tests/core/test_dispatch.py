from __future__ import annotations

import gc
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host, constant
from opyard.dispatch import CACHE_LIMIT, dispatcher
from opyard.errors import DeviceError, KernelError, SpecError
from opyard.kernels import Origin
from opyard.operation import Call
from opyard.registry import Registry
from opyard.testing import NullDevice, add_null_backend

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@oy.op("acme.tagged", infer=lambda x, *, tag: x)
def tagged(x: Any, *, tag: Any) -> Any:
    """Gives its input; kernels of the tests below look at ``tag``."""
    return np.array(x)


def telling(registry: Registry) -> list[Any]:
    """The tags that the kernel which it registers is given."""
    seen: list[Any] = []

    def kernel(x: Any, *, tag: Any) -> Any:
        seen.append(tag)
        return x

    registry.kernel("acme.tagged", backend="toy", name="k", load=kernel)
    return seen


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The standard ops, and a backend "toy" on NumPy arrays that has no kernel yet; eager calls use it."""
    for name in ("PREFER", "BLOCK", "PIN", "STRICT"):
        monkeypatch.delenv(f"OPYARD_{name}", raising=False)
    made = oy.standard_registry()
    add_host(made, "toy")
    made.op(tagged)
    with oy.using(registry=made):
        yield made


# Choosing ------------------------------------------------------------------------------------------------------------


def test_the_bare_core_runs_everything_by_reference(registry: Registry) -> None:
    assert oy.add(X, X).tolist() == (2 * X).tolist()
    values, indices = oy.top_k(X, k=1)
    assert values.tolist() == [[2.0], [5.0]] and indices.tolist() == [[2], [2]]
    assert [row.kernel.id for row in oy.add.explain(X, X)] == ["reference/reference"]


def test_resolve_gives_the_bare_kernel(registry: Registry) -> None:
    registry.kernel("add", backend="toy", name="ufunc", load="numpy:add")
    assert oy.add.resolve(X, X) is np.add
    assert oy.add.resolve(X, 1.0) is np.add
    registry.kernel("sum", backend="toy", name="total", load="numpy:sum")
    bound = oy.sum.resolve(X, axis=[0])
    assert isinstance(bound, partial) and bound.func is np.sum and bound.keywords["axis"] == (0,)
    prepared = constant(1)
    registry.kernel("exp", backend="toy", name="prepared", prepare=lambda call, device: prepared)
    assert oy.exp.resolve(X) is prepared


def test_a_single_kernel_that_looks_at_no_shape_is_called_without_anything_between(
    registry: Registry,
) -> None:
    frames: list[str] = []

    def kernel(x1: Any, x2: Any) -> Any:
        frames.extend(frame.name for frame in traceback.extract_stack()[-3:])
        return x1

    registry.kernel("add", backend="toy", name="k", load=kernel)
    oy.add(X, X)  # the first result is looked at
    for _ in range(2):
        oy.add(X, X)
        assert frames[-2:] == ["generated", "kernel"]


def test_shapes_decide_where_a_kernel_looks_at_them(registry: Registry) -> None:
    prepared: list[Call] = []

    def prepare(call: Call, device: oy.Device) -> Callable[..., Any]:
        prepared.append(call)
        return constant(len(prepared))

    registry.kernel("exp", backend="toy", name="flat", prepare=prepare, ranks=(0, 1))
    assert [float(oy.exp(np.zeros(n, np.float32)).max()) for n in (2, 3, 2, 3)] == [1.0, 2.0, 1.0, 2.0]
    assert oy.exp(np.zeros((1, 1), np.float32)).item() == 1.0, "rank 2 goes to the reference: exp(0)"
    assert [call.output.shape for call in prepared] == [(2,), (3,)]


def test_dtypes_decide(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="f32", load=constant(7), dtypes=("float32",))
    assert oy.exp(np.zeros(1, np.float32)).item() == 7.0
    assert oy.exp(np.zeros(1, np.float64)).item() == 1.0


def test_what_is_registered_later_is_used(registry: Registry) -> None:
    assert oy.exp(X[0, :1]).item() == 1.0
    with pytest.raises(ZeroDivisionError), registry.transaction(Origin("bad")):
        registry.kernel("exp", backend="toy", name="k", load=constant(3))
        assert oy.exp(X[0, :1]).item() == 3.0
        raise ZeroDivisionError
    assert oy.exp(X[0, :1]).item() == 1.0
    registry.kernel("exp", backend="toy", name="k", load=constant(4))
    assert oy.exp(X[0, :1]).item() == 4.0
    with registry.transaction(Origin("other", "opyard-other", "1")):
        registry.kernel("exp", backend="toy", name="k", load=constant(5), override=True)
    assert oy.exp(X[0, :1]).item() == 5.0


def test_a_choice_made_from_what_was_registered_before_serves_one_call_only(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module(ModuleType):
        """Looking for the kernel in it registers another one."""

        def __getattr__(self, name: str) -> Any:
            if len(registry.kernels("exp")) == 1:
                registry.kernel("exp", backend="toy", name="better", load=constant(2), efficiency=2.0)
            return constant(1)

    monkeypatch.setitem(sys.modules, "module_that_registers", Module("module_that_registers"))
    registry.kernel("exp", backend="toy", name="k", load="module_that_registers:kernel")
    assert [oy.exp(X).max() for _ in range(3)] == [1.0, 2.0, 2.0]


def test_explain_lists_every_registered_kernel_with_its_reason(registry: Registry) -> None:
    null, *_ = add_null_backend(registry, NullDevice("null:0"), ops=["add"])
    registry.backend("idle", load=lambda: oy.testing.NullBackend(reason="install a driver"))
    registry.kernel("add", backend="toy", name="good", load="numpy:add")
    registry.kernel("add", backend="toy", name="narrow", load="numpy:add", dtypes=("int8",))
    registry.kernel(
        "add", backend="toy", name="picky", load="numpy:add", accepts=lambda call, device: "not today"
    )
    registry.kernel("add", backend="idle", name="k", load="numpy:add")
    registry.kernel("add", backend="unheard", name="k", load="numpy:add")
    explanation = oy.add.explain(X, X)
    reasons = {row.kernel.id: row.refusal for row in explanation}
    assert reasons == {
        "toy/good": None,
        "reference/reference": None,
        "toy/narrow": "takes x1 of int8, not float32",
        "toy/picky": "not today",
        "null/null": "the arrays are not there; opyard.to_device(x, 'null:0') copies one",
    }
    assert explanation[0].kernel.id == "toy/good" and explanation[0].seconds < explanation[1].seconds
    assert explanation.absent[0] == "idle/k: install a driver"
    assert explanation.absent[1].startswith("unheard/k: there is no backend called 'unheard'.")
    lines = str(explanation).splitlines()
    assert lines[0] == "add(float32[2, 3], float32[2, 3]) -> float32[2, 3]"
    assert lines[1].startswith("  chosen  toy/good on toy:0: ")
    assert "  refused toy/picky on toy:0: not today" in lines
    assert "  absent  idle/k: install a driver" in lines and len(lines) == 1 + 5 + 2
    there = oy.add.explain(null.upload(X), null.upload(X))
    assert there[0].kernel.id == "null/null" and {
        row.refusal for row in there if row.kernel.id == "toy/good"
    } == {"the arrays are not there; opyard.to_device(x, 'toy:0') copies one"}


def test_explain_where_nothing_can_run(registry: Registry) -> None:
    registry.kernel("add", backend="toy", name="none", load="numpy:add", dtypes=("int8",))
    with oy.using(pin={"add": "toy/none"}):
        text = str(oy.add.explain(X, X))
        assert (
            "chosen" not in text
            and "refused reference/reference on reference: add is pinned to toy/none" in text
        )
        with pytest.raises(
            KernelError,
            match=r"no kernel can run add\(.*reference/reference: add is pinned to toy/none. `opyard kernels add`",
        ):
            oy.add.resolve(X, X)


def test_no_kernel_for_arrays_of_a_device(registry: Registry) -> None:
    (null,) = add_null_backend(registry)
    with pytest.raises(
        KernelError,
        match=r"no kernel can run exp.*: none is registered for these arrays. `opyard kernels exp`",
    ):
        oy.exp(null.upload(X))


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", [(), ("k",), ("k", "l")])
def test_numbers_lists_and_arrays_without_dimensions(registry: Registry, kernels: tuple[str, ...]) -> None:
    for name in kernels:
        registry.kernel("add", backend="toy", name=name, load="numpy:add")
    for _ in range(2):
        assert oy.add(X, 1).dtype == np.float32 and oy.add(2.5, X).tolist() == (X + 2.5).tolist()
        assert oy.add(1, 2).item() == 3 and oy.add(1, 2).dtype == np.int64
        assert oy.add(np.ones(2, np.int8), 2.0).dtype == np.float64
        assert oy.add([1, 2], [3.0, 4.0]).tolist() == [4.0, 6.0]
        assert oy.add(np.float32(1), np.float32(2)).item() == 3.0
        assert oy.add(X[0, 0], X).dtype == np.float32
        zero_d = oy.add(np.array(1.0), np.array(2.0))
        assert zero_d.shape == () and zero_d.item() == 3.0
        assert oy.add(np.ones((0, 3)), np.ones((1, 3))).shape == (0, 3)
        assert oy.add(X[:, ::-1], X.T.T).tolist() == (X[:, ::-1] + X).tolist()


def test_numbers_and_lists_beside_arrays_of_a_device(registry: Registry) -> None:
    (null,) = add_null_backend(registry, ops=["add", "concat"])
    x = null.upload(X)
    for other in (2, 2.0, np.float32(2), [2.0, 2.0, 2.0]):
        for result in (oy.add(x, other), oy.add(other, x)):
            assert null.owns(result) and null.download(result).tolist() == (X + 2).tolist()
    assert oy.add(x, 2).dtype == np.float32, "a Python number takes the dtype of the array"
    assert oy.add.explain(x, 2.0)[0].kernel.id == "null/null"
    assert null.download(oy.add.resolve(x, 2.0)(x, x)).tolist() == (X + X).tolist()


def test_arrays_of_different_devices(registry: Registry) -> None:
    (null,) = add_null_backend(registry, ops=["add"])
    message = r"add: its arrays live on different devices \(null:0, toy:0\); move them to one first: opyard.to_device\(x, 'null:0'\)"
    with pytest.raises(DeviceError, match=message):
        oy.add(null.upload(X), X)
    with pytest.raises(
        DeviceError, match=r"different devices \(toy:0, null:0\).* opyard.to_device\(x, 'toy:0'\)"
    ):
        oy.add.explain(X, null.upload(X))


def test_arrays_of_no_device(registry: Registry) -> None:
    stranger = NullDevice("null:0").upload(X)
    message = "exp: no device here has arrays of type NullArray; convert it to a NumPy array, or see `opyard devices`"
    for call in (oy.exp, oy.exp.resolve, oy.exp.explain):
        with pytest.raises(DeviceError, match=message):
            call(stranger)


def test_optional_and_variadic_inputs(registry: Registry) -> None:
    seen: list[Any] = []

    def clip(x: Any, low: Any, high: Any) -> Any:
        seen.append((low, high))
        return np.clip(x, low, high)

    @oy.op("acme.clip", infer=lambda x, low, high: x)
    def clipped(x: Any, low: Any = None, high: Any = None) -> Any:
        return np.clip(x, low, high)

    registry.op(clipped)
    registry.kernel(clipped, backend="toy", name="k", load=clip)
    one = np.float32(1)
    for _ in range(2):
        assert clipped(X).tolist() == X.tolist()
        assert clipped(X, None, one).max() == 1.0 and clipped(X, one).min() == 1.0
    assert seen == [(None, None), (None, one), (one, None)] * 2
    registry.kernel("concat", backend="toy", name="k", load=lambda *xs, axis: np.concatenate(xs, axis))
    for count in (1, 3, 2, 3):
        assert oy.concat(*[X] * count, axis=1).shape == (2, 3 * count)
    with pytest.raises(SpecError, match=r"add\(x1, x2\) needs the input 'x2'"):
        oy.add(X, None)


def test_attributes_of_equal_value_and_other_type_are_not_confused(registry: Registry) -> None:
    seen = telling(registry)
    tags = (1, 1.0, True, 0, 0.0, False, None, "1", (1, 2), float("nan"))
    for _ in range(2):
        seen.clear()
        for tag in tags:
            tagged(X, tag=tag)
        assert [(type(r), repr(r)) for r in seen] == [(type(t), repr(t)) for t in tags]


def test_attributes_that_cannot_be_remembered_arrive_in_canonical_form(registry: Registry) -> None:
    seen = telling(registry)
    for _ in range(2):
        seen.clear()
        for tag in ([1, [2.0]], np.array(3), np.int8(3), np.float32):
            tagged(X, tag=tag)
        assert seen == [(1, (2.0,)), 3, 3, "float32"] and type(seen[2]) is int
    with pytest.raises(
        SpecError, match="an attribute is a number, a string, a dtype or a tuple of those; found ndarray"
    ):
        tagged(X, tag=np.ones(2))


def test_attributes_that_change_on_every_call_do_not_fill_the_memory(registry: Registry) -> None:
    seen = telling(registry)

    def entries(level: Any) -> int:
        return sum(map(entries, level.values())) if isinstance(level, dict) else 1

    for number in range(CACHE_LIMIT + 10):
        tagged(X, tag=number)
        assert seen[-1] == number
    assert 0 < entries(tagged.__globals__["_cache"]) <= CACHE_LIMIT  # type: ignore[attr-defined]


def test_a_registry_is_not_kept_alive_by_the_dispatcher() -> None:
    made = oy.Registry()
    made.subscribe(dispatcher)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_positive_and_negative_zero_are_two_attributes() -> None:
    registry = oy.standard_registry()
    with oy.using(registry=registry):
        for _ in range(2):
            assert not np.signbit(oy.full(shape=(1,), value=0.0, dtype="float32"))[0]
            assert np.signbit(oy.full(shape=(1,), value=-0.0, dtype="float32"))[0]
