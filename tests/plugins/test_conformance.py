"""``opyard conformance`` as users run it, the ids of cases, the suite for pytest, and what they say when something is wrong."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

import opyard as oy
from hosts import add_host
from opyard.cli import main
from opyard.errors import DeviceUnavailable, RegistryError
from opyard.ops import STANDARD
from opyard_conformance import LEVELS, run_conformance, runner, trials
from opyard_conformance.command import conformance
from opyard_conformance.memory import LAYOUTS, guarded, same_bits
from opyard_conformance.runner import select_kernels

SAMPLE = [
    "add",
    "exp",
    "softmax",
    "variance",
    "sum",
    "argmax",
    "sort",
    "matmul",
    "conv",
    "layer_normalization",
    "where",
    "gather",
    "reshape",
    "unstack",
    "cumulative_sum",
]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit status, output and errors of the command."""
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *words])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def wrong_relu(monkeypatch: pytest.MonkeyPatch) -> oy.Registry:
    """A backend whose relu drops NaN, in the registry that the command uses."""
    registry = oy.standard_registry()
    oy.testing.add_null_backend(registry)

    def prepare(call: Any, device: Any) -> Any:
        return lambda x: device.upload(np.fmax(device.download(x), x.dtype.type(0)))

    registry.kernel("relu", backend="null", name="wrong", prepare=prepare, dtypes=("float32",))
    monkeypatch.setattr(runner, "default_registry", lambda: registry)
    return registry


def test_errors_are_measured_against_what_the_kernel_says() -> None:
    """A kernel whose errors are relative to the largest result, beside which others are small."""

    def near(x: Any) -> Any:
        found = np.exp(x)
        return found + found.dtype.type(1e-7) * np.max(found, initial=0, where=np.isfinite(found))

    def largest(call: Any, arrays: Any) -> Any:
        found = np.exp(arrays[0])
        return [np.full(found.shape, np.max(found, initial=0, where=np.isfinite(found)))]

    reports = []
    for facts in ({}, {"magnitudes": largest}):
        registry = oy.standard_registry()
        add_host(registry, "mine")
        registry.kernel("exp", backend="mine", name="k", load=near, dtypes=("float32",), **facts)
        reports.append(run_conformance("mine", registry=registry, ops=["exp"]))
    without, with_magnitudes = reports
    assert any("values differ" in failure.detail for failure in without.failures)
    assert not with_magnitudes.failures
    assert with_magnitudes.counts["passed"] > 30


# Kernels of this repository --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", SAMPLE)
def test_kernels_of_the_cpu_backend_conform(op: str) -> None:
    registry = oy.default_registry()
    if not any(kernel.backend == "cpu" for kernel in registry.kernels(op)):
        pytest.fail(f"the sample names {op}, for which cpu has no kernel")
    report = run_conformance("cpu", ops=[op])
    assert [(o.command, o.detail) for o in report.failures] == []
    assert report.counts["passed"] > 10


def test_the_references_meet_float64() -> None:
    report = run_conformance("reference", level="smoke")
    assert {outcome.op for outcome in report.outcomes} >= set(STANDARD)
    assert [(o.command, o.detail) for o in report.failures] == []
    assert report.counts["passed"] == len(report.outcomes)


# Cases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["add", "sum", "matmul", "gather", "unstack"])
def test_ids_are_unique_stable_and_of_growing_levels(op: str) -> None:
    declared = STANDARD[op].op
    ids = {level: [trial.id for trial in trials(declared, level)] for level in LEVELS}
    for level, found in ids.items():
        assert len(set(found)) == len(found)
        assert found == [trial.id for trial in trials(declared, level)]
    assert ids["core"][: len(ids["smoke"])] == ids["smoke"]
    assert ids["full"][: len(ids["core"])] == ids["core"]
    assert len(ids["smoke"]) < len(ids["core"]) < len(ids["full"])


def test_the_families_of_an_elementwise_op() -> None:
    ids = {trial.id for trial in trials(STANDARD["add"].op, "core")}
    assert ids >= {
        *("float64[3,4]-float64[3,4]", "uint64[4,5]-uint64[5]", "complex128[3,5]-complex128[5]"),
        *("float32[1023,4]-float32[1023,4]", "float32[3,0]-float32[3,0]", "float32[3,1]-float32[1,4]"),
        *("float32[3,4]-float32[3,4]@nan", "float32[3,4]-float32[3,4]@huge", "int32[4,5]-int32[5]@limits"),
        *(f"float32[3,4]-float32[3,4]@{layout}" for layout in LAYOUTS),
    }


def test_cases_that_differ_in_limits_alone_have_numbers() -> None:
    @oy.op(
        "mine.twice",
        infer=oy.infer.same_as_first(),
        cases=lambda: [oy.case((2,)), oy.case(oy.Draw((2,), low=1))],
    )
    def twice(x):
        """Twice x."""
        return x * 2

    found = list(trials(twice.op, "smoke"))
    assert [trial.id for trial in found] == ["float32[2]", "float32[2]#2"]


