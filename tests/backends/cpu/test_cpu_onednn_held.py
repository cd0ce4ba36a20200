"""Primitives as compiled built-in functions, and on one thread where they are little. See opyard_cpu.onednn.held."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest

from opyard.errors import KernelError
from opyard.settings import num_threads
from opyard_cpu.jit import launch
from opyard_cpu.jit import machine as jit
from opyard_cpu.onednn import held, library
from opyard_cpu.onednn.execution import reordered
from opyard_cpu.onednn.held import on_dense
from opyard_cpu.onednn.memory import any_layout, strided
from opyard_cpu.onednn.primitives import Primitive, matmul

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
compiles = pytest.mark.skipif(jit.missing() is not None, reason=str(jit.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
ROLES = ("src", "weights", "dst")


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


X, W = drawn(5, 7), drawn(7, 6)


def product() -> Primitive:
    return matmul(strided(X.shape), strided(W.shape), strided((5, 6)))


def check(run: Any) -> None:
    result = np.empty((5, 6), np.float32)
    assert run(X, W, result) is result
    np.testing.assert_allclose(result, X @ W, rtol=1e-5, atol=1e-5)


@compiles
def test_little_work_is_called_by_a_built_in_function() -> None:
    run = on_dense(product(), ROLES, 1.0)
    assert type(run).__name__ == "builtin_function_or_method"
    check(run)
    check(run)


def test_much_work_releases_the_lock() -> None:
    run = on_dense(product(), ROLES, 2 * held.HELD)
    assert run.__name__ == "released"
    check(run)


@pytest.mark.parametrize("operations", [1.0, 2 * held.HELD])
def test_arrays_that_are_not_dense_are_copied(operations: float) -> None:
    run, result = on_dense(product(), ROLES, operations), np.empty((5, 6), np.float32)
    wide = np.zeros((5, 14), np.float32)
    wide[:, ::2] = X
    run(wide[:, ::2], np.asfortranarray(W), result)
    np.testing.assert_allclose(result, X @ W, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["llvmlite", "layout"])
def test_without_the_compiler_or_known_objects_ctypes_calls(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "llvmlite":
        monkeypatch.setattr(held, "missing", lambda: "llvmlite is not installed")
    else:
        monkeypatch.setattr(launch, "_layout_is_known", lambda: False)
    launch._entry.cache_clear()
    run = on_dense(product(), ROLES, 1.0)
    monkeypatch.undo()
    launch._entry.cache_clear()
    assert run.__name__ == "released"
    check(run)


@compiles
def test_a_failure_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_int, ctypes.c_void_p)
    def fail(primitive: int, stream: int, count: int, arguments: int) -> int:
        calls.append(count)
        return 5

    monkeypatch.setattr(library.library(), "execute", fail)
    run = on_dense(product(), ROLES, 1.0)
    with pytest.raises(KernelError, match=r"oneDNN's matmul \(.*\) failed: runtime error"):
        run(X, W, np.empty((5, 6), np.float32))
    assert len(calls) == 2  # by the built-in function, and by the other way, which finds the words


@compiles
def test_several_threads_share_one_function() -> None:
    x, w = drawn(8, 64), drawn(64, 64)
    primitive = matmul(strided(x.shape), any_layout(w.shape), strided((8, 64)))
    packed = reordered(w, strided(w.shape), primitive.memories["weights"])
    run, wrong = on_dense(primitive, ROLES, 1.0), []

    def work(factor: int) -> None:
        mine = x * np.float32(factor)
        for _ in range(200):
            result = run(mine, packed, np.empty((8, 64), np.float32))
            if not np.allclose(result, mine @ w, rtol=1e-4, atol=1e-3):
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@compiles
def test_the_number_of_threads_is_as_it_was() -> None:
    found = library.library()
    with found.threads_for(1.0):
        primitive = product()
    assert primitive.threads == 1
    run = on_dense(primitive, ROLES, 1.0)
    found.openmp.omp_set_num_threads(3)
    try:
        check(run)
        assert found.openmp.omp_get_max_threads() == 3
    finally:
        found.use_threads()


def test_little_is_made_for_one_thread() -> None:
    found = library.library()
    with found.threads_for(library.LITTLE / 2):
        assert found.threads == product().threads == 1
        with found.on_one_thread():
            pass
        assert found.threads == 1  # still within
    with found.threads_for(library.LITTLE):
        assert found.threads == product().threads == num_threads()
