from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import DeviceUnavailable, RegistryError, SpecError
from opyard.registry import Registry

X = np.arange(4, dtype=np.float32)


@oy.op("acme.scaled", scalar="x * factor")
def scaled(x: Any, *, factor: float = 2.0) -> Any:
    """``x`` times ``factor``."""


def test_the_functions_work_on_the_registry_of_the_policy(registry: Registry) -> None:
    assert [device.name for device in oy.devices()] == ["toy:0", "reference"]
    assert dict(oy.failures()) == {}
    assert oy.register(scaled) is scaled and registry.get_op("acme.scaled") is scaled.op
    with pytest.raises(RegistryError, match=r"registry.op takes a function decorated with @opyard.op"):
        oy.register(np.add)


def test_a_kernel_by_decorator_for_an_op_by_name(registry: Registry) -> None:
    @oy.kernel("add", backend="toy", dtypes=("float32",), efficiency=0.5)
    def my_add(x1: Any, x2: Any) -> Any:
        return np.add(x1, x2)

    (kernel,) = registry.kernels("add")
    assert (kernel.id, kernel.load, kernel.dtypes, kernel.efficiency) == (
        "toy/my_add",
        my_add,
        ("float32",),
        0.5,
    )
    assert str(kernel.origin) == "program"
    assert oy.add.resolve(X, X) is my_add
    assert oy.add.resolve(X.astype(int), X.astype(int)) is not my_add


def test_a_kernel_by_decorator_for_an_op_of_the_program(registry: Registry) -> None:
    @oy.kernel(scaled, backend="toy", name="fast")
    def scale(x: Any, *, factor: float) -> Any:
        return x * np.float32(factor + 100)

    assert registry.ops["acme.scaled"] is scaled.op and registry.orphans() == ()
    assert scaled(X, factor=1.0).tolist() == (101 * X).tolist()
    assert scaled(X).tolist() == (102 * X).tolist()

    @oy.kernel("acme.scaled", backend="toy", name="fast")
    def scale_better(x: Any, *, factor: float) -> Any:
        return x * np.float32(factor + 1000)

    assert scaled(X).tolist() == (1002 * X).tolist(), "the later definition replaces the earlier"
    assert len(registry.kernels("acme.scaled")) == 1 and registry.conflicts == ()


def test_a_cell_of_a_notebook_runs_again(registry: Registry) -> None:
    """The same declarations once more, better: the later ones are in use, and a failure of the earlier is forgotten."""

    def cell(factor: float, error: Exception | None) -> Any:
        @oy.op("acme.again", infer=lambda x: x)
        def again(x: Any) -> Any:
            return x * np.float32(factor)

        @oy.kernel(again, backend="toy", name="k", dtypes=("float32",))
        def kernel(x: Any) -> Any:
            if error:
                raise error
            return x * np.float32(factor + 100)

        return again

    first = cell(1, RuntimeError("not yet"))
    with pytest.warns(oy.KernelWarning, match="toy/k of acme.again raised RuntimeError: not yet"):
        assert first(X).tolist() == X.tolist()
    second = cell(2, None)
    assert registry.get_op("acme.again") is second.op and not oy.failures()
    assert second(X).tolist() == (102 * X).tolist() and len(registry.kernels("acme.again")) == 1
    assert second(X.astype(np.float64)).tolist() == (2 * X).tolist()
    registry.kernel("acme.again", backend="toy", name="other", load=np.positive, efficiency=0.1)
    third = oy.op("acme.again", scalar="3 * x")(lambda x: ...)
    oy.register(third)
    assert [kernel.name for kernel in registry.kernels("acme.again")] == ["k", "other"], "kernels stay"


def test_a_kernel_for_names_that_do_not_exist(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"there is no op called 'matmull'. Did you mean matmul"):
        oy.kernel("matmull", backend="toy")(np.matmul)
    with pytest.raises(
        RegistryError,
        match=r"there is no op called 'acme.unheard'. Register it first: opyard.register\(its function\).",
    ):
        oy.kernel("acme.unheard", backend="toy")(np.matmul)
    with pytest.raises(
        RegistryError, match=r"there is no backend called 'tooy'. Did you mean toy.* Known: reference, toy."
    ):
        oy.kernel("matmul", backend="tooy")(np.matmul)


