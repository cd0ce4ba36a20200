"""The default registry and its plugins, mostly in processes of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import opyard as oy
from environments import TOY, Site, install, run_python
from opyard import runtime

BROKEN = {
    "import_error": "import a_module_nobody_has",
    "missing_library": "import ctypes\nctypes.CDLL('libnobodyhas.so.7')",
    "runtime_error": "raise RuntimeError('driver too old')",
    "system_exit": "import sys\nsys.exit(0)",
    "new_level": "OPYARD_API = 99",
    "unknown_hook": "from opyard import hookimpl\n@hookimpl\ndef opyard_regster(registry): ...",
}


def test_a_process_with_broken_plugins_runs(site: Site, tmp_path: Path) -> None:
    site.add("toy", TOY)
    for name, source in BROKEN.items():
        site.add(name, source)
    code = """
import numpy as np, opyard as oy
print(oy.add(np.ones(2), 1.0).tolist(), oy.add.explain(np.ones(2), 1.0)[0].kernel.id)
for plugin in oy.plugins(): print(plugin.entry.name, plugin.state, plugin.reason)
print(sorted(plugin.entry.name for plugin in oy.plugins() if plugin.state == "ok"))
"""
    done = run_python(
        code, site.folder, OPYARD_PLUGINS=",".join(["toy", *BROKEN]), OPYARD_CACHE_DIR=str(tmp_path / "cache")
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "[2.0, 2.0] toy/sum"
    assert "system_exit failed SystemExit: 0" in lines
    assert lines[-1] == "['toy']" and done.stderr == ""


def test_strict_process_raises_at_first_need_and_again(site: Site, tmp_path: Path) -> None:
    site.add("broken", "raise RuntimeError('no')")
    code = """
import opyard as oy
from opyard.errors import PluginError
for attempt in range(2):
    try: oy.devices()
    except PluginError as error: print(error)
"""
    variables = {
        "OPYARD_PLUGINS": "broken",
        "OPYARD_STRICT": "1",
        "OPYARD_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = run_python(code, site.folder, **variables)
    assert (
        done.stdout.splitlines()
        == ["plugin 'broken' of opyard-broken failed: RuntimeError: no (OPYARD_STRICT=1)."] * 2
    ), done.stderr


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5"])
def test_malformed_settings_are_seen_by_the_user(site: Site, tmp_path: Path, value: str) -> None:
    """Also where only a driver would read them: it is no reason to lose a backend without a word."""
    driver = "from opyard.settings import num_threads\n" + TOY.replace(
        "return [ToyDevice()]", "return [ToyDevice()] * num_threads()"
    )
    site.add("toy", driver)
    code = """
import opyard as oy
from opyard.errors import SettingsError
registry = oy.standard_registry()
__import__("toy_plugin").opyard_register(registry)
for first in (oy.devices, lambda: oy.add([1.0], [2.0]), lambda: registry.open("toy")):
    try: print("not seen", first())
    except SettingsError as error: print(error)
"""
    done = run_python(
        code,
        site.folder,
        OPYARD_PLUGINS="toy",
        OPYARD_NUM_THREADS=value,
        OPYARD_CACHE_DIR=str(tmp_path / "c"),
    )
    wanted = f"OPYARD_NUM_THREADS is a positive number; found {value!r}."
    assert done.stdout.splitlines() == [wanted] * 3, done.stderr


def test_twenty_plugins_with_a_thousand_kernels_import_no_kernel_module(site: Site, tmp_path: Path) -> None:
    for number in range(20):
        imports = "import numpy" if number % 2 else "import a_module_nobody_has"
        source = f"""
import opyard
@opyard.hookimpl
def opyard_register(registry):
    for op in ("add", "subtract", "multiply", "divide", "exp"):
        for k in range(10):
            registry.kernel(op, backend="toy", name=f"plugin{number}_{{k}}", load=f"kernels{number}:{{op}}")
"""
        modules = {
            f"plugin{number}": source,
            f"kernels{number}": f"{imports}\nraise RuntimeError('imported')",
        }
        install(site.folder, f"opyard-many{number}", {f"many{number}": f"plugin{number}"}, modules)
    code = """
