"""compile: a Python function over arrays as a placed graph, once for each combination of specs."""

from __future__ import annotations

import gc
import weakref
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.errors import DeviceError, DeviceUnavailable, GraphError, KernelError, SpecError
from opyard.testing import NullArray, NullDevice, ScriptedCosts, add_null_backend

X = np.arange(6, dtype="float32").reshape(2, 3)
Both = namedtuple("Both", "first second")


@pytest.fixture(autouse=True)
def registry() -> Iterator[oy.Registry]:
    """A registry with a null device, which everything in a test uses."""
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), ops=("add", "multiply", "exp"))
    with oy.using(registry=made, strict=True):
        yield made


def test_as_a_decorator() -> None:
    @oy.compile
    def double(x: Any) -> Any:
        """Twice x."""
        return x + x

    np.testing.assert_array_equal(double(X), 2 * X)
    assert double.__doc__ == "Twice x."


def test_ops_can_be_compiled() -> None:
    block = oy.compile(oy.exp)
    np.testing.assert_allclose(block(X), np.exp(X), rtol=1e-6)
    assert block.explain(X).decisions and block.__name__ == "exp"


def test_the_function_is_traced_once_for_each_spec() -> None:
    traced = []

    @oy.compile
    def double(x: Any) -> Any:
        traced.append(x.spec)
        return x + x

    for array in (X, X + 1, X[:1], X.astype("float64"), X[:1] + 1, X):
        found = double(array)
        np.testing.assert_array_equal(found, 2 * array)
        assert found.dtype == array.dtype
    assert [repr(spec) for spec in traced] == ["float32[2, 3]", "float32[1, 3]", "float64[2, 3]"]


def test_python_may_decide_by_shape() -> None:
    @oy.compile
    def total(x: Any) -> Any:
        for _ in range(x.ndim):
            x = oy.sum(x, axis=0)
        return x

    assert total(X) == 15
    assert total(np.float32(4)) == 4


def test_nested_results() -> None:
    found = oy.compile(lambda x, y: {"a": (x + y, [x * y]), "b": 3.0, "c": x})(X, X)
    np.testing.assert_array_equal(found["a"][0], 2 * X)
    np.testing.assert_array_equal(found["a"][1][0], X * X)
    assert found["b"] == 3
    np.testing.assert_array_equal(found["c"], X)


def test_arrays_of_a_closure_become_constants() -> None:
    weights = np.full((3,), 10, "float32")
    block = oy.compile(lambda x: x * weights + weights)
    np.testing.assert_array_equal(block(X), X * 10 + 10)
    assert next(iter(block.graph(X).constants.values())) is weights
    assert list(block.graph(X).inputs) == ["x"]


def test_results_are_independent_of_everything() -> None:
    weights = np.ones(3, "float32")
    block = oy.compile(lambda x: (x, oy.reshape(x, shape=(6,)), weights, x + weights))
    fed = X.copy()
    for _ in range(2):
        results = block(fed)
        np.testing.assert_array_equal(results[0], X)
        np.testing.assert_array_equal(results[1], X.reshape(6))
        np.testing.assert_array_equal(results[2], np.ones(3))
        np.testing.assert_array_equal(results[3], X + 1)
        for result in results:
            result += 5
    np.testing.assert_array_equal(fed, X)
    np.testing.assert_array_equal(weights, np.ones(3))


def test_numbers_take_the_dtype_beside_the_arrays() -> None:
    block = oy.compile(lambda x, factor: x * factor)
    found = block(X, 2)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, 2 * X)
    np.testing.assert_array_equal(block(X.tolist(), 2.5), 2.5 * X)


