"""Regions as one kernel: elementwise ones give what the single kernels give, to the bit; rows agree with the references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.costs import Roofline
from opyard.errors import KernelError, SpecError
from opyard.ops import STANDARD
from opyard.passes import simplify_parts
from opyard.placement.regions import find_regions
from opyard.region import Region
from opyard.registry import Registry
from opyard.testing import violation
from opyard_codegen import OPENCL
from opyard_codegen.products import product_plan
from opyard_codegen.row_plan import plan_of
from opyard_codegen.rows import row_program
from opyard_opencl import plugin

REGISTRY = Registry()
REGISTRY.ops_from(STANDARD)
plugin.opyard_register(REGISTRY)
FUSED, ROWS, PRODUCT = (
    next(k for k in REGISTRY.region_compilers if k.name == name)
    for name in ("fused", "fused_rows", "fused_product")
)

SPEC, ROW = oy.TensorSpec((3, 50)), oy.TensorSpec((50,))

STEPS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: a * 0.3 - b,
    lambda a, b: oy.relu(a),
    lambda a, b: oy.where(a > b, a, b),
    lambda a, b: oy.where(a > 0, b, 0.0),
    lambda a, b: oy.sqrt(oy.abs(a)) / (b * b + 1.0),
    lambda a, b: oy.silu(a) + oy.exp(oy.minimum(b, 1.0)),
    lambda a, b: oy.cast(oy.cast(a, dtype="float16"), dtype="float32") + b,
    lambda a, b: oy.cast(oy.cast(oy.floor(oy.clip(a, -9.0, 9.0)), dtype="int32") * 2, dtype="float32") - b,
)  # fmt: skip


def largest(kernel: Any, device: Any, function: Callable[..., Any], *specs: oy.TensorSpec) -> Region:
    """The largest region of a function that a compiler takes."""
    matches, _ = find_regions(kernel, simplify_parts(oy.trace(function, *specs)), device)
    taken = [match for match in matches if kernel.refusal(match.work, device) is None]
    return max(taken, key=lambda match: len(match.nodes)).work


def arrays_of(region: Region, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    specs = [spec for spec in region.inputs if spec is not None]
    return [(generator.standard_normal(spec.shape) * 3).astype(spec.dtype) for spec in specs]


def run(kernel: Any, region: Region, device: Any, arrays: list[Any]) -> list[np.ndarray[Any, Any]]:
    made = kernel.bind(region, device)(*map(device.upload, arrays))
    return [device.download(array) for array in (made if region.is_tuple else (made,))]


def one_by_one(region: Region, device: Any, arrays: list[Any]) -> list[np.ndarray[Any, Any]]:
    """What the single kernels give."""
    graph = region.graph
    known: dict[Any, Any] = dict(zip(graph.inputs.values(), map(device.upload, arrays), strict=True))
    known |= {value: device.upload(array) for value, array in graph.constants.items()}
    for node in graph.nodes:
        kernel = next(k for k in REGISTRY.kernels(node.op.name) if k.name == "generated")
        known[node.outputs[0]] = kernel.bind(node.call, device)(*(known[v] for v in node.inputs))
    return [device.download(known[value]) for value in graph.outputs.values()]


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    program=st.lists(
        st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 99), st.integers(0, 99)),
        min_size=2,
        max_size=6,
    ),
    seed=st.integers(0, 9),
)
def test_a_chain_is_its_parts_to_the_bit(program: Any, seed: int, opencl: Any) -> None:
    def function(*inputs: Any) -> Any:
        values = list(inputs)
        for step, left, right in program:
            values.append(STEPS[step](values[left % len(values)], values[right % len(values)] * 1.0))
        return values[-1], values[-2]

    region = largest(FUSED, opencl, function, SPEC, ROW)
    arrays = arrays_of(region, seed)
    arrays[0].reshape(-1)[:5] = (np.nan, np.inf, -np.inf, 0.0, -0.0)
    for found, expected in zip(
        run(FUSED, region, opencl, arrays), one_by_one(region, opencl, arrays), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def many_functions(x: Any, y: Any) -> Any:
    gate = oy.sigmoid(x) * y
    kept = x > 0.25
    return oy.where(kept, oy.tanh(gate), oy.exp(-y)) - oy.erf(y), gate


@pytest.mark.parametrize("shapes", [((1000,), (1000,)), ((3, 300), (300,)), ((5, 7), (5, 1))])
def test_what_is_too_much_for_one_loop_is_its_parts_to_the_bit(shapes: Any, opencl: Any) -> None:
    region = largest(FUSED, opencl, many_functions, *map(oy.TensorSpec, shapes))
    assert {node.op.name for node in region.graph.nodes} >= {"sigmoid", "greater", "tanh", "exp", "erf"}
    arrays = arrays_of(region)
    for found, expected in zip(
        run(FUSED, region, opencl, arrays), one_by_one(region, opencl, arrays), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def vectors_of_functions(x: Any, y: Any) -> Any:
    gate = oy.sigmoid(x) * y
    return oy.tanh(gate) - oy.exp(-y) / 3.0 + oy.abs(oy.expm1(x)) * oy.erf(oy.tanh(y) - x), gate


@pytest.mark.parametrize(
    "shapes", [((1000,), (1000,)), ((3, 300), (300,)), ((3, 300), (3, 1)), ((5, 7), (7,))]
)
def test_what_is_computed_in_several_vectors_at_once_is_its_parts_to_the_bit(
    shapes: Any, opencl: Any
) -> None:
    region = largest(FUSED, opencl, vectors_of_functions, *map(oy.TensorSpec, shapes))
    arrays = arrays_of(region)
    special = (np.nan, np.inf, -np.inf, 0.0, -0.0, 100.0, -100.0, 1e30, -1e30, 1e-40)
    for array in arrays:
        array.reshape(-1)[: 10 * 7 : 7] = special[: len(array.reshape(-1)[: 10 * 7 : 7])]
    for found, expected in zip(
        run(FUSED, region, opencl, arrays), one_by_one(region, opencl, arrays), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_several_loops_may_write_over_their_input(opencl: Any) -> None:
    region = largest(FUSED, opencl, lambda x: many_functions(x, x * 0.5)[0], oy.TensorSpec((700,)))
    arrays = arrays_of(region)
    (expected,) = run(FUSED, region, opencl, arrays)
    x = opencl.upload(arrays[0].copy())
    np.testing.assert_array_equal(opencl.download(FUSED.bind(region, opencl)(x, out=x)), expected)


def softmax(x: Any) -> Any:
    shifted = oy.exp(x - oy.max(x, axis=-1, keepdims=True))
    return shifted / oy.sum(shifted, axis=-1, keepdims=True)


def normalized(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - oy.mean(x, axis=-1, keepdims=True)
    variance = oy.mean(centred * centred, axis=-1, keepdims=True)
    return centred / oy.sqrt(variance + 1e-5) * scale + bias


@pytest.mark.parametrize(
    ("function", "parts", "parameters"),
    [(oy.softmax, softmax, 0), (oy.layer_normalization, normalized, 2)],
)
def test_rows_that_a_kernel_is_written_for_are_not_generated(
    function: Any, parts: Any, parameters: int, opencl: Any, monkeypatch: pytest.MonkeyPatch
):
    """Before anything is measured."""
    monkeypatch.setattr(opencl, "quirks", replace(opencl.quirks, compiles_late=False))
    specs = oy.TensorSpec((4096, 1024)), *[oy.TensorSpec((1024,))] * parameters
    written = next(kernel for kernel in REGISTRY.kernels(function.op.name) if kernel.name == "rows")
    by_hand = Roofline().kernel_seconds(written, function.op.call(*specs), opencl)
    made = Roofline().kernel_seconds(ROWS, largest(ROWS, opencl, parts, *specs), opencl)
    assert by_hand.seconds < made.seconds


CUBE, EDGE = oy.TensorSpec((4, 3, 530)), oy.TensorSpec((530,))
REGIONS: dict[str, tuple[Any, tuple[oy.TensorSpec, ...], int]] = {
    "softmax": (softmax, (CUBE,), 5),
    "norm": (normalized, (CUBE, EDGE, EDGE), 9),
    "loss": (lambda x, y: oy.sum((x - y) ** 2, axis=(-1, -2)) * 0.5, (CUBE, CUBE), 4),
    "two results": (lambda x: (oy.max(x, axis=-1, keepdims=True), oy.sum(oy.exp(x - oy.max(x, axis=-1, keepdims=True)), axis=-1)), (CUBE,), 4),
    "short": (lambda x, y: oy.log(oy.sum(oy.exp(x), axis=-1)) + y, (CUBE, oy.TensorSpec((4, 3))), 4),
    "broadcast": (lambda x, y: oy.max(x * y, axis=-1), (CUBE, oy.TensorSpec((4, 1, 1))), 2),
    "integers": (lambda x: oy.prod(oy.clip(x, -1, 1) + 2, axis=-1) - oy.min(x, axis=-1), (oy.TensorSpec((5, 7), "int32"),), 5),
    "bfloat16": (lambda x: x / oy.mean(oy.abs(x), axis=-1, keepdims=True), (CUBE.with_dtype("bfloat16"),), 3),
    "one row": (lambda x: oy.mean(x * x), (SPEC,), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("place", ["opencl", "separate"])
def test_rows_agree_with_the_references(name: str, place: str, request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue(place)
    function, specs, nodes = REGIONS[name]
    region = largest(ROWS, device, function, *specs)
    assert len(region.graph.nodes) == nodes
    arrays = arrays_of(region)
    assert violation(region, arrays, run(ROWS, region, device, arrays)) is None


def test_a_grid_computes_what_chunks_do(separate: Any, opencl: Any) -> None:
    function = lambda x, row: (oy.tanh(x) + row * 2.0) * oy.sigmoid(x)  # noqa: E731
    region = largest(FUSED, opencl, function, CUBE, EDGE)
    arrays = arrays_of(region)
    np.testing.assert_array_equal(run(FUSED, region, separate, arrays), run(FUSED, region, opencl, arrays))


def test_an_output_may_be_given(opencl: Any) -> None:
    for kernel, function in ((FUSED, lambda x: oy.relu(x) * 2.0), (ROWS, softmax)):
        region = largest(kernel, opencl, function, SPEC)
        (x,) = arrays_of(region)
        out = opencl.upload(np.zeros((3, 50), np.float32))
        bound = kernel.bind(region, opencl)
        assert bound(opencl.upload(x), out=out) is out
        assert violation(region, [x], [opencl.download(out)]) is None
        with pytest.raises(KernelError, match="its inputs are"):
            bound(opencl.upload(x[:2]))


@pytest.mark.parametrize(
    ("kernel", "function", "specs", "reason"),
    [
        (FUSED, lambda x: oy.sum(x), (SPEC,), "sum is not elementwise"),
        (FUSED, lambda x: oy.exp(x), (oy.TensorSpec((0,)),), "there is nothing to compute"),
        (ROWS, lambda x: oy.sum(x, axis=0), (SPEC,), "it reduces the axes (0,); only the last ones of a tensor are rows"),
        (ROWS, lambda x: oy.argmax(x), (SPEC,), "argmax is not elementwise"),
        (ROWS, lambda x: oy.sum(x, axis=-1), (oy.TensorSpec((0, 3)),), "there is nothing to reduce"),
        (ROWS, lambda x: oy.sum(x), (SPEC.with_dtype("complex64"),), "takes bool, int8"),
    ],
)  # fmt: skip
def test_calls_that_are_not_claimed(kernel: Any, function: Any, specs: Any, reason: str, opencl: Any) -> None:
    node = oy.trace(function, *specs).nodes[-1]
    refusal = kernel.claim_refusal(node.call, opencl)
    assert refusal is not None and refusal.startswith(reason)


def whole(function: Callable[..., Any], *specs: oy.TensorSpec) -> Region:
    graph = oy.trace(function, *specs)
    return Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())


@pytest.mark.parametrize(
    ("function", "specs", "reason"),
    [
        (lambda x: oy.exp(x), (SPEC,), "its reductions are of 0 shapes; a kernel is for rows of one"),
        (lambda x: oy.sum(x, axis=-1) + oy.sum(x), (SPEC,), "its reductions are of 2 shapes; a kernel is for rows of one"),
        (lambda x: oy.sum(oy.sum(x, axis=-1), axis=-1), (oy.TensorSpec((3, 3)),), "its reductions are of 2 shapes"),
        (lambda x: oy.sum(x, axis=-1) + x, (oy.TensorSpec((3, 3)),), "it uses a tensor along its rows and along its elements"),
        (lambda x, y: oy.sum(x, axis=-1) + y, (SPEC, oy.TensorSpec((2, 3))), "which does not broadcast to rows of shape"),
        (lambda x, y: oy.sum(x + y, axis=(1, 2)), (oy.TensorSpec((2, 3, 5)), oy.TensorSpec((3, 1))), "which is broadcast along a part of a row"),
        (lambda x, y: (oy.sum(x, axis=-1), oy.exp(y) + oy.max(x), oy.tanh(y)), (SPEC, ROW), "its reductions are of 2 shapes"),
        (lambda x, y: (oy.sum(x * y, axis=-1), oy.exp(y)), (SPEC, ROW), "which is neither its rows nor one value for each"),
    ],
)  # fmt: skip
def test_regions_that_are_not_made_of_rows(function: Any, specs: Any, reason: str) -> None:
    with pytest.raises(SpecError) as error:
        plan_of(whole(function, *specs))
    assert reason in str(error.value)


def test_regions_with_too_many_arrays_or_several_shapes_are_refused(opencl: Any) -> None:
    many = whole(lambda *x: sum(x[1:], x[0]), *[SPEC] * 30)
    assert FUSED.refusal(many, opencl) == "it has 31 arrays; a kernel takes 24"
    shapes = whole(lambda x, y: (x + y, oy.exp(y)), SPEC, ROW)
    assert FUSED.refusal(shapes, opencl) == "its outputs have 2 shapes"


SQUARE = oy.TensorSpec((3, 3))
PRODUCTS: dict[str, tuple[Any, tuple[oy.TensorSpec, ...], int]] = {
    "epilogue": (lambda a, b, c: oy.gelu(oy.matmul(a, b) + c), (oy.TensorSpec((20, 35)), oy.TensorSpec((35, 37)), oy.TensorSpec((37,))), 3),
    "batches": (lambda a, b, c: oy.matmul(a, b) - c, (oy.TensorSpec((2, 1, 17, 4)), oy.TensorSpec((3, 4, 5)), oy.TensorSpec((3, 1, 1))), 2),
    "integers": (lambda a, b: oy.matmul(a, b) // 3, (oy.TensorSpec((2, 3, 4), "int32"), oy.TensorSpec((4, 5), "int32")), 2),
    "bfloat16": (lambda a, b: (lambda y: (y, oy.relu(y)))(oy.matmul(a, b)), (SQUARE.with_dtype("bfloat16"),) * 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_what_follows_them(name: str, separate: Any) -> None:
    function, specs, nodes = PRODUCTS[name]
    region = largest(PRODUCT, separate, function, *specs)
    assert len(region.graph.nodes) == nodes
    arrays = arrays_of(region)
    assert violation(region, arrays, run(PRODUCT, region, separate, arrays)) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a, b: oy.matmul(oy.matmul(a, b), b), "it has 2 products; a kernel is for one"),
        (lambda a, b: a + b, "it has 0 products; a kernel is for one"),
        (lambda a, b: oy.matmul(oy.exp(a), b), "it computes what the product takes"),
        (lambda a, b: oy.matmul(a, b) + a, "it uses a matrix of the product beside it"),
        (lambda a, b: (oy.matmul(a, a), oy.exp(b)), "which has not the shape (3, 3) of the product"),
    ],
)
def test_regions_that_are_no_products(function: Any, reason: str) -> None:
    second = oy.TensorSpec((3, 1)) if "shape" in reason else SQUARE
    with pytest.raises(SpecError) as error:
        product_plan(whole(function, SQUARE, second))
    assert reason in str(error.value)


def test_processors_have_products_of_their_own(opencl: Any) -> None:
    node = oy.trace(lambda a: oy.matmul(a, a), SQUARE).nodes[0]
    refusal = PRODUCT.claim_refusal(node.call, opencl)
    assert refusal == "groups of items share tiles on GPUs; processors have products of their own"


def test_elements_are_computed_in_the_passes_that_need_them() -> None:
    plan = plan_of(whole(softmax, SPEC))
    names = [
        ([name for name, _ in found.steps], [r.joined for r in found.reductions]) for found in plan.passes
    ]
    assert names == [([], ["maximum"]), (["t1", "t2"], ["add"]), (["t1", "t2", "t4"], [])]
    assert row_program(OPENCL, plan).count("KERNEL rows(") == 1


def test_placement_chooses_it_for_large_arrays() -> None:
    compiled = oy.compile(lambda x: softmax(oy.tanh(x * 0.5)) * 2.0, devices=["opencl:0"])
    found = compiled.explain(np.zeros((1024, 1024), np.float32)).decisions
    assert {decision.chosen.kernel.id for decision in found} <= {"opencl/fused", "opencl/fused_rows"}
