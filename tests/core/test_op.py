"""The decorator ``op``, signatures, calls and attributes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard import ops as standard_ops
from opyard.cases import Tolerance
from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.infer import (
    elementwise,
    same_as_first,
)
from opyard.operation import REQUIRED, Signature, freeze
from opyard.region import Region
from opyard.spec import TensorSpec

VECTOR = TensorSpec((3,))

ANY = same_as_first()


@oy.op("test.swish", scalar="x / (1 + exp(-x))")
def swish(x: Any) -> Any: ...


@oy.op("test.clamp", infer=ANY)
def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """Bounds that may be left out. ``[...] -> [...]``."""
    return np.clip(x, low, high) if low is not None or high is not None else x


@oy.op("test.total", infer=elementwise("numeric"))
def total(*arrays: Any, scale: float = 1.0) -> Any:
    """The sum of any number of arrays. ``[...] -> [...]``."""
    return sum(arrays) * np.asarray(scale, arrays[0].dtype)


@oy.op("test.divmod", infer=lambda x, *, by: (x, x))
def divide_with_rest(x: Any, *, by: float) -> Any:
    """Two results."""
    return np.divmod(x, by)


def use(function: Any, *arrays: Any, **attributes: Any) -> Any:
    with oy.using(registry=oy.standard_registry()):
        return function(*arrays, **attributes)


# Signatures ----------------------------------------------------------------------------------------------------------


def test_signature_of_a_function() -> None:
    def function(x: Any, y: Any = None, *, axis: Any, keep: bool = True) -> None: ...

    signature = Signature.of(function)
    assert signature.inputs == ("x", "y")
    assert signature.optional == {"y"}
    assert not signature.variadic
    assert signature.attributes == (("axis", REQUIRED), ("keep", True))
    assert str(signature) == "(x, y=None, *, axis, keep=True)"
    assert repr(REQUIRED) == "REQUIRED"


def test_signature_of_a_variadic_function() -> None:
    def function(first: Any, *more: Any, axis: int = 0) -> None: ...

    signature = Signature.of(function)
    assert signature.inputs == ("first", "more") and signature.variadic and not signature.optional
    assert str(signature) == "(first, *more, axis=0)"


def test_defaults_are_frozen() -> None:
    def function(x: Any, *, axes: Any = [0, 1], dtype: Any = np.float32) -> None: ...  # noqa: B006

    assert Signature.of(function).attributes == (("axes", (0, 1)), ("dtype", "float32"))


def test_an_input_has_no_default_but_none() -> None:
    def function(x: Any, axis: int = 0) -> None: ...

    with pytest.raises(
        SpecError, match=r"op function 'function': an input's only default is None; make it an attrib"
    ):
        Signature.of(function)


def test_attributes_are_named() -> None:
    def function(x: Any, **options: Any) -> None: ...

    with pytest.raises(
        SpecError, match=r"op function 'function': attributes are named one by one behind '\*'"
    ):
        Signature.of(function)


# Declaration ---------------------------------------------------------------------------------------------------------


def test_a_scalar_op_needs_one_line() -> None:
    x = np.linspace(-3, 3, 7, dtype=np.float32).reshape(7, 1)
    np.testing.assert_allclose(use(swish, x), x / (1 + np.exp(-x)), rtol=1e-6)
    assert swish.op.scalar is not None and swish.op.scalar.text == "x / (1 + exp(-x))"
    assert swish.op.call(TensorSpec(("batch", 2), "float16")).output == TensorSpec(("batch", 2), "float16")
    with pytest.raises(
        SpecError, match=r"test.swish\(int32\[2\]\): input 0 must be floating, it is int32\[2\]; cast"
    ):
        swish.op.call(TensorSpec((2,), "int32"))


def test_a_scalar_op_with_attributes_and_two_inputs() -> None:
    @oy.op("test.blend", scalar="x * weight + y * (1 - weight)")
    def blend(x: Any, y: Any, *, weight: float = 0.25) -> Any:
        """A mixture of two arrays."""

    x, y = np.array([[1], [2]], np.float64), np.array([10, 20], np.float64)
    np.testing.assert_allclose(use(blend, x, y), x * 0.25 + y * 0.75)
    np.testing.assert_allclose(use(blend, x, y, weight=1.0), np.broadcast_to(x, (2, 2)))
    assert blend.op.doc == "A mixture of two arrays."


def test_the_reference_comes_from_the_decomposition() -> None:
    @oy.op("test.double", infer=ANY, decompose=lambda x: oy.add(x, x))
    def double(x: Any) -> Any: ...

    np.testing.assert_array_equal(use(double, np.array([1, 2])), [2, 4])


def test_the_body_is_the_reference_even_beside_a_scalar() -> None:
    @oy.op("test.body", scalar="x + 1")
    def body(x: Any) -> Any:
        return x + 2

    assert body.op.call(VECTOR).reference(np.zeros(3, np.float32))[0].tolist() == [2, 2, 2]


def test_the_function_keeps_name_documentation_and_signature() -> None:
    assert clamp.__name__ == "clamp" and clamp.__doc__ == clamp.op.doc
    assert str(inspect.signature(clamp)).startswith("(x: 'Any', low: 'Any' = None, high: 'Any' = None)")
    assert repr(clamp.op) == "<Op test.clamp(x, low=None, high=None)>"
    assert inspect.getmodule(clamp).__name__ == __name__  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["", "two words", "acme.", "1st", "acme.a-b"])
def test_names(name: str) -> None:
    with pytest.raises(
        SpecError, match=f"an op's name is an identifier, or domain.name; '{name}' is neither"
    ):
        oy.op(name, scalar="x")(lambda x: x)


def test_an_op_without_inference() -> None:
    with pytest.raises(
        SpecError, match=r"op 'test.f' needs infer=..., a function from input specs .*, or scalar="
    ):
        oy.op("test.f")(lambda x: x)


def test_an_op_without_reference() -> None:
    def pass_only(x: Any) -> None:
        pass

    def documented(x: Any) -> None:
        """Only words."""

    for function in (pass_only, documented):
        with pytest.raises(
            SpecError, match=r"op 'test.f' has no body; write its NumPy reference there, or give scalar"
        ):
            oy.op("test.f", infer=ANY)(function)


def test_a_scalar_names_each_input() -> None:
    with pytest.raises(
        SpecError, match=r"op 'test.f': a scalar expression names each input; write .* '\*xs' instead"
    ):
        oy.op("test.f", scalar="xs")(lambda *xs: xs)


def test_a_constant_body_is_a_body() -> None:
    def five(x: Any) -> Any:
        return 5

    assert oy.op("test.five", infer=ANY)(five).op.reference(1) == 5


# Calls ---------------------------------------------------------------------------------------------------------------


def test_call_binds_attributes_in_order_of_the_signature() -> None:
    call = oy.sum.op.call(TensorSpec((2, 3)), keepdims=True, axis=np.int64(1))
    assert dict(call.attributes)["axis"] == 1 and call.attrs["keepdims"] is True
    assert call.output == TensorSpec((2, 1)) and not call.is_tuple
    assert call == oy.sum.op.call(TensorSpec((2, 3)), axis=1, keepdims=True)
    assert hash(call) == hash(oy.sum.op.call(TensorSpec((2, 3)), axis=1, keepdims=True))
    assert call != oy.sum.op.call(TensorSpec((2, 3)), axis=0, keepdims=True)


def test_text_of_a_call() -> None:
    call = divide_with_rest.op.call(VECTOR, by=2.0)
    assert str(call) == "test.divmod(float32[3], by=2.0) -> float32[3], float32[3]"
    assert call.is_tuple


def test_optional_inputs_are_none() -> None:
    call = clamp.op.call(VECTOR)
    assert call.inputs == (VECTOR, None, None)
    assert clamp.op.call(VECTOR, None, VECTOR).inputs == (VECTOR, None, VECTOR)
    x = np.arange(4.0)
    np.testing.assert_array_equal(use(clamp, x), x)
    np.testing.assert_array_equal(use(clamp, x, None, np.array(2.0)), [0, 1, 2, 2])
    np.testing.assert_array_equal(use(clamp, x, high=np.array(1.0)), [0, 1, 1, 1])


def test_variadic_inputs() -> None:
    x = np.ones((2, 1), np.float32)
    np.testing.assert_array_equal(use(total, x), x)
    np.testing.assert_array_equal(use(total, x, x, x, scale=2.0), 6 * x)
    assert total.op.call(VECTOR, VECTOR, VECTOR).inputs == (VECTOR,) * 3
    with pytest.raises(
        SpecError, match=r"test.total\(scale=1.0\): there is nothing to combine; give at least one array"
    ):
        use(total)


def test_fixed_inputs_before_variadic_ones() -> None:
    @oy.op("test.fixed", infer=ANY)
    def fixed(x: Any, bias: Any = None, *more: Any) -> Any:
        return x

    assert fixed.op.call(VECTOR).inputs == (VECTOR, None)
    assert fixed.op.call(VECTOR, None, VECTOR).inputs == (VECTOR, None, VECTOR)
    for nothing in ((), (None, VECTOR)):
        with pytest.raises(SpecError, match=r"test.fixed\(x, bias=None, \*more\) needs the input 'x'"):
            fixed.op.call(*nothing)


def test_several_results() -> None:
    quotient, rest = use(divide_with_rest, np.array([5.0, -5.0]), by=3)
    assert (quotient.tolist(), rest.tolist()) == ([1, -2], [2, 1])


def test_missing_and_superfluous_inputs() -> None:
    with pytest.raises(SpecError, match=r"add\(x1, x2\) needs the input 'x2'"):
        oy.add.op.call(VECTOR)
    with pytest.raises(SpecError, match=r"add\(x1, x2\) needs the input 'x1'"):
        oy.add.op.call(None, VECTOR)
    with pytest.raises(SpecError, match=r"add\(x1, x2\) takes 2 inputs, 3 were given"):
        oy.add.op.call(VECTOR, VECTOR, VECTOR)


def test_unknown_and_missing_attributes() -> None:
    with pytest.raises(SpecError, match=r"has no attribute 'axes'. Did you mean axis\? Known: axis, "):
        oy.sum.op.call(VECTOR, axes=0)
    with pytest.raises(SpecError, match=r"add\(x1, x2\) has no attribute 'axis'. Known: none"):
        oy.add.op.call(VECTOR, VECTOR, axis=0)
    with pytest.raises(SpecError, match=r"test.divmod\(x, \*, by\) needs the attribute 'by'"):
        divide_with_rest.op.call(VECTOR)


def test_errors_of_inference_name_the_call() -> None:
    with pytest.raises(SpecError, match=r"^sum\(float32\[3\], axis=2, .*\): axis=2 is out of range"):
        oy.sum.op.call(VECTOR, axis=2)


def test_reference_gives_the_dtypes_that_inference_promises() -> None:
    @oy.op("test.wide", infer=ANY)
    def wide(x: Any) -> Any:
        return x.astype(np.float64)

    (result,) = wide.op.call(VECTOR).reference(np.ones(3, np.float32))
    assert result.dtype == np.float32


def test_reference_takes_special_values_in_silence() -> None:
    (result,) = oy.divide.op.call(VECTOR, VECTOR).reference(np.ones(3, np.float32), np.zeros(3, np.float32))
    assert np.isinf(result).all()


def test_the_tolerance_of_a_call_counts_its_terms() -> None:
    matmul = standard_ops.STANDARD["matmul"].op
    a, b = np.array([[1, -1, 2]], np.float32), np.array([[3], [3], [-1]], np.float32)
    call = matmul.call(TensorSpec.of(a), TensorSpec.of(b))
    assert call.tolerance == replace(matmul.tolerance, terms=3)
    np.testing.assert_array_equal(call.magnitudes(a, b), [[[8]]])
    exp = swish.op.call(VECTOR)
    assert exp.tolerance is swish.op.tolerance
    assert exp.magnitudes(np.ones(3, np.float32)) == (None,)
    softmax = standard_ops.STANDARD["softmax"].op.call(TensorSpec((5, 7)), axis=0)
    assert softmax.tolerance.terms == 5
    assert softmax.magnitudes(np.ones((5, 7), np.float32)) == (None,), "relative to the largest value"


def test_the_tolerance_of_a_region_adds_up() -> None:
    graph = oy.trace(lambda a, b: oy.exp(oy.matmul(a, b)), TensorSpec((2, 9)), TensorSpec((9, 3)))
    region = Region(graph)
    assert region.tolerance == Tolerance(8, scaled=True, terms=9)
    assert region.magnitudes(np.ones((2, 9)), np.ones((9, 3))) == (None,)


def test_cost() -> None:
    call = oy.add.op.call(TensorSpec((2, 3)), TensorSpec((3,)))
    assert call.cost == (6, 4 * (6 + 3 + 6)) and call.cost.flops == 6
    assert clamp.op.call(VECTOR).bytes == 24

    @oy.op("test.costly", infer=ANY, cost=lambda call: oy.Cost(1000.0, call.bytes))
    def costly(x: Any) -> Any:
        return x

    assert costly.op.call(VECTOR).cost == (1000, 24)
    with pytest.raises(SpecError, match="has no number yet"):
        _ = oy.abs.op.call(TensorSpec(("batch",))).cost


# Attribute values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "frozen"),
    [
        (None, None),
        (True, True),
        (2, 2),
        (np.int8(2), 2),
        (np.float64(0.5), 0.5),
        (np.array(3), 3),
        (np.bool_(True), True),
        (1j, 1j),
        ([1, [2, np.int64(3)]], (1, (2, 3))),
        (np.float32, "float32"),
        (np.dtype("bool"), "bool"),
        (float, "float64"),
        (slice(1, None, -1), (1, None, -1)),
        ("same", "same"),
        (Dim.symbol("n"), Dim.symbol("n")),
    ],
    ids=repr,
)
def test_freeze(value: Any, frozen: Any) -> None:
    assert freeze(value) == frozen
    assert type(freeze(value)) is type(frozen)
    hash(freeze(value))


@pytest.mark.parametrize(
    "value", [np.arange(2), {"a": 1}, object(), b"bytes", {1, 2}], ids=lambda v: type(v).__name__
)
def test_what_is_no_attribute(value: Any) -> None:
    with pytest.raises(
        SpecError, match=f"dtype or a tuple of those; found {type(value).__name__}. Arrays are positional"
    ):
        freeze(value)


def test_the_decorator_without_its_parentheses() -> None:
    with pytest.raises(
        SpecError,
        match=r"op takes a name: write @op\('domain.name', infer=...\) above the function; found <func",
    ):

        @oy.op  # type: ignore[arg-type]
        def forgot(x: Any) -> Any: ...


@pytest.mark.parametrize("answer", [None, (3,), [VECTOR], (VECTOR, None)])
def test_inference_that_gives_no_specs(answer: Any) -> None:
    @oy.op("test.unsure", infer=lambda x: answer)
    def unsure(x: Any) -> Any:
        return x

    text = r"^test.unsure\(float32\[3\]\): an infer function returns a TensorSpec or a tuple of them; this one returned "
    with pytest.raises(SpecError, match=text):
        unsure.op.call(VECTOR)


@pytest.mark.parametrize(
    ("infer", "answer", "text"),
    [
        (
            ANY,
            np.ones(2),
            r"returned an array of shape \(2,\) for output 0, where its infer function promises float32\[3\]",
        ),
        (ANY, None, "returned None for output 0"),
        (lambda x: (x, x), np.ones(3), "its reference returned ndarray, not 2"),
        (lambda x: (x, x), (np.ones(3),), "its reference returned 1 outputs, not 2"),
    ],
)
def test_a_reference_that_breaks_the_promise_of_inference(infer: Any, answer: Any, text: str) -> None:
    @oy.op("test.broken", infer=infer)
    def broken(x: Any) -> Any:
        return answer

    with pytest.raises(SpecError, match=text):
        broken.op.call(VECTOR).reference(np.ones(3, np.float32))


def test_arrays_that_no_tensor_can_be_are_named() -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(
        SpecError, match=r"^add: input 'x2': .* not '>f4'; convert it: x.astype\('float32'\)\.$"
    ):
        use(oy.add, x, x.astype(">f4"))
    with pytest.raises(SpecError, match=r"^add: input 'x2': .* not 'object'"):
        use(oy.add, 2.0, np.array([None]))
    with pytest.raises(SpecError, match=r"^test.total: input 'arrays': .* not 'str"):
        use(total, x, x, ["a"])
