"""Winograd's convolutions on the processor, alone and in plans. See opyard_cpu.winograd."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard import settings as opyard_settings
from opyard.errors import KernelError, SettingsError
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_conformance import trials
from opyard_conformance.runner import run_trial
from opyard_cpu.backend import CPU
from opyard_cpu.jit import machine
from opyard_cpu.onednn import library
from opyard_cpu.onednn.layouts import Packed
from opyard_cpu.onednn.plain import room
from opyard_cpu.winograd import convolution, transforms

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def computed(call: Any, x: Array, w: Array, *rest: Array | None) -> Array:
    """The result of the kernel, as a plain array."""
    run = convolution.prepare(call, device())
    result = run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), convolution.Transformed(Packed(w)), *rest)
    return np.ascontiguousarray(result.transpose(0, 3, 1, 2))


def call_of(*arrays: Array | None, **attributes: Any) -> Any:
    return oy.conv.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)


def check(x: Array, w: Array, b: Array | None, *, whole: bool = True, **attributes: Any) -> None:
    """The result is within the bound that the provider states, or, unless ``whole``, within the tolerance of the op."""
    call = call_of(x, w, b, **attributes)
    wide = [None if a is None else a.astype(np.float64) for a in (x, w, b)]
    (expected,) = call.reference(*wide)
    magnitude = oy.conv.op.reference(*(None if a is None else np.abs(a) for a in wide), **call.attrs)
    if whole:
        error = np.abs(computed(call, x, w, b) - expected).max()
        assert error <= 8 * np.finfo(np.float32).eps * magnitude.max()
        return
    tolerance = oy.cases.Tolerance(terms=float(np.prod(w.shape[1:])))
    violation = tolerance.violation(computed(call, x, w, b), expected.astype(np.float32), magnitude)
    assert violation is None, violation


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_convolutions_of_any_sizes_are_within_the_stated_bound(data: st.DataObject) -> None:
    channels, outputs = data.draw(st.integers(16, 40)), data.draw(st.integers(8, 40))
    sizes = data.draw(st.lists(st.integers(3, 14), min_size=2, max_size=2), "sizes")
    pads = st.integers(0, 1)
    padding = data.draw(
        st.one_of(
            st.sampled_from(["valid", "same_upper", "same_lower", 1]),
            st.tuples(st.tuples(pads, pads), st.tuples(pads, pads)),
        ),
        "padding",
    )
    batch = data.draw(st.integers(1, 3), "batch")
    bias = data.draw(st.sampled_from([None, drawn(outputs)]))
    check(drawn(batch, channels, *sizes), drawn(outputs, channels, 3, 3), bias, padding=padding)


@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (5, 24, 33, 31)])
def test_several_blocks_and_threads(shape: tuple[int, ...]) -> None:
    x, w = drawn(*shape), drawn(64, shape[1], 3, 3)
    found = convolution.tiling(convolution.conv_geometry(call_of(x, w, None, padding=1)), 1)
    assert found.count > found.block
    check(x, w, drawn(64), whole=False, padding=1)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 3, 5, 5), (0, 9, 9, 8), (0, 0, 4, 3)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_stays_where_windows_see_it(place: tuple[int, ...], value: float) -> None:
    x, w = drawn(1, 16, 10, 9), drawn(16, 16, 3, 3)
    x[place] = value
    for padding in (0, 1):
        call = call_of(x, w, None, padding=padding)
        with np.errstate(all="ignore"):
            (expected,) = call.reference(x.astype(np.float64), w.astype(np.float64), None)
            expected = expected.astype(np.float32)
        found = computed(call, x, w, None)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_an_infinity_that_relu_would_hide_is_found() -> None:
    x, w, b = drawn(1, 16, 8, 8), drawn(16, 16, 3, 3), drawn(16)
    x[0, 2, 3, 3] = -np.inf
    w[:, 2] = np.abs(w[:, 2])

    def function(x: Array) -> Any:
        return oy.relu(oy.conv(x, w, b, padding=1))

    with np.errstate(all="ignore"):
        found, expected = compiled(function, x), function(x)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-4)
    assert np.count_nonzero(found) > 100  # what no window with the infinity made


def blocked() -> Any:
    """A context without the other convolutions, so that small examples are computed by this one."""
    names = [k.id for k in (*oy.default_registry().kernels("conv"), *oy.default_registry().patterns)]
    others = {name for name in names if "onednn" in name or "direct" in name} | {
        "cpu/im2col",
        "cpu/jit",
        "cpu/blocks",
        "opencl",
    }
    return oy.using(block=tuple(sorted(others)))


def placed(function: Callable[..., Any], *arrays: Array) -> list[str]:
    graph = oy.trace(function, *map(TensorSpec.of, arrays))
    registry = oy.default_registry()
    placement = oy.place(graph, [registry.device("cpu:0")], registry, oy.costs.Roofline())
    return [decision.chosen.kernel.id for decision in placement.decisions]


def compiled(function: Callable[..., Any], *arrays: Array) -> Array:
    with blocked():
        found: Array = oy.compile(function)(*arrays)
    return found


CHAINS: dict[str, Callable[..., Any]] = {
    "cpu/winograd": lambda x, w, b, r: oy.conv(x, w, b, padding=1),
    "cpu/winograd_conv_relu": lambda x, w, b, r: oy.relu(oy.conv(x, w, b, padding=1)),
    "cpu/winograd_conv_add": lambda x, w, b, r: oy.conv(x, w, b, padding=1) + r,
    "cpu/winograd_conv_add_relu": lambda x, w, b, r: oy.relu(oy.conv(x, w, b, padding=1) + r),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_follows_a_convolution_is_fused(name: str) -> None:
    x, w, b, r = drawn(2, 24, 9, 7), drawn(17, 24, 3, 3), drawn(17), drawn(17, 24, 3, 3)

    def function(x: Array) -> Any:
        return CHAINS[name](x, w, b, oy.conv(x, r, padding=1))

    with blocked():
        assert name in placed(function, x)
    np.testing.assert_allclose(compiled(function, x), np.asarray(function(x)), rtol=1e-4, atol=1e-4)


def test_relu_keeps_nan() -> None:
    x, w, b = drawn(1, 16, 8, 8), drawn(16, 16, 3, 3), drawn(16)
    b[3] = np.nan
    found = compiled(lambda x: oy.relu(oy.conv(x, w, b, padding=1)), x)
    assert np.isnan(found[:, 3]).all() and not np.isnan(found[:, :3]).any()


@pytest.mark.parametrize(
    ("batch", "channels", "size"), [(1, 64, 56), (16, 64, 56), (1, 128, 28), (16, 512, 7)]
)
def test_it_is_estimated_below_the_direct_convolution_where_it_wins(
    batch: int, channels: int, size: int
) -> None:
    x, w = TensorSpec((batch, channels, size, size)), TensorSpec((channels, channels, 3, 3))
    call = oy.conv.op.call(x, w, None, padding=1)
    assert convolution.cost(call, device()) < convolution.direct.cost(call, device())


def test_it_is_estimated_above_the_direct_convolution_where_weights_weigh() -> None:
    call = oy.conv.op.call(TensorSpec((1, 512, 7, 7)), TensorSpec((512, 512, 3, 3)), None, padding=1)
    assert convolution.cost(call, device()) > convolution.direct.cost(call, device())


@pytest.mark.parametrize(
    ("weight", "attributes", "text"),
    [
        ((16, 16, 1, 1), {}, "takes kernels of 3x3 with strides and dilations of 1 and one group"),
        (
            (16, 16, 3, 3),
            {"strides": 2},
            "takes kernels of 3x3 with strides and dilations of 1 and one group",
        ),
        (
            (16, 16, 3, 3),
            {"dilations": 2},
            "takes kernels of 3x3 with strides and dilations of 1 and one group",
        ),
        ((16, 8, 3, 3), {"groups": 2}, "takes kernels of 3x3 with strides and dilations of 1 and one group"),
        ((16, 16, 3, 3), {"padding": ((0, 2), (1, 1))}, "takes padding of 1 at most"),
        ((7, 16, 3, 3), {}, "takes 16 channels or more and makes 8 or more, not 16 and 7"),
        ((16, 16, 3), {}, "takes images of two axes, not 1"),
    ],
)
def test_what_is_refused(weight: tuple[int, ...], attributes: dict[str, Any], text: str) -> None:
    x = TensorSpec((1, 16, *(9,) * (len(weight) - 2)))
    call = oy.conv.op.call(x, TensorSpec(weight), None, **attributes)
    assert convolution.accepts(call, device()) == text


def test_where_it_is_forbidden_it_is_refused_with_the_way_to_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPYARD_WINOGRAD", "0")
    forbidden = CPU()
    assert convolution.FEATURE not in forbidden.capabilities.features
    text = "OPYARD_WINOGRAD=0 forbids it; set it to 1, which is the default"
    call = oy.conv.op.call(TensorSpec((1, 16, 9, 9)), TensorSpec((16, 16, 3, 3)), None)
    assert convolution.accepts(call, forbidden) == text
    weight = oy.identity.op.call(TensorSpec((16, 16, 3, 3)))
    assert convolution.accepts_weights(weight, forbidden) == text


def test_weights_of_other_kernels_are_refused() -> None:
    call = oy.identity.op.call(TensorSpec((16, 16, 5, 5)))
    assert (
        convolution.accepts_weights(call, device()) == "transforms weights [o, c, 3, 3], not [16, 16, 5, 5]"
    )


def test_stale_memory_is_not_taken_for_numbers() -> None:
    x, w, b, r = drawn(1, 16, 6, 6), drawn(16, 16, 3, 3), drawn(16), drawn(1, 16, 6, 6)
    graph = oy.trace(CHAINS["cpu/winograd_conv_add"], *map(TensorSpec.of, (x, w, b, r)))
    pattern = next(k for k in oy.default_registry().patterns if k.id == "cpu/winograd_conv_add")
    (match,) = find_matches(Pattern.of(pattern), graph)
    kernel = convolution._Convolution(match.work, device())
    memory = room().of(1 << 22)
    ctypes.memset(memory, 0xFF, 1 << 22)  # NaN
    images = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, r)]
    kernel.direct = None  # type: ignore[assignment]
    found = kernel.run(images[0], convolution.Transformed(Packed(w)), b, images[1])
    expected = np.asarray(CHAINS["cpu/winograd_conv_add"](x, w, b, r))
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, rtol=1e-4, atol=1e-4)


def test_products_are_made_for_one_thread() -> None:
    found = library.library()
    most = found.openmp.omp_get_max_threads
    found.use_threads()
    with found.on_one_thread():
        found.use_threads()
        assert most() == 1
    assert most() == opyard_settings.num_threads()


def test_the_setting_is_a_feature_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPYARD_WINOGRAD", raising=False)
    assert convolution.FEATURE in CPU().capabilities.features, "it is allowed unless it is forbidden"
    monkeypatch.setenv("OPYARD_WINOGRAD", "yes")
    with pytest.raises(SettingsError, match="OPYARD_WINOGRAD is 0 or 1; found 'yes'"):
        opyard_settings.winograd()


def test_weights_are_transformed_once_for_each_form() -> None:
    w = drawn(16, 24, 3, 3)
    points = convolution.transformed(w)
    matrix = transforms.weight_matrix()
    expected = np.einsum("ai,bj,ocij->abco", matrix, matrix, w.astype(np.float64)).reshape(36, 24, 16)
    np.testing.assert_allclose(points, expected, rtol=1e-6, atol=1e-6)
    kept = convolution.Transformed(Packed(w))
    wanted = convolution._product(36, 8, 24, 16).memories["weights"]
    assert kept.form(wanted) is kept.form(wanted)


def test_a_sum_over_a_tile_is_what_errors_are_relative_to() -> None:
    x, w = np.zeros((1, 16, 12, 12), np.float32), drawn(16, 16, 3, 3)
    x[:, :, :4] = drawn(1, 16, 4, 12)
    call = call_of(x, w, None, padding=1)
    (expected,) = call.reference(x.astype(np.float64), w.astype(np.float64), None)
    np.testing.assert_allclose(
        computed(call, x, w, None), expected, rtol=0, atol=3e-6 * np.abs(expected).max()
    )


def test_errors_are_measured_by_tiles() -> None:
    """What is declared for them is the largest of the tile, twice, and what is not finite is left to the direct convolution."""
    x, w, b = (
        np.zeros((1, 16, 9, 10), np.float32),
        np.ones((16, 16, 3, 3), np.float32),
        np.zeros(16, np.float32),
    )
    x[0, 0, 0, 0] = -3
    call = call_of(x, w, b, padding=1)
    (found,) = convolution.magnitudes(call, (x, w, b))
    assert found is not None
    expected = np.zeros((1, 16, 9, 10))
    expected[:, :, :4, :4] = 6
    np.testing.assert_array_equal(found, expected)
    x[0, 0, 8, 9] = np.inf
    (found,) = convolution.magnitudes(call, (x, w, b))
    np.testing.assert_array_equal(found, expected)


def test_every_family_of_numbers_conforms() -> None:
    """Large numbers beside zeros and subnormal ones, NaN and infinities among them."""
    spec = "float32[1,17,33,31]-float32[8,17,3,3]-float32[8]-padding=1"
    families = ("", "@nan", "@nan-last", "@infinite", "@infinite-low", "@zeros", "@subnormal", "@large")
    names = {f"{spec}{family}" for family in (*families, "@ties", "@constant", "@offset")}
    registry = oy.default_registry()
    (kernel,) = (kernel for kernel in registry.kernels("conv") if kernel.id == "cpu/winograd")
    tried = [trial for trial in trials(oy.conv.op, "full") if trial.id in names]
    assert len(tried) == len(names)
    for trial in tried:
        (outcome,) = run_trial(registry, "conv", trial, [kernel], device())
        assert (outcome.status, outcome.detail) == ("passed", ""), trial.id


@pytest.mark.parametrize(("channels", "size", "threads"), [(16, 40, 2), (64, 9, 2), (64, 9, 3), (48, 24, 1)])
def test_threads_divide_tiles_or_points(
    channels: int, size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few tiles and many weights the threads divide the points of the products."""
    monkeypatch.setattr(convolution, "threads_for", lambda g: threads)
    x, w, b = drawn(1, channels, size, size), drawn(40, channels, 3, 3), drawn(40)
    call = call_of(x, w, b, padding=1)
    g = convolution.conv_geometry(call)
    assert convolution.tiling(g, threads).in_phases is (channels == 64)
    (expected,) = call.reference(x, w, b)
    for _ in range(3):
        np.testing.assert_allclose(computed(call, x, w, b), expected, rtol=1e-4, atol=1e-4)
    x[0, 3, 2, 4] = np.inf
    (expected,) = call.reference(x, w, b)
    found = computed(call, x, w, b)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "size"), [(16, 40), (64, 9)])
