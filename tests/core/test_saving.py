"""Checkpoints: written whole or not at all, checked, and restored with a report."""

from __future__ import annotations

import os
import sys

import ml_dtypes
import numpy as np
import pytest

import opyard as oy
from opyard.errors import CheckpointError


def variables():
    return {
        "w": oy.Variable(np.arange(6, dtype=np.float32).reshape(2, 3).T, name="w"),
        "scalar": oy.Variable(3, name="scalar"),
        "empty": oy.Variable(np.zeros((0, 2)), name="empty"),
        "half": oy.Variable(np.ones(3, ml_dtypes.bfloat16), name="half"),
        "flag": oy.Variable(np.array([True, False]), name="flag"),
    }


def test_what_is_saved_is_restored(tmp_path):
    saved, again = variables(), variables()
    for variable in again.values():
        variable.assign(np.zeros(variable.shape, variable.dtype))
    oy.save(tmp_path / "c.safetensors", saved.values(), metadata={"step": "7"})
    report = oy.restore(tmp_path / "c.safetensors", again.values())
    assert report.is_complete
    assert report.metadata == {"step": "7"}
    assert set(report.restored) == set(saved)
    for name, variable in saved.items():
        np.testing.assert_array_equal(again[name].numpy(), variable.numpy())
        assert again[name].dtype == variable.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_all_variables_of_a_graph(tmp_path):
    v, n = oy.Variable(np.ones(2), name="v"), oy.Variable(0, name="n")
    with oy.Graph() as graph:
        n.assign(3)
        graph.output("y", v * 2)
    assert graph.variables == (v, n)
    assert oy.save(tmp_path / "c", graph.variables) == tmp_path / "c"
    v.assign([5, 5])
    assert oy.restore(tmp_path / "c", graph.variables).restored == ("v", "n")
    assert v.numpy().tolist() == [1, 1]


def test_what_does_not_fit_is_told_and_nothing_is_assigned(tmp_path):
    path = tmp_path / "c"
    a, b, c = (oy.Variable(np.zeros(2), name=name) for name in "abc")
    oy.save(path, {"a": a, "b": b, "c": c})
    other = oy.Variable(np.ones(3), name="b")
    a.assign([1, 1])
    wanted = {"a": a, "b": other, "d": c}
    text = r"does not fit these variables: restored 1 variables; missing in the file: d; only in the file: c; b is float64\[2\] in the file and float64\[3\] here\. restore\(\.\.\., partial=True\) takes what fits"
    with pytest.raises(CheckpointError, match=text):
        oy.restore(path, wanted)
    assert a.numpy().tolist() == [1, 1]
    report = oy.restore(path, wanted, partial=True)
    assert (report.restored, report.missing, report.unexpected, len(report.misfits)) == (
        ("a",),
        ("d",),
        ("c",),
        1,
    )
    assert a.numpy().tolist() == [0, 0]


def test_damage_is_found(tmp_path):
    path = tmp_path / "c"
    v = oy.Variable(np.arange(4.0), name="v")
    oy.save(path, [v])
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(
        CheckpointError, match="is damaged: the contents of 'v' do not have the SHA-256 that is noted"
    ):
        oy.restore(path, [v])
    path.write_bytes(contents[:-3])
    with pytest.raises(CheckpointError, match="is no checkpoint, or damaged"):
        oy.restore(path, [v])
    with pytest.raises(FileNotFoundError):
        oy.restore(tmp_path / "nothing", [v])


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path, v = tmp_path / "c", oy.Variable(1, name="v")
    oy.save(path, [v])
    v.assign(2)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opyard.saving.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        oy.save(path, [v])
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
    oy.restore(path, [v])
    assert int(v.numpy()) == 1


def test_names_and_kinds(tmp_path, monkeypatch):
    one, two = oy.Variable(1, name="v"), oy.Variable(2, name="v")
    with pytest.raises(
        CheckpointError, match="two variables are called 'v'; give them names of their own, or pass a dict"
    ):
        oy.save(tmp_path / "c", [one, two])
    oy.save(tmp_path / "c", {"one": one, "two": two})
    with pytest.raises(CheckpointError, match="checkpoints hold variables; found ndarray"):
        oy.save(tmp_path / "c", [np.ones(2)])
    for thing in (one, oy.Graph()):
        with pytest.raises(
            CheckpointError,
            match=rf"a checkpoint is of variables, in a list or a dict; found {type(thing).__name__}",
        ):
            oy.restore(tmp_path / "c", thing)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(
        CheckpointError,
        match=r"checkpoints need the package safetensors, which is not installed; .*opyard\[checkpoint\]",
    ):
        oy.save(tmp_path / "c", [one])


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_others_may_read_a_checkpoint_as_any_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    oy.save(tmp_path / "c", [oy.Variable(1, name="v")])
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "plain").stat().st_mode
