"""relu and relu6 fused behind convolutions and products: quick where all is finite, exact where it is not. See checks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.jit import machine
from opyard_cpu.onednn import addresses, checks, convolution, library, products
from opyard_cpu.onednn.chains import RELU, RELU6, Chain, Run, chain_of
from opyard_cpu.onednn.layouts import Packed

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

Array = np.ndarray[Any, Any]
C, SIZE = 16, 5


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are few results, for which there is another way; here they count as many."""
    monkeypatch.setattr(checks, "FEW", 0)


CASES: dict[str, tuple[str, str, int, int, int]] = {
    "1x1": ("onednn_conv_", "relu", 16, 1, 1),
    "1x1, relu6": ("onednn_conv_", "relu6", 16, 1, 1),
    "3x3": ("onednn_conv_", "relu", 16, 3, 1),
    "depthwise, relu6": ("onednn_conv_", "relu6", 16, 3, 16),
    "residual": ("onednn_conv_add_", "relu", 16, 3, 1),
    "fewer results": ("onednn_conv_", "relu", 4, 3, 1),
    "fewer results, residual": ("onednn_conv_add_", "relu", 4, 1, 1),
    "fewer results, relu6": ("onednn_conv_", "relu6", 4, 1, 1),
    "factors": ("onednn_conv_scale_", "relu", 16, 3, 1),
}
"""Prefixes of patterns, the activation, numbers of outputs, sizes of windows and groups."""


