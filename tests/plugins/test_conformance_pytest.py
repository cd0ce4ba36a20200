"""What authors use in their own tests: ``conformance_suite``, and ``conformance_case`` with ``pytest --opyard-backend``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from environments import run_python
from opyard.errors import RegistryError
from opyard_conformance import conformance_suite

TestCpu = conformance_suite("cpu", ops=["exp", "softmax"], level="smoke")

SUITE = """
import numpy as np
import opyard as oy
from opyard_conformance import conformance_suite

def registry():
    made = oy.standard_registry()
    oy.testing.add_null_backend(made, ops=["exp"])
    made.kernel("relu", backend="null", name="wrong", prepare=lambda call, device: lambda x: x)
    made.kernel("tanh", backend="null", name="shy", load=np.tanh, accepts=lambda call, device: "not today")
    made.backend("absent", load=lambda: oy.testing.NullBackend(reason="plug it in"))
    made.kernel("exp", backend="absent", name="k", load=np.exp)
    return made

TestNull = conformance_suite("null", registry=registry)
TestAbsent = conformance_suite("absent", registry=registry)
"""


def test_the_suite_passes_fails_and_skips(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    done = run_python(
        f"import pytest, sys; sys.exit(pytest.main(['-rA', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))",
        OPYARD_CACHE_DIR=str(tmp_path),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 2 skipped, 1 failed" in done.stdout or "1 failed, 1 passed, 2 skipped" in done.stdout
    assert "::TestNull::test_kernel[exp-null/null]" in done.stdout
    assert "test_kernel[relu-null/wrong]" in done.stdout
    assert (
        "opyard conformance --backend null:0 --op relu --kernel null/wrong --case 'float32[3,4]'"
        in done.stdout
    )
    assert "cases failed" in done.stdout and "\nand " in done.stdout
    assert "kernel null/shy of op 'tanh' ran no case: not today" in done.stdout
    assert "absent has no device here: plug it in" in done.stdout


def test_the_suite_needs_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(
        ImportError, match=r"which cannot be imported here: .*pip install .*'opyard-conformance\[pytest\]'"
    ):
        conformance_suite("cpu")


def test_the_suite_of_an_unknown_backend() -> None:
    with pytest.raises(RegistryError, match=r"there is no backend called 'cpo'\. Did you mean cpu"):
        conformance_suite("cpo")


# Cases one by one ------------------------------------------------------------------------------------------------

CONFTEST = """
import numpy as np
import pytest
import opyard as oy

made = oy.standard_registry()
oy.testing.add_null_backend(made, ops=["exp"], dtypes=("float32",))
made.kernel("relu", backend="null", name="wrong", prepare=lambda call, device: lambda x: x)
made.backend("absent", load=lambda: oy.testing.NullBackend(reason="plug it in"))
made.kernel("exp", backend="absent", name="k", load=np.exp)
scope = oy.using(registry=made)

def pytest_configure(config):
    scope.__enter__()

def pytest_unconfigure(config):
    scope.__exit__(None, None, None)
"""

TEST = """
def test_mine(conformance_case):
    conformance_case.check()
"""


def run_cases(folder: Path, *words: str) -> Any:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_mine.py").write_text(TEST)
    arguments = ["-rA", "-p", "no:cacheprovider", str(folder), *words]
    code = f"import pytest, sys; sys.exit(pytest.main({arguments!r}))"
    return run_python(code, OPYARD_CACHE_DIR=str(folder))


def test_cases_of_a_backend_are_tests(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    words = ["--opyard-backend=null", "--opyard-level=smoke", f"--junit-xml={report}"]
    done = run_cases(tmp_path, *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PASSED" in done.stdout and "test_mine[exp-null-null:0-float32[3,4]]" in done.stdout
    assert "unsupported: takes x of float32, not float64" in done.stdout
    assert "test_mine[relu-wrong-null:0-float32[3,4]]" in done.stdout
    assert (
        "opyard conformance --backend null:0 --op relu --kernel null/wrong --case 'float32[3,4]'"
        in done.stdout
    )
    names = [case.get("name") for case in ElementTree.parse(report).iter("testcase")]
    assert len(names) == len(set(names)) > 10


def test_one_op_and_another_seed(tmp_path: Path) -> None:
    done = run_cases(
        tmp_path, "--opyard-backend=null", "--opyard-op=exp", "--opyard-level=smoke", "--opyard-seed=3"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relu" not in done.stdout and "test_mine[exp-null-null:0-float32[3,4]]" in done.stdout


def test_without_a_backend_the_test_is_skipped(tmp_path: Path) -> None:
    done = run_cases(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no backend is given: pytest --opyard-backend=NAME" in done.stdout
    assert "1 skipped" in done.stdout


@pytest.mark.parametrize(
    ("backend", "text"),
    [("nul", "there is no backend called 'nul'. Did you mean null?"), ("absent", "plug it in")],
)
def test_a_backend_that_is_not_there_is_an_error(tmp_path: Path, backend: str, text: str) -> None:
    done = run_cases(tmp_path, f"--opyard-backend={backend}")
    assert done.returncode == 2, done.stdout
    assert text in done.stdout


def test_the_test_of_the_package(tmp_path: Path) -> None:
    words = ["-p", "no:cacheprovider", "--pyargs", "opyard_conformance.every_case"]
    words += ["--opyard-backend=cpu", "--opyard-op=floor", "--opyard-level=smoke"]
    done = run_python(f"import pytest, sys; sys.exit(pytest.main({words!r}))", OPYARD_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and " failed" not in done.stdout
