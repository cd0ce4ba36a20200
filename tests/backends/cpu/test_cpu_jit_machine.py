"""Compiling, the cache on the disk, and calling: what surrounds the loops of compiled regions."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.placement.regions import find_regions
from opyard.region import Region
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_cpu import plugin
from opyard_cpu.backend import CPUBackend
from opyard_cpu.jit import compiled, launch, machine, region, single, steps

pytest.importorskip("llvmlite", reason="llvmlite is not installed: opyard-cpu[jit]")

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")
COMPILER = next(kernel for kernel in REGISTRY.region_compilers if kernel.name == "jit")
NOTHING = "define void @kernel(ptr %a, ptr %b, i64 %c, i64 %d) {\n  ret void\n}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for compiled code that is empty at first."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    return tmp_path / "jit"


def bound(function: Callable[..., Any], *arrays: Any) -> Callable[..., Any]:
    """The function of a region."""
    graph = oy.decompose(oy.trace(function, *map(TensorSpec.of, arrays)), lambda call: False)
    work = Region(graph)
    assert COMPILER.refusal(work, DEVICE) is None
    return COMPILER.bind(work, DEVICE)


# The compiler --------------------------------------------------------------------------------------------------------


def test_code_is_kept_on_the_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llvmlite import binding

    assert machine.Compiler(machine.host()).function(NOTHING).address
    (file,) = cache.iterdir()
    written = file.read_bytes()
    monkeypatch.setattr(binding, "parse_assembly", lambda text: pytest.fail("it is compiled again"))
    assert machine.Compiler(machine.host()).function(NOTHING).address
    monkeypatch.undo()
    assert file.read_bytes() == written


@pytest.mark.parametrize("damage", [b"", b"short", b"\x00" * 2000])
def test_a_damaged_file_is_made_anew(cache: Path, damage: bytes) -> None:
    machine.Compiler(machine.host()).function(NOTHING)
    (file,) = cache.iterdir()
    written = file.read_bytes()
    file.write_bytes(damage)
    assert machine.Compiler(machine.host()).function(NOTHING).address
    assert file.read_bytes() == written


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "file"))
    assert machine.Compiler(machine.host()).function(NOTHING).address


def test_other_processors_have_other_files(cache: Path) -> None:
    usual = machine.host()
    for found in (usual, machine.Processor(usual.name, "", 16, usual.is_x86)):
        machine.Compiler(found).function(NOTHING)
    assert len(list(cache.iterdir())) == 2


def test_without_the_compiler_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    machine.missing.cache_clear()
    sentence = "llvmlite is not installed; type: pip install 'opyard-cpu[jit]'"
    call = oy.tanh.op.call(TensorSpec((3, 4)))
    assert region.claims(call, DEVICE) == single.accepts(call, DEVICE) == sentence
    found = oy.trace(lambda x: oy.tanh(x) * 2.0, TensorSpec((3, 4)))
    assert find_regions(COMPILER, found, DEVICE)[0] == []
    assert CPUBackend().notes()[1] == sentence
    monkeypatch.undo()
    machine.missing.cache_clear()
    assert CPUBackend().notes()[1] == f"LLVM compiles loops for {machine.host().name}"
    assert region.claims(call, DEVICE) is None


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the names are those of x86-64")
@pytest.mark.parametrize(("name", "width"), [("x86-64", 16), ("x86-64-v3", 32)])
def test_older_processors(monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    features = "+avx2,+fma" if width == 32 else "-avx,-fma"
    target = machine.processor(name, features, "x86_64-linux")
    assert target.vector_bytes == width
    own = machine.Compiler(target)
    monkeypatch.setattr(compiled, "compiler", lambda: own)
    monkeypatch.setattr(compiled, "host", lambda: target)
    x = np.random.default_rng(0).standard_normal((5, 77)).astype(np.float32)
    for dtype in (np.float32, np.float64):
        given = x.astype(dtype)
        found = bound(lambda v: oy.log_softmax(oy.tanh(v) + oy.sigmoid(v)), given)(given)
        wide = np.tanh(x.astype(float)) + 1 / (1 + np.exp(-x.astype(float)))
        wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-6)
    assert "zmm" not in own.assembly(launch.source(False) + launch.source(True).replace("@kernel", "@other"))


# Calls ---------------------------------------------------------------------------------------------------------------

SMALL = np.random.default_rng(0).standard_normal((6, 35)).astype(np.float32)


def test_small_arrays_are_given_to_a_built_in_function() -> None:
    run = bound(lambda x, y: oy.relu(x * y) - y, SMALL, SMALL)
    assert type(run).__name__ == "builtin_function_or_method"
    expected = np.maximum(SMALL * SMALL, 0) - SMALL
    out = np.empty_like(SMALL)
    before = sys.getrefcount(out)
    for _ in range(100):
        assert run(SMALL, SMALL, out=out) is out
    assert sys.getrefcount(out) == before
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(run(SMALL, SMALL), expected)
    assert run(SMALL, SMALL, out=SMALL.copy()) is not SMALL


def test_any_arrays_are_taken() -> None:
    run = bound(lambda x, y: x * y + 1.0, SMALL, SMALL)
    expected = SMALL * SMALL + np.float32(1)
    skewed = np.empty(SMALL.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(SMALL.shape)
    skewed[...] = SMALL
    wide = np.empty((6, 70), np.float32)
    for array in (np.asfortranarray(SMALL), SMALL[::-1, ::-1][::-1, ::-1], skewed):
        np.testing.assert_array_equal(run(array, SMALL), expected)
        for out in (wide[:, ::2], np.empty((35, 6), np.float32).T):
            assert run(array, SMALL, out=out) is out
            np.testing.assert_array_equal(out, expected)
    single_numbers = bound(lambda x, y: x * y + x, np.float32(1), np.float32(1))
    np.testing.assert_array_equal(single_numbers(np.float32(3), np.asarray(2, np.float32)), np.float32(9))


def test_where_python_is_laid_out_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_layout_is_known", lambda: False)
    launch._entry.cache_clear()
    run = bound(lambda x: x * 2.0 + x, SMALL)
    monkeypatch.undo()
    launch._entry.cache_clear()
    assert run.__name__ == "run"
    np.testing.assert_array_equal(run(SMALL), SMALL * 2 + SMALL)


def test_several_outputs_and_constants() -> None:
    numbers = np.arange(35, dtype=np.float32)[::7]
    x = np.ascontiguousarray(SMALL[:, :5])
    first, second = bound(lambda v: (v * numbers, v + v * numbers), x)(x)
    np.testing.assert_array_equal(first, x * numbers)
    np.testing.assert_array_equal(second, x + x * numbers)


def test_an_input_may_be_the_output() -> None:
    x = SMALL.copy()
    run = bound(lambda v: oy.softmax(v), x)
    expected = run(x)
    assert run(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("size", [1, 15, 16, 63, 64, 1000, 5001])
def test_stores_past_the_caches(monkeypatch: pytest.MonkeyPatch, size: int, count: str) -> None:
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    for limit in ("STREAM_BYTES", "SMALL_SECONDS", "TEAM_SECONDS"):
        monkeypatch.setattr(compiled, limit, 0)
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    run = bound(lambda v: v * 2.0 - v * v, x)
    for offset in range(0, 20, 3):
        room = np.full(size + 40, np.float32(7))
        out = room[offset : offset + size]
        run(x, out=out)
        np.testing.assert_array_equal(out, x * np.float32(2) - x * x)
        assert (room[:offset] == 7).all() and (room[offset + size :] == 7).all()


ROWS: tuple[Any, ...] = (
    lambda v: oy.softmax(v),
    lambda v: oy.layer_normalization(v),
    lambda v: oy.max(v, axis=-1, keepdims=True) - v,
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("columns", [2, 15, 64, 1000, 9000])
@pytest.mark.parametrize("function", ROWS)
def test_rows_past_the_caches_are_the_same_wherever_they_lie(
    monkeypatch: pytest.MonkeyPatch, function: Any, columns: int, dtype: str
) -> None:
    x = np.random.default_rng(columns).standard_normal((3, columns)).astype(dtype)
    expected = bound(function, x)(x)
    for limit in ("STREAM_BYTES", "SMALL_SECONDS", "TEAM_SECONDS"):
        monkeypatch.setattr(compiled, limit, 0)
    run = bound(function, x)
    for offset in (0, 1, 5, 12, 31):
        room = launch.aligned((x.size + 64) * x.itemsize).view(dtype)
        room[...] = 7
        out = room[offset : offset + x.size].reshape(x.shape)
        run(x, out=out)
        if columns < 8192:  # longer sums of blocks are rounded where the blocks end
            np.testing.assert_array_equal(out, expected)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
        assert (room[:offset] == 7).all() and (room[offset + x.size :] == 7).all()


def test_many_threads_call_one_function() -> None:
    run = bound(lambda v: oy.log_softmax(oy.exp(v)), SMALL)
    expected = run(SMALL)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(SMALL), range(200)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", ["1", "2"])
def test_many_threads_call_one_function_without_the_lock(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    """Each has scratch memory of its own, and so has each thread of a team."""
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    monkeypatch.setattr(compiled, "SMALL_SECONDS", 0.0)
    monkeypatch.setattr(compiled, "TEAM_SECONDS", 1.0 if count == "1" else 0.0)
    arrays = [np.random.default_rng(n).standard_normal((64, 1003)).astype(np.float32) for n in range(4)]
    run = bound(lambda v: oy.log_softmax(oy.exp(v)), arrays[0])
    assert type(run).__name__ == ("builtin_function_or_method" if count == "1" else "function")
    expected = [run(array) for array in arrays]
    work = [number % len(arrays) for number in range(100)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in zip(work, pool.map(lambda n: run(arrays[n]), work), strict=True):
            np.testing.assert_array_equal(found, expected[number])


@pytest.mark.parametrize("reason", [None, "no pool"])
@pytest.mark.parametrize("count", ["1", "2"])
def test_long_loops_ask_for_the_number_of_threads_in_each_call(
    monkeypatch: pytest.MonkeyPatch, count: str, reason: str | None
) -> None:
    if reason is not None:
        monkeypatch.setattr(compiled, "no_teams", lambda: reason)
    for limit in ("SMALL_SECONDS", "TEAM_SECONDS", "THREAD_SECONDS"):
        monkeypatch.setattr(compiled, limit, 1e-12)
    x = np.random.default_rng(0).standard_normal((64, 1003)).astype(np.float32)
    run = bound(lambda v: oy.softmax(v * 2.0), x)
    expected = run(x)
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    out = np.empty_like(x)
    for array in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        assert run(array, out=out) is out
        np.testing.assert_array_equal(out, expected)


# What is refused -----------------------------------------------------------------------------------------------------

MATRIX = TensorSpec((20, 30))


@pytest.mark.parametrize(
    ("function", "specs", "reason"),
    [
        (lambda x: oy.relu(x), (MATRIX,), "a single operation on few numbers is not worth compiling"),
        (lambda x: (oy.sum(x, axis=0), oy.sum(x, axis=1)), (MATRIX,), "its reductions are over different axes"),
        (lambda x, s: oy.layer_normalization(x, s, axis=1), (TensorSpec((4, 3, 5)), TensorSpec((3, 1))), "an input is broadcast along some of the axes that are reduced"),
        (lambda x: oy.sum(x * x, axis=1), (TensorSpec((4, 3, 5)),), "it reduces over axes that are neither the first nor the last"),
        (lambda x: (x * 2.0, oy.reshape(x, shape=(600,)) + 1.0), (MATRIX,), "it changes the shape"),
        (lambda x: (x + 1.0) + oy.expand_dims(oy.sum(x, axis=1), axis=0), (TensorSpec((20, 20)),), "an axis of one tensor runs along two of another"),
    ],
)  # fmt: skip
def test_regions_that_are_refused(function: Any, specs: Any, reason: str) -> None:
    graph = oy.decompose(oy.trace(function, *specs), lambda call: False)
    assert COMPILER.refusal(Region(graph), DEVICE) == reason


@pytest.mark.parametrize(
    ("function", "spec", "reason"),
    [
        (oy.sin, MATRIX, "sin of float32 is not among the functions that are compiled here"),
        (oy.exp, MATRIX.with_dtype("complex64"), "complex64 is not among the dtypes that are compiled here"),
        (oy.exp, TensorSpec((0, 3)), "an array without elements needs no compiler"),
        (oy.erf, MATRIX.with_dtype("float64"), "erf of float64 is not among the functions"),
        (lambda x: x // x, MATRIX, "FloorDiv is not among the operators that are compiled here"),
        (lambda x: x**x, MATRIX.with_dtype("float64"), "powers of float64 are not compiled here"),
        (lambda x: oy.sum(x, axis=0), MATRIX.with_dtype("float16"), "sums of float16 are not compiled here"),
        (lambda x: oy.sort(x), MATRIX, "sort is neither elementwise nor a reduction"),
    ],
)
def test_calls_that_are_not_claimed(function: Any, spec: TensorSpec, reason: str) -> None:
    node = oy.trace(function, spec).nodes[-1]
    refusal = COMPILER.claim_refusal(node.call, DEVICE)
    assert refusal is not None and refusal.startswith(reason)


def test_the_steps_of_a_region_are_found_once() -> None:
    work = Region(oy.trace(lambda x: oy.exp(x) + 1.0, MATRIX))
    assert steps.steps_of(work) is steps.steps_of(work)


def test_placement_takes_it_for_chains_and_not_for_single_operations() -> None:
    chain = oy.compile(lambda x: oy.relu(x * 2.0 + x) - x, devices=["cpu:0"])
    plain = oy.compile(lambda x: x + x, devices=["cpu:0"])
    for size in (8, 1 << 16):
        x = np.zeros(size, np.float32)
        assert {d.chosen.kernel.id for d in chain.explain(x).decisions} == {"cpu/jit"}
    assert {d.chosen.kernel.id for d in plain.explain(np.zeros(8, np.float32)).decisions} == {"cpu/numpy"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_uses_what_is_compiled() -> None:
    run = bound(lambda x: oy.tanh(x) * x, SMALL)
    expected, child = run(SMALL), os.fork()
    if not child:
        os._exit(7 if np.array_equal(run(SMALL), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