def test_python_threads_do_not_disturb_each_other(
    channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "threads_for", lambda g: 2)
    w = drawn(24, channels, 3, 3)
    xs = [drawn(1, channels, size, size) for _ in range(4)]
    call = call_of(xs[0], w, None, padding=1)
    run, weights = convolution.prepare(call, device()), convolution.Transformed(Packed(w))
    expected = [call.reference(x, w, None)[0].transpose(0, 2, 3, 1) for x in xs]
    wrong: list[float] = []

    def work(x: Array, right: Array) -> None:
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        wrong.extend(float(np.abs(run(last, weights, None) - right).max()) for _ in range(20))

    threads = [
        threading.Thread(target=work, args=pair, daemon=True) for pair in zip(xs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 80 and max(wrong) < 1e-3


@pytest.mark.parametrize(("channels", "size"), [(16, 40), (64, 9)])
def test_a_failure_of_onednn_is_raised_once(
    channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "threads_for", lambda g: 2)
    x, w = drawn(1, channels, size, size), drawn(24, channels, 3, 3)
    kernel = convolution._Convolution(call_of(x, w, None, padding=1), device())
    last, weights = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), convolution.Transformed(Packed(w))
    kernel.steps._failed[0] = 1
    with pytest.raises(KernelError, match=r"oneDNN's matmul \(.*\) failed: "):
        kernel.run(last, weights, None)
    assert np.isfinite(kernel.run(last, weights, None)).all()