@pytest.mark.parametrize("layout", ["", *LAYOUTS])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
def test_guarded_arrays(layout: str, shape: tuple[int, ...]) -> None:
    contents = np.random.default_rng(0).random(shape).astype(np.float32)
    place = guarded(contents, layout)
    assert same_bits(place.array, contents)
    assert place.is_intact()
    if contents.ndim and contents.size > 1 and layout in ("strided", "reversed"):
        assert not place.array.flags.c_contiguous
    if contents.ndim > 1 and layout == "transposed":
        assert place.array.flags.f_contiguous
    for position in (0, -1):
        place.buffer[position] ^= 1
        assert not place.is_intact()
        place.buffer[position] ^= 1
    assert place.is_intact()


# The command -----------------------------------------------------------------------------------------------------


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--backend", "cpu", "--op", "softmax", "--level", "smoke")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "Kernels of cpu on cpu:0, level smoke:"
    assert lines[2].split()[:6] == ["op", "kernel", "passed", "failed", "unsupported", "unjudged"]
    row = next(line for line in lines if line.startswith("softmax  cpu/numpy  "))
    assert "takes x of float32, float64, not bfloat16" in row
    assert lines[-1].endswith("unsupported, 0 unjudged")


def test_a_failure_has_a_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str], wrong_relu: Any
) -> None:
    status, out, _ = run(capsys, "--backend", "null", "--op", "relu")
    assert status == 1
    assert (
        "FAILED relu null/wrong: output 0: 1 of 12 values differ; at (1, 2) it is 0.0, the reference has nan"
        in out
    )
    command = next(line.strip() for line in out.splitlines() if line.endswith("@nan'"))
    program, name, *words = shlex.split(command)
    assert (program, name) == ("opyard", "conformance")
    status, out, _ = run(capsys, *words, "--json")
    data = json.loads(out)
    assert (status, data["failed"], data["passed"]) == (1, 1, 0)
    assert [failure["command"] for failure in data["failures"]] == [command]


def test_equal_failures_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = oy.standard_registry()
    oy.testing.add_null_backend(registry, ops=["exp"], accepts=lambda call, device: True)
    monkeypatch.setattr(runner, "default_registry", lambda: registry)
    status, out, _ = run(capsys, "--backend", "null", "--level", "smoke")
    assert status == 1
    assert out.count("FAILED exp null/null: it cannot say whether it takes the call: ") == 1
    assert out.count("    opyard conformance --backend null:0 --op exp ") == len(
        list(STANDARD["exp"].op.cases())
    )


