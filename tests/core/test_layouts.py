"""Layouts: kernels that take and give other layouts than the plain one, with the conversions priced and inserted.

The layout "backwards" of these tests holds a tensor with its elements in reverse order, so that a missing conversion shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.executable import Executable
from opyard.plan import make_plan
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

X = np.arange(6, dtype=np.float32).reshape(2, 3) / 6
BACKWARDS = "backwards"


def reverse(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.flip(array.reshape(-1)).reshape(array.shape)


def on_null(function: Callable[..., Any], log: list[str], name: str) -> Callable[..., Any]:
    """A prepared kernel that applies a NumPy function to the contents, as they lie."""

    def prepare(call: oy.Call, device: NullDevice) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            log.append(name)
            return device.upload(function(*(device.download(a) for a in arrays)))

        return run

    return prepare


def registry(log: list[str]) -> oy.Registry:
    """null:0 has plain kernels for add, and for exp, tanh and multiply kernels that want backwards."""
    made = oy.standard_registry()
    add_null_backend(made, ops=["add"])
    both = {"x": BACKWARDS, "output": BACKWARDS}
    made.kernel("exp", backend="null", name="backwards", prepare=on_null(np.exp, log, "exp"), layouts=both)
    made.kernel("tanh", backend="null", name="backwards", prepare=on_null(np.tanh, log, "tanh"), layouts=both)
    product = on_null(lambda x1, x2: x1 * reverse(x2), log, "multiply")
    made.kernel("multiply", backend="null", name="backwards", prepare=product, layouts={"x2": BACKWARDS})
    for name, layouts in {"turn": {"output": BACKWARDS}, "back": {"x": BACKWARDS}}.items():
        made.kernel(
            "identity", backend="null", name=name, prepare=on_null(reverse, log, name), layouts=layouts
        )
    return made


COSTS = {
    "null/backwards": 1e-6,
    "null/turn": 1e-6,
    "null/back": 1e-6,
    "null/null": 1e-6,
    "reference/reference": 1.0,
}


def placed(function: Callable[..., Any], log: list[str], **prices: float) -> oy.Placement:
    costs = ScriptedCosts(COSTS | prices, {("reference", "null:0"): 1e-6, ("null:0", "reference"): 1e-6})
    made = registry(log)
    graph = oy.trace(function, oy.TensorSpec.of(X))
    return oy.place(graph, made.devices(), made, costs, home=made.device("reference"))


def test_a_chain_is_converted_once_in_and_once_out() -> None:
    log: list[str] = []
    placement = placed(lambda x: oy.tanh(oy.exp(x)), log)
    assert [d.chosen.kernel.id for d in placement.decisions] == ["null/backwards", "null/backwards"]
    assert placement.seconds == pytest.approx(6e-6)  # copy, turn, exp, tanh, back, copy
    (found,) = Executable(make_plan(placement))(X)
    np.testing.assert_allclose(found, np.tanh(np.exp(X)), rtol=1e-6)
    assert log == ["turn", "exp", "tanh", "back"]


def test_conversions_are_part_of_the_price() -> None:
    log: list[str] = []
    dear = {"null/turn": 5.0}
    placement = placed(lambda x: oy.exp(x), log, **dear)
    assert [d.chosen.kernel.id for d in placement.decisions] == ["reference/reference"]
    (alternative,) = [
        a for a in placement.decisions[0].alternatives if a.candidate.kernel.id == "null/backwards"
    ]
    assert alternative.extra_seconds == pytest.approx(4 + 4e-6)


def test_a_tensor_wanted_in_two_layouts_is_converted_once() -> None:
    log: list[str] = []
    placement = placed(lambda x: oy.add(oy.exp(x), oy.add(oy.tanh(x), x)), log)
    (found,) = Executable(make_plan(placement))(X)
    np.testing.assert_allclose(found, np.exp(X) + (np.tanh(X) + X), rtol=1e-6)
    assert log.count("turn") == 1
    assert placement.seconds == pytest.approx(9e-6)  # copy, turn, exp, tanh, 2 x back, 2 x add, copy


def test_constants_are_converted_before_the_first_run() -> None:
    log: list[str] = []
    weights = X + 1
    placement = placed(lambda x: oy.multiply(x, weights), log)
    assert placement.seconds == pytest.approx(3e-6)  # copy, multiply, copy
    executable = Executable(make_plan(placement))
    assert log == ["turn"]
    for _ in range(2):
        (found,) = executable(X)
        np.testing.assert_allclose(found, X * weights, rtol=1e-6)
    assert log == ["turn", "multiply", "multiply"]


def test_eager_calls_and_explanations_leave_layouts_to_plans() -> None:
    log: list[str] = []
    made = registry(log)
    device = made.device("null:0")
    with (
        oy.using(registry=made),
        pytest.raises(
            oy.errors.KernelError,
            match="x in layout 'backwards', output in layout 'backwards', which only plans convert to",
        ),
    ):
        oy.exp(device.upload(X))


def test_sessions_use_layouts() -> None:
    log: list[str] = []
    made = registry(log)
    graph = oy.trace(lambda x: oy.exp(x), oy.TensorSpec(("n", 3)))
    session = oy.Session(graph, registry=made, devices="null:0", costs=ScriptedCosts(COSTS))
    for rows in (2, 5):
        x = np.ones((rows, 3), np.float32)
        np.testing.assert_allclose(session.run(graph.result, {"x": x}), np.exp(x), rtol=1e-6)


def test_without_a_conversion_the_kernel_is_out_of_reach() -> None:
    made = oy.standard_registry()
    add_null_backend(made)
    log: list[str] = []
    only = on_null(np.exp, log, "exp")
    made.kernel("exp", backend="null", name="odd", prepare=only, layouts={"x": "odd", "output": "odd"})
    graph = oy.trace(oy.exp, oy.TensorSpec.of(X))
    placement = oy.place(graph, made.devices(), made, ScriptedCosts(), home=made.device("reference"))
    (decision,) = placement.decisions
    assert decision.chosen.kernel.id == "reference/reference"
    assert [a.refusal for a in decision.alternatives] == ["nothing else could be placed with it"]


def test_a_cast_is_a_conversion_like_any_other() -> None:
    """Kernels that compute in float32 serve calls in float64; between two of them nothing is cast back."""
    log: list[str] = []
    made = oy.standard_registry()
    add_null_backend(made)
    narrow = {"x": "float32", "output": "float32"}
    for op, function in (("exp", np.exp), ("tanh", np.tanh)):
        made.kernel(
            op,
            backend="null",
            name="narrow",
            prepare=on_null(function, log, op),
            dtypes=("float64",),
            layouts=narrow,
        )
    for name, layouts, dtype in (("down", {"output": "float32"}, "f4"), ("up", {"x": "float32"}, "f8")):
        cast = on_null(lambda x, dtype=dtype: x.astype(dtype), log, name)
        made.kernel("identity", backend="null", name=name, prepare=cast, layouts=layouts)
    names = {f"null/{name}": 1e-6 for name in ("narrow", "down", "up")}
    costs = ScriptedCosts(
        {**names, "reference/reference": 1.0},
        dict.fromkeys((("reference", "null:0"), ("null:0", "reference")), 1e-6),
    )
    wide = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
    graph = oy.trace(lambda x: oy.tanh(oy.exp(x)), oy.TensorSpec.of(wide))
    placement = oy.place(graph, made.devices(), made, costs, home=made.device("reference"))
    assert placement.is_optimal
    assert placement.seconds == pytest.approx(6e-6)  # copy, down, exp, tanh, up, copy
    (found,) = Executable(make_plan(placement))(wide)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.tanh(np.exp(wide.astype(np.float32))).astype(np.float64))
    assert log == ["down", "exp", "tanh", "up"]
