from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import HostDevice
from opyard.errors import RegistryError
from opyard.facts import check_facts
from opyard.kernels import Kernel, Origin, resolve
from opyard.operation import Call


class Holder:
    @staticmethod
    def inner(x: Any) -> Any:
        return x


def spec(*shape: int, dtype: str = "float32") -> oy.TensorSpec:
    return oy.TensorSpec(shape, dtype)


def add_call(dtype: str = "float32", *shape: int) -> Call:
    declared: oy.Op = oy.add.op
    return declared.call(spec(*shape, dtype=dtype), spec(*shape, dtype=dtype))


def kernel(**facts: Any) -> Kernel:
    facts.setdefault("load", np.add)
    return Kernel("add", "toy", "k", **facts)


DEVICE = HostDevice("toy:0", oy.Capabilities(features=frozenset({"fp64"})))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (np.add, np.add),
        ("numpy:add", np.add),
        ("numpy:linalg.inv", np.linalg.inv),
        (Holder.inner, Holder.inner),
    ],
)
def test_resolve_gives_the_function(target: Any, found: Any) -> None:
    assert resolve(target) is found


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("numpy.add", "'numpy.add' is not 'package.module:function'"),
        (None, "None is not 'package.module:function'"),
        ("numpy:ad", "module numpy has no 'ad', which a registration names"),
        ("numpy:linalg.invert", "module numpy has no 'linalg.invert', which a registration names"),
        ("numpy:", "module numpy has no ''"),
        ("numpy:pi", "'numpy:pi' is float, not a function"),
    ],
)
def test_resolve_names_what_is_wrong(target: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        resolve(target)


def test_resolve_lets_the_import_error_through() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_module_nobody_has'"):
        resolve("a_module_nobody_has:function")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"load": None}, "kernel toy/k of op 'add' needs either load=.* or prepare="),
        ({"prepare": np.add}, "kernel toy/k of op 'add' needs either load=.* or prepare="),
        ({"efficiency": 0}, "efficiency is a positive fraction of the device's roofline; found 0"),
        ({"efficiency": float("nan")}, "efficiency is a positive fraction .* found nan"),
        ({"dtypes": "float32"}, r"dtypes is a tuple of names; write \('float32',\) for 'float32'"),
        ({"dtypes": {"x1": "float32"}}, r"dtypes is a tuple of names; write \('float32',\) for 'float32'"),
        ({"requires": "fp64"}, r"requires is a tuple of names; write \('fp64',\) for 'fp64'"),
        ({"requires": 3}, "requires is a tuple of names; found 3"),
        ({"dtypes": (np.float32,)}, "dtypes is a tuple of names; found "),
        ({"dtypes": {"x1": ["float32"]}}, r"dtypes is a tuple of names; found \['float32'\]"),
        ({"dtypes": ("float32", "flaot64")}, "there is no dtype called 'flaot64'. Did you mean float64"),
        ({"dtypes": {"x1": ("f32",)}}, "kernel toy/k of op 'add': there is no dtype called 'f32'"),
        ({"dtypes": {"x3": ("int8",)}}, "dtypes names the input 'x3'. Inputs: x1, x2."),
        ({"layouts": {"x": "blocked"}}, "layouts names the input 'x'. Did you mean .* Inputs: x1, x2."),
        ({"layouts": {"output_x": "blocked"}}, "layouts names the input 'output_x'"),
        ({"layouts": {"x1": 3}}, "layouts maps names of inputs, or 'output', to names of layouts; found"),
        ({"layouts": "blocked"}, "layouts maps names of inputs, or 'output', .* found 'blocked'"),
        ({"load": 3}, "load is a function or 'package.module:function'; found 3"),
        ({"load": "numpy.add"}, "load is a function or 'package.module:function'; found 'numpy.add'"),
        ({"load": None, "prepare": "m:"}, "prepare is a function or 'package.module:function'; found 'm:'"),
        ({"accepts": True}, "accepts is a function or 'package.module:function'; found True"),
        ({"cost": 1e-6}, "cost is a function or 'package.module:function'; found 1e-06"),
        ({"efficiency": "0.5"}, "efficiency is a positive fraction .* found '0.5'"),
        ({"efficiency": float("inf")}, "efficiency is a positive fraction .* found inf"),
        ({"least_size": -1}, "least_size is a whole number of elements; found -1"),
        ({"least_size": 1.5}, "least_size is a whole number of elements; found 1.5"),
        ({"version": "2"}, "version is a whole number, raised when results change; found '2'"),
        ({"ranks": 2}, r"ranks are the least and the greatest rank .* such as \(1, 4\); found 2"),
        ({"ranks": (3, 1)}, r"ranks are the least and the greatest rank .* found \(3, 1\)"),
        ({"ranks": (1, 2, 3)}, "ranks are the least and the greatest rank"),
        ({"ranks": ("1", "2")}, "ranks are the least and the greatest rank"),
        ({"out": "yes"}, "out is True or False; found 'yes'"),
        ({"override": 1}, "override is True or False; found 1"),
        ({"load": None, "prepare": np.add, "pattern": 3}, "a pattern is a function over ops; found 3"),
    ],
)
def test_facts_that_cannot_be_meant(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        check_facts(kernel(**facts), oy.add.op)


@pytest.mark.parametrize(
    ("backend", "name"), [("to-y", "k"), ("", "k"), ("toy", ""), ("toy", "a/b"), (None, "k"), ("toy", 1)]
)
def test_names_that_cannot_be_pinned(backend: Any, name: Any) -> None:
    with pytest.raises(RegistryError, match="a backend's name is an identifier, a kernel's name has no '/'"):
        check_facts(Kernel("add", backend, name, load=np.add))


def test_names_for_people() -> None:
    assert kernel().id == "toy/k"
    assert repr(kernel(origin=Origin("p", "opyard-p", "2"))) == "<Kernel add toy/k from opyard-p 2>"
    pattern = Kernel("", "toy", "fused", prepare=np.add, pattern=lambda x: x)
    assert (repr(pattern), pattern.title) == (
        "<Kernel pattern toy/fused from program>",
        "pattern kernel toy/fused",
    )
    assert str(Origin("mine")) == "mine"


@pytest.mark.parametrize(
    ("facts", "refusal"),
    [
        ({}, None),
        ({"dtypes": ("float32",)}, None),
        ({"dtypes": ("int32", "float64")}, "takes x1 of int32, float64, not float32"),
        ({"dtypes": {"x2": ("int32",)}}, "takes x2 of int32, not float32"),
        ({"dtypes": {"x1": ("float32",)}}, None),
        ({"requires": ("fp64",)}, None),
        ({"requires": ("fp16", "fp64", "int4")}, "toy:0 lacks fp16, int4"),
        ({"ranks": (2, 3)}, None),
        ({"ranks": (0, 1)}, "takes rank 0 to 1, the input has rank 2"),
        ({"ranks": (3, 4)}, "takes rank 3 to 4, the input has rank 2"),
        ({"accepts": lambda call, device: None}, None),
        (
            {"accepts": lambda call, device: f"not {call.output!r} on {device.name}"},
            "not float32[2, 3] on toy:0",
        ),
        (
            {"accepts": "a_module_nobody_has:f"},
            "its accepts function failed: ModuleNotFoundError: No module named",
        ),
        (
            {"accepts": lambda call, device: 1 / 0},
            "its accepts function failed: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_refusals(facts: dict[str, Any], refusal: str | None) -> None:
    found = kernel(**facts).refusal(add_call("float32", 2, 3), DEVICE)
    assert found == refusal or (refusal and found and found.startswith(refusal))


@pytest.mark.parametrize("answer", [True, False, 0, ""])
def test_accepts_that_answers_with_anything_but_a_reason(answer: object) -> None:
    found = kernel(accepts=lambda call, device: answer).refusal(add_call(), DEVICE)
    assert (
        found == f"its accepts function returned {answer!r}; it must return None or the reason for refusing"
    )


def test_facts_that_can_be_meant() -> None:
    facts: dict[str, Any] = {"dtypes": {"x2": ("bfloat16",)}, "ranks": (0, 0), "version": 3}
    check_facts(
        kernel(**facts, layouts={"x1": "blocked", "output": "blocked", "output_1": "rows"}), oy.add.op
    )
    check_facts(kernel(dtypes={"unknown": ("int8",)}))  # the op is not known yet: plugin.py notes it later
    pattern = lambda x, w: oy.relu(x + w)  # noqa: E731
    fused = Kernel("", "toy", "k", prepare=np.add, pattern=pattern, dtypes={"w": ("int8",)})
    check_facts(fused)
    wrong = Kernel("", "toy", "k", prepare=np.add, pattern=pattern, dtypes={"b": ("int8",)})
    with pytest.raises(
        RegistryError, match=r"pattern kernel toy/k: dtypes names the input 'b'. Inputs: x, w."
    ):
        check_facts(wrong)


@pytest.mark.parametrize("facts", [{"ranks": 2}, {"dtypes": 3}, {"requires": 3}, {"dtypes": {"x1": 3}}])
def test_facts_that_were_never_checked_are_a_reason_to_refuse(facts: dict[str, Any]) -> None:
    found = kernel(**facts).refusal(add_call("float32", 2, 3), DEVICE)
    assert found is not None and found.startswith("its facts cannot be read: TypeError: ")


def test_accepts_is_not_asked_about_what_the_data_rules_out() -> None:
    def accepts(call: Call, device: oy.Device) -> None:
        raise AssertionError

    assert (
        kernel(accepts=accepts, dtypes=("int8",)).refusal(add_call(), DEVICE)
        == "takes x1 of int8, not float32"
    )


def test_dtypes_of_variadic_and_optional_inputs() -> None:
    joined = oy.concat.op.call(spec(2), spec(2), spec(2, dtype="int8"), axis=0)
    refusal = Kernel("concat", "toy", "k", load=np.add, dtypes=("float32",)).refusal(joined, DEVICE)
    assert refusal is not None and refusal.endswith("of float32, not int8")
    convolved = oy.conv.op.call(spec(1, 1, 4, 4), spec(1, 1, 3, 3))
    assert Kernel("conv", "toy", "k", load=np.add, dtypes=("float32",)).refusal(convolved, DEVICE) is None


def test_simple_form_gets_attributes_as_keywords() -> None:
    call = oy.sum.op.call(spec(2, 3), axis=0)
    received: dict[str, Any] = {}

    def total(x: Any, **attributes: Any) -> Any:
        received.update(attributes)
        return x

    run = Kernel("sum", "toy", "k", load=total).bind(call, DEVICE)
    assert isinstance(run, partial)
    run(np.ones((2, 3)))
    assert received == call.attrs and received["axis"] == 0


def test_simple_form_without_attributes_is_the_function_itself() -> None:
    assert kernel(load="numpy:add").bind(add_call(), DEVICE) is np.add


def test_full_form_is_prepared_with_call_and_device() -> None:
    seen: list[Any] = []

    def prepare(call: Call, device: oy.Device) -> Callable[..., Any]:
        seen.append((call, device))
        return np.add

    assert kernel(load=None, prepare=prepare).bind(add_call(), DEVICE) is np.add
    assert seen == [(add_call(), DEVICE)]


@pytest.mark.parametrize(
    ("facts", "looks"),
    [
        ({}, False),
        ({"dtypes": ("float32",), "requires": ("a",)}, False),
        ({"ranks": (1, 2)}, True),
        ({"accepts": "m:f"}, True),
    ],
)
def test_what_looks_at_shapes(facts: dict[str, Any], looks: bool) -> None:
    assert kernel(**facts).looks_at_shapes is looks
    assert kernel(load=None, prepare="m:f").looks_at_shapes
