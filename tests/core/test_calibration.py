"""Calibration: measured capabilities that are plausible, bounded in time, kept, and never of the reference."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.placement import CostStore, CostsWarning, calibrate, calibrated, calibration
from opyard.placement.calibration import Probe
from opyard.testing import NullDevice, add_null_backend, prepare_null
from rigs import LazyDevice, rig_registry

NUMBERS = [f.name for f in fields(oy.Capabilities) if f.name != "features"]


def null_registry(*ops: str, **facts: Any) -> tuple[oy.Registry, NullDevice]:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=ops, **facts)
    return registry, device


def changed(device: oy.Device, measured: oy.Capabilities) -> set[str]:
    assert all(np.isfinite(getattr(measured, name)) and getattr(measured, name) >= 0 for name in NUMBERS)
    assert measured.features == device.capabilities.features
    return {n for n in NUMBERS if getattr(measured, n) != getattr(device.capabilities, n)}


def test_everything_that_a_device_can_do_is_measured() -> None:
    registry, device = null_registry("add", "matmul")
    assert changed(device, calibrate(device, registry, 1.0).capabilities) == {
        *("flops", "bandwidth", "launch_seconds", "transfer_bandwidth", "transfer_seconds")
    }


def test_what_has_no_kernel_stays_as_declared() -> None:
    registry, device = null_registry("exp")
    assert changed(device, calibrate(device, registry, 0.05).capabilities) <= {
        "transfer_seconds",
        "transfer_bandwidth",
    }
    refusing, device = null_registry("add", "matmul", accepts=lambda call, device: "not today")
    assert changed(device, calibrate(device, refusing, 0.05).capabilities) <= {
        "transfer_seconds",
        "transfer_bandwidth",
    }


def test_kernels_that_fail_or_are_blocked_are_passed_over() -> None:
    registry, device = null_registry()

    def prepare(call: oy.Call, device: oy.Device) -> Any:
        raise RuntimeError("out of order")

    registry.kernel("add", backend="null", name="broken", prepare=prepare)
    registry.kernel("matmul", backend="null", name="blocked", prepare=prepare_null)
    with oy.using(block="null/blocked", registry=registry):
        measured = calibrate(device, registry, 0.05).capabilities
    assert changed(device, measured) <= {"transfer_seconds", "transfer_bandwidth"}


def test_in_the_hosts_memory_taking_an_array_over_is_measured() -> None:
    registry = rig_registry()
    device = registry.device("lazy:0")
    assert isinstance(device, LazyDevice)
    assert {"wrap_seconds", "bandwidth", "launch_seconds"} == changed(
        device, calibrate(device, registry, 0.1).capabilities
    )
    vector = registry.device("vector:0")
    assert {"bandwidth", "launch_seconds"} == changed(vector, calibrate(vector, registry, 0.4).capabilities)


def test_the_reference_has_no_rate() -> None:
    registry = oy.standard_registry()
    device = registry.device("reference")
    assert calibrate(device, registry).capabilities is device.capabilities


def test_the_peak_is_that_of_an_efficient_kernel() -> None:
    def slow(call: oy.Call, device: oy.Device) -> Any:
        run = prepare_null(call, device)

        def wait(*arrays: Any) -> Any:
            time.sleep(2e-3)
            return run(*arrays)

        return wait

    rates = []
    for efficiency in (1.0, 0.1):
        registry, device = null_registry()
        registry.kernel("add", backend="null", name="slow", prepare=slow, efficiency=efficiency)
        rates.append(calibrate(device, registry, 0.05).capabilities.bandwidth)
    assert rates[1] > 3 * rates[0]


def test_the_processor_is_calibrated_within_bounds() -> None:
    registry = oy.default_registry()
    device = registry.device("cpu:0")
    measured = calibrate(device, registry, 0.3).capabilities
    assert {"flops", "bandwidth", "launch_seconds"} == changed(device, measured)
    assert 1e7 < measured.flops < 1e15
    assert 1e8 < measured.bandwidth < 1e13
    assert 1e-8 < measured.launch_seconds < 1e-2


def test_a_device_with_little_memory_gets_small_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, device = null_registry("add")
    monkeypatch.setattr(device, "memory_info", lambda: (1 << 18, 1 << 18), raising=False)
    calibrate(device, registry, 0.5)
    sizes = {int(line.split("[")[1].rstrip("]")) for line in device.log}
    assert 1 << 12 <= max(sizes) <= 1 << 14, "a quarter of the memory, in float32"


def test_calibrated_measures_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SCATTERED", float("inf"))  # the machine that tests run on may be busy
    registry, device = null_registry("add")
    store = CostStore(tmp_path / "costs.sqlite")
    first = calibrated(device, store, registry, 0.05)
    device.log.clear()
    assert calibrated(device, store, registry, 0.05) == first
    assert calibrated(device, CostStore(store.path), registry, 0.05) == first
    assert device.log == []


class ScriptedBatch:
    """A batch whose tries take these seconds, and then always the last of them."""

    def __init__(self, *seconds: float) -> None:
        self.script, self.samples = list(seconds), []

    def warm(self) -> float:
        return self.script[0]

    def sample(self) -> None:
        self.samples.append(self.script.pop(0) if len(self.script) > 1 else self.script[0])


def scripted(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[int]:
    """Products of any width take these seconds, one try after the other; gives the widths that are tried."""
    widths: list[int] = []

    def kernels(op: str, *shapes: tuple[int, ...], **_: Any) -> Probe | None:
        if op == "add":
            return None
        widths.append(shapes[0][0])
        probe = Probe(1.0, [(ScriptedBatch(*seconds), 1.0)])  # type: ignore[list-item]
        probe.warm()
        return probe

    monkeypatch.setattr(calibration, "_kernels", kernels)
    return widths


def test_one_undisturbed_try_is_enough_for_the_rate_but_not_for_keeping_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, device = null_registry()
    widths = scripted(monkeypatch, 10.0, 10.0, 10.0, 0.1, 10.0)
    found = calibrate(device, registry, 0.05)
    assert widths == [64, 128, 256, 512], "small products are measured whatever they take"
    assert found.capabilities.flops == 2 * 512**3 / 0.1
    assert found.doubts == ("flops: the best tries differ by 9900 %",)
    store = CostStore(tmp_path / "costs.sqlite")
    scripted(monkeypatch, 10.0, 10.0, 10.0, 0.1, 10.0)
    text = r"null:0 was not calibrated, because other programs use it \(flops: the best tries differ by 9900 %\); what it declares is used"
    with pytest.warns(CostsWarning, match=text):
        assert calibrated(device, store, registry, 0.05) is device.capabilities
    assert store.capabilities(device) is None


def test_a_bandwidth_is_not_that_of_the_tries_that_met_a_cache() -> None:
    memory = Probe(1.0, [], lucky=calibration.QUARTILE)
    memory.tries = [1.0] * 80
    memory.tries[7:70:8] = [0.5] * 8
    assert (memory.seconds, memory.rate, memory.scatter) == (1.0, 1.0, 1.0)
    memory.tries[:] = [2.0] * 65 + [1.0] * 15
    assert (memory.seconds, memory.scatter) == (2.0, 2.0), "fewer than a quarter were undisturbed: doubted"
    memory.tries[:] = [3.0, 2.0]
    assert (memory.seconds, memory.scatter) == (2.0, 1.5), "the best of so few"


def test_products_that_lose_speed_as_they_grow_are_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other: only products that one thread computes alone are fast."""
    registry, device = null_registry()
    times = iter([1e-5, 1.0, 1.0, 1.0])

    def kernels(op: str, *shapes: tuple[int, ...], **_: Any) -> Probe | None:
        if op == "add":
            return None
        probe = Probe(1.0, [(ScriptedBatch(next(times)), 1.0)])  # type: ignore[list-item]
        probe.warm()
        return probe

    monkeypatch.setattr(calibration, "_kernels", kernels)
    found = calibrate(device, registry, 0.05)
    assert found.capabilities.flops == pytest.approx(2 * 64**3 / 1e-5)
    assert found.doubts == ("flops: wide matrix products are slower than narrow ones",)


