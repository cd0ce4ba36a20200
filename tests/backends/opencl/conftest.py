"""The OpenCL device of these tests: PoCL, which the development environment brings."""

from __future__ import annotations

from typing import Any

import pytest

from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard_opencl import plugin


@pytest.fixture(scope="session")
def opencl_registry() -> Registry:
    registry = Registry()
    registry.ops_from(STANDARD)
    plugin.opyard_register(registry)
    return registry


@pytest.fixture(scope="session")
def opencl(opencl_registry: Registry) -> Any:
    """The first OpenCL device, which is a CPU device here."""
    status = opencl_registry.open("opencl")
    if not status.devices:
        pytest.skip(status.reason)
    return status.devices[0]


@pytest.fixture
def separate(opencl: Any) -> Any:
    """The same device treated as one with memory of its own: copies, groups of many work items, one step for each."""
    from opyard_opencl.device import OpenCLDevice

    return OpenCLDevice("opencl:9", opencl.cl_device, opencl.quirks, kind="gpu")
