"""``opyard bench --model``: the calls, patterns and regions of a program, with how often they occur and the sums of their parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.cli import main
from opyard.placement import default_costs
from opyard.region import Region
from opyard.testing import NullDevice, add_null_backend, prepare_null
from opyard_bench.record import read
from opyard_bench.report import lines
from opyard_bench.tasks import Options, Task, case_name, find_tasks

PROGRAM = """
import opyard as oy

def block(x, w):
    y = oy.relu(oy.matmul(x, w) + 1.0)
    return oy.relu(oy.matmul(y, w) + 1.0)

def composite(x):
    return oy.gelu(x)

def shape(x):
    return oy.sum(oy.sum(x, axis=0), axis=0)
"""
SPEED = ("--no-calibration", "--quick", "--seconds", "0.01")


def prepare_fused(work: Any, device: oy.Device) -> Any:
    """Prepares a kernel of a pattern or region that runs the reference on null arrays."""

    def run(*arrays: Any) -> Any:
        host = [None if a is None else device.download(a) for a in arrays]
        results = tuple(device.upload(r) for r in work.reference(*host))
        return results if work.is_tuple else results[0]

    return run


def prepare_zeros(work: Any, device: oy.Device) -> Any:
    return lambda *arrays: device.upload(np.zeros(work.outputs[0].shape, work.outputs[0].dtype))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[oy.Registry]:
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "cache"))
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), ops=("matmul", "add", "relu", "sum"))
    with oy.using(registry=made):
        yield made


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def tasks(registry: oy.Registry, target: str, *inputs: str) -> dict[tuple[str, str], Task]:
    found = find_tasks(Options(model=target, inputs=inputs), registry)
    assert len({task.key for task in found}) == len(found), "keys tell cells apart"
    return {(task.kind, task.title): task for task in found}


def test_distinct_calls_with_the_number_of_times(registry: oy.Registry, program: str) -> None:
    found = tasks(registry, f"{program}:block", "f32[4,4]", "f32[4,4]")
    assert {title: task.times for (_, title), task in found.items()} == {"matmul": 2, "add": 2, "relu": 2}
    assert found["call", "matmul"].case == "float32[4,4]-float32[4,4]"
    found = tasks(registry, f"{program}:block", "f32[3,4]", "f32[4,4]")
    assert found["call", "matmul"].times == 2


def test_composite_ops_are_there_whole_and_in_parts(registry: oy.Registry, program: str) -> None:
    found = tasks(registry, f"{program}:composite", "f32[8]")
    assert ("call", "gelu") in found
    assert ("call", "erf") in found


def test_calls_that_differ_in_attributes_alone_have_names_of_their_own(registry: oy.Registry) -> None:
    call = registry.get_op("sum").call(oy.TensorSpec((2, 3)), axis=0)
    assert case_name(call) == "float32[2,3]-axis=0"
    assert case_name(registry.get_op("sum").call(oy.TensorSpec((2, 3)))) == "float32[2,3]"
    gemm = registry.get_op("clip").call(oy.TensorSpec((2,)), None, oy.TensorSpec(()))
    assert case_name(gemm) == "float32[2]-none-float32[]"


def add_pattern(
    registry: oy.Registry, prepare: Any = prepare_fused, name: str = "fused", **facts: Any
) -> None:
    registry.pattern(
        lambda x, w, b: oy.relu(oy.add(oy.matmul(x, w), b)),
        backend="null",
        name=name,
        prepare=prepare,
        **facts,
    )


def test_a_pattern_is_a_cell_with_its_kernels_and_parts(registry: oy.Registry, program: str) -> None:
    add_pattern(registry)
    add_pattern(registry, name="second", accepts=lambda work, device: "not on Sundays")
    task = tasks(registry, f"{program}:block", "f32[4,4]", "f32[4,4]")["pattern", "matmul + add + relu"]
    assert task.times == 2
    assert task.case.startswith("float32[4,4]-float32[4,4]-float32[]-")
    devices = [registry.device("null:0"), registry.device("reference")]
    rows = {(c.kernel.id, c.device.name): c.refusal for c in task.candidates(devices, registry)}
    assert rows == {
        ("null/fused", "null:0"): None,
        ("null/second", "null:0"): "not on Sundays",
        ("null/parts", "null:0"): None,
        ("reference/reference", "reference"): None,
    }


def test_parts_compute_what_the_pattern_does(registry: oy.Registry, program: str) -> None:
    add_pattern(registry)
    task = tasks(registry, f"{program}:block", "f32[4,4]", "f32[4,4]")["pattern", "matmul + add + relu"]
    device = registry.device("null:0")
    parts = next(c for c in task.candidates([device], registry) if c.kernel.name == "parts")
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(spec.shape).astype(np.float32) for spec in task.work.inputs if spec]
    result = parts.kernel.bind(task.work, device)(*map(device.upload, arrays))
    np.testing.assert_array_equal(device.download(result), task.work.reference(*arrays)[0])
    assert parts.estimate is not None
    assert parts.estimate.source == "null/null + null/null + null/null"


def test_parts_without_a_kernel_say_which(registry: oy.Registry) -> None:
    graph = oy.trace(lambda x: oy.tanh(oy.relu(x)), oy.TensorSpec((4,)))
    device = registry.device("null:0")
    kernel = oy.Kernel("", "null", "regions", prepare=prepare_null)
    fused = oy.Candidate(kernel, device, oy.Estimate(1.0, "kernel"), None)
    task = Task(Region(graph), "relu + tanh", "", kind="region", fused=(fused,))
    parts = next(c for c in task.candidates([device], registry) if c.kernel.name == "parts")
    assert parts.refusal == "no kernel on null:0 takes its tanh"


def test_regions_are_the_largest_and_those_chosen(registry: oy.Registry, program: str) -> None:
    registry.region_compiler(
        backend="null", name="regions", claims=lambda call, device: None, prepare=prepare_fused
    )
    found = find_tasks(Options(model=f"{program}:block", inputs=("f32[4,4]", "f32[4,4]")), registry)
    regions = [task for task in found if task.kind == "region"]
    assert max(len(task.work.graph.nodes) for task in regions if isinstance(task.work, Region)) == 6
    assert all(task.fused for task in regions)
    assert len(regions) <= 3


@pytest.fixture
def bench(registry: oy.Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_a_model_on_the_command_line(bench, registry, program, tmp_path):
    add_pattern(registry)
    add_pattern(registry, prepare_zeros, "zeros")
    path = tmp_path / "run.json"
    target = ("--model", f"{program}:block", "f32[4,4]", "f32[4,4]")
    status, _, err = bench("run", *target, *SPEED, "--regime", "hot,host,end-to-end", "--json", path)
    assert status == 0, err
    run = read(path)
    cell = next(cell for cell in run.cells if cell.kind == "pattern")
    assert (cell.op, cell.times) == ("matmul + add + relu", 2)
    rows = {(row.kernel, row.regime): row for row in cell.rows}
    for regime in ("hot", "host", "end-to-end"):
        assert rows["null/fused", regime].status == rows["null/parts", regime].status == "ok"
        assert rows["null/zeros", regime].status == "wrong"
        assert rows["reference/reference", regime].status == "ok"
    assert rows["null/parts", "hot"].reason == "null/null + null/null + null/null"
    assert rows["null/parts", "hot"].first is not None
    calls = [cell for cell in run.cells if cell.kind == "call"]
    assert {cell.op for cell in calls} == {"matmul", "add", "relu"}
    assert all(cell.chosen_end_to_end for cell in run.cells)
    regrets = {line.row.regime for line in lines(run) if line.regret is not None}
    assert regrets == {"hot", "host", "end-to-end"}
    assert json.loads(path.read_text())["options"]["model"] == f"{program}:block"


def test_copies_decide_what_is_chosen_end_to_end(bench, registry, tmp_path):
    """Uploads to this device cost a second: the reference is the last resort all the same, and a host device is not."""
    slow = oy.Capabilities(transfer_seconds=1.0)
    add_null_backend(registry, NullDevice("far:0", capabilities=slow), ops=("relu",), cost=lambda c, d: 0.0)
    path = tmp_path / "run.json"
    status, _, err = bench("relu", "--shapes", "n=8", *SPEED, "--regime", "hot,end-to-end", "--json", path)
    assert status == 0, err
    (cell,) = read(path).cells
    assert cell.chosen == "far/null on far:0"
    assert cell.chosen_end_to_end == "null/null on null:0"


def test_sums_of_parts_are_not_saved(bench, registry, program, tmp_path):
    add_pattern(registry)
    target = ("--model", f"{program}:block", "f32[4,4]", "f32[4,4]")
    assert bench("run", *target, *SPEED, "--save")[0] == 0
    default_costs().store.export(tmp_path / "costs.json")
    kept = json.loads((tmp_path / "costs.json").read_text())["measurements"]
    kernels = {row["kernel"].partition(" ")[0] for row in kept}
    assert kernels == {"null/null", "null/fused", "reference/reference"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--model", "nowhere"),
            "'nowhere' is no program; write module:function, path.py:function or the path of a model file.",
        ),
        (("--model", "{}:block", "f32[4,4]"), "1 inputs were given. Write one for each"),
        (("--model", "{}:block", "--dtype", "f64"), "--shapes and --dtype are for the cases of ops"),
    ],
)
def test_what_is_refused(bench, program, arguments, text):
    status, out, err = bench("run", *(argument.format(program) for argument in arguments))
    assert (status, out) == (1, "")
    assert text in err