def arrays_of(case: str) -> dict[str, Array]:
    """Ordinary numbers: x ``[2, h, w, c]``, and the others as the pattern takes them."""
    prefix, _, outputs, size, groups = CASES[case]
    draw = np.random.default_rng(0).standard_normal
    shapes = {"x": (2, SIZE, SIZE, C), "weight": (outputs, C // groups, size, size), "bias": (outputs,)}
    if "scale" in prefix:
        shapes |= {"factor": (outputs, 1, 1), "offset": (outputs, 1, 1)}
    if "add" in prefix:
        shapes["residual"] = (2, SIZE, SIZE, outputs)
    return {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}


@cache
def chain(case: str) -> Chain:
    """The chain of a case."""
    prefix, name, _, size, groups = CASES[case]
    activation = getattr(oy, name)

    def network(x: Any, weight: Any, bias: Any, *more: Any) -> Any:
        y = oy.conv(x, weight, bias, padding=size // 2, groups=groups)
        if "scale" in prefix:
            return activation(y * more[0] + more[1])
        return activation(y + more[0] if more else y)

    shapes = {key: array.shape for key, array in arrays_of(case).items()}
    for key in ("x", "residual"):
        if key in shapes:
            batch, *sizes, channels = shapes[key]
            shapes[key] = (batch, channels, *sizes)
    kernel = next(k for k in oy.default_registry().patterns if k.name == prefix + name)
    graph = oy.trace(network, *(TensorSpec(shape, "float32") for shape in shapes.values()))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return chain_of(match.work)


def computed(compute: Callable[..., Any], arrays: dict[str, Array]) -> Array:
    given = {**arrays, "weight": Packed(arrays["weight"])}
    with np.errstate(all="ignore"):
        return compute(*given.values())  # type: ignore[no-any-return]


def expected(case: str, arrays: dict[str, Array]) -> Array:
    """The activation by its reference, of what oneDNN computes without it."""
    found, name = chain(case), CASES[case][1]
    last = len(RELU6 if name == "relu6" else RELU)
    before = computed(convolution._compute(replace(found, steps=found.steps[:-last])), arrays)
    with np.errstate(all="ignore"):
        return getattr(oy, name).op.reference(before)  # type: ignore[no-any-return]


def counted(found: Chain) -> tuple[Run, list[Chain]]:
    """The prepared chain, and a list of the chains that were made for it: the exact one only when it is needed."""
    made: list[Chain] = []

    def compute(some: Chain) -> Run:
        made.append(some)
        return convolution._compute(some)

    return checks.prepared(found, compute), made


@pytest.mark.parametrize("case", CASES)
def test_ordinary_numbers_need_one_primitive(case: str) -> None:
    run, made = counted(chain(case))
    arrays = arrays_of(case)
    for _ in range(2):
        np.testing.assert_allclose(computed(run, arrays), expected(case, arrays), rtol=1e-4, atol=1e-5)
    (used,) = made
    assert used.steps != chain(case).steps


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("case", CASES)
def test_a_strange_number_anywhere_has_its_exact_result(case: str, value: float) -> None:
    run, made = counted(chain(case))
    for name, array in arrays_of(case).items():
        arrays = {**arrays_of(case), name: array.copy()}
        arrays[name].reshape(-1)[array.size // 2] = value
        np.testing.assert_allclose(computed(run, arrays), expected(case, arrays), rtol=1e-4, atol=1e-5)
    assert made[-1].steps == chain(case).steps


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_finite_numbers_may_overflow(case: str, sign: float) -> None:
    """Products of numbers that are each small enough for their squares are infinite, or with two signs NaN."""
    arrays = arrays_of(case)
    arrays["x"] *= np.float32(1e18)
    arrays["weight"] *= np.float32(sign * 1e18)
    arrays["weight"][..., 0] = 1e20
    run, made = counted(chain(case))
    result = computed(run, arrays)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected(case, arrays)))
    np.testing.assert_allclose(result, expected(case, arrays), rtol=1e-4)
    assert made[-1].steps == chain(case).steps


def test_a_small_factor_does_not_hide_an_overflow_before_it() -> None:
    arrays = arrays_of("factors")
    arrays["x"] *= np.float32(1e18)
    arrays["weight"] *= np.float32(1e19)
    arrays["factor"] *= np.float32(1e-30)
    run, made = counted(chain("factors"))
    np.testing.assert_allclose(computed(run, arrays), expected("factors", arrays), rtol=1e-4, atol=1e-5)
    assert len(made) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_strange_numbers_behind_products(value: float) -> None:
    draw = np.random.default_rng(0).standard_normal
    x, weight, bias = (draw(shape).astype(np.float32) for shape in ((6, 8), (8, 32), (32,)))
    kernel = next(k for k in oy.default_registry().patterns if k.name == "onednn_linear_relu")
    graph = oy.trace(lambda *given: oy.relu(oy.linear(*given)), *map(TensorSpec.of, (x, weight, bias)))
    (match,) = find_matches(Pattern.of(kernel), graph)
    assert products.accepts_packed(match.work, None) is None  # type: ignore[arg-type]
    run = products.prepare_packed(match.work, None)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        for strange in (x.copy(), None):
            if strange is not None:
                strange[2, 3] = value
            some, out = x if strange is None else strange, np.empty((6, 32), np.float32)
            assert run(some, Packed(weight), bias, out=out) is out
            np.testing.assert_allclose(out, np.maximum(some @ weight + bias, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))
@pytest.mark.parametrize("value", [1.0, np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("case", CASES)
def test_with_few_results_the_activation_is_a_loop_over_them(
    case: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run, made = counted(chain(case))
    for name, array in arrays_of(case).items():
        arrays = {**arrays_of(case), name: array.copy()}
        arrays[name].reshape(-1)[array.size // 2] = value
        np.testing.assert_allclose(computed(run, arrays), expected(case, arrays), rtol=1e-4, atol=1e-5)
    (used,) = made
    assert len(used.steps) < len(chain(case).steps)


def test_leaky_relu_without_a_slope_keeps_nan() -> None:
    x = np.array([np.nan, -np.inf, -1, 0, 1, np.inf], np.float32).reshape(6, 1, 1, 1)
    weight, bias = np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
    kernel = next(k for k in oy.default_registry().patterns if k.name == "onednn_conv_leaky_relu")
    network = lambda x: oy.leaky_relu(oy.conv(x, weight, bias), alpha=0.0)  # noqa: E731
    (match,) = find_matches(Pattern.of(kernel), oy.trace(network, TensorSpec.of(x)))
    found = kernel.bind(match.work, oy.default_registry().device("cpu:0"))(x, Packed(weight), bias)
    np.testing.assert_array_equal(found.reshape(-1), [np.nan, np.nan, 0, 0, 1, np.inf])


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_silu_is_a_pass_of_its_own_where_all_threads_have_enough_to_do(
    monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int
) -> None:
    monkeypatch.setattr(checks, "ELEMENT_SECONDS", seconds)
    monkeypatch.setattr(checks, "num_threads", lambda: threads)
    x, weight, bias = arrays_of("depthwise, relu6").values()
    kernel = next(k for k in oy.default_registry().patterns if k.name == "onednn_conv_silu")
    specs = (TensorSpec(shape, "float32") for shape in ((2, C, SIZE, SIZE), weight.shape, bias.shape))
    graph = oy.trace(lambda x, w, b: oy.silu(oy.conv(x, w, b, padding=1, groups=C)), *specs)
    (match,) = find_matches(Pattern.of(kernel), graph)
    found = chain_of(match.work)
    run, made = counted(found)
    x[0, 1, 1, :3] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        before = convolution._compute(replace(found, steps=()))(x, Packed(weight), bias)
        expected = oy.silu.op.reference(before)
        result = run(x, Packed(weight), bias)
    if is_alone := threads == 1 or seconds > 0:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    (used,) = made
    assert (used.steps == ()) == is_alone


def images(array: Array) -> Array:
    """The same numbers as a kernel gives them, in a memory of their own."""
    made = addresses.images_maker(array.shape)()
    made[...] = array
    return made


def test_images_begin_at_a_cache_line_and_know_their_norm() -> None:
    array = images(np.full((1, 3, 3, 2), 2.0, np.float32))
    assert addresses.address(array) % addresses.ALIGNMENT == 0
    assert addresses.known_square(array) == np.inf
    assert addresses.measured_square(array) == 72.0
    assert addresses.known_square(array) == 72.0
    addresses.note_square(array, 100.0)
    assert addresses.known_square(array) == 100.0
    assert addresses.known_square(array[:, 1:]) == np.inf  # a view is another array
    plain = np.ones(3, np.float32)
    addresses.note_square(plain, 1.0)
    assert addresses.known_square(plain) == np.inf and addresses.measured_square(plain) == 3.0
    array[0, 0, 0, 0] = np.inf
    assert addresses.measured_square(array) == np.inf
    assert addresses.known_square(array) == 100.0


def test_large_images_lie_where_earlier_ones_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST_BYTES", 1000)
    monkeypatch.setattr(addresses, "KEPT_BYTES", 20000)
    monkeypatch.setattr(addresses, "_free", {})
    make = addresses.images_maker((1, 8, 8, 32))
    first, second = make(), make()
    begin, other = addresses.address(first), addresses.address(second)
    assert begin % addresses.ALIGNMENT == 0 and other not in range(begin - first.nbytes, begin + first.nbytes)
    addresses.note_square(first, 5.0)
    view = first[0, 1:]
    del first
    assert addresses.address(make()) != begin  # a part of it is still used
    del view
    again = [make(), make()]
    assert begin in map(addresses.address, again)
    assert {addresses.known_square(array) for array in again} == {np.inf}
    assert not addresses._free
    del again, second
    assert len(addresses._free) == 2  # the oldest of three went back


def test_a_block_is_not_used_for_much_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST_BYTES", 1000)
    monkeypatch.setattr(addresses, "_free", {})
    begin = addresses.address(addresses.images_maker((1, 1, 10, 100))())
    half, most = (addresses.images_maker((1, 1, size, 100))() for size in (5, 9))
    assert addresses.address(half) != begin
    assert addresses.address(most) == begin


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the images whose norms are computed, and not known."""
    sizes: list[int] = []

    def measure(array: Array) -> float:
        sizes.append(array.size)
        return addresses.measured_square(array)

    monkeypatch.setattr(checks, "measured_square", measure)
    return sizes


@pytest.mark.parametrize("case", CASES)
def test_bounds_go_with_results(case: str, measured: list[int]) -> None:
    """The bound that is noted holds, and the next kernel needs no other."""
    arrays = {name: images(a) if name in ("x", "residual") else a for name, a in arrays_of(case).items()}
    result = computed(counted(chain(case))[0], arrays)
    assert addresses.square(result) <= addresses.known_square(result) < checks.LIMIT
    assert measured == [arrays[name].size for name in ("x", "residual") if name in arrays]
    measured.clear()
    computed(counted(chain(case))[0], arrays)
    assert not measured


def test_bounds_that_have_grown_are_measured_anew(measured: list[int]) -> None:
    arrays = arrays_of("3x3")
    run, x = counted(chain("3x3"))[0], images(arrays["x"])
    runs = 40
    for _ in range(runs):
        x = computed(run, {**arrays, "x": x})
        assert addresses.square(x) <= addresses.known_square(x)
        x /= np.float32(np.abs(x).max())  # which makes it less than the bound says
    assert 2 <= len(measured) <= runs / 4


@pytest.mark.parametrize("case", ["residual", "factors"])
def test_constants_are_looked_at_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(checks, "square", lambda array: sizes.append(array.size) or addresses.square(array))
    arrays = arrays_of(case)
    given = {**arrays, "weight": Packed(arrays["weight"])}
    constants = [None if name in ("x", "residual") else array for name, array in given.items()]
    small = sum(array.ndim in (1, 3) for array in arrays.values())
    for known, times in ((None, 3), (constants, 1)):
        run = checks.prepared(chain(case), convolution._compute, known)
        sizes.clear()
        for _ in range(3):
            run(*given.values())
        assert len(sizes) >= times * small
        if known is not None:
            assert len(sizes) == small


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_constants_may_be_strange(value: float) -> None:
    arrays = arrays_of("3x3")
    arrays["bias"][3] = value
    constants = [None, Packed(arrays["weight"]), arrays["bias"]]
    run = checks.prepared(chain("3x3"), convolution._compute, constants)
    for _ in range(2):
        np.testing.assert_allclose(computed(run, arrays), expected("3x3", arrays), rtol=1e-4, atol=1e-5)


def test_weights_are_measured_once() -> None:
    packed = Packed(np.full((2, 2), 2.0, np.float32))
    assert packed.square == 16.0
    packed.array[...] = 0.0
    assert packed.square == 16.0
