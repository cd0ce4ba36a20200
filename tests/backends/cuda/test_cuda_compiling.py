"""All CUDA sources compile, spill nothing, and take what docs/cuda-kernels.md says: by NVRTC, without a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from opyard.errors import DeviceUnavailable, KernelError, RegistryError
from opyard_cuda import array_module, compiling, nvrtc, sources
from opyard_cuda.nvrtc import Usage
from opyard_cuda.sources import CudaSource

PAGE = Path(__file__).parents[3] / "docs" / "cuda-kernels.md"
SOURCES = list(sources.all_sources())
SAMPLES = {source.name.partition("/")[0]: source for source in reversed(SOURCES)}
"""The first source of each kind: what the ordinary run compiles anew, each for one architecture; the sweep compiles all."""

SMALL = CudaSource(
    "test/small",
    """#include <cuda_bf16.h>
extern "C" __global__ void plain(float* x) { x[threadIdx.x] = 1.0f; }
template <typename T, int N> __global__ void shared(T* x) {
  __shared__ T kept[N];
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = kept[N - 1 - threadIdx.x];
}""",
    ("plain", "shared<float, 64>", "shared<__nv_bfloat16, 64>"),
)
SPILLING = CudaSource(
    "test/spilling",
    """extern "C" __global__ void spilling(const float* x, float* y) {
  float kept[64];
  #pragma unroll
  for (int i = 0; i < 64; ++i) kept[i] = x[i * 256 + threadIdx.x];
  __syncthreads();
  #pragma unroll
  for (int i = 0; i < 64; ++i) y[i * 256 + threadIdx.x] = kept[63 - i] * kept[i];
}""",
    ("spilling",),
    ("--maxrregcount=24",),
)


def _kept() -> tuple[str, list[list[str]], dict[str, str]]:
    """The version of NVRTC that the page is of, the cells of its lines, and the fingerprints of sources."""
    text = PAGE.read_text(encoding="utf-8")
    version = re.search(r"NVRTC (\S+) makes", text)
    assert version
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| source")
    ]
    texts = {name: digits.strip("`") for name, digits in (line for line in lines if len(line) == 2)}
    return version[1], [line for line in lines if len(line) > 2], texts


def test_the_page_is_of_all_sources_as_they_are_now() -> None:
    _, lines, texts = _kept()
    assert texts == {source.name: compiling.fingerprint(source) for source in SOURCES}, _command()
    assert list(dict.fromkeys(line[0] for line in lines)) == [source.name for source in SOURCES]
    assert "spilled**" not in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_source_compiles_and_takes_what_the_page_says(kind: str, headers: Path) -> None:
    source = SAMPLES[kind]
    column = sum(source.name.encode()) % len(nvrtc.ARCHITECTURES)
    compiled = nvrtc.compile_source(source, nvrtc.ARCHITECTURES[column], headers)
    assert set(compiled.usage) == set(source.entries)
    assert [entry for entry, usage in compiled.usage.items() if usage.spilled] == []
    version, lines, _ = _kept()
    if version != nvrtc.version():
        pytest.skip(f"docs/cuda-kernels.md is of NVRTC {version}, installed is {nvrtc.version()}")
    found = [
        [name, f"`{kernel}`", *cells] for name, kernel, cells in compiling.rows(source, [compiled.usage])
    ]
    kept = [[*line[:2], line[2 + column]] for line in lines if line[0] == source.name]
    assert found == kept, _command()


@pytest.mark.sweep
def test_the_page_is_what_is_compiled(headers: Path) -> None:
    assert compiling.whole_page(headers) == PAGE.read_text(encoding="utf-8"), _command()


def _command() -> str:
    return "write the page anew: uv run python -m opyard_cuda.compiling --write docs/cuda-kernels.md"


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_usage_is_told_for_each_instance(architecture: str, headers: Path) -> None:
    compiled = nvrtc.compile_source(SMALL, architecture, headers)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert [usage.shared >= size for usage, size in zip(compiled.usage.values(), (0, 256, 128), strict=True)]
    shared = [usage.shared for usage in compiled.usage.values()]
    # Blackwell keeps a kilobyte of each block for itself
    assert [n - shared[0] for n in shared] in ([0, 256, 128], [0, 1280, 1152])
    assert all(0 < usage.registers < 64 and not usage.spilled for usage in compiled.usage.values())


def test_spilling_is_seen(headers: Path) -> None:
    compiled = nvrtc.compile_source(SPILLING, "sm_90", headers)
    assert compiled.usage["spilling"].spilled > 0
    ((_, _, cells),) = compiling.rows(SPILLING, [compiled.usage])
    assert cells[0].endswith(f", **{compiled.usage['spilling'].spilled} spilled**")


def test_what_does_not_compile_is_told_with_the_line(headers: Path) -> None:
    wrong = CudaSource("test/wrong", 'extern "C" __global__ void f(float* x) {\n  x[0] = y;\n}', ("f",))
    with pytest.raises(
        KernelError,
        match=r"CUDA source 'test/wrong' does not compile for sm_80: test/wrong\.cu\(2\): error: identifier \"y\" is undefined",
    ):
        nvrtc.compile_source(wrong, "sm_80", headers)
    missing = CudaSource("test/missing", "", ("nowhere",))
    with pytest.raises(KernelError, match=r"does not compile for sm_80: .*nowhere"):
        nvrtc.compile_source(missing, "sm_80", headers)


def test_without_nvrtc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_PATTERNS", ("no-such-library",))
    with pytest.raises(
        DeviceUnavailable, match=r"NVRTC is not among the installed packages; `pip install nvidia-cuda-nvrtc`"
    ):
        nvrtc.library_file()


def test_an_nvrtc_without_headers_is_told_to_be_upgraded(
    headers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "_HEADERS", "--option-of-a-later-version")
    with pytest.raises(
        DeviceUnavailable,
        match=r"NVRTC [\d.]+ is without CUDA's headers; `pip install --upgrade nvidia-cuda-nvrtc`",
    ):
        nvrtc.compile_source(SMALL, "sm_80", headers)


def test_a_fingerprint_is_of_all_that_is_compiled() -> None:
    changed = [
        SMALL,
        replace(SMALL, text=SMALL.text + " "),
        replace(SMALL, entries=SMALL.entries[:1]),
        replace(SMALL, options=("--fmad=false",)),
    ]
    assert len({compiling.fingerprint(source) for source in changed}) == 4
    assert compiling.fingerprint(replace(SMALL)) == compiling.fingerprint(SMALL)


def test_two_sources_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PROVIDERS", ("opyard_cuda.native.attention:sources",) * 2)
    with pytest.raises(
        RegistryError,
        match=r"two CUDA sources are called 'attention/float32'; opyard_cuda.native.attention:sources must give its own another name",
    ):
        list(sources.all_sources())


def test_generated_kernels_have_one_line_with_ranges() -> None:
    many = CudaSource("many", "", tuple(map(str, range(11))), summed=True)
    usage = {entry: Usage(10 + int(entry), 0, 0, 8) for entry in many.entries}
    assert list(compiling.rows(many, [usage])) == [("many", "11 kernels", ("10-20 / 0 / 8",))]


@pytest.fixture
def small_page(monkeypatch: pytest.MonkeyPatch, headers: Path) -> Iterator[None]:
    """The command compiles one small source alone."""
    monkeypatch.setattr(compiling, "all_sources", lambda: [SMALL])
    monkeypatch.setattr(compiling, "default_headers", lambda: headers)
    yield


def test_the_command_prints_writes_and_checks(small_page: None, tmp_path: Path) -> None:
    runner, kept = CliRunner(), tmp_path / "page.md"
    printed = runner.invoke(compiling.main, [])
    assert "| test/small | `shared<float, 64>` | " in printed.output
    assert runner.invoke(compiling.main, ["--write", str(kept)]).exit_code == 0
    assert kept.read_text() == printed.output.rstrip("\n") + "\n"
    assert runner.invoke(compiling.main, ["--check", str(kept)]).exit_code == 0
    kept.write_text(kept.read_text().replace("| test/small | `plain`", "| test/small | `plane`"))
    checked = runner.invoke(compiling.main, ["--check", str(kept)])
    assert checked.exit_code == 1
    assert "-| test/small | `plane`" in checked.output and "+| test/small | `plain`" in checked.output
    assert (
        f"{kept} is out of date; python -m opyard_cuda.compiling --write {kept} makes it anew"
        in checked.output
    )


def test_the_command_needs_no_traceback(small_page: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "all_sources", lambda: [CudaSource("bad", "!", ("f",))])
    failed = CliRunner().invoke(compiling.main, [])
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: CUDA source 'bad' does not compile for sm_80: ")


def test_headers_are_kept_in_the_cache_folder(headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(headers / "cache"))
    assert compiling.default_headers() == headers / "cache" / f"cuda-headers-{nvrtc.version()}"


def test_a_source_becomes_a_module_of_cupy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []
    monkeypatch.setattr(array_module, "MODULE", "numpy")
    monkeypatch.setattr("numpy.RawModule", lambda **options: made.append(options) or "module", raising=False)
    sources.module.cache_clear()
    assert sources.module(SPILLING) == sources.module(SPILLING) == "module"
    sources.module.cache_clear()
    assert made == [
        {
            "code": SPILLING.text,
            "options": ("--std=c++17", "--maxrregcount=24"),
            "name_expressions": ("spilling",),
        }
    ]