import sys
import opyard.runtime
loaded = opyard.runtime.plugins()
many = [plugin for plugin in loaded.all if plugin.entry.name.startswith("many")]
print(len(many), {plugin.state for plugin in many})
print(sum(1 for _ in loaded.registry.all_kernels()))
print([name for name in sys.modules if name.startswith("kernels")])
"""
    allowed = ",".join(f"many{number}" for number in range(20))
    done = run_python(code, site.folder, OPYARD_PLUGINS=allowed, OPYARD_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout.splitlines() == ["20 {'ok'}", "1000", "[]"], done.stderr


def test_unknown_names_in_the_settings_are_reported(site: Site, tmp_path: Path) -> None:
    site.add("toy", TOY)
    variables = {
        "OPYARD_PLUGINS": "toy,toys",
        "OPYARD_PREFER": "tooy",
        "OPYARD_BLOCK": "toy/summ",
        "OPYARD_PIN": "ad=toy/sum,add=toy/sun",
        "OPYARD_PREFR": "toy",
        "OPYARD_CACHE_DIR": str(tmp_path / "cache"),
    }
    code = "import opyard as oy; oy.devices(); oy.devices()"
    done = run_python(code, site.folder, **variables)
    warned = [line for line in done.stderr.splitlines() if "SettingsWarning: " in line]
    texts = [line.partition("opyard settings: ")[2] for line in warned]
    assert done.returncode == 0 and len(texts) == 6, done.stderr
    assert texts[0].startswith(
        "environment variable OPYARD_PREFR is not a setting of opyard. Did you mean OPYARD_PREFER"
    )
    assert texts[1] == "OPYARD_PLUGINS names 'toys', which is no installed plugin. Did you mean toy?"
    assert texts[2] == "OPYARD_PREFER names 'tooy', which is no backend or kernel. Did you mean toy?"
    assert texts[3] == "OPYARD_BLOCK names 'toy/summ', which is no backend or kernel. Did you mean toy/sum?"
    assert texts[4].startswith("OPYARD_PIN names the op 'ad', which does not exist. Did you mean ")
    assert texts[5] == "OPYARD_PIN names the kernel 'toy/sun', which does not exist. Did you mean toy/sum?"


def test_blocking_a_plugin_by_name_is_no_unknown_name(site: Site, tmp_path: Path) -> None:
    site.add("toy", TOY)
    site.add("useless", "raise RuntimeError('imported')")
    variables = {"OPYARD_PLUGINS": "toy,useless", "OPYARD_BLOCK": "useless,toy/sum"}
    code = "import opyard.runtime as r; print(r.problems(), [p.state for p in r.plugins().all if p.entry.name in ('toy', 'useless')])"
    done = run_python(code, site.folder, OPYARD_CACHE_DIR=str(tmp_path / "cache"), **variables)
    assert done.stdout.strip() == "[] ['ok', 'blocked']" and done.stderr == ""


def test_a_malformed_pin_is_an_error_at_each_use(site: Site, tmp_path: Path) -> None:
    code = """
import numpy as np, opyard as oy
for attempt in range(2):
    try: oy.add(np.ones(1), np.ones(1))
    except oy.errors.SettingsError as error: print(error)
"""
    done = run_python(code, OPYARD_PIN="add:toy", OPYARD_PLUGINS="", OPYARD_CACHE_DIR=str(tmp_path / "cache"))
    assert (
        done.stdout.splitlines()
        == [
            "OPYARD_PIN holds op=backend/kernel entries; 'add:toy' is not one. Write for example matmul=cpu/blas."
        ]
        * 2
    ), done.stderr


def test_a_plugin_that_uses_opyard_while_it_registers(site: Site, tmp_path: Path) -> None:
    source = """
import numpy
import opyard
@opyard.hookimpl
def opyard_register(registry):
    assert opyard.add(numpy.ones(1), 1.0).tolist() == [2.0]
    registry.kernel("add", backend="toy", name="later", load="numpy:add")
"""
    site.add("eager", source)
    code = "import opyard.runtime as r; print([(p.state, p.reason) for p in r.plugins().all if p.entry.name == 'eager'], r.registry().kernels('add'))"
    done = run_python(code, site.folder, OPYARD_PLUGINS="eager", OPYARD_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout.strip() == "[('ok', '')] (<Kernel add toy/later from opyard-eager 1.0>,)", done.stderr


def test_refresh_discovers_what_was_installed_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_PLUGINS", "toy")
    monkeypatch.setattr(sys, "path", [str(site.folder), *sys.path])
    oy.refresh()
    with pytest.warns(
        runtime.SettingsWarning, match="OPYARD_PLUGINS names 'toy', which is no installed plugin"
    ):
        assert all(plugin.state == "blocked" for plugin in oy.plugins())
    x = np.ones(2)
    assert oy.add.resolve(x, x) is not np.add and oy.negative(x).sum() == -2.0
    try:
        other_sign = '    registry.kernel("negative", backend="toy", name="same", load="numpy:positive")'
        site.add("toy", TOY + other_sign)
        oy.refresh()
        assert [plugin.entry.name for plugin in oy.plugins() if plugin.state == "ok"] == ["toy"]
        assert oy.add.resolve(x, x) is np.add and oy.negative(x).sum() == 2.0
        assert [device.name for device in oy.devices()] == ["toy:0", "reference"]
    finally:
        monkeypatch.undo()
        oy.refresh()
