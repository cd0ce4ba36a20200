"""The kernels written in CUDA C++ by hand, run on the CPU under every schedule, against the references; and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.operation import Op
from opyard.region import Region
from opyard.spec import TensorSpec
from opyard_cuda import native
from opyard_cuda.emulation import SCHEDULES, Schedule
from opyard_cuda.native import rows
from opyard_cuda.native.launch import blocks, dense, text
from opyard_cuda.native.move import merged

from .emulated import KERNELS, NATIVE, Trial, cases
from .native_trials import TRIALS


@pytest.fixture(scope="module")
def prepared(emulation: Any) -> dict[str, list[tuple[Trial, Any]]]:
    """All trials, prepared: their sources are then compiled together."""
    _, device = emulation
    found = {file: [(trial, trial.prepared(device)) for trial in make()] for file, make in TRIALS.items()}
    found["cases"] = [(trial, trial.prepared(device)) for name in NATIVE for trial in cases(name, device)]
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("file", (*TRIALS, "cases"))
def test_kernels_agree_with_the_references_under_every_schedule(
    file: str, schedule: str, prepared: dict[str, list[tuple[Trial, Any]]], emulation: Any
) -> None:
    library, _ = emulation
    library.schedule = Schedule(schedule, seed=7)
    found = [difference for trial, run in prepared[file] if (difference := trial.check(run)) is not None]
    assert prepared[file]
    assert not found


def test_equal_inputs_give_equal_bits_under_all_schedules(
    prepared: dict[str, list[tuple[Trial, Any]]], emulation: Any
) -> None:
    library, _ = emulation
    for trial, run in (prepared[file][5] for file in TRIALS):
        results = []
        for schedule in SCHEDULES:
            library.schedule = Schedule(schedule)
            result = run(*trial.arrays)
            results.append(
                b"".join(part.tobytes() for part in (result if trial.work.is_tuple else (result,)))
            )
        assert len(set(results)) == 1, trial.title


def test_every_native_kernel_takes_cases_of_its_op(prepared: dict[str, list[tuple[Trial, Any]]]) -> None:
    assert {(trial.kernel.op, trial.kernel.name) for trial, _ in prepared["cases"]} == set(NATIVE)


def test_results_are_written_where_they_are_wanted(emulation: Any, ops: dict[str, Op]) -> None:
    _, device = emulation
    call = ops["softmax"].call(TensorSpec((2, 4)), axis=-1)
    run = KERNELS["softmax", "rows"].bind(call, device)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for out in (np.zeros((2, 4), np.float32), np.zeros((2, 8), np.float32)[:, ::2]):
        assert run(x, out=out) is out
        np.testing.assert_allclose(out, call.reference(x)[0], rtol=1e-6)


def test_dense_arrays_stay_and_others_are_copied(emulation: Any) -> None:
    x = np.zeros((4, 8), np.float32)
    assert dense(x) is x
    assert dense(None) is None
    assert dense(x.T).flags.c_contiguous
    assert dense(x.reshape(-1)[1:]).ctypes.data % 16 == 0


def _refusal(name: tuple[str, str], device: Any, ops: dict[str, Op], *specs: Any, **attributes: Any) -> str:
    return KERNELS[name].refusal(ops[name[0]].call(*specs, **attributes), device) or ""


def test_refusals_say_what_was_found(emulation: Any, ops: dict[str, Op]) -> None:
    _, device = emulation
    x = TensorSpec((3, 4, 5))

    def refusal(op: str, name: str, *specs: Any, **attributes: Any) -> str:
        return _refusal((op, name), device, ops, *specs, **attributes)

    assert refusal("softmax", "rows", x, axis=1) == "works along the last axis, which is 2, not along axis 1"
    huge = TensorSpec((2**31, 1))
    assert "takes up to 2147483647 rows and columns" in refusal("softmax", "rows", huge, axis=-1)
    normalization = ("layer_normalization", "rows")
    assert "takes scale and bias of shape (5,)" in refusal(*normalization, x, TensorSpec((1,)), None)
    assert "takes scale and bias of float32 or both of float32, not float16" in refusal(
        *normalization, x, TensorSpec((5,), "float16"), None
    )
    assert refusal("sum", "reduce", x, axis=(0, 2)) == "reduces axes that are neighbours, not (0, 2) of 3"
    assert "gives up to 2147483647 rows" in refusal("sum", "reduce", TensorSpec((2**31, 4)), axis=1)
    assert "exchanges two parts of the axes" in refusal("permute_dims", "tiles", x, axes=(2, 1, 0))
    assert "tiles, not" in refusal("permute_dims", "tiles", TensorSpec((2**31, 2, 2)), axes=(0, 2, 1))
    many = TensorSpec((2**31, 2**9), "int8")
    assert "gives up to" in refusal("gather", "rows", many, TensorSpec((2**31,), "int64"))
    volume, weight = TensorSpec((1, 1, 4, 4, 4)), TensorSpec((1, 1, 2, 2, 2))
    assert refusal("conv", "implicit", volume, weight) == "slides over one or two axes, not 3"
    assert refusal("max_pool", "direct", volume, kernel=2) == "slides over one or two axes, not 3"
    assert "elements, not" in refusal("max_pool", "direct", TensorSpec((2**20, 2**10, 4, 4)), kernel=2)
    image = TensorSpec((1, 1, 4, 4))
    assert "takes one dtype for all arrays" in refusal("conv", "implicit", image, image.with_dtype("float64"))


def test_refusals_of_attention_say_what_was_found(emulation: Any, ops: dict[str, Op]) -> None:
    _, device = emulation
    name, head = ("scaled_dot_product_attention", "flash"), TensorSpec((1, 1, 4, 8))

    def refusal(*specs: Any) -> str:
        return _refusal(name, device, ops, *specs)

    assert "takes query, key and value of one of" in refusal(head, head.with_dtype("float64"), head)
    assert "takes masks of bool and float32, not float64" in refusal(
        head, head, head, TensorSpec((4, 4), "float64")
    )
    broad = TensorSpec((1, 1, 4, 160))
    assert refusal(broad, broad, broad) == "takes heads up to a width of 128, not 160"
    many = TensorSpec((2**20, 8, 8, 64))
    assert "elements, not" in refusal(many, many, many)


def test_patterns_refuse_sums_that_broadcast(emulation: Any) -> None:
    with oy.Graph() as graph:
        given = [
            graph.input("a", TensorSpec((2, 8))),
            graph.input("b", TensorSpec((8,))),
            graph.input("s", TensorSpec((8,))),
        ]
        total = oy.add(*given[:2])
        normalized = oy.rms_normalization(total, given[2])
    region = Region.of(graph.nodes, given, (total, normalized))
    assert "adds two arrays of one shape" in (rows.accepts_residual(region, emulation[1]) or "")


@pytest.mark.parametrize(
    ("dtype", "columns", "plan"),
    [
        ("float32", 1024, rows.Plan(4, 8, 32, 128)),
        ("float32", 1023, rows.Plan(1, 32, 32, 128)),
        ("float32", 1028, rows.Plan(4, 2, 256, 256)),
        ("float32", 8193, rows.Plan(1, 0, 512, 512)),
        ("float16", 8192, rows.Plan(8, 4, 256, 256)),
        ("float64", 514, rows.Plan(2, 2, 256, 256)),
        ("float32", 0, rows.Plan(4, 1, 32, 128)),
    ],
)
def test_rows_are_divided_by_their_length(dtype: str, columns: int, plan: rows.Plan) -> None:
    assert rows.Plan.of(TensorSpec((1,), dtype).dtype, columns) == plan


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((2, 3, 4), (0, 1, 2), ([24], [0])),
        ((2, 3, 4), (2, 0, 1), ([6, 4], [1, 0])),
        ((2, 3, 4, 5), (0, 2, 3, 1), ([2, 3, 20], [0, 2, 1])),
        ((2, 1, 4), (2, 1, 0), ([2, 4], [1, 0])),
    ],
)
def test_permutations_are_told_in_as_few_axes_as_possible(
    shape: tuple[int, ...], axes: tuple[int, ...], expected: tuple[list[int], list[int]]
) -> None:
    assert merged(shape, axes) == expected


def test_texts_need_no_header() -> None:
    for file in TRIALS:
        assert "#include" not in text(file)
    assert blocks(7, 4) == 2
    assert {"rows", "reduce", "tiles", "implicit", "direct", "flash"} == {
        name for _, name, *_ in native.KERNELS
    }