def test_what_cannot_be_an_argument_is_explained() -> None:
    def same(x: Any) -> Any:
        return x

    text = r"same: argument 'x\[0\]' is of type set, which is neither an array nor hashable; give arrays, numbers, strings or None, in tuples"
    with pytest.raises(SpecError, match=text):
        oy.compile(same)([{1}])
    for array, dtype in ((np.array([None]), "object"), (X.astype(">f4"), ">f4")):
        with pytest.raises(SpecError, match=f"same: argument 'x': tensors hold .* not '{dtype}'; convert it"):
            oy.compile(same)(array)
    with pytest.raises(GraphError, match="same returns 'text' as output 0"):
        oy.compile(same)("text")
    with pytest.raises(
        SpecError, match=r"compile takes a function over arrays; found 3. Options are given by"
    ):
        oy.compile(3)  # type: ignore[call-overload]


def test_arguments_may_nest() -> None:
    @oy.compile
    def block(parameters: Any, extra: Any = None) -> Any:
        result = parameters["w"] * parameters["b"][0] + parameters["b"][1]
        return result if extra is None else result + extra["more"][0]

    parameters = {"w": X, "b": (X + 1, 2)}
    np.testing.assert_array_equal(block(parameters), X * (X + 1) + 2)
    np.testing.assert_array_equal(block(parameters, None), X * (X + 1) + 2)
    np.testing.assert_array_equal(block(parameters, {"more": [X]}), X * (X + 1) + 2 + X)
    names = ["parameters['w']", "parameters['b'][0]", "parameters['b'][1]", "extra['more'][0]"]
    assert list(block.graph(parameters, {"more": [X]}).inputs) == names
    first, second = oy.compile(lambda pair: pair)(Both(X, X + 1))
    np.testing.assert_array_equal(second - first, np.ones_like(X))
    assert isinstance(oy.compile(lambda pair: pair)(Both(X, X)), Both)


def test_keywords_are_static_unless_they_are_arrays() -> None:
    traced = []

    @oy.compile
    def reduce(x: Any, *, axis: Any = None, scale: Any = 1.0, shift: Any = None, kind: str = "sum") -> Any:
        traced.append((axis, scale, kind))
        result = (oy.sum if kind == "sum" else oy.max)(x * scale, axis=axis)
        return result if shift is None else result + shift

    for _ in range(2):
        np.testing.assert_array_equal(reduce(X), X.sum())
        np.testing.assert_array_equal(reduce(X, axis=0), X.sum(0))
        np.testing.assert_array_equal(reduce(X, axis=(0, 1), scale=2), 2 * X.sum())
        np.testing.assert_array_equal(reduce(x=X, axis=1, kind="max"), X.max(1))
        np.testing.assert_array_equal(reduce(X, axis=0, shift=X[0]), X.sum(0) + X[0])
        np.testing.assert_array_equal(reduce(X, axis=0, shift=X[1]), X.sum(0) + X[1])
    assert len(traced) == 5
    assert np.signbit(reduce(X, scale=-0.0, kind="max")) and not np.signbit(reduce(X, scale=0.0, kind="max"))
    assert reduce.explain(X, axis=0).decisions[-1].node.call.attrs["axis"] == 0


def test_with_options_and_as_a_method() -> None:
    class Layer:
        def __init__(self, factor: float) -> None:
            self.factor = np.float32(factor)

        @oy.compile(devices="reference")
        def scale(self, x: Any, more: Any = None) -> Any:
            """Scales."""
            return x * self.factor if more is None else x * self.factor + more

    two, three = Layer(2), Layer(3)
    for _ in range(2):
        np.testing.assert_array_equal(two.scale(X), 2 * X)
        np.testing.assert_array_equal(three.scale(X, more=X), 4 * X)
        np.testing.assert_array_equal(Layer.scale(three, X), 3 * X)
    assert list(two.scale.graph(X).inputs) == ["x"] and two.scale.explain(X).decisions
    assert Layer.scale.__name__ == "scale" and Layer.scale.__doc__ == "Scales."
    assert repr(Layer.scale).startswith("<compiled ") and repr(Layer.scale).endswith("Layer.scale>")


