"""The CPU as a device: what it says about itself, and the threads of BLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opyard.driver import HOST, transfer
from opyard.registry import Registry
from opyard_cpu import backend, plugin


@pytest.fixture(scope="module")
def device() -> backend.CPU:
    registry = Registry()
    plugin.opyard_register(registry)
    (found,) = registry.open("cpu").devices
    assert isinstance(found, backend.CPU)
    return found


def test_is_a_host_device(device: backend.CPU) -> None:
    assert (device.name, device.kind, device.memory) == ("cpu:0", "cpu", HOST)
    assert device.array_type is np.ndarray


def test_description_names_processor_threads_and_blas(device: backend.CPU) -> None:
    assert backend.processor_model() in device.description
    assert " thread" in device.description
    assert "BLAS" in device.description or "MKL" in device.description or "BLIS" in device.description


def test_capabilities_are_positive_and_have_lower_case_features(device: backend.CPU) -> None:
    capabilities = device.capabilities
    assert capabilities.flops > 1e9
    assert capabilities.bandwidth > 1e9
    assert "fp64" in capabilities.features
    assert all(name == name.lower() for name in capabilities.features)


def test_upload_and_download_do_not_copy(device: backend.CPU) -> None:
    array = np.arange(4.0)
    assert device.upload(array) is array
    assert device.download(array) is array
    assert transfer(array, device, device) is array


def test_owns_arrays_and_numpy_scalars_only(device: backend.CPU) -> None:
    assert device.owns(np.zeros(2))
    assert device.owns(np.float32(1))
    assert not device.owns([1.0])
    assert not device.owns(1.0)


def test_registry_finds_the_device_of_an_array() -> None:
    registry = Registry()
    plugin.opyard_register(registry)
    for array in (np.zeros(2), np.float32(1)):
        found = registry.device_of(array)
        assert found is not None and found.name == "cpu:0"


def test_empty_has_the_spec(device: backend.CPU) -> None:
    from opyard.spec import TensorSpec

    array = device.empty(TensorSpec((2, 3), "int32"))
    assert (array.shape, array.dtype) == ((2, 3), np.int32)


def test_the_clock_does_not_move_with_the_load(tmp_path: Path) -> None:
    limit, cpuinfo = tmp_path / "cpuinfo_max_freq", tmp_path / "cpuinfo"
    assert backend._clock(limit, cpuinfo) == 2.5e9
    for moment in ("800.000", "3100.125"):
        cpuinfo.write_text(
            f"processor\t: 0\ncpu MHz\t\t: {moment}\nbogomips\t: 5399.98\n\nprocessor\t: 1\nbogomips\t: 5400.00\n"
        )
        assert backend._clock(limit, cpuinfo) == 2.7e9
    limit.write_text("3800000\n")
    assert backend._clock(limit, cpuinfo) == 3.8e9
    limit.unlink()
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # of ARM: that of a timer
    assert backend._clock(limit, cpuinfo) == 2.5e9


def test_processor_model_without_cpuinfo(tmp_path: Path) -> None:
    assert isinstance(backend.processor_model(tmp_path / "missing"), str)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example 9000\nflags\t: fpu\n")
    assert backend.processor_model(tmp_path / "cpuinfo") == "Example 9000"


PROGRAM = """
from threadpoolctl import threadpool_info
from opyard.registry import Registry
from opyard_cpu import plugin
registry = Registry()
plugin.opyard_register(registry)
device = registry.device("cpu:0")
print(max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1))
print(device.description)
"""


def _threads(**environment: str) -> tuple[int, str]:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    threads, description = output.strip().splitlines()
    return int(threads), description


def test_opening_limits_the_threads_of_blas() -> None:
    threads, description = _threads(OPYARD_NUM_THREADS="1")
    assert threads == 1
    assert "1 thread," in description


def test_a_smaller_pool_stays_as_it_is() -> None:
    threads, _ = _threads(OPYARD_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    assert threads == 1


def test_the_plugin_imports_no_heavy_library() -> None:
    program = "import sys, opyard_cpu.plugin; print([m for m in ('threadpoolctl', 'opyard_cpu.backend') if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"
