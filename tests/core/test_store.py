"""The store of measured costs: shared by processes and threads, never an error, and stale as soon as anything differs."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import SettingsError
from opyard.kernels import Kernel, Origin
from opyard.placement import CostStore, CostsWarning, MeasuredCosts
from opyard.placement.identity import describe_device, describe_kernel, describe_work
from opyard.placement.store import Measurement
from opyard.region import Region
from opyard.testing import NullDevice

SPEC = oy.TensorSpec((4,), "float32")
CALL = oy.add.op.call(SPEC, SPEC)
KERNEL = Kernel("add", "null", "k", load=np.add, origin=Origin("p", "opyard-p", "1.0"))
DEVICE = NullDevice("null:0")


@pytest.fixture
def store(tmp_path: Path) -> CostStore:
    return CostStore(tmp_path / "folder" / "costs.sqlite")


def put(store: CostStore, seconds: float = 1e-3, **facts: Any) -> None:
    store.put(describe_work(CALL), describe_kernel(KERNEL), DEVICE, Measurement(seconds, **facts))


def get(
    store: CostStore, call: Any = CALL, kernel: Kernel = KERNEL, device: oy.Device = DEVICE
) -> float | None:
    found = MeasuredCosts(store).measurement(kernel, call, device)
    return None if found is None else found.seconds


# One process -----------------------------------------------------------------------------------------------------


def test_nothing_is_made_before_something_is_kept(store: CostStore) -> None:
    assert get(store) is None
    assert store.capabilities(DEVICE) is None
    assert store.summary()["measurements"] == 0
    assert store.clear() == 0
    assert not store.path.parent.exists()


def test_the_default_path_is_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    assert CostStore().path == tmp_path / "costs.sqlite"


def test_what_is_kept_is_found_by_others(store: CostStore) -> None:
    measured = Measurement(1e-3, 1e-5, 7, "ok", "", 12.5)
    store.put("work", "kernel", DEVICE, measured)
    assert store.get("work", "kernel", DEVICE) == measured
    store.close()
    assert CostStore(store.path).get("work", "kernel", DEVICE) == measured


def test_of_two_measurements_the_later_stays(store: CostStore) -> None:
    put(store, 1.0, time=10.0)
    put(store, 2.0, time=20.0)
    put(store, 3.0, time=15.0)
    assert get(store) == 2.0
    assert store.summary()["measurements"] == 1


def test_capabilities_are_kept_beside_measurements(store: CostStore) -> None:
    measured = replace(DEVICE.capabilities, flops=7.0, bandwidth=8.0)
    store.put_capabilities(DEVICE, measured)
    put(store)
    assert store.capabilities(DEVICE) == measured
    assert store.summary()["devices"] == [
        {
            "name": "null:0",
            "description": "a device for tests",
            "threads": len(os.sched_getaffinity(0)),
            "measurements": 1,
            "wrong": 0,
            "calibrated": True,
        }
    ]


def test_clear_forgets_everything(store: CostStore) -> None:
    put(store)
    store.put_capabilities(DEVICE, DEVICE.capabilities)
    assert store.clear() == 1
    assert get(store) is None and store.capabilities(DEVICE) is None
    put(store, 2.0)
    assert get(store) == 2.0


# Staleness -------------------------------------------------------------------------------------------------------


def other_device(**changes: Any) -> NullDevice:
    device = NullDevice(changes.pop("name", "null:0"), capabilities=changes.pop("capabilities", None))
    for name, value in changes.items():
        setattr(device, name, value)
    return device


VERSION_TWO = replace(oy.add.op, version=2)


@pytest.mark.parametrize(
    "other",
    [
        {"call": oy.add.op.call(SPEC.with_shape((5,)), SPEC.with_shape((5,)))},
        {"call": oy.add.op.call(SPEC.with_dtype("float64"), SPEC)},
        {"call": oy.subtract.op.call(SPEC, SPEC)},
        {"call": replace(CALL, op=VERSION_TWO)},
        {"kernel": replace(KERNEL, name="other")},
        {"kernel": replace(KERNEL, version=2)},
        {"kernel": replace(KERNEL, origin=Origin("p", "opyard-p", "1.1"))},
        {"kernel": replace(KERNEL, origin=Origin("p", "opyard-q", "1.0"))},
        {"device": other_device(name="null:1")},
        {"device": other_device(description="another driver")},
        {"device": other_device(capabilities=oy.Capabilities(frozenset({"fp16"})))},
    ],
)
def test_any_difference_is_a_miss(store: CostStore, other: dict[str, Any]) -> None:
    put(store)
    assert get(store) == 1e-3
    assert get(store, **other) is None


def test_attributes_are_a_part_of_the_key(store: CostStore) -> None:
    first, second = (oy.sum.op.call(SPEC, axis=0, keepdims=keep) for keep in (False, True))
    store.put(describe_work(first), describe_kernel(KERNEL), DEVICE, Measurement(1.0))
    assert get(store, first) == 1.0
    assert get(store, second) is None


def test_the_surroundings_are_a_part_of_the_key(store: CostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    with monkeypatch.context() as patch:
        patch.setattr("opyard.settings.num_threads", lambda: 77)
        assert get(store) is None
    for name in (np.__version__, platform.python_version()):
        assert json.dumps(name) in describe_device(DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr("opyard.placement.store.POLICY", "another way to measure")
        assert get(store) is None
    assert get(store) == 1e-3


def test_declared_numbers_of_a_device_are_no_part_of_the_key(store: CostStore) -> None:
    put(store)
    assert get(store, device=other_device(capabilities=oy.Capabilities(flops=1.0))) == 1e-3


def test_regions_are_told_apart_by_how_they_are_wired() -> None:
    def region(function: Any) -> str:
        return describe_work(Region(oy.trace(function, SPEC, SPEC)))

    assert region(lambda a, b: oy.exp(a - b)) == region(lambda x, y: oy.exp(x - y))
    assert region(lambda a, b: oy.exp(a - b)) != region(lambda a, b: oy.exp(b - a))


# Files that are of no use ----------------------------------------------------------------------------------------


def test_a_damaged_file_is_reported_once_and_cleared(store: CostStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"this is no database" * 100)
    with pytest.warns(
        CostsWarning, match="measured costs are not used: .*costs.sqlite: .*opyard costs --clear"
    ):
        assert get(store) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        put(store)
        assert get(store) is None
        assert store.clear() == 0
        put(store)
        assert get(store) == 1e-3


def test_a_file_damaged_within_is_reported(store: CostStore) -> None:
    for number in range(200):
        store.put(f"work {number}", "kernel", DEVICE, Measurement(1.0))
    store.close()
    with store.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (store.path.stat().st_size - 4096))
    with pytest.warns(CostsWarning, match="measured costs are not used"):
        assert store.get("work 1", "kernel", DEVICE) is None


def test_a_folder_that_cannot_be_made_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = CostStore(tmp_path / "file" / "costs.sqlite")
    with pytest.warns(CostsWarning, match="set OPYARD_CACHE_DIR to a folder that can be written"):
        put(store)
    put(store)
    assert get(store) is None


def test_a_file_of_another_schema_stays_and_a_new_one_is_made_beside_it(store: CostStore) -> None:
    store.path.parent.mkdir()
    with sqlite3.connect(store.path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    before = store.path.read_bytes()
    old = store.path
    put(store)
    assert get(store) == 1e-3
    assert old.read_bytes() == before
    assert store.path.name == "costs-1.sqlite"
    store.close()
    assert get(CostStore(old)) == 1e-3
    with sqlite3.connect(store.path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.warns(CostsWarning, match="its schema is 99, this opyard has 1"):
        assert get(CostStore(old)) is None


def test_a_store_that_nobody_may_write_is_read(store: CostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    store.close()
    monkeypatch.setattr("opyard.placement.store.os.access", lambda path, mode: False)
    shipped = CostStore(store.path)
    assert get(shipped) == 1e-3
    with pytest.warns(CostsWarning, match="readonly"):
        put(shipped, 2.0)


# Export and import -----------------------------------------------------------------------------------------------


def test_export_and_import_round_trip(store: CostStore, tmp_path: Path) -> None:
    put(store, spread=1e-5, rounds=9)
    store.put("work", "kernel", DEVICE, Measurement(0.0, verdict="wrong", reason="it is all zeros"))
    store.put("work", "unknown", DEVICE, Measurement(2.0, verdict="scaled"))
    store.put_capabilities(DEVICE, replace(DEVICE.capabilities, flops=7.0))
    file = tmp_path / "fleet.json"
    assert store.export(file) == 3
    other = CostStore(tmp_path / "other.sqlite")
    assert other.import_(file) == 3
    assert other.summary()["measurements"] == 2  # estimates are no measurements
    assert get(other) == 1e-3
    assert other.wrong() == [("kernel", "work", "it is all zeros")]
    assert other.summary() == {**store.summary(), "path": str(other.path)}
    again = tmp_path / "again.json"
    other.export(again)
    assert json.loads(again.read_text()) == json.loads(file.read_text())


def test_import_keeps_what_is_newer(store: CostStore, tmp_path: Path) -> None:
    put(store, 1.0, time=10.0)
    store.export(tmp_path / "old.json")
    put(store, 2.0, time=20.0)
    store.import_(tmp_path / "old.json")
    assert get(store) == 2.0


ROW = {
    "work": "w",
    "kernel": "k",
    "device": "d",
    "policy": "p",
    "seconds": 1.0,
    "spread": 0.0,
    "rounds": 5,
    "verdict": "ok",
    "reason": "",
    "time": 1.0,
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'opyard_costs'"),
        ('{"opyard_costs": 9}', "its version is 9, this opyard reads 1"),
        (json.dumps({"opyard_costs": 1, "devices": [], "measurements": [{}]}), "KeyError: 'work'"),
        (
            json.dumps({"opyard_costs": 1, "devices": [], "measurements": [{**ROW, "seconds": -1}]}),
            "is no measurement",
        ),
        (
            json.dumps({"opyard_costs": 1, "devices": [], "measurements": [{**ROW, "verdict": "fine"}]}),
            "is no measurement",
        ),
        (
            json.dumps(
                {
                    "opyard_costs": 1,
                    "measurements": [],
                    "devices": [
                        {
                            "fingerprint": "f",
                            "facts": {},
                            "time": 1,
                            "capabilities": dict.fromkeys(
                                (
                                    *("flops", "bandwidth", "launch_seconds", "transfer_bandwidth"),
                                    *("transfer_seconds", "wrap_seconds"),
                                ),
                                -1,
                            ),
                        }
                    ],
                }
            ),
            "are no capabilities",
        ),
    ],
)
def test_import_of_something_else(store: CostStore, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(
        SettingsError, match=r"is no export of measured costs .*opyard costs --export FILE"
    ) as error:
        store.import_(file)
    assert reason in str(error.value)
    assert not store.path.exists()


# Many processes and threads --------------------------------------------------------------------------------------

WRITER = """
import sys
from opyard.placement import CostStore
from opyard.placement.store import Measurement
from opyard.testing import NullDevice
store, device = CostStore(sys.argv[1]), NullDevice("null:0")
for number in range(25):
    store.put(f"work {sys.argv[2]} {number}", "kernel", device, Measurement(1.0))
    store.put("shared", "kernel", device, Measurement(float(number)))
    assert store.get(f"work {sys.argv[2]} {number}", "kernel", device).seconds == 1.0
