"""Convolutions, products and layouts of the oneDNN provider, alone and in plans. See opyard_cpu.onednn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.operation import Call
from opyard.spec import TensorSpec
from opyard_cpu.backend import CPUBackend
from opyard_cpu.onednn import chains, convolution, layouts, library, products, registration

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)


OTHERS = (
    *("opencl", "cpu/im2col", "cpu/blas", "cpu/gemm", "cpu/gemv", "cpu/gemm_nhwc", "cpu/direct_nhwc"),
    *(
        f"cpu/{kind}_{name}"
        for kind, ops in {
            "gemm": ("matmul", "linear", "conv"),
            "gemv": ("matmul", "linear"),
            "direct": ("conv",),
        }.items()
        for op in ops
        for name, _ in registration.chains(op)
    ),
)
"""Kernels beside oneDNN's."""


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def call_of(op: Any, *arrays: Array | None, **attributes: Any) -> Call:
    return op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)


def kernels_of(function: Callable[..., Any], *arrays: Array, block: tuple[str, ...] = ()) -> list[str]:
    """The kernels that a placement on the processor chooses, where those of others are blocked."""
    with oy.using(block=(*OTHERS, *block)):
        graph = oy.trace(function, *map(TensorSpec.of, arrays))
        registry = oy.default_registry()
        placement = oy.place(graph, [registry.device("cpu:0")], registry, oy.costs.Roofline())
    return [decision.chosen.kernel.id for decision in placement.decisions]


