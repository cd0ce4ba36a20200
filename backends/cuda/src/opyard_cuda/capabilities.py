"""What a CUDA device can do, estimated from its attributes until it is measured."""

from __future__ import annotations

from collections.abc import Mapping

from opyard.driver import Capabilities

_CORES = {(6, 0): 64, (6, 1): 128, (6, 2): 128, (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
"""float32 units of one multiprocessor by compute capability; 128 on all that are not listed. Source: CUDA C++ Programming Guide."""

_FEATURES = {(5, 3): "fp16", (7, 0): "tensor_cores", (8, 0): "bf16", (8, 9): "fp8"}
"""The compute capability that brought each feature."""

_CLOCK = 1.5e9
"""Cycles per second, where the driver does not say."""

_MEMORY_BANDWIDTH = 5e11
_HOST_BANDWIDTH = 1.2e10
"""Bytes per second over PCI Express 3.0 with 16 lanes: no attribute tells the bus, and this is the slowest in use."""

_LAUNCH_SECONDS = 6e-6
"""Host time of one launch through CuPy."""


def estimate(
    compute_capability: str, attributes: Mapping[str, int], libraries: frozenset[str] = frozenset()
) -> Capabilities:
    """Capabilities from a compute capability such as "90" and CuPy's device attributes.

    Attributes used: MultiProcessorCount, ClockRate and MemoryClockRate (kHz), GlobalMemoryBusWidth (bits), Integrated.
    A missing attribute, or 0, counts as not known. ``libraries`` are further features, such as "cublas".
    """
    level = int(compute_capability[:-1]), int(compute_capability[-1])
    features = {name for since, name in _FEATURES.items() if level >= since}
    clock = attributes.get("ClockRate", 0) * 1e3 or _CLOCK
    cores = attributes.get("MultiProcessorCount", 1) * _CORES.get(level, 128)
    # memory transfers on both edges of its clock
    bandwidth = (
        2 * attributes.get("MemoryClockRate", 0) * 1e3 * attributes.get("GlobalMemoryBusWidth", 0) / 8
        or _MEMORY_BANDWIDTH
    )
    return Capabilities(
        features=frozenset({f"sm_{compute_capability}", "fp64", *features, *libraries}),
        flops=2.0 * cores * clock,  # a multiply and an add in each cycle
        bandwidth=bandwidth,
        launch_seconds=_LAUNCH_SECONDS,
        transfer_bandwidth=bandwidth / 2 if attributes.get("Integrated") else _HOST_BANDWIDTH,
        transfer_seconds=1e-5,
    )