def test_an_op_that_is_not_registered_runs_all_the_same(registry: Registry) -> None:
    assert "acme.scaled" not in registry.ops
    assert scaled(X, factor=3.0).tolist() == (3 * X).tolist()
    assert [row.kernel.id for row in scaled.explain(X)] == ["reference/reference"]


def test_op_functions_look_like_the_functions_they_were_made_from() -> None:
    assert scaled.__name__ == "scaled" and scaled.__doc__ == "``x`` times ``factor``."
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        scaled(X, scale=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x2'"):
        oy.add(X)


def test_resolve_and_explain_check_their_arguments_as_calls_do(registry: Registry) -> None:
    for call in (oy.add.resolve, oy.add.explain):
        with pytest.raises(SpecError, match="do not broadcast"):
            call(X, np.ones(3, np.float32))
        with pytest.raises(SpecError, match=r"add\(x1, x2\) has no attribute 'axis'.* Known: none"):
            call(X, X, axis=0)
        with pytest.raises(SpecError, match=r"add\(x1, x2\) takes 2 inputs, 3 were given"):
            call(X, X, X)


def test_what_numpy_cannot_hold_as_numbers_is_refused(registry: Registry) -> None:
    for wrong in ("text", ["a"], object(), [object()]):
        with pytest.raises(SpecError, match="tensors hold numbers and booleans in native byte order"):
            oy.add(X, wrong)


def test_layouts_of_memory_do_not_matter(registry: Registry) -> None:
    big = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (big.T, big[::2, ::-1], big[1:1], np.broadcast_to(big[0], (4, 6)), big[:, :0]):
        assert np.array_equal(oy.add(view, view), view + view)
    frozen = big.copy()
    frozen.flags.writeable = False
    assert np.array_equal(oy.add(frozen, 1.0), big + 1)


def test_results_keep_nan_and_infinity_without_warnings(registry: Registry) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    assert np.array_equal(oy.divide(special, 0.0), [np.nan, np.inf, -np.inf, np.nan], equal_nan=True)


NUMBERS = st.one_of(st.booleans(), st.integers(-100, 100), st.floats(-100, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["int8", "uint8", "int64", "float32", "float64"]), NUMBERS, st.booleans())
def test_python_numbers_promote_as_numpy_promotes_them(dtype: str, number: Any, left: bool) -> None:
    if dtype == "uint8" and isinstance(number, int) and number < 0:
        return  # NumPy refuses what does not fit
    array = np.array([0, 1], dtype)
    arguments = (number, array) if left else (array, number)
    with oy.using(registry=PLAIN):
        found, wanted = oy.maximum(*arguments), np.maximum(*arguments)
    assert found.dtype == wanted.dtype and np.array_equal(found, wanted)


PLAIN = oy.standard_registry()


@pytest.mark.parametrize("number", [-1, 256])
def test_a_python_number_that_does_not_fit_is_refused_as_numpy_refuses_it(
    registry: Registry, number: int
) -> None:
    with pytest.raises(OverflowError, match=f"Python integer {number} out of bounds for uint8"):
        oy.add(np.ones(2, np.uint8), number)


def test_many_threads_and_tasks_call_at_once(registry: Registry) -> None:
    registry.kernel("add", backend="toy", name="k", load="numpy:add")
    wrong: list[Any] = []

    def work(number: int) -> None:
        with oy.using(registry=registry):
            for n in range(50):
                array = np.full(n % 5, number, np.float32)
                if not np.array_equal(oy.add(array, number), array + number):
                    wrong.append((number, n))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def main() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(oy.add, X, n) for n in range(4)))

    results = asyncio.run(main())
    assert not wrong and [r.tolist() for r in results] == [(X + n).tolist() for n in range(4)]


def test_to_device_takes_a_device() -> None:
    for device in (None, 3):
        with pytest.raises(
            DeviceUnavailable, match=f"to_device takes a device or its name, such as 'cpu:0'; found {device}"
        ):
            oy.to_device(np.ones(2), device)  # type: ignore[arg-type]
