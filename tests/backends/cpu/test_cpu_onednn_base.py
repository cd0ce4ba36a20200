"""oneDNN's C API through ctypes: constants, memories, primitives, threads and forks. See opyard_cpu.onednn."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.errors import KernelError
from opyard.settings import limit_threads, num_threads
from opyard_cpu.onednn import api, library, memory, primitives
from opyard_cpu.onednn.addresses import address, addresses_are_right, aligned
from opyard_cpu.onednn.execution import Execution, reordered
from opyard_cpu.onednn.memory import any_layout, channels_last, strided
from opyard_cpu.onednn.neighbourhoods import (
    Windows,
    convolution,
    convolution_data_gradient,
    convolution_weights_gradient,
    pooling,
    pooling_gradient,
)

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
DENSE = Windows((1, 1), (1, 1), (1, 1), (1, 1))


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def run(primitive: primitives.Primitive, **arrays: Array) -> None:
    Execution(primitive, list(arrays)).run(*map(address, arrays.values()))


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("dnnl_alg_kind2str", {k: v for k, v in api.ALGORITHMS.items() if not k.startswith("pooling")}),
        ("dnnl_prop_kind2str", api.PROPAGATION),
    ],
)
def test_the_library_calls_constants_by_the_same_names(function: str, names: dict[str, int]) -> None:
    describe = getattr(ctypes.CDLL(library.library().path), function)
    describe.restype = ctypes.c_char_p
    assert {name: describe(number).decode() for name, number in names.items()} == {n: n for n in names}


def test_pooling_algorithms_are_those_of_the_documentation() -> None:
    x = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
    windows = Windows((1, 1), (1, 1), (0, 1), (0, 1))
    found = {}
    for algorithm in ("max", "avg_include_padding", "avg_exclude_padding"):
        y = np.empty((1, 1, 1, 3), np.float32)
        run(pooling(algorithm, *map(strided, (x.shape, y.shape)), (1, 3), windows), src=x, dst=y)
        found[algorithm] = y.reshape(-1).tolist()
    assert found["max"] == [2.0, 3.0, 3.0]
    assert found["avg_include_padding"] == pytest.approx([1.0, 2.0, 5.0 / 3.0])
    assert found["avg_exclude_padding"] == pytest.approx([1.5, 2.0, 2.5])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
@settings(max_examples=30, deadline=None)
def test_a_reorder_copies_between_any_strides(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    turned = x.transpose(order)
    steps = [stride // 4 for stride in turned.strides]
    found = reordered(turned, strided(turned.shape, steps), strided(turned.shape)).view(np.float32)
    np.testing.assert_array_equal(found.reshape(turned.shape), turned)


def test_descriptors_know_their_layout() -> None:
    plain, last = strided((2, 3, 4, 5)), strided((2, 3, 4, 5), channels_last((2, 3, 4, 5)))
    assert (plain.strides, plain.nbytes, plain.is_dense) == ((60, 20, 5, 1), 480, True)
    assert (last.strides, last.nbytes, last.is_dense) == ((60, 1, 15, 3), 480, False)
    assert plain.key == strided((2, 3, 4, 5)).key != last.key
    assert strided((4, 1, 1), (1, 7, 9)).is_dense  # what lies between is passed over by no axis


def test_a_primitive_chooses_layouts_that_are_left_to_it() -> None:
    x = strided((1, 64, 8, 8), channels_last((1, 64, 8, 8)))
    found = convolution(x, any_layout((64, 64, 3, 3)), any_layout((1, 64, 8, 8)), DENSE)
    assert found.memories["weights"].strides is None or found.memories["weights"].nbytes >= 64 * 64 * 9 * 4
    assert found.memories["weights"].key != strided((64, 64, 3, 3)).key
    assert not found.implementation.startswith("ref")


def test_matmul_with_bias_activation_and_operand() -> None:
    x, w, b, r, y = drawn(5, 7), drawn(7, 6), drawn(1, 6), drawn(5, 6), np.empty((5, 6), np.float32)
    layouts = [strided(array.shape) for array in (x, w, y, b)]
    after = (primitives.Binary("add", strided(r.shape)), primitives.Eltwise("relu"))
    run(primitives.matmul(*layouts, post_ops=after), src=x, weights=w, dst=y, bias=b, post_0=r)
    np.testing.assert_allclose(y, np.maximum(x @ w + b + r, 0), rtol=1e-5, atol=1e-5)


def test_a_sum_adds_to_what_was_there() -> None:
    x, w, y = drawn(5, 7), drawn(7, 6), drawn(5, 6)
    expected = y + x @ w
    layouts = [strided(array.shape) for array in (x, w, y)]
    run(primitives.matmul(*layouts, post_ops=[primitives.Sum()]), src=x, weights=w, dst=y)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_convolution_are_its_adjoints() -> None:
    """For a map that is linear in x and in w, <dy, conv(x, w)> is <grad of x, x>, and <grad of w, w>."""
    x, w, dy = drawn(2, 16, 6, 6), drawn(16, 16, 3, 3), drawn(2, 16, 6, 6)
    inner = strided(x.shape, channels_last(x.shape))
    x_last, dy_last = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))
    forward = convolution(inner, any_layout(w.shape), inner, DENSE)
    packed = reordered(w, strided(w.shape), forward.memories["weights"])
    y = np.empty_like(x_last)
    run(forward, src=x_last, weights=packed, dst=y)
    product = float(np.vdot(dy_last, y))

    backward = convolution_data_gradient(inner, any_layout(w.shape), inner, DENSE)
    packed, dx = reordered(w, strided(w.shape), backward.memories["weights"]), np.empty_like(x_last)
    run(backward, diff_src=dx, weights=packed, diff_dst=dy_last)
    assert float(np.vdot(dx, x_last)) == pytest.approx(product, rel=1e-4)

    bias = strided((16,))
    backward = convolution_weights_gradient(inner, any_layout(w.shape), inner, DENSE, bias)
    layout = backward.memories["diff_weights"]
    dw, db = aligned(layout.nbytes), np.empty(16, np.float32)
    run(backward, src=x_last, diff_weights=dw, diff_bias=db, diff_dst=dy_last)
    plain = reordered(dw, layout, strided(w.shape)).view(np.float32).reshape(w.shape)
    assert float(np.vdot(plain, w)) == pytest.approx(product, rel=1e-4)
    np.testing.assert_allclose(db, dy.sum(axis=(0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_max_pool_goes_to_the_maxima() -> None:
    x, dy = drawn(1, 8, 4, 4), drawn(1, 8, 2, 2)
    source, target = strided(x.shape, channels_last(x.shape)), strided(dy.shape, channels_last(dy.shape))
    windows = Windows((2, 2), (1, 1), (0, 0), (0, 0))
    x_last, dy_last = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))
    forward = pooling("max", source, target, (2, 2), windows, training=True)
    workspace, y = aligned(forward.memories["workspace"].nbytes), np.empty_like(dy_last)
    run(forward, src=x_last, dst=y, workspace=workspace)
    backward = pooling_gradient("max", source, target, (2, 2), windows, forward)
    dx = np.empty_like(x_last)
    run(backward, diff_dst=dy_last, workspace=workspace, diff_src=dx)
    parts = x.reshape(1, 8, 2, 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(1, 8, 2, 2, 4)
    expected = np.where(parts == parts.max(-1, keepdims=True), dy[..., None], 0.0)
    expected = expected.reshape(1, 8, 2, 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
    np.testing.assert_array_equal(dx.transpose(0, 3, 1, 2), expected)


def test_softmax_normalization_and_functions_of_elements() -> None:
    x, y, scale = drawn(6, 40), np.empty((6, 40), np.float32), drawn(40)
    layout = strided(x.shape)
    run(primitives.softmax("accurate", layout, layout, 1), src=x, dst=y)
    np.testing.assert_allclose(y, np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)
    run(
        primitives.layer_normalization(layout, layout, 1e-5, scale=True, shift=False),
        src=x,
        scale=scale,
        dst=y,
    )
    centred = x - x.mean(1, keepdims=True)
    np.testing.assert_allclose(
        y, centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) * scale, rtol=1e-4, atol=1e-5
    )
    run(primitives.eltwise(primitives.Eltwise("tanh"), layout, layout), src=x, dst=y)
    np.testing.assert_allclose(y, np.tanh(x), rtol=1e-5)
    run(primitives.binary("mul", layout, layout, layout), src=x, src_1=x, dst=y)
    np.testing.assert_array_equal(y, x * x)


def test_what_oneDNN_does_not_have_is_refused_with_a_reason() -> None:
    wide = [strided((4, 4), dtype="float64") for _ in range(3)]
    with pytest.raises(
        KernelError, match=r"oneDNN has no matmul for \[4, 4\], \[4, 4\], \[4, 4\] here: unimplemented"
    ):
        primitives.matmul(*wide)


def test_the_slow_implementations_are_refused() -> None:
    odd = strided((2, 3, 4, 4), (2, 64, 16, 4))  # overlapping strides suit no fast loop
    with pytest.raises(KernelError, match=r"oneDNN has only its slow reference implementation \(ref"):
        pooling("max", odd, strided((2, 3, 2, 2)), (2, 2), Windows((2, 2), (2, 2), (1, 1), (1, 1)))


def test_an_execution_names_each_memory_once() -> None:
    layout = strided((4, 4))
    primitive = primitives.matmul(layout, layout, layout)
    with pytest.raises(
        KernelError, match="oneDNN's matmul takes src, weights, dst, each once; found src, dst"
    ):
        Execution(primitive, ("src", "dst"))


def test_addresses_are_those_of_numpy() -> None:
    assert addresses_are_right()
    array = np.arange(24.0).reshape(4, 6)
    for part in (array, array[2:], array[:, 3:], array.T, array[::-1]):
        assert address(part) == part.ctypes.data
    assert [address(aligned(size)) % 64 for size in (1, 64, 1000)] == [0, 0, 0]


def test_several_threads_run_one_primitive() -> None:
    x, w = drawn(8, 64, 64), drawn(64, 64)
    layout = strided((64, 64))
    execution = Execution(primitives.matmul(layout, layout, layout), ("src", "weights", "dst"))
    y = np.zeros_like(x)

    def work(number: int) -> None:
        for _ in range(50):
            execution.run(address(x[number]), address(w), address(y[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(y, x @ w, rtol=1e-4, atol=1e-4)


FORKING = """
import os, numpy as np
from opyard_cpu.onednn import primitives
from opyard_cpu.onednn.addresses import address
from opyard_cpu.onednn.execution import Execution
from opyard_cpu.onednn.memory import strided
x, y = np.eye(512, dtype=np.float32), np.zeros((512, 512), np.float32)
layout = strided(x.shape)
execution = Execution(primitives.matmul(layout, layout, layout), ("src", "weights", "dst"))
def use(): execution.run(address(x), address(x), address(y)); assert (x == y).all()
use()
child = os.fork()
if child == 0:
    use()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
