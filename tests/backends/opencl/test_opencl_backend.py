"""Finding devices, and what happens where there are none, or where a compiler would end the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opyard.errors import DeviceError, DeviceUnavailable
from opyard.registry import Registry
from opyard_opencl import backend, canary, plugin
from opyard_opencl.backend import OpenCLBackend
from opyard_opencl.quirks import Quirks, quirks_of


def test_devices_are_numbered(opencl: Any) -> None:
    names = [device.name for device in OpenCLBackend().devices()]
    assert names == [f"opencl:{number}" for number in range(len(names))]


def test_plugin_imports_no_driver() -> None:
    code = "import sys, opyard_opencl.plugin; from opyard.registry import Registry; opyard_opencl.plugin.opyard_register(Registry()); print('pyopencl' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_without_pyopencl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    registry = Registry()
    plugin.opyard_register(registry)
    status = registry.open("opencl")
    assert status.state == "inactive"
    with pytest.raises(
        DeviceUnavailable,
        match=r"OpenCL needs pyopencl.*pip install --find-links dist 'opyard-opencl\[pocl\]'",
    ):
        OpenCLBackend().devices()


_LOOK = """
from opyard_opencl.backend import OpenCLBackend
from opyard.errors import DeviceUnavailable
try:
    print(OpenCLBackend().devices())
except DeviceUnavailable as error:
    print("unavailable:", error)
