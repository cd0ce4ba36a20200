"""What the probe says where something is missing; the driver is a stand-in."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from opyard import runtime
from opyard.cli.doctor import doctor
from opyard.errors import DeviceUnavailable
from opyard_cuda import backend, probe
from opyard_cuda.probe import Probe


class Driver:
    """The three functions of libcuda that the probe calls."""

    def __init__(self, result: int = 0, version: int = 13000, count: int = 1) -> None:
        self.result, self.version, self.count = result, version, count

    def cuInit(self, flags: int) -> int:
        return self.result

    def cuDriverGetVersion(self, pointer: Any) -> int:
        return self._write(pointer, self.version)

    def cuDeviceGetCount(self, pointer: Any) -> int:
        return self._write(pointer, self.count)

    def _write(self, pointer: Any, value: int) -> int:
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = value
        return 0


def _missing(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decides which packages seem to be installed."""

    def choose(*distributions: str, version: str = "14.2.0") -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: (
                (object() if distributions else None) if name == "cupy" else find(name, *rest)
            ),
        )
        monkeypatch.setattr(
            probe, "_installed_version", lambda name: version if name in distributions else None
        )

    return choose


@pytest.fixture(autouse=True)
def _visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_a_driver_it_says_what_to_install() -> None:
    found = probe.probe(_missing)
    assert found == Probe(False, found.reason)
    assert found.reason.startswith("no NVIDIA driver on this machine (")
    assert (
        "was not found); install the driver, then `pip install --find-links dist 'opyard-cuda[cu13]'` (wheels of a checkout"
        in found.reason
    )


@pytest.mark.parametrize(("platform", "library"), [("linux", "libcuda.so.1"), ("win32", "nvcuda.dll")])
def test_the_library_has_the_name_of_the_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, library: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "platform", platform)
    probe.probe_driver(lambda name: asked.append(name) or Driver())  # type: ignore[func-returns-value]
    assert asked == [library]