"""


def test_eight_processes_write_at_once(store: CostStore) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(store.path), str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for writer in writers:
        _, error = writer.communicate(timeout=120)
        assert writer.returncode == 0, error
    assert store.summary()["measurements"] == 8 * 25 + 1
    assert {file.name for file in store.path.parent.iterdir()} <= {
        *("costs.sqlite", "costs.sqlite-wal", "costs.sqlite-shm")
    }


def test_threads_share_a_store(store: CostStore) -> None:
    problems: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(50):
                store.put(f"{name} {number}", "kernel", DEVICE, Measurement(float(number)))
                found = store.get(f"{name} {number}", "kernel", DEVICE)
                assert found is not None and found.seconds == number
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert store.summary()["measurements"] == 8 * 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_the_file_anew(store: CostStore) -> None:
    put(store)
    assert get(store) == 1e-3
    child = os.fork()
    if child == 0:  # no test machinery may run here
        try:
            found = get(store) == 1e-3
            put(store, 2.0)
            os._exit(0 if found else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert get(store) == 2.0


def test_nothing_is_exported_from_or_imported_into_a_damaged_file(store: CostStore, tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    store.export(good)
    store.close()
    store.path.parent.mkdir(parents=True, exist_ok=True)
    store.path.write_bytes(b"no database" * 1000)
    for number, act in enumerate((CostStore.import_, CostStore.export)):
        damaged, file = CostStore(store.path), good if not number else tmp_path / "empty.json"
        with (
            pytest.warns(CostsWarning),
            pytest.raises(
                SettingsError, match="is damaged or cannot be written: nothing was exported or imported"
            ),
        ):
            act(damaged, file)
    assert not (tmp_path / "empty.json").exists()