"""


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("", "linker `ld`, and there is none on PATH: install binutils"),
        ("#!/bin/sh\nexit 1\n", "cannot be used: a process that tried its compiler was killed by signal 6"),
    ],
    ids=["none", "broken"],
)
def test_without_a_linker_that_works_the_process_lives(
    script: str, sentence: str, opencl: Any, tmp_path: Path
) -> None:
    if not opencl.quirks.needs_linker:
        pytest.skip("this implementation links kernels by itself")
    if script:
        (tmp_path / "ld").write_text(script)
        (tmp_path / "ld").chmod(0o755)
    names = ("PATH", "OPYARD_CACHE_DIR", "HOME", "POCL_CACHE_DIR")
    environment = dict.fromkeys(names, str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert sentence in done.stdout


def _fake_binding(monkeypatch: pytest.MonkeyPatch, platforms: Any) -> None:
    import pyopencl

    def get_platforms() -> Any:
        if isinstance(platforms, Exception):
            raise platforms
        return platforms

    fake = SimpleNamespace(get_platforms=get_platforms, Error=pyopencl.Error)
    monkeypatch.setattr(backend, "_binding", lambda: fake)


def test_without_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl

    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    outcomes: list[Any] = [[], pyopencl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")]
    for platforms in outcomes:
        _fake_binding(monkeypatch, platforms)
        with pytest.raises(DeviceUnavailable, match=r"There is no OpenCL platform here.*pip install"):
            OpenCLBackend().devices()


def test_where_the_loader_is_told_to_look_in_vain(opencl: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "OCL_ICD_VENDORS": str(tmp_path / "none"), "OPYARD_CACHE_DIR": str(tmp_path)}
    code = "from opyard_opencl.backend import OpenCLBackend; print(*OpenCLBackend().notes(), sep=chr(10))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "There is no OpenCL platform here" in said
    assert f"looked for in {tmp_path / 'none'} alone, which OCL_ICD_VENDORS names: unset the variable" in said
    assert "none cannot be read (No such file or directory): set OCL_ICD_VENDORS to a folder" in said


def _platform(name: str, version: str, *devices: Any) -> Any:
    found = SimpleNamespace(name=name, version=version, get_devices=lambda: list(devices))
    for device in devices:
        device.platform = found
    return found


def _device(name: str) -> Any:
    return SimpleNamespace(name=name, driver_version="1")


def test_without_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl

    def fail() -> Any:
        raise pyopencl.RuntimeError("clGetDeviceIDs failed: DEVICE_NOT_FOUND")

    failing = SimpleNamespace(name="Broken", version="1", get_devices=fail)
    _fake_binding(monkeypatch, [failing, _platform("Empty", "1")])
    with pytest.raises(DeviceUnavailable, match=r"platforms here \(Broken, Empty\) have no device"):
        OpenCLBackend().devices()


def test_threads_follow_the_setting(opencl: Any) -> None:
    code = "from opyard_opencl.backend import OpenCLBackend; print(OpenCLBackend().devices()[0].workers)"
    environment = {name: value for name, value in os.environ.items() if name != "POCL_MAX_PTHREAD_COUNT"}
    environment["OPYARD_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_order_is_by_platform_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, int, str]] = []
    _fake_binding(
        monkeypatch, [_platform("B", "1", _device("b0"), _device("b1")), _platform("A", "1", _device("a0"))]
    )

    def record(self: Any, name: str, platform_number: int, device_number: int, device: Any, *_: Any) -> Any:
        opened.append((platform_number, device_number, device.name))
        return SimpleNamespace(name=name)

    monkeypatch.setattr(OpenCLBackend, "_open", record)
    assert [device.name for device in OpenCLBackend().devices()] == ["opencl:0", "opencl:1", "opencl:2"]
    assert opened == [(1, 0, "a0"), (0, 0, "b0"), (0, 1, "b1")]


def test_other_platforms_stay_usable_without_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard_opencl import device as device_module

    pocl = _platform("Portable Computing Language", "OpenCL 3.0 PoCL 3.0-rc2", _device("cpu"))
    _fake_binding(monkeypatch, [_platform("Vendor", "1", _device("gpu")), pocl])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(
        device_module,
        "OpenCLDevice",
        lambda name, device, quirks, kind: SimpleNamespace(name=name, cl_device=device),
    )
    driver = OpenCLBackend()
    (only,) = driver.devices()
    assert only.name == "opencl:0"
    assert "linker `ld`" in driver.refused[0]


def test_a_simulator_is_a_processor_and_a_gpu(monkeypatch: pytest.MonkeyPatch, opencl: Any) -> None:
    quirks = quirks_of("Oclgrind", "OpenCL 1.2 (Oclgrind 21.10)")
    assert quirks.kinds == ("cpu", "gpu")
    _fake_binding(monkeypatch, [opencl.cl_device.platform])
    monkeypatch.setattr(backend, "quirks_of", lambda *_: quirks)
    processor, gpu = OpenCLBackend().devices()
    assert [(device.name, device.kind) for device in (processor, gpu)] == [
        ("opencl:0", "cpu"),
        ("opencl:1", "gpu"),
    ]
    assert (processor.shares_memory, gpu.shares_memory) == (True, False)
    assert gpu.memory == "opencl:1"


def test_a_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard_opencl import device as device_module

    def fail(*_: Any) -> Any:
        raise DeviceError("the driver is busy")

    _fake_binding(monkeypatch, [_platform("Vendor", "1", _device("gpu"))])
    monkeypatch.setattr(device_module, "OpenCLDevice", fail)
    with pytest.raises(DeviceUnavailable, match="'gpu' of Vendor cannot be opened: the driver is busy"):
        OpenCLBackend().devices()


def _verdict(monkeypatch: pytest.MonkeyPatch, cache: Path, outcome: Any) -> str | None:
    def run(command: list[str], **_: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setenv("OPYARD_CACHE_DIR", str(cache))
    monkeypatch.setattr(subprocess, "run", run)
    device = _device("cpu")
    _platform("Fragile", "1", device)
    return canary.verdict(0, 0, device)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (subprocess.CompletedProcess([], -6, "", "cannot link\nAborted"), "was killed by signal 6: Aborted"),
        (subprocess.CompletedProcess([], -6, "", "Final linking failed."), "signal 6: Final linking failed$"),
        (subprocess.CompletedProcess([], 1, "", ""), "ended with code 1: no output"),
        (subprocess.TimeoutExpired([], 1), "did not finish a small kernel within 120 seconds"),
        (OSError("no more processes"), r"could not be started \(no more processes\)"),
    ],
)
def test_canary_turns_a_crash_into_a_sentence(
    outcome: Any, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import re

    found = _verdict(monkeypatch, tmp_path, outcome)
    assert found is not None
    assert re.search(sentence, found)
    assert not list(tmp_path.iterdir())  # a bad outcome is tried again


def test_canary_remembers_a_good_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _verdict(monkeypatch, tmp_path, subprocess.CompletedProcess([], 0, "", "")) is None
    assert _verdict(monkeypatch, tmp_path, OSError("not called")) is None
    assert len(list((tmp_path / "opencl").glob("canary-*.json"))) == 1


def test_another_linker_is_tried_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert _verdict(monkeypatch, tmp_path, subprocess.CompletedProcess([], 0, "", "")) is None
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
    broken = subprocess.CompletedProcess([], -6, "", "Final linking failed.")
    assert "killed by signal 6" in str(_verdict(monkeypatch, tmp_path, broken))


def test_canary_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _verdict(monkeypatch, tmp_path / "file", subprocess.CompletedProcess([], 0, "", "")) is None


def test_canary_runs_in_a_process_of_its_own(
    opencl: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyopencl

    platforms = pyopencl.get_platforms()
    place = next(
        (p, d)
        for p, platform in enumerate(platforms)
        for d, device in enumerate(platform.get_devices())
        if device == opencl.cl_device
    )
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    assert canary.verdict(*place, opencl.cl_device) is None
    assert canary.main(*place) == 0


def test_canary_reports_a_wrong_result(
    opencl: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(canary, "_SOURCE", canary._SOURCE.replace("2.0f", "3.0f"))
    assert canary.main(0, 0) == 1
    assert "its result is wrong" in capsys.readouterr().err


def test_a_refused_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_binding(
        monkeypatch, [_platform("Portable Computing Language", "OpenCL 3.0 PoCL 3.0-rc2", _device("cpu"))]
    )
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/ld")
    monkeypatch.setattr(canary, "verdict", lambda *_: "its compiler fell over")
    with pytest.raises(
        DeviceUnavailable,
        match=r"cannot be used: its compiler fell over\. Reinstall it with --force-reinstall: `pip install",
    ):
        OpenCLBackend().devices()


@pytest.mark.parametrize(
    ("name", "version", "linker", "tried"),
    [
        ("Portable Computing Language", "OpenCL 3.0 PoCL 3.0-rc2  Linux", True, True),
        ("Portable Computing Language", "OpenCL 3.0 PoCL 6.0  Linux", True, True),
        ("Portable Computing Language", "OpenCL 3.0 PoCL 7.1  Linux", True, True),
        ("Portable Computing Language", "OpenCL 3.0 PoCL 7.2  Linux", False, True),
        ("Portable Computing Language", "OpenCL 3.0 PoCL 10.0  Linux", False, True),
        ("Intel(R) OpenCL", "OpenCL 3.0 LINUX", False, False),
    ],
)
def test_quirks(name: str, version: str, linker: bool, tried: bool) -> None:
    found = quirks_of(name, version)
    assert (found.needs_linker, found.needs_canary) == (linker, tried)


def test_unknown_platforms_have_no_quirks() -> None:
    assert quirks_of("Somebody", "OpenCL 1.2") == Quirks()
