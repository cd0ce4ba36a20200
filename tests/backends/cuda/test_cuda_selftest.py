"""The self-test without a GPU: what it says, and its logic on the CPU's device in the place of a GPU's."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import opyard as oy
import opyard_cpu.plugin
from opyard.errors import DeviceUnavailable
from opyard.kernels import Kernel
from opyard_cuda import graphs
from opyard_cuda.backend import CUDADevice
from opyard_cuda.selftest import __main__ as command
from opyard_cuda.selftest import rightness, speed
from opyard_cuda.selftest.checks import Bench, Check, NotRun, Sizes, run_checks

TINY = Sizes(elements=1 << 13, matrix=16, calls=3, nodes=5, seconds=0.05, batch=1e-5)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The CPU as if it were a GPU with a clock, and NumPy as CuPy."""
    registry = oy.standard_registry()
    opyard_cpu.plugin.opyard_register(registry)
    device = registry.device("cpu:0")
    monkeypatch.setattr(device, "record", time.perf_counter)
    monkeypatch.setattr(device, "elapsed", lambda begin, end: max(end - begin, 1e-9))
    monkeypatch.setattr(device, "from_dlpack", np.from_dlpack, raising=False)
    cupy = SimpleNamespace(
        tile=np.tile,
        copyto=np.copyto,
        empty_like=np.empty_like,
        may_share_memory=np.may_share_memory,
        cuda=SimpleNamespace(alloc=bytearray),
    )
    with oy.using(registry=registry):
        yield Bench(device, cupy, TINY)


def _recorded(function: Any, *arrays: Any) -> Any:
    """Stands for a recording: the same calls each time."""
    graph = oy.trace(function, *map(oy.TensorSpec.of, arrays))
    assert len(graph.nodes) == TINY.nodes
    run = oy.Session(graph).callable(tuple(graph.outputs), tuple(graph.inputs))
    return SimpleNamespace(launch=lambda: run(*arrays))


def test_all_measurements_of_speed_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "record", _recorded)
    monkeypatch.setattr(speed, "HALF", np.float32)  # the CPU has no products of bfloat16
    monkeypatch.setitem(sys.modules, "torch", None)
    lines = {line.name: line for line in run_checks(speed.SPEED, bench)}
    assert list(lines) == [check.name for check in speed.SPEED]
    assert lines.pop("bfloat16 product, torch.matmul").reason == "torch is not installed; pip install torch"
    for line in lines.values():
        assert line.value is not None, (line.name, line.reason)
        assert line.value > 0 or line.unit == "bytes copied"
        assert line.state in ("PASS", "FAIL") if line.goal else line.state == "MEASURED"
    assert lines["taking over an array by DLPack"].state == "PASS"


def test_copied_bytes_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.device, "from_dlpack", lambda array: np.from_dlpack(array).copy())
    assert speed.handed_over(bench) == 4096 * 4


def test_shares_need_the_ceiling(bench: Bench) -> None:
    with pytest.raises(NotRun, match="the copy bandwidth could not be measured"):
        speed.share(speed.fused, arrays=2)(bench)
    with pytest.raises(NotRun, match="the product could not be measured"):
        speed.epilogue(bench)


def test_a_share_is_of_all_bytes_moved(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ceilings[speed.COPY] = 1e9
    monkeypatch.setattr(Bench, "seconds", lambda self, run: 1e-3)
    # two arrays in, one out; and one in, two weights, one out
    elements = TINY.elements * 4
    assert speed.share(speed.fused, arrays=2)(bench) == pytest.approx(100 * 3 * elements / 1e6)
    assert speed.share(speed.layer_norm, weights=2)(bench) == pytest.approx(
        100 * (2 * elements + 2 * speed.ROW * 4) / 1e6
    )


def test_torch_is_compared_where_it_has_cuda(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: Any) -> float:
            return 20.0  # milliseconds of ten products

    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: False, Event=Event)  # type: ignore[attr-defined]
    torch.randn = lambda *shape, **options: np.zeros(shape)  # type: ignore[attr-defined]
    torch.bfloat16, torch.matmul = None, np.matmul  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    bench.ceilings[speed.PRODUCT] = 1e-3
    with pytest.raises(NotRun, match="torch is installed without CUDA"):
        speed.against_torch(bench)
    torch.cuda.is_available = lambda: True
    assert speed.against_torch(bench) == pytest.approx(200)


