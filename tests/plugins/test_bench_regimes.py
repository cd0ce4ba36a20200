"""Regimes of ``opyard bench``: what a sample holds, on devices that tell what was asked of them and have a clock by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import SettingsError
from opyard.placement.measuring import bind_start, make_inputs
from opyard.region import Region
from opyard.registry import REFERENCE
from opyard.testing import NullDevice, add_null_backend, prepare_null
from opyard_bench import machine, regimes
from opyard_bench.command import parse_regimes
from opyard_bench.record import COLD, END_TO_END, HOST, HOT, REGIMES
from opyard_bench.regimes import Ready, make_timer

SPEC = oy.TensorSpec((4, 2))


def counted(device: NullDevice, what: str) -> int:
    return sum(line.startswith(what) for line in device.log)


def ready(
    registry: oy.Registry, device: oy.Device, op: str = "exp", name: str = "null", **facts: Any
) -> tuple[Ready, list[Any]]:
    """A kernel that runs the reference, made ready; and the list of inputs that it was called with."""
    seen: list[Any] = []

    def prepare(call: oy.Call, where: oy.Device) -> Callable[..., Any]:
        right = prepare_null(call, where)

        def run(*arrays: Any, out: Any = None) -> Any:
            seen.append((arrays, out))
            return right(*arrays)

        return run

    registry.kernel(op, backend=device.backend, name=name, prepare=prepare, **facts)
    kernel = next(k for k in registry.kernels(op) if k.name == name)
    call = registry.get_op(op).call(SPEC)
    arrays = [np.ones(SPEC.shape, SPEC.dtype)]
    inputs = make_inputs(kernel, call, device, arrays, registry)
    run = kernel.bind(call, device)
    start = bind_start(run, inputs, kernel, call, device)
    return Ready(kernel, device, call, arrays, inputs, run, start, 0.0, False), seen


@pytest.fixture
def registry() -> oy.Registry:
    return oy.standard_registry()


def test_hot_calls_take_the_same_arrays_by_the_clock_of_the_device(registry: oy.Registry) -> None:
    seconds = itertools.count()
    (device,) = add_null_backend(registry, NullDevice("null:0", clock=lambda: float(next(seconds))))
    kernel, seen = ready(registry, device)
    timer = make_timer(HOT, kernel, registry, {})
    timer.batch.sample()
    assert (timer.clock, timer.note) == ("device", "")
    assert timer.batch.samples == [1.0], "the clock ticks once for each mark"
    timer.batch.sample()
    assert seen[0][0][0] is seen[1][0][0]


def test_without_a_clock_it_is_that_of_the_host(registry: oy.Registry) -> None:
    (device,) = add_null_backend(registry)
    assert make_timer(HOT, ready(registry, device)[0], registry, {}).clock == "host"


def test_cold_calls_take_turns_on_twice_the_bytes_of_the_cache(
    registry: oy.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = add_null_backend(registry)
    monkeypatch.setattr(machine, "caches", lambda device: (("L1", 10), ("L2", 5 * SPEC.nbytes)))
    kernel, seen = ready(registry, device, out=True)
    sets: Any = {}
    timer = make_timer(COLD, kernel, registry, sets)
    assert timer.note == ""
    timer.batch.warm()
    for _ in range(5):
        timer.batch.sample()
    assert timer.batch.calls == 1
    inputs = [arrays[0] for arrays, _ in seen]
    assert len({id(array) for array in inputs}) == 5, "inputs and outputs together are twice the cache"
    assert inputs[5] is inputs[0]
    assert len({id(out) for _, out in seen}) == 5
    other, seen = ready(registry, device, name="other")
    make_timer(COLD, other, registry, sets).batch.sample()
    assert seen[0][0][0] is inputs[0], "kernels that take the same arrays share them"


def test_what_may_not_be_cold_says_so(registry: oy.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = add_null_backend(registry)
    kernel, _ = ready(registry, device)
    monkeypatch.setattr(machine, "caches", lambda device: (("L2", 100 * SPEC.nbytes),))
    monkeypatch.setattr(machine, "free_bytes", lambda device: 12 * SPEC.nbytes)
    timer = make_timer(COLD, kernel, registry, {})
    assert timer.note == "perhaps not cold: 96 B take turns, beside a cache of 3.2 kB"
    monkeypatch.setattr(machine, "free_bytes", lambda device: None)
    assert make_timer(COLD, kernel, registry, {}).note == ""
    monkeypatch.setattr(machine, "caches", lambda device: ())
    monkeypatch.setattr(regimes, "UNKNOWN_CACHE", 320)
    assert make_timer(COLD, kernel, registry, {}).note == (
        "the size of the cache is not known; 320 B were assumed"
    )
    call = registry.get_op("full").call(value=1.0, shape=(2,))
    start = prepare_null(call, device)
    bare = kernel._replace(work=call, arrays=[], inputs=[], run=start)
    assert make_timer(COLD, bare, registry, {}).note == "not cold: it takes no arrays that could take turns"


def test_host_is_the_eager_call_with_the_kernel_pinned(registry: oy.Registry) -> None:
    (device,) = add_null_backend(registry)
    registry.kernel("exp", backend="null", name="faster", prepare=prepare_null, cost=lambda c, d: 0.0)
    kernel, seen = ready(registry, device)
    timer = make_timer(HOST, kernel, registry, {})
    before = len(seen)
    timer.batch.sample()
    assert len(seen) == before + 1
    assert (timer.clock, timer.note) == ("host", "")


def test_what_no_eager_call_uses_is_called_directly(registry: oy.Registry) -> None:
    (device,) = add_null_backend(registry)
    kernel, seen = ready(registry, device)
    graph = oy.trace(lambda x: oy.exp(x), SPEC)
    region = Region(graph)
    timer = make_timer(HOST, kernel._replace(work=region), registry, {})
    timer.batch.sample()
    assert len(seen) == 1
    assert timer.note == "without the choice of a kernel: no eager call uses it"


def test_end_to_end_uploads_and_downloads(registry: oy.Registry) -> None:
    (device,) = add_null_backend(registry)
    kernel, seen = ready(registry, device)
    timer = make_timer(END_TO_END, kernel, registry, {})
    device.log.clear()
    timer.batch.sample()
    # the null kernel itself downloads its input and uploads its output
    assert (counted(device, "upload"), counted(device, "download")) == (2, 2)
    assert seen[0][0][0] is not kernel.inputs[0]


# Names and the machine -------------------------------------------------------------------------------------------


def test_names_of_regimes() -> None:
    assert parse_regimes("hot") == (HOT,)
    assert parse_regimes("cold, hot,cold") == (COLD, HOT)
    assert parse_regimes(",".join(REGIMES)) == REGIMES
    with pytest.raises(
        SettingsError,
        match=r"--regime 'hoto' is none. Did you mean hot or host\? There are hot, cold, host, end-to-end.",
    ):
        parse_regimes("hoto")


def test_caches_of_the_processor_and_of_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: oy.Registry
) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "x")]
    for number, (level, kind, size) in enumerate(rows):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    host = registry.device(REFERENCE)
    assert machine.caches(host) == (("L1", 48 << 10), ("L2", 2 << 20))
    monkeypatch.setattr(machine, "CACHES", tmp_path / "none")
    assert machine.caches(host) == ()
    device = NullDevice("null:0")
    assert machine.caches(device) == ()
    monkeypatch.setattr(device, "cache_bytes", lambda: 50 << 20, raising=False)
    assert machine.caches(device) == (("cache", 50 << 20),)


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = NullDevice("null:0")
    (tmp_path / "meminfo").write_text("MemTotal:  10 kB\nMemAvailable:   3 kB\n")
    monkeypatch.setattr(machine, "MEMORY_INFO", tmp_path / "meminfo")
    assert machine.free_bytes(device) == 3 << 10
    monkeypatch.setattr(machine, "MEMORY_INFO", tmp_path / "none")
    assert machine.free_bytes(device) is None
    monkeypatch.setattr(device, "memory_info", lambda: (7, 10), raising=False)
    assert machine.free_bytes(device) == 7
