"""Convolution and its gradients in all geometries, in blocks of images and of rows, on one and on several threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.operation import Op
from opyard.ops.backward import conv_weight_gradient, max_pool_gradient
from opyard.ops.convolution import conv, conv_transpose
from opyard.ops.pooling import max_pool
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cpu import convolution, plugin, pooling_gradient, threads

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")


@st.composite
def geometries(draw: st.DrawFn, strided: bool = True) -> dict[str, Any]:
    """Batch, channels, and the attributes of a convolution, of one to three spatial axes."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations = each(1, 3), each(1, 2)
    return {
        "batch": draw(st.integers(1, 5)),
        "groups": (groups := draw(st.integers(1, 2))),
        "channels": groups * draw(st.integers(1, 3)),
        "outputs": groups * draw(st.integers(1, 3)),
        "sizes": tuple(
            (k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)
        ),
        "kernel": kernel,
        "strides": each(1, 2) if strided and draw(st.booleans()) else (1,) * rank,
        "dilations": dilations,
        "padding": tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank)),
    }


def agree(op: Op, *arrays: Any, **attributes: Any) -> None:
    """The kernel of the CPU gives what the reference gives."""
    call = op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    (kernel,) = (
        k
        for k in REGISTRY.kernels(op.name)
        if not (k.layouts or k.dtypes == ("bfloat16",) or k.name == "onednn")
    )
    found = kernel.bind(call, DEVICE)(*arrays)
    assert violation(call, arrays, (found,)) is None


@pytest.fixture(
    params=[(1, 1 << 20), (2, 1 << 20), (1, 600), (3, 600)], ids=lambda pair: f"{pair[0]}-{pair[1]}"
)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of threads and sizes of blocks."""
    count, size = request.param
    monkeypatch.setattr(threads, "LEAST_WORK", 0)
    monkeypatch.setattr(threads, "num_threads", lambda: count)
    monkeypatch.setattr(convolution, "COLUMN_BYTES", size)
    monkeypatch.setattr(pooling_gradient, "BLOCK_BYTES", size)


EXAMPLES = settings(max_examples=40, deadline=None)


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.mark.usefixtures("blocks")
class TestGeometries:
    """Each on random sizes."""

    @EXAMPLES
    @given(g=geometries(), biased=st.booleans())
    def test_convolution(self, g: dict[str, Any], biased: bool) -> None:
        x = numbers(0, g["batch"], g["channels"], *g["sizes"])
        weight = numbers(1, g["outputs"], g["channels"] // g["groups"], *g["kernel"])
        bias = numbers(2, g["outputs"]) if biased else None
        attributes = {key: g[key] for key in ("strides", "padding", "dilations", "groups")}
        agree(conv.op, x, weight, bias, **attributes)

    @EXAMPLES
    @given(g=geometries())
    def test_gradient_of_weights(self, g: dict[str, Any]) -> None:
        x = numbers(0, g["batch"], g["channels"], *g["sizes"])
        weight = TensorSpec((g["outputs"], g["channels"] // g["groups"], *g["kernel"]))
        attributes = {key: g[key] for key in ("strides", "padding", "dilations", "groups")}
        output = conv.op.call(TensorSpec.of(x), weight, None, **attributes).output
        cotangent = numbers(3, *map(int, output.shape))
        agree(conv_weight_gradient.op, x, cotangent, kernel=g["kernel"], **attributes)

    @EXAMPLES
    @given(g=geometries(), biased=st.booleans())
    def test_transposed_convolution(self, g: dict[str, Any], biased: bool) -> None:
        x = numbers(0, g["batch"], g["channels"], *g["sizes"])
        weight = numbers(1, g["channels"], g["outputs"] // g["groups"], *g["kernel"])
        bias = numbers(2, g["outputs"]) if biased else None
        extents = [(k - 1) * d + 1 for k, d in zip(g["kernel"], g["dilations"], strict=True)]
        padding = tuple(
            (min(a, n - 1), min(b, n - 1)) for (a, b), n in zip(g["padding"], extents, strict=True)
        )
        attributes = {key: g[key] for key in ("strides", "dilations", "groups")}
        agree(conv_transpose.op, x, weight, bias, padding=padding, **attributes)

    @EXAMPLES
    @given(g=geometries(), ceil_mode=st.booleans(), ties=st.booleans())
    def test_gradient_of_max_pooling(self, g: dict[str, Any], ceil_mode: bool, ties: bool) -> None:
        x = numbers(0, g["batch"], g["channels"], *g["sizes"])
        x = np.round(x) if ties else x
        extents = [(k - 1) * d + 1 for k, d in zip(g["kernel"], g["dilations"], strict=True)]
        padding = tuple(
            (min(a, n - 1), min(b, n - 1)) for (a, b), n in zip(g["padding"], extents, strict=True)
        )
        attributes = {key: g[key] for key in ("kernel", "strides", "dilations")}
        attributes |= {"padding": padding, "ceil_mode": ceil_mode}
        output = max_pool.op.call(TensorSpec.of(x), **attributes).output
        agree(max_pool_gradient.op, x, numbers(4, *map(int, output.shape)), **attributes)


@pytest.mark.parametrize("groups", [1, 4])
def test_images_without_pixels(groups: int) -> None:
    x, w, b = np.ones((2, 4, 0, 0), np.float32), np.ones((4, 4 // groups, 3, 3), np.float32), np.ones(4)
    agree(conv.op, x, w, b.astype(np.float32), padding="same_upper", groups=groups)