def test_every_kernel_is_touched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, bind = oy.default_registry(), Kernel.bind
    registry.pattern(
        lambda x, y: oy.relu(oy.add(x, y)),
        backend="cpu",
        name="joined",
        prepare=lambda region, device: lambda x, y: np.maximum(x + y, 0),
    )
    touched: list[Kernel] = []

    def noted(kernel: Kernel, work: Any, device: Any) -> Any:
        touched.append(kernel)
        return bind(kernel, work, device)

    monkeypatch.setattr(Kernel, "bind", noted)
    bare = [k for k in registry.all_kernels() if k.backend == "cpu" and not k.layouts]
    assert rightness.touch_kernels(bench) == len(touched) == len(set(touched))
    assert set(touched) <= set(bare)
    single = [k for k in touched if k.op]
    assert len(single) > 0.8 * len([k for k in bare if k.op and not k.least_size])
    assert "joined" in {k.name for k in touched if k.pattern}
    assert any(k.claims for k in touched)

    touched.clear()
    monkeypatch.setitem(sys.modules, "opyard_conformance", None)  # which has the graphs
    assert rightness.touch_kernels(bench) == len(single)
    assert touched == single


def test_conformance_counts_failures(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import opyard_conformance

    failure = SimpleNamespace(op="add", detail="off by one", command="opyard conformance ...")
    monkeypatch.setattr(
        opyard_conformance, "run_conformance", lambda name: SimpleNamespace(failures=[failure] * 2)
    )
    assert rightness.conformance(bench) == 2
    assert "add: off by one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "opyard_conformance", None)
    with pytest.raises(NotRun, match="opyard-conformance is not installed; pip install opyard-conformance"):
        rightness.conformance(bench)


@pytest.mark.parametrize(("code", "value"), [(0, 0.0), (rightness.FOUND, 1.0)])
def test_the_sanitizer_finds_or_does_not(
    code: int, value: float, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=code, stdout="Invalid __global__ read", stderr="")

    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    assert rightness.sanitizer("memcheck")(bench) == value
    assert commands[0][:3] == ["bin/compute-sanitizer", "--tool", "memcheck"]
    assert commands[0][-3:] == ["-m", "opyard_cuda.selftest", "--touch"]


def test_a_sanitizer_that_does_not_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotRun, match="compute-sanitizer is not on PATH; it is part of the CUDA toolkit"):
        rightness.sanitizer("memcheck")(bench)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    done = SimpleNamespace(returncode=255, stdout="a\nDevice not supported", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(NotRun, match="compute-sanitizer ended with 255: Device not supported"):
        rightness.sanitizer("memcheck")(bench)


@pytest.mark.parametrize("program", [rightness.transformer, rightness.resnet])
def test_programs_compute(program: Any) -> None:
    graph, arrays = program()
    assert [value.spec for value in graph.inputs.values()] == [oy.TensorSpec.of(a) for a in arrays]
    (output,) = graph.outputs.values()
    assert output.spec == oy.TensorSpec.of(arrays[0])


def test_predictions_are_compared_with_times(bench: Bench) -> None:
    def program() -> Any:
        graph = oy.trace(lambda x: oy.exp(x) + x, oy.TensorSpec((64, 64)))
        return graph, [np.ones((64, 64), np.float32)]

    assert 0 <= rightness.prediction(program)(bench) < math.inf


def _line(bench: Bench, **facts: Any) -> Any:
    check = replace(Check("name", "us", lambda bench: 3.0), **facts)
    (line,) = run_checks([check], bench)
    return line


def test_goals(bench: Bench) -> None:
    def raising(bench: Bench) -> float:
        raise ValueError("out of memory")

    def absent(bench: Bench) -> float:
        raise NotRun("no second GPU")

    assert _line(bench).state == "MEASURED"
    assert (_line(bench, limit=3).state, _line(bench, limit=3.5).state) == ("PASS", "FAIL")
    assert (_line(bench, limit=3, at_least=False).state, _line(bench, limit=2, at_least=False).state) == (
        "PASS",
        "FAIL",
    )
    for at_least in (True, False):
        assert _line(bench, limit=3, at_least=at_least, measure=lambda bench: math.nan).state == "FAIL"
    assert _line(bench, limit=90).goal == ">= 90 us"
    failed = _line(bench, measure=raising)
    assert (failed.state, failed.value, failed.reason) == ("FAIL", None, "ValueError: out of memory")
    left_out = _line(bench, measure=absent)
    assert (left_out.state, left_out.reason) == ("NOT RUN", "no second GPU")


# The command ------------------------------------------------------------------------------------------------------


def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(name: str) -> Any:
        raise DeviceUnavailable(f"there is no device {name!r}: no NVIDIA driver on this machine.")

    monkeypatch.setattr(command.oy, "default_registry", lambda: SimpleNamespace(device=device))


def test_without_a_gpu_nothing_is_run_and_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_a_gpu(monkeypatch)
    shown = CliRunner().invoke(command.main, [])
    assert shown.exit_code == 2
    assert shown.output.count("NOT RUN") == len(command.CHECKS)
    assert shown.output.endswith(
        "Nothing was tested: there is no device 'cuda:0': no NVIDIA driver on this machine.\n"
    )
    data = json.loads(CliRunner().invoke(command.main, ["--json"]).output)
    assert {line["state"] for line in data["lines"]} == {"NOT RUN"}
    assert {line["reason"] for line in data["lines"]} == {
        "there is no device 'cuda:0': no NVIDIA driver on this machine."
    }
    assert data["versions"]["opyard-cuda"] == command.versions()["opyard"]


def test_another_device_is_refused() -> None:
    shown = CliRunner().invoke(command.main, ["--device", "cpu:0"])
    assert shown.exit_code == 2
    assert "Error: cpu:0 is no CUDA device; name one: --device cuda:0." in shown.output


@pytest.fixture
def gpu(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> CUDADevice:
    device = CUDADevice(0, fake_cupy)
    registry = SimpleNamespace(device=lambda name: device)
    monkeypatch.setattr(command.oy, "default_registry", lambda: registry)
    return device


@pytest.mark.parametrize(
    ("limit", "code", "ending"), [(1, 0, "All that ran is within"), (9, 1, "Failed: a.")]
)
def test_the_exit_code_tells_whether_goals_are_met(
    limit: float, code: int, ending: str, gpu: CUDADevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = (Check("a", "us", lambda bench: 5.0, limit), Check("b", "GB/s", lambda bench: 4e3))
    monkeypatch.setattr(command, "CHECKS", checks)
    shown = CliRunner().invoke(command.main, [])
    assert shown.exit_code == code
    assert "Fake GPU, 141 GB" in shown.output
    assert ending in shown.output
    data = json.loads(CliRunner().invoke(command.main, ["--json"]).output)
    assert [line["value"] for line in data["lines"]] == [5.0, 4000.0]
    assert data["description"].startswith("Fake GPU")


def test_touching_measures_nothing_and_uses_no_pool(gpu: CUDADevice, monkeypatch: pytest.MonkeyPatch) -> None:
    allocators: list[Any] = []
    gpu.cupy.cuda.set_allocator = allocators.append
    monkeypatch.setattr(command, "touch_kernels", lambda bench: 7)
    shown = CliRunner().invoke(command.main, ["--touch"])
    assert (shown.exit_code, shown.output) == (0, "7 kernels ran on cuda:0.\n")
    assert allocators == [None]


def test_arrays_fit_into_the_memory(gpu: CUDADevice, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, elements in ((140 << 30, 1 << 28), (8 << 30, 1 << 27), (0, 1 << 20)):
        monkeypatch.setattr(gpu, "memory_info", lambda free=free: (free, free))
        assert command._elements(gpu) == elements
