"""Convolutions in parts that threads take as they come. See opyard_cpu.onednn.parts."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.settings import limit_threads
from opyard_cpu.geometry import Geometry, conv_geometry
from opyard_cpu.jit import machine
from opyard_cpu.onednn import convolution, library, parts
from opyard_cpu.onednn.chains import Chain, Operand, Step
from opyard_cpu.onednn.layouts import Packed
from opyard_cpu.onednn.primitives import Eltwise

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cuts small convolutions, too, as if their weights were many."""
    monkeypatch.setattr(parts, "WEIGHTS_BANDWIDTH", 3e9)
    monkeypatch.setattr(parts, "NEAR_BYTES", 1 << 16)
    monkeypatch.setattr(convolution, "HELD", 0)
    monkeypatch.setattr(parts, "LEAST_WORK", 1)
    with limit_threads(2):
        yield


def call_of(
    batch: int, channels: int, outputs: int, size: int, kernel: int = 3, groups: int = 1, **attributes: Any
) -> Call:
    shapes = (batch, channels, size, size + 1), (outputs, channels // groups, kernel, kernel), (outputs,)
    call: Call = oy.conv.op.call(*map(oy.TensorSpec, shapes), groups=groups, **attributes)
    return call


def chain_of(call: Call, *names: str) -> Chain:
    """A convolution, operands of these names, and relu."""
    g = conv_geometry(call)
    steps: list[Step] = []
    for name in names:
        spec = call.output if name == "residual" else oy.TensorSpec((g.outputs, 1, 1))
        algorithm = "mul" if name == "factor" else "add"
        steps.append(Operand(algorithm, 3 + len(steps), name, spec))
    return Chain(call, (*steps, Eltwise("relu")))


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def inputs_of(chain: Chain) -> list[Any]:
    g = conv_geometry(chain.base)
    weight = Packed(drawn(g.outputs, g.channels // g.groups, *g.kernel))
    operands = [step for step in chain.steps if isinstance(step, Operand)]
    result = (g.batch, *g.counts, g.outputs)
    shapes = [result if step.name == "residual" else (g.outputs, 1, 1) for step in operands]
    others = [drawn(*shape) for shape in shapes]
    return [drawn(g.batch, *g.sizes, g.channels), weight, drawn(g.outputs), *others]


def is_cut(run: Any) -> bool:
    return any(
        isinstance(getattr(cell.cell_contents, "__self__", None), parts.Parts) for cell in run.__closure__
    )


CALLS = {
    "rows": call_of(1, 16, 32, 19, padding=1),
    "strides": call_of(1, 16, 32, 23, strides=2, padding=1),
    "dilations": call_of(1, 16, 32, 17, dilations=2, padding=2),
    "windows that see padding alone on one side": call_of(1, 16, 32, 9, padding=((2, 0), (1, 2))),
    "some images": call_of(3, 16, 32, 11, padding=1),
    "more images than parts": call_of(11, 16, 32, 5, padding=1),
    "few channels": call_of(1, 3, 32, 31, 7, strides=2, padding=3),
    "1x1": call_of(1, 32, 48, 13, 1),
    "channels": call_of(1, 64, 256, 5, padding=1, strides=2),
    "channels of some images": call_of(3, 32, 512, 4, padding=1),
    "depthwise": call_of(1, 32, 32, 13, padding=1, groups=32),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("names", [(), ("residual",), ("factor", "offset", "residual")])
@pytest.mark.parametrize("name", CALLS)
def test_parts_give_what_the_whole_does(
    name: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(CALLS[name], *names)
    assert (parts.cut(conv_geometry(chain.base), 2)[1].channel > 0) == name.startswith("channels")
    inputs = inputs_of(chain)
    run = convolution._compute(chain)
    assert is_cut(run)
    found = run(*inputs)
    assert run(*inputs) is not found
    monkeypatch.setattr(convolution, "HELD", 1e12)
    whole = convolution._compute(chain)
    assert not is_cut(whole)
    np.testing.assert_allclose(found, whole(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_inputs_that_are_not_dense_are_copied() -> None:
    chain = chain_of(CALLS["rows"], "residual")
    x, weight, bias, residual = inputs_of(chain)
    run = convolution._compute(chain)
    wide = np.repeat(x, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(run(wide, weight, bias, residual), run(x, weight, bias, residual))


sizes = st.integers(1, 12)


@given(
    sizes,
    sizes,
    sizes,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    sizes,
    st.sampled_from([1, 1e9]),
)
@settings(deadline=None)
def test_parts_make_each_row_of_the_result_once(
    batch: int,
    size: int,
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    padding: int,
    threads: int,
    work: float,
) -> None:
    padding = min(padding, (kernel - 1) * dilation)
    if size + 2 * padding < (kernel - 1) * dilation + 1:
        return
    attributes = {"strides": stride, "dilations": dilation, "padding": padding}
    g = conv_geometry(call_of(batch, channels, channels, size, kernel, **attributes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "LEAST_WORK", work)
        found = parts.cut(g, threads)
    if not found:
        assert threads == 1 or batch > 1 or g.counts[0] < threads
        return
    assert threads <= len(found)
    row, at = g.counts[1] * channels, 0
    for part in found:
        own = part.geometry
        assert part.result == at
        at += own.batch * own.counts[0] * row
        # the first row of the part sees what it does in the whole
        image, first = divmod(part.result // row, g.counts[0])
        seen = first * stride - padding + own.pairs[0][0]
        assert part.source == (image * g.sizes[0] + seen) * g.sizes[1] * channels
        spread = (kernel - 1) * dilation + 1
        assert own.counts[0] == (own.sizes[0] + sum(own.pairs[0]) - spread) // stride + 1
        assert own == replace(
            g, batch=own.batch, sizes=own.sizes, counts=own.counts, pairs=(own.pairs[0], *g.pairs[1:])
        )
    assert at == batch * g.counts[0] * row


def test_many_weights_are_cut_instead_of_images() -> None:
    def parts_of(channels: int, size: int, batch: int = 1, threads: int = 2) -> list[tuple[int, int]]:
        found = parts.cut(geometry(channels, size, batch), threads)
        return [(part.geometry.outputs, part.geometry.counts[0]) for part in found]

    assert parts_of(64, 56) == [(64, 14)] * 4
    assert parts_of(64, 112) == [(64, 14)] * 8
    assert parts_of(512, 7) == [(128, 7)] * 4
    assert parts_of(512, 14) == [(64, 14)] * 8
    assert parts_of(256, 14) == [(64, 14)] * 4
    assert parts_of(256, 32) == [(256, 16)] * 2
    assert parts_of(256, 14, threads=8) == []  # four are not enough for so many
    assert parts_of(512, 7, 16) == [(512, 7)] * 8


def test_parts_with_some_channels_make_each_once() -> None:
    found = parts.cut(geometry(512, 7, 3), 2)
    assert [part.channel for part in found] == list(range(0, 512, 64))
    assert all(part.result == part.channel and part.source == 0 for part in found)


def geometry(channels: int, size: int, batch: int = 1) -> Geometry:
    return conv_geometry(call_of(batch, channels, channels, size, padding=1))


@pytest.mark.usefixtures("small")
def test_one_thread_has_no_parts() -> None:
    with limit_threads(1):
        assert not is_cut(convolution._compute(chain_of(CALLS["rows"])))


@pytest.mark.usefixtures("small")
def test_a_part_that_fails_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = chain_of(CALLS["rows"])
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    failing = kind(lambda *arguments: 5)
    inputs = inputs_of(chain)
    with monkeypatch.context() as patch:
        patch.setattr(library.library(), "execute", failing)
        run = convolution._compute(chain)
        with pytest.raises(KernelError, match=r"oneDNN's convolution_forward \(.*\) failed: runtime error"):
            run(*inputs)