def compiled(function: Callable[..., Any], *arrays: Array) -> Array:
    with oy.using(block=OTHERS):
        found: Array = oy.compile(function)(*arrays)
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions_of_any_sizes_are_those_of_the_reference(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3), "rank")
    sizes = data.draw(st.lists(st.integers(3, 9), min_size=rank, max_size=rank), "sizes")
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank), "kernel")
    groups = data.draw(st.sampled_from([1, 1, 2, 3]), "groups")
    channels, outputs = groups * data.draw(st.integers(1, 17)), groups * data.draw(st.integers(1, 17))
    attributes = {
        "strides": data.draw(st.integers(1, 2), "strides"),
        "padding": data.draw(st.sampled_from([0, 1, "same_upper", "same_lower"]), "padding"),
        "dilations": data.draw(st.integers(1, 2), "dilations") if min(sizes) > 4 else 1,
        "groups": groups,
    }
    x, w = drawn(2, channels, *sizes), drawn(outputs, channels // groups, *kernel)
    b = data.draw(st.sampled_from([None, drawn(outputs)]))
    call = call_of(oy.conv, x, w, b, **attributes)
    if convolution.accepts(call, device()) is not None:
        return
    (expected,) = call.reference(x, w, b)
    found = convolution.prepare_plain(call, device())(x, w, b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_results_are_written_into_what_is_given(groups: int) -> None:
    x, w = drawn(1, 16, 6, 6), drawn(16, 16 // groups, 3, 3)
    call = call_of(oy.conv, x, w, None, padding=1, groups=groups)
    run = convolution.prepare_plain(call, device())
    dense, odd = (
        np.empty((1, 16, 6, 6), np.float32),
        np.empty((1, 6, 6, 16), np.float32).transpose(0, 3, 1, 2),
    )
    for out in (dense, odd):
        assert run(x, w, None, out=out) is out
        np.testing.assert_allclose(out, call.reference(x, w, None)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(run(x[:, :, ::-1][:, :, ::-1], w, None), dense)


def test_a_network_stays_channels_last_from_the_first_convolution_to_the_last() -> None:
    w1, w2, b = drawn(16, 16, 3, 3) / 12, drawn(16, 16, 1, 1) / 4, drawn(16)

    def network(x: Any) -> Any:
        y = oy.relu(oy.conv(x, w1, b, padding=1))
        return oy.relu(oy.conv(oy.conv(y, w2, b), w1, None, padding=1) + y)

    x = drawn(2, 16, 24, 24)
    assert kernels_of(network, x) == ["cpu/onednn_conv_relu", "cpu/onednn_nhwc", "cpu/onednn_conv_add_relu"]
    np.testing.assert_allclose(compiled(network, x), network_reference(network, x), rtol=1e-4, atol=1e-4)


def network_reference(function: Callable[..., Any], *arrays: Array) -> Array:
    graph = oy.trace(function, *map(TensorSpec.of, arrays))
    registry = oy.standard_registry()
    with oy.Session(graph, registry=registry) as session:
        return session.run(graph.result, dict(zip(graph.inputs, arrays, strict=True)))  # type: ignore[no-any-return]


def test_batch_normalization_is_a_part_of_the_convolution_before_it() -> None:
    w, scale, bias, mean, variance = drawn(16, 16, 3, 3), drawn(16), drawn(16), drawn(16), np.abs(drawn(16))

    def network(x: Any) -> Any:
        return oy.silu(oy.batch_normalization(oy.conv(x, w, padding=1), scale, bias, mean, variance))

    x = drawn(1, 16, 16, 16)
    assert kernels_of(network, x) == ["cpu/onednn_conv_scale_silu"]
    np.testing.assert_allclose(compiled(network, x), network_reference(network, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_single_pixels_are_products(rank: int) -> None:
    w, b, ones = drawn(24, 16, *(1,) * rank) / 4, drawn(24), (1,) * rank
    factor, offset, residual = drawn(24, *ones), drawn(24, *ones), drawn(2, 24, *(6,) * rank)

    def network(x: Any) -> Any:
        return oy.relu(oy.conv(x, w, b) * factor + offset + residual)

    x = drawn(2, 16, *(6,) * rank)
    assert kernels_of(network, x) == ["cpu/onednn_conv_scale_add_relu"]
    np.testing.assert_allclose(compiled(network, x), network_reference(network, x), rtol=1e-4, atol=1e-4)
    call = call_of(oy.conv, x, w, b)
    found = convolution.described(call, ())
    assert not isinstance(found, str) and found.kind == "matmul"
    strided = convolution.described(call_of(oy.conv, x, w, b, strides=2), ())
    assert not isinstance(strided, str) and strided.kind == "convolution_forward"


@pytest.mark.parametrize("activation", registration.IMAGE)
def test_each_activation_behind_a_convolution(activation: str) -> None:
    w, b = drawn(8, 8, 3, 3), drawn(8)
    function = getattr(oy, activation)

    def network(x: Any) -> Any:
        return function(oy.conv(x, w, b, padding=1))

    x = drawn(1, 8, 16, 16)
    assert kernels_of(network, x, block=("cpu/jit",)) == [f"cpu/onednn_conv_{activation}"]
    np.testing.assert_allclose(compiled(network, x), network_reference(network, x), rtol=1e-4, atol=1e-4)


def test_the_activations_of_patterns_are_those_that_oneDNN_has() -> None:
    assert set(registration.IMAGE) == set(chains.ACTIVATIONS)
    assert set(registration.DENSE) < set(registration.IMAGE)
    assert (layouts.NHWC, layouts.PACKED) == (registration.NHWC, registration.PACKED)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", registration.DENSE)
def test_each_activation_behind_a_product(activation: str, bias: bool) -> None:
    w, b, function = drawn(256, 512), drawn(512), getattr(oy, activation)

    def network(x: Any) -> Any:
        return function(oy.linear(x, w, b if bias else None))

    x = drawn(2, 96, 256)
    names = ("cpu/onednn_linear_", "cpu/onednn_matmul_")
    assert kernels_of(network, x)[0] in [name + activation for name in names]
    np.testing.assert_allclose(compiled(network, x), network_reference(network, x), rtol=1e-4, atol=1e-3)


def test_a_residual_behind_a_product() -> None:
    w, b = drawn(256, 256), drawn(256)

    def network(x: Any) -> Any:
        return oy.linear(x, w, b) + x

    x = drawn(96, 256)
    assert kernels_of(network, x) == ["cpu/onednn_linear_add"]
    np.testing.assert_allclose(compiled(network, x), x @ w + b + x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("activation", ["relu", "relu6", "gelu", "silu"])
def test_strange_numbers_come_through_a_fused_activation(activation: str, value: float) -> None:
    x, w, b = drawn(4, 1, 1, 1), np.ones((16, 1, 1, 1), np.float32), np.zeros(16, np.float32)
    x[2] = value
    function = getattr(oy, activation)
    kernel = next(k for k in oy.default_registry().patterns if k.name == f"onednn_conv_{activation}")
    (match,) = find(kernel, lambda x: function(oy.conv(x, w, b)), x)
    with np.errstate(all="ignore"):
        found = kernel.bind(match.work, device())(x.reshape(4, 1, 1, 1), layouts.Packed(w), b)
        expected = function.op.reference(np.broadcast_to(x, (4, 1, 1, 16)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def find(kernel: Any, function: Callable[..., Any], *arrays: Array) -> list[Any]:
    from opyard.placement.matching import find_matches
    from opyard.placement.patterns import Pattern

    return list(find_matches(Pattern.of(kernel), oy.trace(function, *map(TensorSpec.of, arrays))))


def test_weights_are_packed_once_for_each_form() -> None:
    w, seen = drawn(16, 16, 3, 3), []
    for size in (8, 8, 16):
        x = drawn(1, 16, size, size)
        call = call_of(oy.conv, x, w, None, padding=1)
        seen.append(layouts.Packed(w) if not seen else seen[0])
        run = convolution.prepare(call, device())
        last = run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), seen[0], None)
        np.testing.assert_allclose(
            last.transpose(0, 3, 1, 2), call.reference(x, w, None)[0], rtol=1e-4, atol=1e-4
        )
    assert len(seen[0].forms) == 1


def test_variables_that_are_assigned_are_packed_anew() -> None:
    x = drawn(96, 64)
    w = oy.Variable(drawn(64, 256))
    with oy.using(block=("cpu/blas", "opencl")):
        product = oy.compile(lambda x: oy.matmul(x, w))
        for _ in range(2):
            w.assign(drawn(64, 256))
            np.testing.assert_allclose(product(x), x @ w.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((5, 7), (7, 3)),
        ((2, 3, 5, 7), (7, 3)),
        ((2, 3, 5, 7), (3, 7, 4)),
        ((1, 5, 7), (4, 7, 3)),
        ((7, 64), (64, 512)),
    ],
)
def test_products_of_plain_arrays(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x, y = drawn(*first), drawn(*second)
    call = call_of(oy.matmul, x, y)
    assert products.accepts(call, device()) is None
    run = products.prepare(call, device())
    by_columns = np.ascontiguousarray(y.swapaxes(-1, -2)).swapaxes(-1, -2)
    odd = np.repeat(y, 2, axis=-1)[..., ::2]
    for other in (y, by_columns, odd):
        np.testing.assert_allclose(run(x, other), x @ y, rtol=1e-4, atol=1e-4)
    out = np.empty((2 * call.output.shape[0], *call.output.shape[1:]), np.float32)[::2]
    assert run(x[::-1][::-1], y, out=out) is out
    np.testing.assert_allclose(out, x @ y, rtol=1e-4, atol=1e-4)


def test_refusals_say_why() -> None:
    x, w = drawn(1, 4, 6, 6), drawn(4, 4, 3, 3)
    empty = call_of(oy.conv, x[:0], w, None)
    assert convolution.accepts(empty, device()) == "an empty tensor is nothing for oneDNN"
    assert layouts.accepts_images(call_of(oy.identity, drawn(3, 4)), device()) == (
        "channels-last layouts are for tensors of rank 3 to 5, [n, c, *spatial]; this one has rank 2"
    )
    assert (
        layouts.accepts_images(call_of(oy.identity, x[:0]), device())
        == "an empty tensor has no need of layouts"
    )
    assert layouts.accepts_weights(call_of(oy.identity, drawn(3)), device()) == (
        "weights have two axes at least, and elements"
    )
    assert products.accepts(call_of(oy.matmul, drawn(4), drawn(4, 3)), device()) == (
        "takes matrices; vectors are as quick on BLAS"
    )
    batched = call_of(oy.matmul, drawn(2, 3, 4), drawn(2, 4, 3))
    assert products.accepts_packed(batched, device()) == "packed weights are [k, n], not float32[2, 4, 3]"
    kernel = next(k for k in oy.default_registry().kernels("conv") if k.id == "cpu/onednn")
    wide = call_of(oy.conv, x.astype(np.float64), w.astype(np.float64), None)
    assert kernel.refusal(wide, device()) == "takes x of float32, not float64"


def test_operands_of_other_shapes_are_refused() -> None:
    w, b = drawn(4, 4, 1, 1), drawn(4)
    kernels = {kernel.name: kernel for kernel in oy.default_registry().patterns}
    row = drawn(6)
    (match,) = find(kernels["onednn_conv_add"], lambda x: oy.conv(x, w, b) + row, drawn(1, 4, 6, 6))
    reason = "residual is [1, 4, 6, 6], as the result is, not [6]"
    assert kernels["onednn_conv_add"].refusal(match.work, device()) == reason
    (match,) = find(kernels["onednn_conv_scale"], lambda x: oy.conv(x, w, b) * row + row, drawn(1, 4, 6, 6))
    reason = "factor is [4, 1, 1], a number for each channel, not [6]"
    assert kernels["onednn_conv_scale"].refusal(match.work, device()) == reason
    matrix, row = drawn(4, 6), drawn(6)
    (match, *_) = find(kernels["onednn_matmul_add"], lambda x: oy.matmul(x, matrix) + row, drawn(5, 4))
    assert kernels["onednn_matmul_add"].refusal(match.work, device()) == (
        "residual is [5, 6], as the result is, not [6]"
    )


def test_without_the_wheel_every_kernel_refuses_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_load", cache(library._load.__wrapped__))
    monkeypatch.setattr(library, "DISTRIBUTION", "no-such-distribution")
    x, w = drawn(1, 4, 6, 6), drawn(4, 4, 3, 3)
    matrix = drawn(4, 4)
    for op, arrays in (
        (oy.conv, (x, w, None)),
        (oy.matmul, (matrix, matrix)),
        (oy.linear, (matrix, matrix, None)),
        (oy.identity, (x,)),
    ):
        kernels = oy.default_registry().kernels(op.op.name)
        found = [k for k in kernels if str(k.prepare).startswith(registration.HERE)]
        assert found
        for kernel in found:
            dtype = TensorSpec((), kernel.dtypes[0]).dtype  # type: ignore[index]
            call = call_of(op, *(None if a is None else a.astype(dtype) for a in arrays))
            assert (kernel.refusal(call, device()) or "").startswith(
                "oneDNN is not installed; type: pip install"
            )
    expected = call_of(oy.conv, x, w, None).reference(x, w, None)[0]
    np.testing.assert_allclose(oy.compile(oy.conv)(x, w), expected, rtol=1e-4, atol=1e-4)
    note, _ = CPUBackend().notes()
    assert note.startswith("oneDNN is not installed; type: pip install 'opyard-cpu[onednn]'")


def test_the_backend_says_which_library_it_uses() -> None:
    note, _ = CPUBackend().notes()
    assert note.startswith("oneDNN is used, up to ")
    assert note.endswith(library.library().path)


def test_costs_grow_with_the_work() -> None:
    small = call_of(oy.conv, drawn(1, 16, 8, 8), drawn(16, 16, 3, 3), None)
    large = call_of(oy.conv, drawn(1, 64, 56, 56), drawn(64, 64, 3, 3), None)
    assert 0 < convolution.cost(small, device()) < convolution.cost(large, device())
    assert convolution.plain_cost(large, device()) > convolution.cost(large, device())
