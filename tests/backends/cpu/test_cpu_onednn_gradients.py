"""Gradients by oneDNN, and what lies between them on channels-last images, agree with the references; and a step of training does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.cases import case
from opyard.kernels import Kernel
from opyard.operation import Call, Op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cpu import plugin
from opyard_cpu.jit import machine, philox
from opyard_cpu.onednn import contractions, gradients, library
from opyard_cpu.onednn.layouts import Packed

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
COMPILED = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")
OPS = (
    "conv_weight_gradient",
    "conv_transpose",
    "max_pool_gradient",
    "max_pool",
    "relu_gradient",
    "sum",
    "einsum",
)
KERNELS = [k for op in OPS for k in REGISTRY.kernels(op) if "onednn" in k.name or "nhwc" in k.name]

MORE = {
    "relu_gradient": [case((2, 5, 3, 4), (2, 5, 3, 4)), case((1, 3, 7), (1, 3, 7))],
    "sum": [
        case((2, 5, 3, 4), axis=(0, 2, 3)),
        case((9, 3, 40, 41), axis=(2, 3, 0)),
        case((3, 4, 5), axis=(0, 2)),
    ],
    "einsum": [
        case(left, right, equation=equation)
        for left, right, equation in (
            ((3, 4), (5, 4), "ij,kj->ik"),
            ((3, 4), (3, 5), "ki,kj->ij"),
            ((3, 4), (5, 3), "ki,jk->ij"),
            ((33, 65), (65, 17), "ab, bc -> ac"),
        )
    ],
}


def last(array: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def outcome(kernel: Kernel, call: Call, *arrays: Any, **options: Any) -> Any:
    """What a kernel gives, with images and weights brought into its layouts, and back."""
    brought = {"nhwc": last, "packed": Packed}
    layouts = [kernel.input_layout(call, place) for place in range(len(arrays))]
    given = (brought[way](a) if way in brought else a for a, way in zip(arrays, layouts, strict=True))
    found = kernel.bind(call, DEVICE)(*given, **options)
    return np.moveaxis(found, -1, 1) if kernel.output_layout(0) == "nhwc" else found


def agree(op: Op, *arrays: Any, **attributes: Any) -> int:
    """Compares all kernels of the list that take the call with the reference; gives their number."""
    call = op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    kernels = [k for k in KERNELS if k.op == op.name and k.refusal(call, DEVICE) is None]
    for kernel in kernels:
        assert violation(call, arrays, [outcome(kernel, call, *arrays)]) is None, kernel
    return len(kernels)


def numbers(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@COMPILED
@pytest.mark.parametrize("name", OPS)
def test_cases_agree_with_the_reference(name: str) -> None:
    op = STANDARD[name].op
    counts = [agree(op, *one.arrays(), **one.attributes) for one in [*op.cases(), *MORE.get(name, ())]]
    assert sum(counts) >= (1 if name in MORE else 10)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, gaps, groups = each(1, 3), each(1, 2), draw(st.integers(1, 2))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    return {
        "x": (
            draw(st.integers(1, 3)),
            groups * draw(st.integers(1, 9)),
            *(e + draw(st.integers(0, 4)) for e in extents),
        ),
        "weight": (groups * draw(st.integers(1, 9)), *kernel),
        "attributes": {
            "strides": each(1, 2),
            "dilations": gaps,
            "padding": tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in extents),
        },
        "groups": groups,
    }


@settings(max_examples=40, deadline=None)
@given(w=windows(), biased=st.booleans())
def test_gradients_of_convolutions_of_any_sizes(w: dict[str, Any], biased: bool) -> None:
    attributes = {**w["attributes"], "groups": w["groups"]}
    outputs, *kernel = w["weight"]
    weight = numbers(outputs, w["x"][1] // w["groups"], *kernel)
    x = numbers(*w["x"])
    output = oy.conv.op.call(TensorSpec.of(x), TensorSpec.of(weight), None, **attributes).output
    g = numbers(*map(int, output.shape))
    agree(oy.conv_weight_gradient.op, x, g, kernel=tuple(kernel), **attributes)
    bias = numbers(w["x"][1]) if biased else None
    agree(oy.conv_transpose.op, g, weight, bias, **attributes)


@settings(max_examples=40, deadline=None)
@given(w=windows(), ceil_mode=st.booleans(), ties=st.booleans())
def test_max_pooling_of_any_sizes(w: dict[str, Any], ceil_mode: bool, ties: bool) -> None:
    attributes = {**w["attributes"], "kernel": tuple(w["weight"][1:]), "ceil_mode": ceil_mode}
    x = np.round(numbers(*w["x"])) if ties else numbers(*w["x"])
    output = oy.max_pool.op.call(TensorSpec.of(x), **attributes).output
    agree(oy.max_pool.op, x, **attributes)
    agree(oy.max_pool_gradient.op, x, numbers(*map(int, output.shape)), **attributes)


def test_infinities_are_pooled_and_nan_wins() -> None:
    x = np.full((1, 16, 4, 4), -np.inf, np.float32)
    x[:, :, 2, 3], x[:, :, 0, 2] = np.nan, np.inf
    agree(oy.max_pool.op, x, kernel=2)
    x[:, :, 2, 3] = 1.0
    assert agree(oy.max_pool_gradient.op, x, numbers(1, 16, 2, 2), kernel=2) == 2


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.out], ids=lambda k: f"{k.op}-{k.name}")
def test_strided_arrays_are_read_and_written(kernel: Kernel) -> None:
    shapes, attributes = {
        "conv_weight_gradient": (((2, 3, 8, 8), (2, 4, 6, 6)), {"kernel": (3, 3)}),
        "conv_transpose": (((2, 4, 6, 6), (4, 3, 3, 3), (3,)), {}),
        "max_pool_gradient": (((2, 3, 8, 8), (2, 3, 4, 4)), {"kernel": 2}),
        "einsum": (((8, 6), (4, 6)), {"equation": "ij,kj->ik"}),
    }[kernel.op]
    arrays = [numbers(*shape[:-1], 2 * shape[-1])[..., ::2] for shape in shapes]
    call = STANDARD[kernel.op].op.call(*map(TensorSpec.of, arrays), **attributes)
    shape = tuple(map(int, call.output.shape))
    for out in (np.empty(shape, np.float32), np.empty((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]):
        assert outcome(kernel, call, *arrays, out=out) is out
        assert violation(call, arrays, [out]) is None


def test_threads_have_rooms_of_their_own() -> None:
    x, g = numbers(8, 16, 12, 12), numbers(8, 24, 12, 12)
    call = oy.conv_weight_gradient.op.call(TensorSpec.of(x), TensorSpec.of(g), kernel=(3, 3), padding=1)
    run = gradients.prepare_conv_weight_gradient(call, DEVICE)
    expected, found = run(x, g), []
    workers = [threading.Thread(target=lambda: found.extend(run(x, g) for _ in range(20))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 80
    for array in found:
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "shapes", "text"),
    [
        (
            lambda a, b: oy.einsum(a, b, equation="ij,ij->i"),
            ((3, 4), (3, 4)),
            "'ij,ij->i' is no product of two matrices",
        ),
        (
            lambda a, b: oy.einsum(a, b, equation="ij,jk->ki"),
            ((3, 4), (4, 5)),
            "'ij,jk->ki' is no product of two matrices",
        ),
        (
            lambda a, b: oy.einsum(a, b, equation="ij,jk->ik"),
            ((3, 1), (1, 5)),
            "axes of size 1 may broadcast",
        ),
        (
            lambda a, b: oy.einsum(a, b, equation="ij,jk->ik"),
            ((0, 3), (3, 5)),
            "an empty tensor is nothing for oneDNN",
        ),
        (
            lambda a, b: oy.relu_gradient(a, b),
            ((2, 3, 4), (3, 1)),
            "inputs of several shapes or dtypes are not compiled here",
        ),
        (
            lambda a, b: oy.sum(a, axis=(1, 2)),
            ((2, 3, 4), ()),
            "only sums over (0, 2), all but the channels, are made here",
        ),
        (
            lambda a, b: oy.max_pool_gradient(a, b, kernel=3, strides=1, padding=(2, 1), dilations=(2, 1)),
            ((1, 2, 9, 8), (1, 2, 9, 8)),
            "oneDNN has only its slow reference implementation",
        ),
    ],
)
def test_what_is_refused(
    function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], text: str
) -> None:
    (node,) = oy.trace(function, *map(TensorSpec, shapes)).nodes
    refusals = [k.refusal(node.call, DEVICE) for k in KERNELS if k.op == node.op.name]
    assert refusals
    assert all(text in str(refusal) for refusal in refusals)


def test_what_was_not_accepted_cannot_be_prepared() -> None:
    call = oy.einsum.op.call(TensorSpec((3, 4)), TensorSpec((3, 4)), equation="ij,ij->i")
    with pytest.raises(oy.errors.KernelError, match="'ij,ij->i' is no product of two matrices"):
        contractions.prepare(call, DEVICE)


@COMPILED
@pytest.mark.parametrize("count", [1, 3, 4 * philox.BLOCKS - 1, 4 * philox.BLOCKS + 2, 9 * philox.BLOCKS])
def test_random_bits_in_machine_code_are_those_of_the_reference(count: int) -> None:
    key = np.array([7, 2**32 - 5], np.uint32)
    call = oy.random_bernoulli.op.call(TensorSpec.of(key), shape=(count,), probability=0.3)
    (kernel,) = REGISTRY.kernels("random_bernoulli")
    np.testing.assert_array_equal(kernel.bind(call, DEVICE)(key), call.reference(key)[0])


def test_random_bits_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox, "missing", lambda: "it is not installed")
    philox.comparisons.cache_clear()
    key = np.array([1, 2], np.uint32)
    call = oy.random_bernoulli.op.call(TensorSpec.of(key), shape=(100, 9), probability=0.5)
    (kernel,) = REGISTRY.kernels("random_bernoulli")
    np.testing.assert_array_equal(kernel.bind(call, DEVICE)(key), call.reference(key)[0])
    philox.comparisons.cache_clear()


def weights_after(steps: int, **options: Any) -> list[Any]:
    """The weights of a small network after some steps of training."""
    generator = np.random.default_rng(0)
    shapes = ((8, 1, 3, 3), (8,), (16, 8, 3, 3), (16,), (256, 10), (10,))
    variables = [oy.Variable(0.2 * generator.standard_normal(s).astype(np.float32)) for s in shapes]
    optimizer = oy.optimizers.adam(1e-2)

    def step(images: Any, labels: Any, key: Any) -> Any:
        first, first_bias, second, second_bias, dense, bias = variables
        x = oy.relu(oy.conv(images, first, first_bias, padding=1))
        x = oy.max_pool(oy.relu(oy.conv(x, second, second_bias, padding=1)), kernel=2)
        x = oy.dropout(oy.flatten(x), key, rate=0.25)
        loss = oy.softmax_cross_entropy(oy.matmul(x, dense) + bias, labels)
        optimizer.minimize(loss, variables)
        return loss

    images = generator.random((16, 1, 8, 8), dtype=np.float32)
    labels, key = generator.integers(0, 10, 16), np.array([1, 2], np.uint32)
    run = oy.compile(step, **options)
    for _ in range(steps):
        run(images, labels, key)
    return [variable.numpy() for variable in variables]


@COMPILED
def test_a_step_of_training_is_that_of_the_references() -> None:
    with oy.using(block=("cpu/im2col", "cpu/col2im", "cpu/blas")):
        found = weights_after(3, devices=["cpu:0", "reference"])
    for array, expected in zip(found, weights_after(3, devices=["reference"]), strict=True):
        # Adam's steps are as long as the rate, whatever the gradient: few may go the other way
        assert (np.abs(array - expected) > 1e-4).mean() < 0.01
