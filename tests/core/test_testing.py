"""The tools that plugins' tests use: the null device, scripted costs, check_kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.driver import shares_arrays, transfer
from opyard.errors import DeviceUnavailable, KernelError, RegistryError
from opyard.operation import Call
from opyard.placement.measuring import disagreement, expect
from opyard.spec import TensorSpec
from opyard.testing import (
    NullArray,
    NullBackend,
    NullDevice,
    ScriptedCosts,
    add_null_backend,
    check_kernel,
    prepare_null,
)

X = np.arange(6, dtype="float32").reshape(2, 3)


def test_null_arrays_are_copies_in_a_memory_of_their_own() -> None:
    device, source = NullDevice("null:0"), X.copy()
    array = device.upload(source)
    source += 1
    first = device.download(array)
    first += 1
    np.testing.assert_array_equal(device.download(array), X)
    assert device.log == ["upload float32[2, 3]", "download float32[2, 3]", "download float32[2, 3]"]
    assert repr(array) == "NullArray(float32[2, 3] on null:0)"
    assert device.owns(array) and not device.owns(X) and not NullDevice("null:1").owns(array)


def test_null_arrays_are_no_numpy_arrays() -> None:
    array = NullDevice("null:0").upload(X)
    assert np.asarray(array).dtype == object
    with pytest.raises(TypeError):
        len(array)  # type: ignore[arg-type]


def test_null_devices_take_only_arrays_of_their_memory() -> None:
    one, two = NullDevice("null:0"), NullDevice("null:1")
    for strange in (X, two.upload(X)):
        with pytest.raises(TypeError, match=r"(?s)null:0 was given .* to download"):
            one.download(strange)
    moved = transfer(two.upload(X), two, one)
    assert one.owns(moved)
    np.testing.assert_array_equal(one.download(moved), X)


def test_null_devices_may_share_a_memory() -> None:
    one, two = NullDevice("null:0", memory="m"), NullDevice("null:1", memory="m")
    array = one.upload(X)
    assert shares_arrays(one, two) and transfer(array, one, two) is array
    np.testing.assert_array_equal(two.download(array), X)
    assert one.owns(array) and not two.owns(array)


def test_empty_arrays_have_their_spec() -> None:
    array = NullDevice("null:0").empty(oy.TensorSpec((0, 2), "int8"))
    assert isinstance(array, NullArray) and array.shape == (0, 2) and array.dtype == "int8"


def test_a_null_backend_without_devices_says_why() -> None:
    with pytest.raises(DeviceUnavailable, match="plug it in"):
        NullBackend(reason="plug it in").devices()
    registry = oy.standard_registry()
    registry.backend("null", load=lambda: NullBackend(reason="plug it in"))
    assert registry.open("null").state == "inactive" and registry.open("null").reason == "plug it in"


def test_add_null_backend() -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=["add"], dtypes=("float32",))
    assert device.name == "null:0" and registry.device("null") is device
    assert registry.device_of(device.upload(X)) is device
    (kernel,) = registry.kernels("add")
    assert kernel.id == "null/null" and kernel.dtypes == ("float32",)
    two = add_null_backend(oy.standard_registry(), NullDevice("twin:0"), NullDevice("twin:1"))
    assert [device.backend for device in two] == ["twin", "twin"]


def test_eager_ops_on_null_arrays() -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=["add", "split", "clip"])
    with oy.using(registry=registry, strict=True):
        array = device.upload(X)
        np.testing.assert_array_equal(oy.to_numpy(oy.add(array, array)), 2 * X)
        halves = oy.split(array, sections=2)
        assert [half.shape for half in halves] == [(1, 3), (1, 3)]
        np.testing.assert_array_equal(oy.to_numpy(oy.clip(array, None, array)), X)


def test_scripted_costs() -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=["add", "exp"])
    reference, spec = registry.device("reference"), oy.TensorSpec.of(X)
    costs = ScriptedCosts({"null/null": 2.0, "exp null/null": 3.0}, {("null:0", "reference"): 0.0})
    add, exp = oy.add.op.call(spec, spec), oy.exp.op.call(spec)
    kernel = registry.kernels("add")[0]
    assert costs.kernel_seconds(kernel, add, device) == (2.0, "scripted", "")
    assert costs.kernel_seconds(kernel, exp, device) == (3.0, "scripted", "")
    assert ScriptedCosts().kernel_seconds(kernel, add, device) == oy.Roofline().kernel_seconds(
        kernel, add, device
    )
    assert costs.transfer_seconds(device, reference, 8.0) == 0.0
    assert (
        costs.transfer_seconds(reference, device, 8.0)
        == oy.Roofline().transfer_seconds(reference, device, 8.0)
        > 0
    )


# check_kernel ----------------------------------------------------------------------------------------------------


def host_kernel(op: str, load: Any, **facts: Any) -> tuple[oy.Kernel, oy.Device, oy.Registry]:
    registry = oy.standard_registry()
    device = add_host(registry)
    registry.kernel(op, backend="toy", name="mine", load=load, **facts)
    return registry.kernels(op)[0], device, registry


def test_a_device_of_another_backend() -> None:
    kernel, _, registry = host_kernel("add", np.add)
    (null,) = add_null_backend(registry)
    message = r"kernel toy/mine runs on devices of 'toy', not on 'null:0'; pass registry.device\('toy'\)."
    with pytest.raises(KernelError, match=message):
        oy.testing.check_kernel(kernel, null, registry)


def test_a_right_kernel_passes_all_cases_that_it_accepts() -> None:
    kernel, device, registry = host_kernel("multiply", np.multiply)
    everything = check_kernel(kernel, device, registry)
    assert everything == len(list(oy.multiply.op.cases())) > 0
    narrow, device, registry = host_kernel("multiply", np.multiply, dtypes=("float32",))
    assert 0 < check_kernel(narrow, device, registry) < everything
    none, device, registry = host_kernel("multiply", np.multiply, accepts=lambda call, device: "never")
    assert check_kernel(none, device, registry) == 0


def test_a_wrong_kernel_is_named_with_the_case_and_the_place() -> None:
    kernel, device, registry = host_kernel("multiply", np.add)
    text = r"kernel toy/mine of multiply is wrong on case \w+\[.*output 0: \d+ of \d+ values differ; at \(.*\) it is"
    with pytest.raises(KernelError, match=text):
        check_kernel(kernel, device, registry)


def test_errors_are_measured_against_what_the_kernel_says() -> None:
    def near(x: Any, error: float = 1e-7) -> Any:
        found = np.exp(x)
        return found + found.dtype.type(error) * np.max(found, initial=0)

    def largest(call: Call, arrays: Any) -> Any:
        return [np.full(arrays[0].shape, np.max(np.exp(arrays[0]), initial=0))]

    facts: dict[str, Any] = {"dtypes": ("float32",)}
    kernel, device, registry = host_kernel("exp", near, **facts)
    with pytest.raises(KernelError, match="kernel toy/mine of exp is wrong on case"):
        check_kernel(kernel, device, registry)
    kernel, device, registry = host_kernel("exp", near, magnitudes=largest, **facts)
    assert check_kernel(kernel, device, registry) > 0
    call = oy.exp.op.call(TensorSpec((3,)))
    expected = expect(call, [np.array([-9, 0, 9], np.float32)], seed=0)
    for error, verdict in ((1e-7, True), (1e-4, False)):
        result = near(expected.arrays[0], error)
        assert (disagreement(expected, kernel, call, device, result, registry) is None) is verdict
    assert disagreement(
        expected, host_kernel("exp", near)[0], call, device, near(expected.arrays[0]), registry
    )
    with pytest.raises(
        RegistryError, match=r"magnitudes is a function or 'package\.module:function'; found 3"
    ):
        host_kernel("exp", near, magnitudes=3)


def test_each_output_is_checked() -> None:
    def swapped(x: Any, **attributes: Any) -> Any:
        return tuple(reversed(oy.split.op.reference(x, **attributes)))

    kernel, device, registry = host_kernel("split", swapped)
    with pytest.raises(KernelError, match="kernel toy/mine of split is wrong on case"):
        check_kernel(kernel, device, registry)


def test_a_kernel_that_gives_another_number_of_outputs_is_wrong() -> None:
    kernel, device, registry = host_kernel("split", lambda x, **attributes: (x,))
    with pytest.raises(
        KernelError,
        match=r"kernel toy/mine of split is wrong on case .*: there are 1 outputs, the reference has",
    ):
        check_kernel(kernel, device, registry)


@pytest.mark.parametrize("op", ["clip", "top_k", "matmul", "sum"])
def test_null_kernels_are_right(op: str) -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry)
    registry.kernel(op, backend="null", name="null", prepare=prepare_null)
    assert check_kernel(registry.kernels(op)[0], device, registry, seed=3) > 0
