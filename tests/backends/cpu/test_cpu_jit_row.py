"""One row times a matrix as a compiled loop. See opyard_cpu.jit.row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.jit import launch, machine, row

pytestmark = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
DEVICE = oy.default_registry().device("cpu:0")


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def linear(*specs: Any) -> Any:
    return oy.linear.op.call(*(None if spec is None else TensorSpec.of(spec) for spec in specs))


def agree(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 10, 16, 64, 300, 517])
@pytest.mark.parametrize("depth", [1, 7, 100])
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_any_sizes(depth: int, columns: int, biased: bool) -> None:
    x, weight, bias = drawn(1, depth), drawn(depth, columns), drawn(columns) if biased else None
    call = linear(x, weight, bias)
    assert row.accepts(call, DEVICE) is None
    assert 0 < row.cost(call, DEVICE) < 1e-3
    run, wanted = row.prepare(call, DEVICE), x @ weight + (0 if bias is None else bias)
    agree(run(x, weight, bias), wanted)
    out = np.full((1, columns + 8), 7, np.float32)
    assert run(x, weight, bias, out=out[:, :columns]).base is out
    agree(out[:, :columns], wanted)
    assert (out[:, columns:] == 7).all()


@pytest.mark.parametrize("known", [True, False])
def test_arrays_that_are_not_dense_and_objects_that_are_laid_out_otherwise(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = drawn(1, 1, 12), drawn(5, 12).T, drawn(10)[::2]
    monkeypatch.setattr(launch, "_layout_is_known", lambda: known)
    launch._entry.cache_clear()
    run = row.prepare(linear(x, weight, bias), DEVICE)
    monkeypatch.undo()
    launch._entry.cache_clear()
    assert (run.__name__ == "otherwise") is not known
    agree(run(x, weight, bias), x @ weight + bias)
    agree(run(x, np.ascontiguousarray(weight), bias.copy()), x @ weight + bias)
    agree(run(x.view(np.memmap), np.ascontiguousarray(weight), bias.copy()), x @ weight + bias)
    wide = np.zeros((1, 1, 10), np.float32)
    run(x, weight, bias, out=wide[..., ::2])
    agree(wide[..., ::2], x @ weight + bias)


def test_a_vector_times_a_matrix() -> None:
    x, weight = drawn(9), drawn(9, 21)
    call = oy.matmul.op.call(TensorSpec.of(x), TensorSpec.of(weight))
    assert row.accepts(call, DEVICE) is None
    agree(row.prepare(call, DEVICE)(x, weight), x @ weight)


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf, -np.inf])
def test_with_relu(value: float) -> None:
    x, weight, bias = drawn(1, 8), drawn(8, 40), drawn(40)
    bias[3] = value
    kernel = next(k for k in oy.default_registry().patterns if k.name == "jit_row_relu")
    graph = oy.trace(lambda *given: oy.relu(oy.linear(*given)), *map(TensorSpec.of, (x, weight, bias)))
    (match,) = find_matches(Pattern.of(kernel), graph)
    assert row.accepts(match.work, DEVICE) is None
    run = kernel.bind(match.work, DEVICE)
    agree(run(x, weight, bias), np.maximum(x @ weight + bias, 0))
    agree(run(x, weight, bias[::-1]), np.maximum(x @ weight + bias[::-1], 0))


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((2, 3), (3, 4), None), "takes one row, and a matrix"),
        (((1, 0), (0, 4), None), "an empty tensor has no need of a loop"),
        (((1, 1024), (1024, 1025), None), "a matrix of more than 4 MiB is read by all threads elsewhere"),
    ],
)
def test_what_is_refused(shapes: Any, reason: str) -> None:
    specs = (None if shape is None else TensorSpec(shape) for shape in shapes)
    assert row.accepts(oy.linear.op.call(*specs), DEVICE) == reason


def test_what_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    call = linear(drawn(1, 3), drawn(3, 4), None)
    narrow = replace(machine.host(), vector_bytes=16)
    monkeypatch.setattr(row, "host", lambda: narrow)
    assert row.accepts(call, DEVICE) == "processors without AVX2 have too few registers"
    monkeypatch.setattr(row, "missing", lambda: "llvmlite is not installed")
    assert row.accepts(call, DEVICE) == "llvmlite is not installed"


def test_the_text_for_smaller_registers() -> None:
    """Of AVX2: twice as many blocks, and masks of half the width."""
    haswell = machine.processor("haswell", "+avx2,+fma", "x86_64-linux")
    text = machine.Compiler(haswell).assembly(row.source(haswell, True, True))
    assert "vfmadd" in text
    assert "zmm" not in text
