"""Environment variables: each read when it is needed, wrong ones explained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from opyard import settings
from opyard.errors import SettingsError, did_you_mean


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("OPYARD_"):
            monkeypatch.delenv(name)
    yield


def test_defaults() -> None:
    assert settings.allowed_plugins() is None
    assert settings.blocked() == settings.preferred() == ()
    assert settings.pins() == ()
    assert settings.strict() is False
    assert settings.num_threads() >= 1
    assert settings.unknown_variables() == []


def test_lists_are_split_and_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_BLOCK", " cuda , cpu/slow,, ")
    monkeypatch.setenv("OPYARD_PREFER", "opencl,cpu/blas")
    monkeypatch.setenv("OPYARD_PLUGINS", "cpu")
    assert settings.blocked() == ("cuda", "cpu/slow")
    assert settings.preferred() == ("opencl", "cpu/blas")
    assert settings.allowed_plugins() == ("cpu",)


def test_an_empty_allow_list_allows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_PLUGINS", "")
    assert settings.allowed_plugins() == ()


def test_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_PIN", "matmul=cpu/blas, conv = cuda/cudnn")
    assert settings.pins() == (("matmul", "cpu/blas"), ("conv", "cuda/cudnn"))


@pytest.mark.parametrize("entry", ["matmul", "matmul=cpu", "=cpu/blas", "matmul=/blas", "matmul=cpu/"])
def test_malformed_pin(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("OPYARD_PIN", entry)
    with pytest.raises(
        SettingsError, match=f"holds op=backend/kernel entries; '{entry}' is not one. Write for example"
    ):
        settings.pins()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_strict(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("OPYARD_STRICT", value)
    assert settings.strict() is expected


def test_malformed_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_STRICT", "yes")
    with pytest.raises(SettingsError, match="OPYARD_STRICT is 0 or 1; found 'yes'"):
        settings.strict()


def test_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    assert settings.num_threads() == 4
    for stated, used in (("3", 3), ("4", 4), ("5", 4), ("1000000", 4), ("9" * 5000, 4)):
        monkeypatch.setenv("OPYARD_NUM_THREADS", stated)
        assert settings.num_threads() == used
    for wrong in ("0", "-1", "all", "²", "1.5", "two", " 2"):
        monkeypatch.setenv("OPYARD_NUM_THREADS", wrong)
        for function in (settings.num_threads, settings.check):
            with pytest.raises(
                SettingsError, match=f"OPYARD_NUM_THREADS is a positive number; found '{wrong}'"
            ):
                function()


def test_check_looks_at_every_setting_that_can_be_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.check()
    for name, value in (("STRICT", "yes"), ("PIN", "matmul"), ("NUM_THREADS", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(f"OPYARD_{name}", value)
            with pytest.raises(SettingsError, match=f"OPYARD_{name} "):
                settings.check()


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.cache_dir() == tmp_path / "opyard"
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "mine"))
    assert settings.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("OPYARD_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert settings.cache_dir() == tmp_path / ".cache" / "opyard"
    monkeypatch.setenv("OPYARD_CACHE_DIR", "~/mine")
    assert settings.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("OPYARD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    assert settings.cache_dir() == tmp_path / ".cache" / "opyard"


def test_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.VARIABLES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("OPYARD_BLOK", "cuda")
    (sentence,) = settings.unknown_variables()
    assert sentence.startswith(
        "environment variable OPYARD_BLOK is not a setting of opyard. Did you mean OPYARD_BLOCK"
    )
    assert sentence.endswith("See docs/settings.md.")


def test_did_you_mean() -> None:
    assert did_you_mean("matmull", ["matmul", "add"]) == " Did you mean matmul?"
    assert did_you_mean("cosn", ("cos", "cosh")) == " Did you mean cos or cosh?"
    assert did_you_mean("zzz", ("cos", "cosh")) == ""


def test_a_user_without_a_home_has_a_cache_in_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPYARD_CACHE_DIR", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert settings.cache_dir() == Path(".opyard-cache")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # for a user whom the system does not know
    assert settings.cache_dir() == Path(".opyard-cache")