def test_tries_that_agree_are_kept_however_many_were_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, device = null_registry()
    scripted(monkeypatch, 10.0, 0.1, 0.102, 7.0, 0.101, 7.0)
    store = CostStore(tmp_path / "costs.sqlite")
    measured = calibrated(device, store, registry, 0.05)
    assert store.capabilities(device) == measured
    assert measured.flops == 2 * 512**3 / 0.101, "the median of those near the best"


def test_operations_are_the_median_of_the_tries_near_the_best() -> None:
    products = Probe(1.0, [], near=calibration.NEAR)
    products.tries = [9.0, 1.0, 1.02, 1.04, 1.06, 1.08, 7.0, 1.5]
    assert products.seconds == 1.04
    products.tries = [9.0, 1.0, 7.0, 8.0]
    assert products.seconds == 1.0, "no other was undisturbed"
    assert products.scatter == 8.0


@pytest.mark.parametrize(
    ("rate", "sizes"),
    [
        (5e8, [1 << 18, 1 << 20, 1 << 22]),  # elements a second: the next would take more than 20 ms
        (1e12, [1 << 24]),  # none takes as long as a batch
        (1e4, [1 << 12]),  # the first is too long already
    ],
)
def test_rates_come_from_all_sizes_that_take_long_enough(rate: float, sizes: list[int]) -> None:
    _, device = null_registry()

    def make(elements: int) -> Probe:
        return Probe(float(elements), [], tries=[elements / rate] * 3)

    deadline = time.perf_counter() + 10_000
    assert [probe.work for probe in calibration._long_enough(make, 1, device, deadline)] == sizes
