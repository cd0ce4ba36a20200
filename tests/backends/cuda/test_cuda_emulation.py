"""CUDA C++ on the CPU: what the emulation computes, and what it notices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opyard.errors import DeviceUnavailable, KernelError
from opyard_cuda import emulation as emulated
from opyard_cuda.emulation import SCHEDULES, Library, Schedule, program
from opyard_cuda.sources import CudaSource

TEXT = r"""
#include <cuda_fp16.h>
extern "C" __global__ void shuffles(int* y) {
  const int t = threadIdx.x, all = 0xffffffff;
  y[t] = __shfl_sync(all, t, 5);
  y[32 + t] = __shfl_xor_sync(all, t, 3);
  y[64 + t] = __shfl_up_sync(all, t, 2);
  y[96 + t] = __shfl_down_sync(all, t, 2, 8);
  y[128 + t] = __ballot_sync(all, t % 2 == 0);
  y[160 + t] = __any_sync(all, t == 3) + 2 * __all_sync(all, t < 31);
  y[192 + t] = t < 4 ? __shfl_sync(0xfu, t, 3) : __shfl_sync(~0xfu, t, 9);
}
extern "C" __global__ void votes(int* y) {
  y[threadIdx.x] = __syncthreads_count(threadIdx.x < 40) + 100 * __syncthreads_or(threadIdx.x == 63) + 1000 * __syncthreads_and(threadIdx.x < 63);
}
extern "C" __global__ void places(int* y) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] += block + 1;
}
extern "C" __global__ void count(const int* x, int* bins, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(bins + x[i], 1), atomicMax(bins + 4, x[i]), atomicMin(bins + 5, -x[i]);
}
extern "C" __global__ void loses(int* y) { y[0] = y[0] + 1; }
extern "C" __global__ void halves(const __half* x, __half* y) { y[threadIdx.x] = __float2half(__half2float(x[threadIdx.x]) + 1.0f); }
extern "C" __global__ void narrow(const __nv_bfloat16* x, __nv_bfloat16* y) { y[threadIdx.x] = __float2bfloat16(__bfloat162float(x[threadIdx.x]) * 3.0f); }
extern "C" __global__ void reversed(const float* x, float* y) {
  extern __shared__ float kept[];
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = kept[blockDim.x - 1 - threadIdx.x];
}
template <typename T> __global__ void within_a_warp(T* y) {
  __shared__ T kept[32];
  kept[threadIdx.x] = threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = kept[threadIdx.x ^ 1];
}
"""

FAULTS = r"""
extern "C" __global__ void early(int* y) { if (threadIdx.x) return; __syncthreads(); y[0] = 1; }
extern "C" __global__ void late(int* y) { if (threadIdx.x) __syncthreads(); y[0] = 1; }
extern "C" __global__ void split(int* y) {
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void outside(int* y) { y[threadIdx.x + 1] = 1; }
extern "C" __global__ void far(int* y) { int* z = y + (1ll << 40); z[0] = 1; }
extern "C" __global__ void constant(const int* x) { const_cast<int*>(x)[0] = 1; }
extern "C" __global__ void unaligned(float* y) { *reinterpret_cast<float4*>(y + 1) = make_float4(0, 0, 0, 0); }
extern "C" __global__ void unwritten(int* y) { __shared__ int kept[4]; if (threadIdx.x > 64) kept[threadIdx.x % 4] = 1; y[0] = kept[threadIdx.x % 4]; }
extern "C" __global__ void race(int* y) { __shared__ int kept[64]; kept[threadIdx.x] = 1; y[threadIdx.x] = kept[threadIdx.x ^ 1]; }
extern "C" __global__ void overwritten(const int* x, int* y) {
  __shared__ int kept[1];
  if (threadIdx.x == 0) kept[0] = 1;
  __syncthreads();
  y[threadIdx.x] = kept[0];
  if (threadIdx.x == 5) kept[0] = 2;
}
extern "C" __global__ void between_blocks(int* y) { if (threadIdx.x == 0) y[0] = blockIdx.x; }
extern "C" __global__ void index(int* y) { __shared__ int kept[4]; kept[threadIdx.x] = 1; }
extern "C" __global__ void divided(int* y) { y[threadIdx.x] = 4 / y[threadIdx.x]; }
extern "C" __global__ void mask(int* y) { y[threadIdx.x] = __shfl_sync(0xffffu, 1, 0); }
extern "C" __global__ void lane(int* y) { y[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(0xffffu, 1, 20) : 0; }
extern "C" __global__ void forever(int* y) { while (true) __syncwarp(); }
extern "C" __global__ void apart(int* y) {
  if (threadIdx.x) __syncthreads();
  else
    __syncwarp();
}
"""


def _entries(text: str) -> tuple[str, ...]:
    return tuple(
        line.split("void ")[1].split("(")[0] for line in text.splitlines() if line.startswith('extern "C"')
    )


SOURCE = CudaSource("emulation", TEXT, (*_entries(TEXT), "within_a_warp<int>", "within_a_warp<double>"))
FAULTY = CudaSource("faults", FAULTS, _entries(FAULTS))


@pytest.fixture(params=SCHEDULES)
def library(request: pytest.FixtureRequest, emulated_library: Library) -> Library:
    emulated_library.add(SOURCE)
    emulated_library.add(FAULTY)
    emulated_library.schedule = Schedule(request.param, seed=5)
    return emulated_library


def _run(
    library: Library, entry: str, *arguments: Any, grid: Any = (1,), block: Any = (32,), shared: int = 0
) -> None:
    source = FAULTY if entry in FAULTY.entries else SOURCE
    library.launch(source, entry, grid, block, arguments, shared)


def test_lanes_exchange_values(library: Library) -> None:
    y, lanes = np.zeros((7, 32), np.int32), np.arange(32)
    _run(library, "shuffles", y)
    down = np.where(lanes % 8 < 6, lanes + 2, lanes)
    np.testing.assert_array_equal(y[0], 5)
    np.testing.assert_array_equal(y[1], lanes ^ 3)
    np.testing.assert_array_equal(y[2], np.where(lanes < 2, lanes, lanes - 2))
    np.testing.assert_array_equal(y[3], down)
    np.testing.assert_array_equal(y[4], 0x55555555)
    np.testing.assert_array_equal(y[5], 1)
    np.testing.assert_array_equal(y[6], np.where(lanes < 4, 3, 9))


def test_threads_vote(library: Library) -> None:
    y = np.zeros(64, np.int32)
    _run(library, "votes", y, block=(64,))
    np.testing.assert_array_equal(y, 140)


def test_every_thread_of_three_axes_runs_once(library: Library) -> None:
    y = np.zeros((12, 30), np.int32)
    _run(library, "places", y, grid=(2, 3, 2), block=(5, 3, 2))
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(1, 13)[:, None], y.shape))


def test_atomics_lose_nothing(library: Library) -> None:
    x, bins = np.arange(1000, dtype=np.int32) % 4, np.zeros(6, np.int32)
    _run(library, "count", x, bins, np.int32(1000), grid=(8,), block=(128,))
    np.testing.assert_array_equal(bins, [250, 250, 250, 250, 3, -3])
    with pytest.raises(KernelError, match=r"another thread (writes|reads) with no barrier between"):
        _run(library, "loses", bins, block=(64,))


def test_narrow_floats_round_to_nearest(library: Library) -> None:
    x = np.array([0, 1, 0.1, -2.5, 65000, 3e-5, 6e-8, np.inf] * 4, np.float16)
    y = np.zeros_like(x)
    _run(library, "halves", x, y)
    np.testing.assert_array_equal(y, (x.astype(np.float32) + 1).astype(np.float16))
    narrow = np.array([0, 1, 0.1, -2.5, 3e38, 1e-40, 7, np.nan] * 4, np.float32).astype(ml_dtypes.bfloat16)
    result = np.zeros_like(narrow)
    _run(library, "narrow", narrow, result)
    with np.errstate(all="ignore"):
        expected = (narrow.astype(np.float32) * 3).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(result.astype(np.float32), expected.astype(np.float32))


def test_shared_memory_of_a_size_given_at_the_launch(library: Library) -> None:
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    _run(library, "reversed", x, y, block=(64,), shared=256)
    np.testing.assert_array_equal(y, x[::-1])
    with pytest.raises(KernelError, match="bytes at byte 252 of shared memory, which has 252"):
        _run(library, "reversed", x, y, block=(64,), shared=252)


@pytest.mark.parametrize(
    ("entry", "dtype"), [("within_a_warp<int>", np.int32), ("within_a_warp<double>", np.float64)]
)
def test_a_warp_can_wait_for_itself(entry: str, dtype: Any, library: Library) -> None:
    y = np.zeros(32, dtype)
    _run(library, entry, y)
    np.testing.assert_array_equal(y, np.arange(32) ^ 1)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("early", "waits for all threads, of which|leaves the kernel while others wait"),
        ("late", "waits for all threads, of which|leaves the kernel while others wait"),
        ("split", r"threads of one block wait in line \d+ and in line \d+"),
        ("outside", "writes 4 bytes at byte 256 of buffer 0, which has 256"),
        ("far", r"writes 4 bytes at byte \d{13} of (buffer 0, which has 256|shared memory)"),
        ("constant", "writes to buffer 0, which is const"),
        ("unaligned", "byte 4 of buffer 0, .* is not aligned"),
        ("unwritten", "of shared memory, which no thread of the block has written"),
        (
            "race",
            "which another thread writes with no barrier between|which no thread of the block has written",
        ),
        ("between_blocks", "writes byte 0 of buffer 0, which another thread writes with no barrier between"),
        ("index", r"element \d+ is outside of its array in line"),
        ("divided", "divides by zero in line"),
        ("mask", r"lane \d+ is not in its mask 0000ffff"),
        ("lane", "reads lane 20, which is not in the mask"),
        ("apart", "wait in line|is not there|leaves the kernel"),
    ],
)
def test_faults_are_noticed_under_every_schedule(entry: str, sentence: str, library: Library) -> None:
    with pytest.raises(KernelError, match=sentence) as caught:
        _run(library, entry, np.zeros(64, np.int32), grid=(2,), block=(64,))
    assert f"schedule {library.schedule.name}." in str(caught.value)


def test_writing_what_others_may_still_read_is_noticed(library: Library) -> None:
    with pytest.raises(KernelError, match="with no barrier between"):
        _run(library, "overwritten", np.zeros(64, np.int32), np.zeros(64, np.int32), block=(64,))


def test_a_kernel_without_an_end_is_given_up(emulated_library: Library) -> None:
    emulated_library.add(FAULTY)
    emulated_library.schedule = Schedule()
    with pytest.raises(KernelError, match="comes to no end"):
        _run(emulated_library, "forever", np.zeros(32, np.int32))


def test_arguments_that_do_not_fit_are_refused(library: Library) -> None:
    y = np.zeros(64, np.int32)
    with pytest.raises(KernelError, match="'count' has 3 parameters; it is launched with 1 arguments"):
        _run(library, "count", y)
    with pytest.raises(KernelError, match="'count' has 4 bytes for argument 2, which is int64 5"):
        _run(library, "count", y, y, np.int64(5))
    with pytest.raises(
        KernelError, match=r"takes a pointer as argument 0; it is given an array of strides \(8,\)"
    ):
        _run(library, "votes", y[::2])
    with pytest.raises(KernelError, match="takes a number as argument 2"):
        _run(library, "count", y, y, y)


def test_a_source_that_does_not_compile_is_told(tmp_path: Path, emulated_library: Library) -> None:
    library = Library(tmp_path)
    source = CudaSource("broken", 'extern "C" __global__ void f(int* y) { y[0] = ; }', ("f",))
    library.add(source)
    with pytest.raises(KernelError, match=r"a CUDA source does not compile for the CPU: broken\.cu:1"):
        library.launch(source, "f", (1,), (1,), (), 0)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated.shutil, "which", lambda name: None)
    with pytest.raises(
        DeviceUnavailable, match=r"run on the CPU with g\+\+, which was not found; install it"
    ):
        emulated.compiler()


def test_the_program_holds_each_source_in_a_namespace() -> None:
    text = program([SOURCE, FAULTY])
    assert text.count("namespace source_") == 2
    assert "#include <cuda_fp16.h>" not in text
    assert "float* const kept = (float*)emulation::dynamic_shared();" in text


def test_the_example_of_the_page_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, emulated_library: Library
) -> None:
    page = Path(__file__).parents[3] / "docs" / "cuda.md"
    (example,) = re.findall(
        r"^# not run here: emulation\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    exec(example, {})
