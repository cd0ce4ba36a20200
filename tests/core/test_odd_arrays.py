"""Arrays that are not what they seem: subclasses of NumPy's array, and results of kernels that break their promise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.driver import plain_array
from opyard.errors import KernelError, SpecError
from opyard.registry import Registry

X = np.arange(6, dtype=np.float32).reshape(2, 3)
MASKED = np.ma.masked_array(X, mask=X > 2)


class Tagged(np.ndarray[Any, Any]):
    """A subclass whose operators mean something else."""

    def __add__(self, other: Any) -> Any:
        raise AssertionError("kernels see ordinary arrays")


def plain_only(function: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*arrays: Any, **attributes: Any) -> Any:
        assert all(type(array) is np.ndarray for array in arrays)
        return function(*arrays, **attributes)

    return kernel


# Subclasses of NumPy's array -----------------------------------------------------------------------------------------


def test_plain_arrays() -> None:
    matrix = X.view(np.matrix)
    assert type(plain_array(matrix)) is np.ndarray and np.shares_memory(plain_array(matrix), X)
    for same in (X, np.float32(3), 2.0, None, [1.0], "text"):
        assert plain_array(same) is same


@pytest.mark.parametrize("form", ["load", "prepare"])
@pytest.mark.parametrize("view", [np.matrix, Tagged])
def test_eager_calls_take_subclasses_as_ordinary_arrays(registry: Registry, view: Any, form: str) -> None:
    kernel = plain_only(np.multiply)
    facts: Any = {"load": kernel} if form == "load" else {"prepare": lambda call, device: kernel}
    registry.kernel("multiply", backend="toy", name="k", **facts)
    odd = X.view(view)
    for _ in range(2):  # chosen, then from the cache
        for arrays in ((odd, X), (X, odd), (odd, odd), (odd, 2.0)):
            result = oy.multiply(*arrays)
            assert type(result) is np.ndarray
            assert np.array_equal(result, np.asarray(arrays[0]) * np.asarray(arrays[1]))
    assert oy.sum(odd, axis=0).shape == (3,), "a matrix would keep two dimensions"
    assert oy.multiply.explain(odd, odd)[0].kernel.id == "toy/k" and not oy.failures()


def test_a_memory_map_is_an_ordinary_array(registry: Registry, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap) and np.array_equal(oy.add(mapped, mapped), X + X)


@pytest.mark.parametrize("form", ["load", "prepare"])
def test_a_kernel_that_fails_on_a_converted_array_is_survived(registry: Registry, form: str) -> None:
    def bad(*arrays: Any) -> Any:
        raise RuntimeError("no")

    facts: Any = {"load": bad} if form == "load" else {"prepare": lambda call, device: bad}
    registry.kernel("exp", backend="toy", name="bad", **facts)
    with pytest.warns(oy.KernelWarning, match="toy/bad of exp raised RuntimeError: no"):
        assert np.allclose(oy.exp(X.view(np.matrix)), np.exp(X))


def test_compiled_calls_take_subclasses_as_ordinary_arrays(registry: Registry) -> None:
    registry.kernel("multiply", backend="toy", name="k", load=plain_only(np.multiply))
    squares = oy.compile(lambda x: oy.sum(oy.multiply(x, x), axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", oy.KernelWarning)
        for odd in (X.view(np.matrix), X.view(Tagged), X.view(np.matrix), X):
            assert np.array_equal(squares(odd), (X * X).sum(axis=0))
    graph = oy.trace(lambda x: oy.multiply(x, x), oy.TensorSpec((2, 3)))
    assert np.array_equal(oy.Session(graph).run("multiply", {"x": X.view(np.matrix)}), X * X)


def test_masked_arrays_are_refused_everywhere(registry: Registry) -> None:
    message = r"the mask of a masked array would be ignored; fill it first: x.filled\(0\)"
    compiled = oy.compile(lambda x: oy.add(x, x))
    session = oy.Session(oy.trace(lambda x: oy.add(x, x), oy.TensorSpec((2, 3))))
    oy.add(X, X)
    for use in (
        lambda: oy.add(MASKED, X),
        lambda: oy.add(X, MASKED),
        lambda: oy.add(MASKED, 1.0),
        lambda: oy.add.resolve(MASKED, X),
        lambda: oy.concat(X, MASKED, axis=0),
        lambda: compiled(MASKED),
        lambda: session.run("add", {"x": MASKED}),
        lambda: oy.trace(lambda x: oy.add(x, MASKED), oy.TensorSpec((2, 3))),
        lambda: oy.to_device(MASKED, "toy"),
        lambda: oy.to_numpy(MASKED),
    ):
        for _ in range(2):
            with pytest.raises(SpecError, match=message):
                use()
    assert np.array_equal(oy.add(MASKED.filled(0), X), MASKED.filled(0) + X) and not oy.failures()


# Kernels that break their promise ------------------------------------------------------------------------------------


def picky(*arrays: Any) -> Any:
    """A good kernel, which cannot work on what another one did wrong."""
    if any(array.shape != (2, 3) or array.dtype != np.float32 for array in arrays):
        raise ValueError("not what was announced")
    return -arrays[0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda x: np.zeros(7, np.float32), r"returned shape \(7,\) where exp\(.* promises \(2, 3\)"),
        (lambda x: np.zeros((2, 3)), r"returned float64 where exp\(.* promises float32"),
        (lambda x: None, r"returned NoneType where exp\(.* promises an array float32\[2, 3\]"),
        (lambda x: x.tolist(), r"returned list where exp\(.* promises an array float32\[2, 3\]"),
    ],
)
def test_the_kernel_that_made_the_wrong_array_is_to_blame(
    registry: Registry, wrong: Callable[..., Any], told: str
) -> None:
    registry.kernel("exp", backend="toy", name="wrong", load=wrong)
    registry.kernel("negative", backend="toy", name="good", load=picky)
    function = oy.compile(lambda x: oy.negative(oy.exp(x)))
    with pytest.warns(
        oy.KernelWarning, match=f"kernel toy/wrong of exp {told}.*; reference/reference takes over"
    ):
        assert np.allclose(function(X), -np.exp(X))
    assert list(oy.failures()) == ["exp toy/wrong"]
    assert np.allclose(function(X), -np.exp(X))


def test_a_kernel_that_fails_on_what_was_announced_is_to_blame_itself(registry: Registry) -> None:
    def bad(x: Any) -> Any:
        raise ValueError("mine")

    registry.kernel("exp", backend="toy", name="good", load=np.exp)
    registry.kernel("negative", backend="toy", name="bad", load=bad)
    function = oy.compile(lambda x: oy.negative(oy.exp(x)))
    with pytest.warns(oy.KernelWarning, match="kernel toy/bad of negative raised ValueError: mine"):
        assert np.allclose(function(X), -np.exp(X))
    assert list(oy.failures()) == ["negative toy/bad"]


def test_strict_names_the_kernel_that_made_the_wrong_array(registry: Registry) -> None:
    registry.kernel("exp", backend="toy", name="wrong", load=lambda x: np.zeros(7, np.float32))
    registry.kernel("negative", backend="toy", name="good", load=picky)
    function = oy.compile(lambda x: oy.negative(oy.exp(x)))
    with oy.using(strict=True), pytest.raises(KernelError, match=r"kernel toy/wrong failed on exp.*\(7,\)"):
        function(X)
