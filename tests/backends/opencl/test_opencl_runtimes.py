"""What is said about OpenCL implementations: .icd files, platforms, quirks; several at once; and the script that checks them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opyard_opencl import backend, runtimes
from opyard_opencl.backend import OpenCLBackend
from opyard_opencl.quirks import Quirks, quirks_of

SCRIPT = Path(__file__).parents[3] / "tools" / "opencl_runtimes.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("opencl_runtimes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "opencl_runtimes", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_icd_files_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("b.icd", "a.icd", "c.txt"):
        (tmp_path / name).write_text("libx.so\n")
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    assert [file.name for file in runtimes.icd_files() if file.parent == tmp_path] == ["a.icd", "b.icd"]
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path / "b.icd"))
    assert runtimes.icd_files() == [tmp_path / "b.icd"]  # then the loader reads no other
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path / "none"))
    assert runtimes.icd_files() == [tmp_path / "none"]
    monkeypatch.delenv("OCL_ICD_VENDORS")
    monkeypatch.setattr(runtimes, "SYSTEM_FOLDER", tmp_path)
    assert runtimes.icd_files()[0].name == "a.icd"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [file.parent for file in runtimes.icd_files()] == [tmp_path, tmp_path]


def test_an_icd_file_of_a_library_that_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "intel.icd"
    file.write_text("/nowhere/libintelocl.so\n")
    assert (
        "names /nowhere/libintelocl.so, which is not there: reinstall that driver"
        in runtimes.describe_icd(file)
    )
    (tmp_path / "lib.so").write_text("")
    file.write_text("lib.so\n")
    assert runtimes.describe_icd(file) == f"{file} names {tmp_path / 'lib.so'}"
    file.write_text("libsomewhere.so")
    assert runtimes.describe_icd(file).endswith("names libsomewhere.so")
    assert (
        "cannot be read (No such file or directory): set OCL_ICD_VENDORS to a folder with .icd files or to one of them, or unset it"
        in runtimes.describe_icd(tmp_path / "none.icd")
    )


def test_platforms_in_words() -> None:
    def fail() -> Any:
        raise ValueError("no device")

    device = SimpleNamespace(name="cpu ", driver_version="3.0")
    pocl = SimpleNamespace(
        name="Portable Computing Language",
        version="OpenCL 3.0 PoCL 3.0-rc2  Linux",
        get_devices=lambda: [device],
    )
    assert runtimes.describe_platform(pocl, ValueError) == (
        "platform Portable Computing Language, OpenCL 3.0 PoCL 3.0-rc2: cpu (driver 3.0); "
        "builds kernels with `ld`, of binutils, is tried in another process first"
    )
    empty = SimpleNamespace(name="Vendor", version="1", get_devices=fail)
    assert "platform Vendor, 1: no device; a driver without hardware" in runtimes.describe_platform(
        empty, ValueError
    )
    assert Quirks().habits() == ""


def test_notes_of_the_backend(opencl: Any) -> None:
    notes = OpenCLBackend().notes()
    assert any(note.startswith("pyopencl ") for note in notes)
    assert any(note.startswith("platform ") and "driver" in note for note in notes)


def test_notes_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl

    fake = SimpleNamespace(get_platforms=list, Error=pyopencl.Error)
    monkeypatch.setattr(backend, "_binding", lambda: fake)
    assert "There is no OpenCL platform here" in OpenCLBackend().notes()[-1]


@pytest.mark.parametrize(("floats", "size"), [(16, 64), (8, 32), (1, 32)])
def test_kernels_use_the_vectors_that_the_processor_has(floats: int, size: int) -> None:
    from opyard_opencl.device import _vector_bytes

    assert _vector_bytes(SimpleNamespace(native_vector_width_float=floats)) == size


def test_the_simulator_computes_step_by_step() -> None:
    assert not quirks_of("Intel(R) OpenCL", "OpenCL 3.1 LINUX").single_steps
    simulator = quirks_of("Oclgrind", "OpenCL 1.2 (Oclgrind 21.10)")
    assert simulator.single_steps
    assert simulator.options == ("-cl-opt-disable",)
    assert simulator.habits() == "is a simulator, and slow"


def test_a_device_of_single_steps_has_an_item_for_each(opencl: Any) -> None:
    from dataclasses import replace

    from opyard_opencl.device import OpenCLDevice
    from opyard_opencl.launch import partition

    device = OpenCLDevice("opencl:9", opencl.cl_device, replace(opencl.quirks, single_steps=True))
    assert partition(device, 1000, 64) == (1000, 1)
    assert partition(opencl, 1000, 64)[0] < 1000


LOG = """
Read-write data race at global memory address 0x2000000000000
	Kernel: k
Invalid write of size 4 at global memory address 0x2000000000fa0
Invalid read of size 8 at global memory address 0x2000000000fa0
	Entity: Global(0,0,0) Local(0,0,0) Group(0,0,0)
OCLGRIND FATAL ERROR (WorkItem.cpp:1681)
"""


def test_the_script_counts_what_a_simulator_reports(script: Any) -> None:
    assert script.findings(LOG) == {"races": 1, "out of bounds": 2, "others": 1}
    assert not script.findings("")


def test_the_script_fails_for_findings_failures_and_missing_reports(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = script.RUNTIMES["oclgrind"]
    counts = {"passed": 3, "failed": 0, "unsupported": 1, "unjudged": 0, "seconds": 2.0, "failures": []}
    assert script.report(runtime, 0, json.dumps(counts), script.findings(""))
    assert not script.report(runtime, 0, json.dumps(counts), script.findings(LOG))
    failure = {"op": "add", "kernel": "opencl/generated", "detail": "wrong"}
    assert not script.report(runtime, 1, json.dumps({**counts, "failures": [failure]}), script.findings(""))
    assert not script.report(runtime, 2, "", script.findings(""))
    said = capsys.readouterr().out
    assert "1 races, 2 accesses out of bounds, 1 others" in said
    assert "add opencl/generated: wrong" in said
    assert "ended with 2 and gave no report" in said


def test_the_script_names_the_library_of_intel(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no libintelocl\.so under"):
        script.intel_environment(tmp_path)
    library = tmp_path / "lib" / "libintelocl.so"
    library.parent.mkdir()
    library.write_text("")
    vendors = script.intel_environment(tmp_path)["OCL_ICD_VENDORS"]
    assert (Path(vendors) / "intel.icd").read_text() == f"{library}\n"


def test_the_script_installs_all_that_its_members_need_from_the_checkout(script: Any) -> None:
    folders = [script.ROOT / member.partition("[")[0] for member in script.MEMBERS]
    projects = [tomllib.loads((folder / "pyproject.toml").read_text()) for folder in folders]
    names = {found["project"]["name"] for found in projects}
    needed = {
        re.split(r"[^a-z-]", needs)[0] for found in projects for needs in found["project"]["dependencies"]
    }
    assert {name for name in needed if name.split("-")[0] == "opyard"} <= names


def test_the_script_checks_the_ops_and_the_device_that_are_named(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="{}")

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script, "report", lambda *_: True)
    named = ["oclgrind", "--folder", str(tmp_path), "--device", "opencl:1", "--op", "regions", "--op", "sum"]
    monkeypatch.setattr(sys, "argv", ["opencl_runtimes.py", *named])
    assert script.main() == 0
    said = " ".join(commands[-1])
    assert said.endswith("conformance --backend opencl:1 --op regions --op sum --level smoke --json")
