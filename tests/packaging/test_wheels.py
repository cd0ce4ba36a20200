"""The wheels: what is in them, and that they work in fresh virtual environments, with a plugin created anew.

Needs uv, and the package index or uv's cache for what opyard depends on.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import one_line
import opyard
from opyard.cli.new_plugin import TEMPLATE, write_template

ROOT = Path(__file__).parents[2]
VERSION = opyard.__version__
SOURCES = {
    "opyard": ROOT / "core",
    "opyard_cpu": ROOT / "backends" / "cpu",
    "opyard_codegen": ROOT / "plugins" / "codegen",
    "opyard_cuda": ROOT / "backends" / "cuda",
    "opyard_opencl": ROOT / "backends" / "opencl",
    "opyard_conformance": ROOT / "plugins" / "conformance",
    "opyard_demo": ROOT / "plugins" / "demo",
    "opyard_bench": ROOT / "plugins" / "bench",
    "opyard_onnx": ROOT / "plugins" / "onnx",
    "opyard_engines": ROOT / "plugins" / "engines",
}
UV = shutil.which("uv")

pytestmark = [pytest.mark.wheels, pytest.mark.skipif(UV is None, reason="uv is not on PATH")]


def command(*words: str | Path, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program away from this repository, as a user would."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("OPYARD_", "PYTHON", "VIRTUAL_ENV", "UV_PROJ"))
    }
    done = subprocess.run(
        list(map(str, words)),
        cwd=os.path.sep,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin that ``opyard new-plugin acme`` makes."""
    folder = tmp_path_factory.mktemp("acme")
    write_template("acme", folder)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, acme: Path) -> Path:
    """A folder with the wheels of this repository, of the new plugin and of an op of one line."""
    folder, bump = tmp_path_factory.mktemp("wheels"), one_line.write(tmp_path_factory.mktemp("bump"))
    building = [
        subprocess.Popen(
            [str(UV), "build", "--wheel", "--quiet", "--no-config", "--out-dir", str(folder), str(source)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for source in (*SOURCES.values(), acme, bump)
    ]
    for process in building:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return folder


class Environment:
    """A virtual environment with programs in it."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder, self.wheels = folder, wheels
        command(str(UV), "venv", "--quiet", "--no-config", folder)

    def install(self, *requirements: str) -> None:
        """Our own distributions come from the wheels, the others from the index."""
        wheels = self.wheels
        options = ["--quiet", "--no-config", "--find-links", str(wheels), "--python", str(self.folder)]
        command(str(UV), "pip", "install", *options, *requirements)
        command(str(UV), "pip", "check", "--no-config", "--python", self.folder)

    def run(self, program: str, *words: str | Path, expect: int = 0) -> str:
        cache = str(self.folder / "cache")
        done = command(self.folder / "bin" / program, *words, expect=expect, OPYARD_CACHE_DIR=cache)
        return done.stdout if expect == 0 else done.stderr


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """opyard with its CPU backend, the new plugin, and pytest."""
    made = Environment(tmp_path_factory.mktemp("full") / "venv", wheels)
    made.install(f"opyard[cpu]=={VERSION}", "opyard-acme[test]==0.1.0")
    return made


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """opyard alone."""
    made = Environment(tmp_path_factory.mktemp("bare") / "venv", wheels)
    made.install(f"opyard=={VERSION}")
    return made


@pytest.mark.parametrize("package", SOURCES)
def test_a_wheel_has_the_package_and_nothing_else(wheels: Path, package: str):
    (path,) = wheels.glob(f"{package}-{VERSION}-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"{package}-{VERSION}.dist-info/METADATA"))
    assert {name.split("/")[0] for name in names} == {package, f"{package}-{VERSION}.dist-info"}
    source = SOURCES[package] / "src"
    present = {
        p.relative_to(source).as_posix()
        for p in (source / package).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {name for name in names if name.startswith(f"{package}/")} == present
    assert f"{package}/py.typed" in names
    assert metadata["Name"].replace("-", "_") == package
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().strip(), "the README is the description"


def test_the_wheels_have_their_data(wheels: Path):
    def names(package: str) -> set[str]:
        with zipfile.ZipFile(next(wheels.glob(f"{package}-{VERSION}-*.whl"))) as archive:
            return set(archive.namelist())

    templates = {
        f"opyard/cli/template/{path.relative_to(TEMPLATE).as_posix()}" for path in TEMPLATE.rglob("*.txt")
    }
    assert len(templates) == 4
    assert templates <= names("opyard")
    saved = {
        f"opyard_demo/digits/1/{name}" for name in ("graph.onnx", "manifest.json", "weights.safetensors")
    }
    assert saved <= names("opyard_demo")
    assert any(name.endswith(".cl") for name in names("opyard_opencl"))
    python_tests = [
        name
        for package in SOURCES
        for name in names(package)
        if Path(name).name.startswith("test_") and name.endswith(".py")
    ]
    assert not python_tests


def test_the_new_plugin_is_found_and_listed(full: Environment):
    rows = {row["name"]: row for row in json.loads(full.run("opyard", "plugins", "--json"))["plugins"]}
    assert set(rows) == {"acme", "cpu"}
    assert {row["state"] for row in rows.values()} == {"ok"}
    assert rows["acme"]["distribution"] == "opyard-acme"
    kernels = json.loads(full.run("opyard", "kernels", "acme.swish", "--json"))["kernels"]
    own = {row["kernel"] for row in kernels if row["origin"] == "opyard-acme 0.1.0"}
    assert own == {"cpu/plain", "cpu/inplace"}
    chosen = json.loads(full.run("opyard", "explain", "acme.swish", "f32[1000]", "--json"))["candidates"][0]
    assert chosen["refusal"] is None
    assert chosen["kernel"] in {row["kernel"] for row in kernels}
    assert "All is well." in full.run("opyard", "doctor")


def test_the_new_plugin_computes(full: Environment):
    full.run(
        "python",
        "-W",
        "error",
        "-c",
        """
import numpy as np
import opyard as oy
from opyard_acme import swish

x = np.linspace(-6, 6, 1001, dtype=np.float32)
expected = x / (1 + np.exp(-x))
np.testing.assert_allclose(swish(x), expected, rtol=1e-5)
compiled = oy.compile(lambda v, w: oy.matmul(swish(v), w))
w = np.ones((1001, 3), np.float32)
np.testing.assert_allclose(compiled(x[None], w), expected[None] @ w, rtol=1e-4)
for kernel in ("cpu/plain", "cpu/inplace"):
    with oy.using(pin={"acme.swish": kernel}):
        np.testing.assert_allclose(swish(x), expected, rtol=1e-5)
""",
    )


def test_the_new_plugin_passes_its_own_tests(full: Environment, acme: Path):
    out = full.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", acme / "tests")
    assert "3 passed" in out


def test_the_bare_core_runs_everything_by_reference(bare: Environment):
    devices = json.loads(bare.run("opyard", "devices", "--json"))["devices"]
    assert [row["device"] for row in devices] == ["reference"]
    bare.run(
        "python",
        "-W",
        "error",
        "-c",
        """
import numpy as np
import opyard as oy

a = np.arange(6, dtype=np.float32).reshape(2, 3)
np.testing.assert_allclose(oy.matmul(a, a.T), a @ a.T)
np.testing.assert_allclose(oy.compile(lambda x: oy.softmax(x) * 2)(a).sum(axis=-1), [2, 2], rtol=1e-6)
""",
    )
    assert "All is well." in bare.run("opyard", "doctor")


def test_the_bare_core_says_which_package_brings_the_demo(bare: Environment):
    text = bare.run("opyard", "demo", expect=2)
    assert "the command 'demo' is not here: it comes with opyard-demo. Type: " in text


def test_the_bare_core_creates_plugins(bare: Environment, acme: Path, tmp_path: Path):
    bare.run("opyard", "new-plugin", "acme", "--folder", tmp_path / "made")
    for path in (tmp_path / "made").rglob("*.*"):
        assert path.read_bytes() == (acme / path.relative_to(tmp_path / "made")).read_bytes()


def test_opencl_and_the_demo_join(full: Environment):
    full.install(f"opyard-opencl[pocl]=={VERSION}", f"opyard-demo=={VERSION}")
    data = json.loads(full.run("opyard", "devices", "--json"))
    if (
        shutil.which("ld") is None
    ):  # PoCL links its kernels with ld; without it the backend has no device, and says so
        assert [row["backend"] for row in data["unavailable"]] == ["opencl"]
    else:
        assert "opencl:0" in {row["device"] for row in data["devices"]}
    demo = json.loads(full.run("opyard", "demo", "--json"))
    assert demo["accuracy"] >= 0.98
    assert demo["equal_to_reference"] is True


def test_an_op_of_one_line_runs_fused_everywhere(full: Environment):
    full.install(f"opyard-opencl[pocl]=={VERSION}", f"opyard-cuda=={VERSION}", "opyard-bump==0.1.0")
    full.install(f"opyard-cpu[jit]=={VERSION}")
    full.run("python", "-W", "error", "-c", one_line.CHECKS.format(devices=["cpu:0"], kernel="cpu/jit"))
    if shutil.which("ld") is not None:  # without it PoCL has no device
        full.run("python", "-c", one_line.CHECKS.format(devices=["opencl:0"], kernel="opencl/fused"))


def test_an_op_of_one_line_compiles_for_cuda(full: Environment):
    full.install(f"opyard-cuda=={VERSION}", "opyard-bump==0.1.0", "nvidia-cuda-nvrtc==13.5.37")
    full.run("python", "-W", "error", "-c", one_line.CUDA)
