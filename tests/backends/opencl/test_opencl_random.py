"""Random numbers on an OpenCL device are those of the references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.driver import Capabilities
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation

_KEYS = [(0, 0), (123, 4567), (2**32 - 1, 2**32 - 1)]


def _both(
    registry: Registry, device: Any, name: str, key: tuple[int, int], **attributes: Any
) -> tuple[Any, Any]:
    """What the kernel gives for a key, and what the reference gives."""
    words = np.array(key, np.uint32)
    call = STANDARD[name].op.call(TensorSpec.of(words), **attributes)
    (kernel,) = registry.kernels(name)
    assert kernel.refusal(call, device) is None
    found = device.download(kernel.bind(call, device)(device.upload(words)))
    return found, call.reference(words)[0]


@pytest.mark.parametrize("key", _KEYS)
@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("philox_bits", {"shape": (4099,)}),
        ("split_key", {"count": 1027}),
        ("random_bernoulli", {"shape": (4099,), "probability": 0.3}),
        ("random_bernoulli", {"shape": (4099,), "probability": 1 / 3}),
        *(
            ("random_uniform", {"shape": (4099,), "dtype": dtype, "low": low, "high": high})
            for dtype in ("float64", "float32", "float16", "bfloat16")
            for low, high in ((0.0, 1.0), (-1.3, 2.7), (5, 5))
        ),
    ],
)
def test_numbers_are_those_of_the_reference_bit_for_bit(
    name: str, attributes: dict[str, Any], key: tuple[int, int], opencl: Any, opencl_registry: Registry
) -> None:
    found, expected = _both(opencl_registry, opencl, name, key, **attributes)
    bits = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(bits), expected.view(bits))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_normal_numbers_are_rounded_as_by_the_reference(
    dtype: str, opencl: Any, opencl_registry: Registry
) -> None:
    found, expected = _both(
        opencl_registry, opencl, "random_normal", (1, 2), shape=(4099,), mean=0.1, dtype=dtype
    )
    bits = f"u{expected.dtype.itemsize}"
    assert (
        np.mean(found.view(bits) == expected.view(bits)) > 0.999
    )  # libraries differ in the last bit of a sine


@pytest.mark.parametrize("name", ["random_uniform", "random_normal", "random_bernoulli", "philox_bits"])
def test_without_fp64_numbers_are_near(
    name: str, opencl: Any, opencl_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "capabilities", Capabilities())
    found, expected = _both(opencl_registry, opencl, name, (3, 4), shape=(1027,))
    key = np.array([3, 4], np.uint32)
    assert violation(STANDARD[name].op.call(TensorSpec.of(key), shape=(1027,)), [key], [found]) is None
    assert found.dtype == expected.dtype


def test_without_fp64_float64_is_refused(
    opencl: Any, opencl_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "capabilities", Capabilities())
    (kernel,) = opencl_registry.kernels("random_normal")
    call = STANDARD["random_normal"].op.call(TensorSpec((2,), "uint32"), shape=(3,), dtype="float64")
    assert kernel.refusal(call, opencl) == "opencl:0 lacks fp64, which float64 needs"
