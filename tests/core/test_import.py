"""What `import opyard` costs, and the names that it has."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import opyard as oy
from opyard import api, errors
from opyard.ops import STANDARD

HEAVY = {
    *("numpy", "pluggy", "importlib.metadata", "click", "rich", "difflib", "sqlite3"),
    *("cupy", "pyopencl", "numba", "onnx", "ml_dtypes"),
}


def modules_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running the program."""
    ending = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-I", "-c", program + ending], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_opyard_imports_nothing_else() -> None:
    before, after = modules_after(""), modules_after("import opyard; opyard.__version__")
    assert {name for name in after if name.startswith("opyard")} == {"opyard"}
    assert not (after - before) & HEAVY


def test_declaring_and_tracing_loads_no_plugin() -> None:
    program = """
import opyard as oy
@oy.op("test.swish", scalar="x / (1 + exp(-x))")
def swish(x): ...
graph = oy.simplify(oy.trace(lambda x: swish(x) + 1, oy.TensorSpec(("batch", 3))))
oy.standard_registry()
"""
    after = modules_after(program)
    assert not {name for name in after if name.startswith("opyard_")}
    assert not after & {"importlib.metadata", "cupy", "pyopencl", "numba", "ml_dtypes"}


def test_plugins_are_loaded_without_what_they_do() -> None:
    after = modules_after("from opyard import runtime; runtime.plugins()")
    assert {"opyard_onnx.plugin", "opyard_conformance.plugin"} <= after
    heavy = {"onnx", "opyard_onnx.exporting", "opyard_conformance.families", "numpy.ma", "click", "rich"}
    assert not after & (HEAVY - {"numpy", "pluggy", "ml_dtypes"} | heavy)


def test_running_a_program_imports_no_commands_of_plugins(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def f(x):\n    return x + 1\n")
    after = modules_after(
        "from opyard.cli import main\n"
        f"try: main(['run', {str(tmp_path / 'model.py:f')!r}, 'float32[2]', '--device', 'reference'])\n"
        "except SystemExit as end: assert not end.code"
    )
    assert {"opyard_bench.plugin", "opyard.cli.run"} <= after
    assert not after & {"opyard_bench.command", "opyard_conformance.command", "numpy.ma"}


@pytest.mark.parametrize("package", ["opyard_onnx", "opyard_conformance"])
def test_public_names_of_packages_are_imported_on_first_use(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__module__.startswith(package) if name != "LEVELS" else module.LEVELS
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'absent'"):
        _ = module.absent


def test_tracing_needs_no_registry_until_an_op_is_called() -> None:
    after = modules_after("from opyard.opfunction import op\n@op('test.f', scalar='x + 1')\ndef f(x): ...")
    assert not after & {"opyard.dispatch", "opyard.registry", "opyard.graph", "opyard.api", "pluggy"}


def test_public_names_are_static_and_complete() -> None:
    assert len(set(api.__all__)) == len(api.__all__)
    for name in api.__all__:
        assert getattr(oy, name) is getattr(api, name), name
    unlisted = {
        name
        for name, value in vars(api).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    } - set(api.__all__)
    assert not unlisted, "imported into the public module and not in __all__"


def test_every_standard_op_is_an_attribute() -> None:
    assert len(STANDARD) > 60
    for name, function in STANDARD.items():
        assert getattr(oy, name) is function
        assert function.op.name == name
    assert set(STANDARD) <= set(api.__all__)


def test_dir_lists_every_public_name() -> None:
    listed = dir(oy)
    assert listed == sorted(set(listed))
    assert set(api.__all__) <= set(listed) and "__version__" in listed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("softmaxx", r"^module 'opyard' has no attribute 'softmaxx'. Did you mean softmax\b"),
        ("qqqqqq", r"^module 'opyard' has no attribute 'qqqqqq'.$"),
        ("arithmetic", "has no attribute 'arithmetic'"),  # a module of ops, which api.py imports
        ("__nothing__", "__nothing__"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        getattr(oy, name)


def test_unknown_names_in_an_import_statement() -> None:
    with pytest.raises(ImportError, match="cannot import name 'matmull'"):
        exec("from opyard import matmull")


def submodules() -> list[str]:
    return [found.name for found in pkgutil.iter_modules(oy.__path__)]


def test_no_public_name_is_hidden_by_a_module() -> None:
    """Importing a submodule sets an attribute of the package, and would hide an op or a function of that name."""
    functions = {name for name in api.__all__ if not isinstance(getattr(api, name), ModuleType)}
    assert not functions & set(submodules())


@pytest.mark.parametrize("name", [name for name in submodules() if name not in ("cli", "__main__")])
def test_submodules_are_attributes(name: str) -> None:
    assert getattr(oy, name) is importlib.import_module(f"opyard.{name}")


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        ("SpecError", (errors.OpyardError, ValueError)),
        ("GraphError", (errors.OpyardError, ValueError)),
        ("RegistryError", (errors.OpyardError, LookupError)),
        ("PluginError", (errors.OpyardError,)),
        ("SettingsError", (errors.OpyardError, ValueError)),
        ("DeviceError", (errors.OpyardError,)),
        ("DeviceUnavailable", (errors.DeviceError,)),
        ("KernelError", (errors.OpyardError,)),
        ("PlacementError", (errors.OpyardError,)),
    ],
)
def test_errors_are_what_a_caller_would_catch(kind: str, bases: tuple[Any, ...]) -> None:
    assert issubclass(getattr(oy.errors, kind), bases[-1]) and issubclass(getattr(errors, kind), bases[0])