def test_json_and_junit(capsys: pytest.CaptureFixture[str], wrong_relu: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    status, out, _ = run(capsys, "--backend", "null", "--op", "relu", "--json", "--junit", str(file))
    data = json.loads(out)
    assert status == 1
    assert list(data) == [
        *("backend", "devices", "level", "seed", "passed", "failed", "unsupported", "unjudged"),
        *("seconds", "kernels", "failures"),
    ]
    assert (data["backend"], data["devices"], data["level"], data["seed"]) == ("null", ["null:0"], "core", 0)
    (row,) = data["kernels"]
    assert row["failed"] == data["failed"] == len(data["failures"]) > 0
    assert row["unsupported"] > 0
    assert any("takes x of float32, not float64" in reason for reason in row["reasons"])
    (suite,) = ElementTree.parse(file).getroot()
    assert suite.get("name") == "relu null/wrong null:0"
    assert suite.get("failures") == str(data["failed"])
    assert suite.get("skipped") == str(data["unsupported"] + data["unjudged"])
    assert suite.get("tests") == str(len(suite))
    failures = suite.findall("testcase/failure")
    assert [found.text for found in failures] == [
        f"{failure['detail']}\n{failure['command']}" for failure in data["failures"]
    ]
    assert all(
        (found.get("message") or "").startswith(("unsupported: ", "unjudged: "))
        for found in suite.findall("testcase/skipped")
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--backend", "cpo"], "there is no backend called 'cpo'. Did you mean cpu?"),
        (["--backend", "cpu", "--op", "sofmax"], "there is no op called 'sofmax'. Did you mean softmax"),
        (["--backend", "cpu", "--op", "rand"], "there is no op called 'rand'."),
        (
            ["--backend", "cpu", "--op", "exp", "--kernel", "cpu/nunpy"],
            "backend 'cpu' has no kernel 'cpu/nunpy' for exp. Did you mean cpu/numpy? Known: cpu/jit, cpu/numpy.",
        ),
        (
            ["--backend", "cpu", "--op", "exp", "--case", "float32[3,4]@nann"],
            "op 'exp' has no case 'float32[3,4]@nann'. Did you mean float32[3,4]@nan ",
        ),
    ],
)
def test_unknown_names(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (1, "")
    assert f"error: {text}" in err


def test_an_op_without_kernels_of_the_backend(wrong_relu: Any) -> None:
    with pytest.raises(
        RegistryError, match=r"backend 'null' has no kernel for op 'exp'\. `opyard kernels exp` lists"
    ):
        run_conformance("null", ops=["exp"], registry=wrong_relu)


def test_an_unknown_level() -> None:
    with pytest.raises(
        RegistryError, match=r"no level 'cor'\. Did you mean core\? Known: smoke, core, full\."
    ):
        run_conformance("cpu", ops=["exp"], level="cor")


def test_a_backend_without_a_device() -> None:
    registry = oy.standard_registry()
    registry.backend("absent", load=lambda: oy.testing.NullBackend(reason="plug it in"))
    registry.kernel("exp", backend="absent", name="k", load=np.exp)
    with pytest.raises(DeviceUnavailable, match="plug it in"):
        run_conformance("absent", registry=registry)


def test_a_case_needs_one_op(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--backend", "cpu", "--case", "float32[3,4]")
    assert status == 2
    assert "--case names a case of one op; name the op with --op OP." in err


def test_a_backend_must_be_named() -> None:
    assert "Missing option '--backend'" in CliRunner().invoke(conformance, []).output


# What CI systems read --------------------------------------------------------------------------------------------


def test_junit_has_what_ci_systems_read(wrong_relu: oy.Registry) -> None:
    """The elements and attributes of the schema of Jenkins' xUnit plugin, which GitLab and GitHub's actions read as well."""

    def prepare(call: Any, device: Any) -> Any:
        raise RuntimeError("\x1b[31mno <fp64> & no \x00 luck\x1b[0m")

    wrong_relu.kernel("exp", backend="null", name="loud", prepare=prepare, dtypes=("float32",))
    report = run_conformance("null", registry=wrong_relu, seed=2)
    root = ElementTree.fromstring(report.to_junit())
    suites = list(root)
    assert root.tag == "testsuites" and {suite.tag for suite in suites} == {"testsuite"}
    assert [suite.get("name") for suite in suites] == ["exp null/loud null:0", "relu null/wrong null:0"]
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(name, "")) == sum(int(suite.get(name, "")) for suite in suites)
    assert float(root.get("time", "")) >= 0
    for suite in suites:
        cases = list(suite)
        assert {case.tag for case in cases} == {"testcase"}
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
        keys = [(case.get("classname"), case.get("name")) for case in cases]
        assert len(set(keys)) == len(keys)
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None and failure.text is not None
    message = "it accepts the call and cannot be prepared: RuntimeError: \ufffd[31mno <fp64> & no \ufffd luck\ufffd[0m"
    assert (failure.get("message"), failure.get("type")) == (message, "failed")
    command = failure.text.splitlines()[-1]
    assert command.startswith("opyard conformance --backend null:0 --op exp --kernel null/loud --case ")
    assert command.endswith(" --seed 2")


# The matrix ------------------------------------------------------------------------------------------------------


def test_the_matrix(capsys: pytest.CaptureFixture[str], wrong_relu: oy.Registry) -> None:
    wrong_relu.kernel(
        "exp",
        backend="null",
        name="short",
        prepare=oy.testing.prepare_null,
        dtypes=("float32", "float64"),
        accepts=lambda call, device: None if call.output.ndim < 3 else "has two axes, not more",
    )
    status, out, _ = run(capsys, "--backend", "null", "--matrix")
    assert status == 1
    lines = out.splitlines()
    assert lines[:4] == ["| op | null |", "|---|---|", "| `exp` | f32\\* f64 |", "| `relu` | **f32** |"]
    assert lines[5] == "| backend | refuses, or cannot be judged, because | ops |"
    assert "| null | has two axes | `exp` |" in lines
    assert "| null | takes x of float32 | `relu` |" in lines


def test_the_matrix_in_the_documentation_has_all_ops() -> None:
    path = Path(__file__).parents[2] / "tools" / "generate_conformance_matrix.py"
    spec = importlib.util.spec_from_file_location("generate_conformance_matrix", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    _, table, _ = tool.parts(tool.TARGET.read_text(encoding="utf-8"))
    header, _, *rows = table.partition("\n\n")[0].splitlines()
    assert header == f"| op | {' | '.join(tool.BACKENDS)} |"
    found = {row.split("`")[1]: [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    registry = oy.default_registry()
    for number, backend in enumerate(tool.BACKENDS):
        expected = set(select_kernels(registry, backend)) & {*STANDARD, "regions", "patterns"}
        stated = {op for op, cells in found.items() if cells[number] != "–"}
        assert stated == expected, "run `uv run python tools/generate_conformance_matrix.py`"
    assert "**" not in table, "a failure is no documentation"


# Seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("op", SAMPLE)
def test_no_false_alarm_with_other_numbers(op: str, seed: int) -> None:
    report = run_conformance("cpu", ops=[op], seed=seed)
    assert [(o.command, o.detail) for o in report.failures] == []


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("backend", ["cpu", "opencl"])
def test_no_false_alarm_with_any_numbers(backend: str, seed: int) -> None:
    status = oy.default_registry().open(backend)
    if not status.devices:
        pytest.skip(status.reason)
    report = run_conformance(backend, seed=seed)
    assert [(o.command, o.detail) for o in report.failures] == []


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["cpu", "opencl"])
def test_all_kernels_conform(backend: str) -> None:
    report = run_conformance(backend)
    assert not report.failures
    assert report.counts["passed"] > 8_000
