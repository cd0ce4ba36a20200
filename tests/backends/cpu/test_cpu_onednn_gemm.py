"""Products of large matrices by oneDNN's sgemm: what they give, and what is left to others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import KernelError
from opyard_cpu.onednn import gemm, library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

DEVICE = oy.default_registry().device("cpu:0")


def call_of(*shapes: tuple[int, ...]) -> Any:
    return oy.matmul.op.call(*(oy.TensorSpec(shape) for shape in shapes))


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("rows", [(770,), (2, 390)])
def test_products(monkeypatch: pytest.MonkeyPatch, rows: tuple[int, ...], count: str) -> None:
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    x, y = drawn(*rows, 769), drawn(769, 773)
    x[..., 3, 5], x[..., 7, 0] = np.nan, np.inf
    call = call_of(x.shape, y.shape)
    assert gemm.accepts(call, DEVICE) is None
    run = gemm.prepare(call, DEVICE)
    with np.errstate(all="ignore"):
        expected = (x.astype(np.float64) @ y).astype(np.float32)
    wide = np.empty((*rows, 2 * 773), np.float32)
    for left, right in (
        (x, y),
        (x, np.asfortranarray(y)),
        (x, np.repeat(y, 2, axis=1)[:, ::2]),
        (x.T.copy().T, y),
    ):
        for out in (None, np.empty_like(expected), wide[..., ::2]):
            found = run(left, right, out=out)
            assert out is None or found is out
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((9, 0), (0, 7)), "an empty tensor is nothing for oneDNN"),
        (((2, 900, 900), (2, 900, 900)), "takes one matrix for all rows, [k, n], not float32[2, 900, 900]"),
    ],
)  # fmt: skip
def test_what_is_refused(shapes: Any, reason: str) -> None:
    assert gemm.accepts(call_of(*shapes), DEVICE) == reason


def test_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.library().functions, "sgemm", lambda *arguments: 1)
    run = gemm.prepare(call_of((768, 768), (768, 768)), DEVICE)
    with pytest.raises(KernelError, match="oneDNN's sgemm failed: out of memory"):
        run(drawn(768, 768), drawn(768, 768))


def test_without_onednn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "missing", lambda: "oneDNN is not installed")
    assert gemm.accepts(call_of((768, 768), (768, 768)), DEVICE) == "oneDNN is not installed"


@pytest.mark.parametrize(("size", "is_chosen"), [(2048, True), (256, False)])
def test_placement_takes_it_for_large_matrices(size: int, is_chosen: bool) -> None:
    graph = oy.trace(oy.matmul, oy.TensorSpec((size, size)), oy.TensorSpec((size, size)))
    feeds = dict.fromkeys(graph.inputs, drawn(size, size))
    with oy.using(block=("cpu/gemm",)):  # another way for the same products
        session = oy.Session(graph, devices=["cpu:0"], costs=oy.Roofline())
        (decision,) = session.placement(list(graph.outputs), feeds).decisions
    assert (decision.chosen.kernel.id == "cpu/onednn_gemm") == is_chosen
