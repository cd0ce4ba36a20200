"""Fake installed distributions: folders that look as pip leaves them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import opyard
from opyard import entrypoints
from opyard.plugin import Plugins

TOY = """
import numpy
import opyard
from opyard import hookimpl

class ToyDevice(opyard.Device):
    def __init__(self):
        super().__init__("toy:0", kind="cpu", memory="host", array_type=numpy.ndarray)
    def owns(self, array):
        return isinstance(array, (numpy.ndarray, numpy.generic))
    def upload(self, array):
        return array
    def download(self, array):
        return numpy.asarray(array)

class ToyBackend:
    def devices(self):
        return [ToyDevice()]

@hookimpl
def opyard_register(registry):
    registry.backend("toy", load="toy_plugin:ToyBackend", arrays=("numpy:ndarray", "numpy:generic"))
    registry.kernel("add", backend="toy", name="sum", load="numpy:add")
"""
"""A plugin with a backend on NumPy arrays and one kernel; its module is called toy_plugin."""


def install(
    site: Path,
    distribution: str,
    plugins: Mapping[str, str],
    modules: Mapping[str, str],
    version: str = "1.0",
) -> None:
    """Puts a distribution into the folder ``site``: ``plugins`` are its entry points, ``modules`` the sources by name."""
    information = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    lines = [f"{name} = {value}\n" for name, value in plugins.items()]
    (information / "entry_points.txt").write_text("".join(["[opyard]\n", *lines]))
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)


def run_python(code: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, with ``paths`` importable and the environment variables given."""
    core = str(Path(opyard.__file__).parent.parent)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OPYARD_")}
    search = os.pathsep.join([*map(str, paths), core])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": search, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Site:
    """A folder of installed distributions that this process can import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, source: str, *, distribution: str = "", version: str = "1.0") -> None:
        module = f"{name}_plugin" if name == "toy" else name
        self.add_module(name, module, source, distribution or f"opyard-{name}", version)

    def add_module(
        self, name: str, module: str, source: str, distribution: str, version: str = "1.0"
    ) -> None:
        install(self.folder, distribution, {name: module}, {module: source}, version)
        importlib.invalidate_caches()

    def load(self) -> Plugins:
        plugins = Plugins(opyard.standard_registry())
        plugins.load(entrypoints.find([str(self.folder)]))
        return plugins