class Dense:
    """A layer whose instances are all equal, and cannot be hashed; ``traced`` counts."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.traced = []  # type: list[Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dense)

    __hash__ = None  # type: ignore[assignment]

    @oy.compile
    def scale(self, x: Any) -> Any:
        self.traced.append(x)
        return x * self.weights

    both = oy.compile(lambda x: x + x)


def test_each_instance_has_its_own_traces() -> None:
    one, two = Dense(X), Dense(X + 1)
    for _ in range(3):
        np.testing.assert_array_equal(one.scale(X), X * X)
        np.testing.assert_array_equal(two.scale(X), X * (X + 1))
        np.testing.assert_array_equal(Dense.scale(two, X), X * (X + 1))
    assert len(one.traced) == len(two.traced) == 1
    assert one.scale.explain(X).decisions
    assert list(two.scale.graph(X).inputs) == ["x"]


@pytest.mark.parametrize(("old", "new"), [(X, X + 1), (2.0, 3.0), (1, True), (0.0, -0.0), (X, 2)])
def test_an_attribute_that_is_replaced_is_noticed(old: Any, new: Any) -> None:
    layer = Dense(old)
    kept = layer.scale
    for attribute in (old, new, old):
        layer.weights = attribute
        for call in (layer.scale, kept, layer.scale):
            found = call(X)
            np.testing.assert_array_equal(found, X * attribute)
            np.testing.assert_array_equal(np.signbit(found), np.signbit(X * attribute))
    assert len(layer.traced) == 3


def test_attributes_that_are_made_while_tracing_or_equal_are_no_change() -> None:
    layer = Dense(2.0)
    layer.scale(X)
    layer.weights = float("2.0")
    layer.name = ["anything", {}]  # type: ignore[attr-defined]
    layer.scale(X)
    assert len(layer.traced) == 1
    layer.bias = X  # type: ignore[attr-defined]  # it may be looked for
    layer.scale(X)
    assert len(layer.traced) == 2

    class Lazy:
        traced = 0

        @oy.compile
        def scale(self, x: Any) -> Any:
            self.traced += 1
            return x * self.traced

    lazy = Lazy()
    for _ in range(3):
        np.testing.assert_array_equal(lazy.scale(X), X)
    assert lazy.traced == 1


def test_instances_are_not_kept_alive() -> None:
    method = vars(Dense)["scale"]
    layer = Dense(X)
    layer.scale(X)
    known = len(method._instances)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None and len(method._instances) == known - 1


def test_instances_without_weak_references() -> None:
    class Pair(tuple[float, float]):
        __slots__ = ()

        @oy.compile
        def scale(self, x: Any) -> Any:
            return x * self[0] + self[1]

    for _ in range(3):
        for pair in (Pair((1.0, 2.0)), Pair((3.0, 4.0))):
            np.testing.assert_array_equal(pair.scale(X), X * pair[0] + pair[1])


def test_functions_that_lie_in_a_class_are_no_methods() -> None:
    np.testing.assert_array_equal(Dense.both(X), 2 * X)
    np.testing.assert_array_equal(Dense.both(X + 1), 2 * X + 2)
    assert list(Dense.both.graph(X).inputs) == ["x"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opyard.compiled.LIMIT", 3)
    traced = []

    @oy.compile
    def shift(x: Any, *, by: int) -> Any:
        traced.append(by)
        return x + by

    for by in (1, 2, 3, 4, 4, 3, 2, 1):
        np.testing.assert_array_equal(shift(X, by=by), X + by)
    assert traced == [1, 2, 3, 4, 1]


def test_the_number_of_arguments_is_the_functions_own() -> None:
    block = oy.compile(lambda x, y: x + y)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        block(X)


def test_functions_of_any_number_of_arrays() -> None:
    block = oy.compile(lambda *arrays: oy.concat(*arrays))
    assert block(X, X, X).shape == (6, 3)
    assert list(block.graph(X, X).inputs) == ["input_0", "input_1"]
    np.testing.assert_array_equal(oy.compile(lambda: np.ones(2))(), np.ones(2))


def test_explain_takes_arrays_specs_and_numbers(registry: oy.Registry) -> None:
    block = oy.compile(lambda x, y: x + y, devices="null:0")
    for array in (X, X.tolist(), oy.TensorSpec((2, 3), "float64"), registry.device("null:0").upload(X)):
        placement = block.explain(array, 2.0)
        assert placement.decisions[0].chosen.device.name == "null:0"
        assert placement.home.name == "reference"


def test_native_arrays_stay_where_they_are(registry: oy.Registry) -> None:
    null = registry.device("null:0")
    found = oy.compile(lambda x: x + x, costs=ScriptedCosts({"null/null": 1e-9}))(null.upload(X))
    assert isinstance(found, NullArray)
    np.testing.assert_array_equal(null.download(found), 2 * X)


def test_arrays_of_several_devices_are_an_error(registry: oy.Registry) -> None:
    with pytest.raises(DeviceError, match=r"the arrays live on different devices \(null:0, reference\)"):
        oy.compile(lambda x, y: x + y)(registry.device("null:0").upload(X), X)


def test_devices_and_costs_are_those_given(registry: oy.Registry) -> None:
    free = {("reference", "null:0"): 0.0, ("null:0", "reference"): 0.0}
    for seconds, device in ((1e-9, "null:0"), (1.0, "reference")):
        costs = ScriptedCosts({"null/null": seconds, "reference/reference": 1e-3}, free)
        placement = oy.compile(lambda x: x + x, costs=costs).explain(X)
        assert placement.decisions[0].chosen.device.name == device
    with pytest.raises(DeviceUnavailable, match="there is no device 'null:9'"):
        oy.compile(lambda x: x, devices=["null:9"])(X)


def test_the_registry_given_wins() -> None:
    other = oy.standard_registry()
    add_host(other)
    other.kernel("add", backend="toy", name="seven", load=lambda x, y: np.full_like(x, 7))
    assert (oy.compile(lambda x: x + x, registry=other)(X) == 7).all()


def test_another_policy_or_registry_is_another_choice() -> None:
    other = oy.standard_registry()
    add_host(other)
    other.kernel("add", backend="toy", name="seven", load=lambda x, y: np.full_like(x, 7))
    block = oy.compile(lambda x: x + x)
    np.testing.assert_array_equal(block(X), 2 * X)
    with oy.using(registry=other):
        assert (block(X) == 7).all()
        with oy.using(block="toy"):
            np.testing.assert_array_equal(block(X), 2 * X)
    np.testing.assert_array_equal(block(X), 2 * X)


def test_strict_is_heard_inside() -> None:
    other = oy.standard_registry()
    add_host(other)
    other.kernel("add", backend="toy", name="broken", load=lambda x, y: 1 / 0)
    block = oy.compile(lambda x: x + x, registry=other)
    with pytest.raises(KernelError, match=r"kernel toy/broken failed on add.*ZeroDivisionError"):
        block(X)
    with oy.using(strict=False), pytest.warns(oy.KernelWarning, match="reference/reference takes over"):
        np.testing.assert_array_equal(block(X), 2 * X)


def test_compiled_functions_inside_others_are_parts_of_them() -> None:
    inner = oy.compile(lambda x: x + x)
    outer = oy.compile(lambda x: oy.exp(inner(x)))
    np.testing.assert_allclose(outer(X), np.exp(2 * X), rtol=1e-6)
    assert [node.op.name for node in outer.graph(X).nodes] == ["add", "exp"]
    np.testing.assert_array_equal(inner(X), 2 * X)


def test_threads(registry: oy.Registry) -> None:
    block = oy.compile(lambda x: (x + x) * x)

    def work(number: int) -> None:
        with oy.using(registry=registry):
            for _ in range(20):
                np.testing.assert_array_equal(block(X + number), (X + number) ** 2 * 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
