"""A third party's package: an op of one line, and nothing else."""

from __future__ import annotations

from pathlib import Path

PYPROJECT = """
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "opyard-bump"
version = "0.1.0"
dependencies = ["opyard~=0.1.0"]

[project.entry-points.opyard]
bump = "opyard_bump"
"""

MODULE = '''
"""An op that is declared by its scalar expression alone."""

import opyard as oy


@oy.op("bump.bump", scalar="exp(-1 / (1 - x * x)) * height if abs(x) < 1 else 0")
def bump(x, *, height=1.0):
    """A smooth bump between -1 and 1."""


@oy.hookimpl
def opyard_register(registry):
    registry.op(bump)
'''

CHECKS = """
import numpy as np
import opyard as oy
from opyard_bump import bump

devices, kernel = {devices!r}, {kernel!r}
x = np.linspace(-1.5, 1.5, 1 << 20, dtype=np.float32)
with np.errstate(all="ignore"):
    expected = np.where(abs(x) < 1, np.exp(-1 / (1 - x * x)) * 3, 0) + 0.5
compiled = oy.compile(lambda v: bump(v, height=3.0) + 0.5, devices=devices)
np.testing.assert_allclose(compiled(x), expected, rtol=1e-5, atol=1e-6)
found = {{decision.chosen.kernel.id for decision in compiled.explain(x).decisions}}
assert kernel in (None, *found), found
"""
"""Runs the op before another one on devices; ``kernel``, if it is named, has to compute both."""

CUDA = """
import tempfile
from pathlib import Path

import opyard as oy
from opyard.region import Region
from opyard_bump import bump
from opyard_cuda import fusion, nvrtc

x = oy.TensorSpec((1 << 20,))
graph = oy.trace(lambda v: bump(v, height=3.0) + 0.5, x)
assert [fusion.claims(node.call, None) for node in graph.nodes] == [None, None]
region = Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())
source, _, _, _ = fusion.elementwise_source(region)
with tempfile.TemporaryDirectory() as folder:
    compiled = nvrtc.compile_source(source, "sm_90", Path(folder))
assert len(compiled.cubin) > 1000
"""
"""Compiles the same for a GPU that is not there."""


def write(folder: Path) -> Path:
    """The package in a folder."""
    package = folder / "src" / "opyard_bump"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (package / "__init__.py").write_text(MODULE, encoding="utf-8")
    return folder