use()
print("both computed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_as_well() -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        env=settings,
    )
    assert done.stdout == "both computed\n", done.stderr


def test_no_more_threads_are_used_than_openmp_may_have() -> None:
    program = FORKING[: FORKING.index("child")] + "print('computed')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_THREAD_LIMIT": "1", "OPYARD_NUM_THREADS": "2"},
    )
    assert done.stdout == "computed\n", done.stderr


SETTINGS = """
import os
before = dict(os.environ)
seen = {}
import ctypes
load = ctypes.CDLL
def watch(path, *rest):
    seen.update(os.environ)
    return load(path, *rest)
ctypes.CDLL = watch
from opyard_cpu.onednn.library import library
library()
assert dict(os.environ) == before
print(*(seen.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")))
print(load("libgomp.so.1").omp_get_max_threads())
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"OPYARD_NUM_THREADS": "1"}, f"1 {library.SPINS} None\n1\n"),
        ({"OMP_WAIT_POLICY": "active", "OPYARD_NUM_THREADS": "1"}, "1 None active\n1\n"),
        ({"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "5", "OPYARD_NUM_THREADS": "1"}, "5 7 None\n1\n"),
    ],
)
def test_threads_and_what_the_user_set(given: dict[str, str], expected: str) -> None:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "OPYARD_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS], capture_output=True, text=True, timeout=60, env=kept | given
    )
    assert done.stdout == expected, done.stderr


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is looked for anew; after the test it is the one of before, whose primitives others keep."""
    monkeypatch.setattr(library, "_load", cache(library._load.__wrapped__))