def test_with_everything_there_it_counts_the_devices(installed: Callable[..., None]) -> None:
    installed("cupy-cuda13x")
    assert probe.probe(lambda name: Driver(version=13020, count=4)) == Probe(True, "", 13020, 4)


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (
            Driver(result=100, version=12040),
            "the NVIDIA driver (CUDA 12.4) finds no GPU on this machine; `nvidia-smi` lists those",
        ),
        (Driver(count=0), "the NVIDIA driver (CUDA 13.0) finds no GPU on this machine"),
        (Driver(result=100, version=0), "the NVIDIA driver finds no GPU on this machine"),
        (
            Driver(result=803),
            "cannot be used (cuInit gave error 803): the driver's library and its kernel module",
        ),
        (
            Driver(result=7),
            "cannot be used (cuInit gave error 7): see the error codes of the CUDA Driver API",
        ),
        (
            Driver(version=11080),
            "the NVIDIA driver supports CUDA 11.8, CuPy needs 12.0 or later; update the driver",
        ),
    ],
)
def test_a_driver_that_does_not_serve(driver: Driver, sentence: str) -> None:
    found = probe.probe(lambda name: driver)
    assert not found.ok
    assert sentence in found.reason


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_devices(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    found = probe.probe(lambda name: Driver(result=100))
    assert (
        found.reason
        == f"CUDA_VISIBLE_DEVICES={value!r} leaves no GPU visible; unset it, or name one: CUDA_VISIBLE_DEVICES=0."
    )


@pytest.mark.parametrize(("version", "extra"), [(12040, "cu12"), (13000, "cu13"), (13020, "cu13")])
def test_without_cupy_it_names_the_extra_that_fits_the_driver(
    installed: Callable[..., None], version: int, extra: str
) -> None:
    installed()
    found = probe.probe(lambda name: Driver(version=version))
    assert not found.ok
    assert found.driver_version == version
    assert "CuPy is not installed; the driver supports CUDA" in found.reason
    assert f"`pip install --find-links dist 'opyard-cuda[{extra}]'`" in found.reason


def test_a_cupy_that_is_newer_than_the_driver(installed: Callable[..., None]) -> None:
    installed("cupy-cuda13x")
    reason = probe.probe(lambda name: Driver(version=12040)).reason
    assert (
        "the CuPy installed (cupy-cuda13x) is made for CUDA 13, the driver supports CUDA 12.4; update the driver, or"
        in reason
    )
    assert "`pip install --find-links dist 'opyard-cuda[cu12]'`" in reason


@pytest.mark.parametrize(
    ("driver", "distribution"),
    [
        (12040, "cupy-cuda12x"),
        (12040, "cupy"),  # built from source, for what is here
        (13000, "cupy-cuda12x"),  # drivers serve older toolkits
        (13020, "cupy-cuda13x"),
        (14000, "cupy-cuda13x"),
    ],
)
def test_a_cupy_that_fits_the_driver(installed: Callable[..., None], driver: int, distribution: str) -> None:
    installed(distribution)
    assert probe.cupy_reason(driver) == ""


def test_installed_distributions_are_found() -> None:
    assert probe._installed_version("numpy")
    assert probe._installed_version("opyard-no-such-distribution") is None


CU12 = "`pip install --find-links dist 'opyard-cuda[cu12]'`"
CU13 = "`pip install --find-links dist 'opyard-cuda[cu13]'`"
MISMATCHES = [
    (
        12080,
        ("cupy-cuda13x",),
        "14.2.0",
        "the CuPy installed (cupy-cuda13x) is made for CUDA 13, the driver supports CUDA 12.8; update the driver, or "
        f"`pip uninstall cupy-cuda13x`, then {CU12}",
    ),
    (
        12080,
        ("cupy-cuda12x", "cupy-cuda13x"),
        "14.2.0",
        "several distributions of CuPy are installed, which overwrite each other (cupy-cuda12x cupy-cuda13x); the driver supports "
        f"CUDA 12.8: `pip uninstall cupy-cuda12x cupy-cuda13x`, then {CU12}",
    ),
    (
        13000,
        ("cupy-cuda12x", "cupy-cuda13x"),
        "14.2.0",
        f"the driver supports CUDA 13.0: `pip uninstall cupy-cuda12x cupy-cuda13x`, then {CU13}",
    ),
    (
        13000,
        ("cupy-cuda11x",),
        "13.6.0",
        f"the CuPy installed (cupy-cuda11x) is made for CUDA 11, which is too old; `pip uninstall cupy-cuda11x`, then {CU13}",
    ),
    (
        12040,
        ("cupy-cuda12x",),
        "13.6.0",
        "CuPy 13.6.0 is installed, which is too old: opyard-cuda needs 14 or later; `pip install --upgrade cupy-cuda12x`.",
    ),
    (12040, (), "", f"CuPy is not installed; the driver supports CUDA 12.4, so {CU12}"),
    (13020, (), "", f"CuPy is not installed; the driver supports CUDA 13.2, so {CU13}"),
]


@pytest.mark.parametrize(("driver", "distributions", "version", "sentence"), MISMATCHES)
def test_doctor_explains_what_does_not_fit_together(
    driver: int,
    distributions: tuple[str, ...],
    version: str,
    sentence: str,
    installed: Callable[..., None],
    registry: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(*distributions, version=version)
    monkeypatch.setattr(backend, "probe", lambda: probe.probe(lambda name: Driver(version=driver)))
    monkeypatch.setattr(runtime, "inspect_plugins", lambda: SimpleNamespace(registry=registry, report=list))
    monkeypatch.setattr(runtime, "problems", list)
    shown = CliRunner().invoke(doctor, ["--json"], standalone_mode=False)
    assert shown.exception is None, shown.exception
    (check,) = (c for c in json.loads(shown.output)["checks"] if c["subject"] == "backend cuda")
    assert check["state"] == "inactive"
    assert sentence in check["detail"]


def test_the_backend_is_inactive_with_the_reason(monkeypatch: pytest.MonkeyPatch, registry: Any) -> None:
    monkeypatch.setattr(backend, "probe", lambda: Probe(False, "no NVIDIA driver on this machine."))
    status = registry.open("cuda")
    assert (status.state, status.reason, status.devices) == (
        "inactive",
        "no NVIDIA driver on this machine.",
        (),
    )
    with pytest.raises(
        DeviceUnavailable, match="there is no device 'cuda:0': no NVIDIA driver on this machine"
    ):
        registry.device("cuda:0")


def test_a_cupy_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        DeviceUnavailable, match=r"CuPy is installed but cannot be imported \(import of cupy halted"
    ):
        backend.import_cupy()


def test_a_cupy_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13"\nsecond line')

    cupy, libraries = ModuleType("cupy"), ModuleType("cupy_backends.cuda.libs")
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(runtimeGetVersion=lambda: 13020))  # type: ignore[attr-defined]
    libraries.nvrtc = SimpleNamespace(getVersion=fail)  # type: ignore[attr-defined]
    for name, module in {
        "cupy": cupy,
        "cupy_backends": ModuleType("b"),
        "cupy_backends.cuda": ModuleType("c"),
        "cupy_backends.cuda.libs": libraries,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(
        DeviceUnavailable,
        match=r"CuPy finds no CUDA compiler \(Failure finding .libnvrtc.so.13.\); .* `pip install 'cupy-cuda13x\[ctk\]'`",
    ):
        backend.import_cupy()
    monkeypatch.setattr(
        probe, "_installed_version", lambda name: "12.9" if name == "nvidia-cuda-nvrtc-cu12" else None
    )
    with pytest.raises(
        DeviceUnavailable,
        match=r"libnvrtc.so.13.\); nvidia-cuda-nvrtc-cu12 is installed, which is that of CUDA 12; install the parts of the toolkit that it needs: `pip install 'cupy-cuda13x\[ctk\]'`",
    ):
        backend.import_cupy()
    assert backend.library_features() == frozenset()
    libraries.cublas = object()  # type: ignore[attr-defined]
    assert backend.library_features() == {"cublas"}


def test_registering_and_probing_import_no_cupy() -> None:
    # the probe asks the driver by ctypes alone, so it takes as long as loading that library does: no module is imported by it
    program = """
import sys
from opyard.registry import Registry
from opyard_cuda import plugin, probe, backend
registry = Registry()
plugin.opyard_register(registry)
before = set(sys.modules)
probe.probe_driver()
assert set(sys.modules) == before, set(sys.modules) - before
probe.probe()
assert not [name for name in sys.modules if name.startswith("cupy")], "CuPy was imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
