"""The gradients of ops, standard ones and others, are cases of every kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.cases import Case, Draw
from opyard.ops import STANDARD
from opyard.ops.gradients import differentiated
from opyard_conformance import Report, run_conformance, trials

CASES = (Case((Draw((3, 4)), Draw((4,)))),)


def report_of(function: Any, kernel: Any, **facts: Any) -> Report:
    """How a kernel of an op of somebody else did at level core."""
    registry = oy.standard_registry()
    add_host(registry, "mine")
    registry.op(function)
    dtypes = {"dtypes": ("float32", "float64"), **facts}
    registry.kernel(function.op.name, backend="mine", name="k", load=kernel, **dtypes)
    return run_conformance("mine", registry=registry)


def made(rule: Any) -> Any:
    @oy.op("acme.scaled", infer=oy.infer.elementwise(), grad=rule, cases=lambda: CASES)
    def scaled(x: Any, y: Any) -> Any:
        return x * y * y

    return scaled


def kernel(x: Any, y: Any) -> Any:
    return x * y * y


def right(g: Any, z: Any, x: Any, y: Any) -> Any:
    return g * y * y, g * 2.0 * x * y


WRONG = [
    (lambda g, z, x, y: (g * y * y, g * x * y), "the gradient is wrong along a direction in"),
    (lambda g, z, x, y: (g * y, None), "the gradient is wrong along a direction in all inputs"),
    (lambda g, z, x, y: (y * y + 0.0 * g, g * 2.0 * x * y), "the gradient is wrong along a direction in"),
    (lambda g, z, x, y: g, "its gradient cannot be computed: GraphError: "),
    (lambda g, z, x, y: oy.nextafter(g, x), "its gradient cannot be computed: GraphError: "),
]


def test_a_right_rule_passes() -> None:
    report = report_of(made(right), kernel)
    assert not report.failures
    (found,) = [o for o in report.outcomes if o.case.endswith("@gradient")]
    assert found.status == "passed" and found.case == "float64[3,4]-float64[4]@gradient"


@pytest.mark.parametrize(("rule", "text"), WRONG)
def test_a_wrong_rule_fails_alone_and_says_where(rule: Any, text: str) -> None:
    (failure,) = report_of(made(rule), kernel).failures
    assert failure.case.endswith("@gradient") and failure.detail.startswith(text)
    assert failure.command == (
        "opyard conformance --backend mine:0 --op acme.scaled --kernel mine/k --case 'float64[3,4]-float64[4]@gradient'"
    )


def test_a_kernel_without_float64_says_so() -> None:
    report = report_of(made(right), kernel, dtypes=("float32",))
    (found,) = [o for o in report.outcomes if o.case.endswith("@gradient")]
    assert found.status == "unsupported" and found.detail == "takes x of float32, not float64"


def test_an_op_without_a_rule_has_no_such_case() -> None:
    assert not any(t.contract == "gradient" for t in trials(made(None).op, "core"))


@pytest.mark.parametrize("name", STANDARD)
def test_every_differentiable_op_has_one_such_case(name: str) -> None:
    op = STANDARD[name].op
    found = sum(t.contract == "gradient" for t in trials(op, "core"))
    assert found == (differentiated(op) not in ("zero", "none"))


def test_a_bend_nearby_is_no_failure() -> None:
    """Larger steps cross the bend of ``abs`` at zero, smaller ones do not."""
    from opyard_conformance import check_gradient

    x = np.array([1e-4, -3e-4, 0.5])
    check_gradient(np.abs, lambda a, c: [np.sign(a[0]) * c[0]], [x])