def test_without_the_wheel_the_reason_says_what_to_install(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "DISTRIBUTION", "no-such-distribution")
    sentence = (
        "oneDNN is not installed; type: pip install 'opyard-cpu[onednn]' (wheels exist for Linux on x86-64)"
    )
    assert library.find() is None
    assert library.missing() == sentence
    with pytest.raises(
        KernelError, match=r"oneDNN is not installed; type: pip install 'opyard-cpu\[onednn\]'"
    ):
        library.library()


def test_a_library_that_cannot_be_loaded_is_a_reason(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: "/no/such/libdnnl.so.3")
    found = library.missing()
    assert found is not None
    assert found.startswith("oneDNN could not be loaded: ")
    assert found.endswith("it needs GNU OpenMP 9 or later, on Debian: apt install libgomp1")


def test_other_arrays_than_those_of_the_c_api_are_a_reason(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "addresses_are_right", lambda: False)
    assert (
        library.missing()
        == "oneDNN cannot be called: arrays of this NumPy are laid out otherwise than its C API says"
    )


def test_failures_of_the_library_are_errors_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="oneDNN's engine_create failed: invalid arguments"):
        library.library().make("engine_create", api.CPU, 99)
    assert library.describe_status(77) == "status 77"
    layout = strided((4, 4))
    with pytest.raises(KernelError, match=r"oneDNN refuses the post-op Eltwise\(.*\): invalid arguments"):
        primitives.matmul(layout, layout, layout, post_ops=[primitives.Eltwise("clip_v2", 3.0, 1.0)])
    monkeypatch.setattr(library.library(), "execute", lambda *arguments: 5)
    execution = Execution(primitives.matmul(layout, layout, layout), ("src", "weights", "dst"))
    with pytest.raises(KernelError, match=r"oneDNN's matmul \(.*\) failed: runtime error"):
        execution.run(0, 0, 0)


def test_nothing_is_loaded_at_discovery() -> None:
    code = """
import sys, opyard as oy
oy.default_registry().device("cpu:0")
print([name for name in sys.modules if name.startswith("opyard_cpu.onednn.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "opyard_cpu.onednn.library" not in done.stdout, done.stderr
    assert "opyard_cpu.onednn.registration" in done.stdout


def test_memories_are_freed_with_their_primitives() -> None:
    layout = strided((64, 64))
    for _ in range(50):
        Execution(primitives.matmul(layout, layout, layout), ("src", "weights", "dst"))
    assert memory.strided((64, 64)).key == layout.key


def test_processors_without_avx2_are_refused() -> None:
    code = "from opyard_cpu.onednn.library import missing; print(missing())"
    settings = {**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=settings
    )
    sentence = "oneDNN is used on processors with AVX2 or more, and finds sse41 here\n"
    assert done.stdout == sentence, done.stderr


def test_estimates_know_that_other_threads_wake() -> None:
    with limit_threads(1):
        assert library.waking_seconds(1e9) == 0
    if num_threads() > 1:
        assert library.waking_seconds(1e9) == library.WAKE_SECONDS
    assert library.waking_seconds(library.LITTLE - 1) == 0
