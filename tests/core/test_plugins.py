from __future__ import annotations

import re
import sys

import click
import numpy as np
import pytest

import opyard as oy
from environments import TOY, Site, install
from opyard.errors import PluginError
from opyard.plugin import STATES, Plugin, Plugins
from opyard.testing import NullBackend

HALF = """
import opyard

@opyard.op("half.twice", scalar="x + x")
def twice(x): ...

@opyard.hookimpl
def opyard_register(registry):
    registry.op(twice)
    registry.backend("half", load="half:Backend")
    registry.kernel("add", backend="toy", name="half", load="numpy:add")
    registry.kernel("add", backend="toy", name="half")
"""

BAD = {
    "import_error": (
        "import a_module_nobody_has",
        "failed",
        "ModuleNotFoundError: No module named 'a_module_nobody_has'",
    ),
    "missing_library": (
        "import ctypes\nctypes.CDLL('libnobodyhas.so.7')",
        "failed",
        "OSError: libnobodyhas.so.7",
    ),
    "runtime_error": (
        "raise RuntimeError('driver too old\\nsecond line')",
        "failed",
        "RuntimeError: driver too old",
    ),
    "system_exit": ("import sys\nsys.exit(0)", "failed", "SystemExit: 0"),
    "syntax_error": ("def broken(:", "failed", "SyntaxError: "),
    "new_level": (
        "OPYARD_API = 99",
        "incompatible",
        "it works with plugin interface 99 to 99, this opyard has 1; install",
    ),
    "odd_level": (
        "OPYARD_API = 'one'",
        "incompatible",
        "OPYARD_API is 'one'; write the least and greatest level",
    ),
    "short_level": (
        "OPYARD_API = (1,)",
        "incompatible",
        r"OPYARD_API is \(1,\); write the least and greatest level",
    ),
    "wrong_argument": (
        "from opyard import hookimpl\n@hookimpl\ndef opyard_register(registery): ...",
        "failed",
        r"PluginError: Plugin 'wrong_argument' for hook 'opyard_register' .*'registery'.* can not be found in the hookspec",
    ),
    "unknown_hook": (
        "from opyard import hookimpl\n@hookimpl\ndef opyard_regster(registry): ...",
        "failed",
        "there is no hook called 'opyard_regster'. Did you mean opyard_register.* Hooks: opyard_commands, opyard_event, opyard_model_runner, opyard_open_model, opyard_register",
    ),
    "foreign_hook": (
        "from opyard import hookimpl\n@hookimpl\ndef setup(registry): ...",
        "failed",
        "there is no hook called 'setup'. Hooks: opyard_commands",
    ),
    "half": (
        HALF,
        "failed",
        "RegistryError: kernel toy/half of op 'add' needs either load=... .* or prepare=...",
    ),
}
"""Plugin -> its module, the state it must have, and what the reason must say."""


NO_TOY = "it has kernels for the backend 'toy', which does not exist. Install the package that defines it, or correct the name."


def by_name(plugins: Plugins) -> dict[str, Plugin]:
    return {plugin.entry.name: plugin for plugin in plugins.all}


def test_bad_plugins_are_shown_with_reasons_and_the_good_one_works(site: Site) -> None:
    site.add("toy", TOY)
    for name, (source, _, _) in BAD.items():
        site.add(name, source)
    plugins = site.load()
    found = by_name(plugins)
    assert set(found) == {"toy", *BAD}
    for name, (_, state, reason) in BAD.items():
        assert found[name].state == state, found[name]
        assert state in STATES
        assert re.search(reason, found[name].reason), found[name].reason
    assert (found["toy"].state, found["toy"].reason, found["toy"].notes) == ("ok", "", [])
    with oy.using(registry=plugins.registry):
        assert oy.add.resolve(np.ones(2), np.ones(2)) is np.add
        assert oy.add(np.ones(2), 2.0).tolist() == [3.0, 3.0]


def test_what_a_failing_plugin_registered_is_undone_completely(site: Site) -> None:
    before = oy.standard_registry()
    site.add("half", HALF)
    after = site.load().registry
    assert set(after.ops) == set(before.ops)
    assert set(after.backends) == set(before.backends)
    assert list(after.all_kernels()) == [] and after.conflicts == ()
    after.kernel("add", backend="toy", name="later", load="numpy:add")
    assert str(after.kernels("add")[0].origin) == "program"


def test_an_interrupt_by_the_user_passes_through(site: Site) -> None:
    site.add("interrupted", "raise KeyboardInterrupt")
    site.add("zero", "")
    with pytest.raises(KeyboardInterrupt):
        site.load()
    assert list((site.folder.parent / "cache" / "plugins").iterdir()) == [], "no marker is left behind"


@pytest.mark.parametrize("name", ["import_error", "system_exit", "half"])
def test_require_raises_for_a_failing_plugin(site: Site, name: str) -> None:
    source, _, reason = BAD[name]
    site.add(name, source)
    plugins = site.load()
    with pytest.raises(
        PluginError, match=f"plugin '{name}' of opyard-.* failed: {reason}.*OPYARD_STRICT=1"
    ) as raised:
        plugins.require()
    assert raised.value.__cause__ is plugins.all[0].error is not None


def test_an_entry_point_to_an_attribute_and_one_to_nothing(site: Site) -> None:
    source = f"import sys\n{TOY}\nclass inner:\n    plugin = sys.modules[__name__]\n"
    install(site.folder, "opyard-toy", {"toy": "toy_plugin:inner.plugin"}, {"toy_plugin": source})
    install(site.folder, "opyard-none", {"none": "nothing:plugin"}, {"nothing": ""})
    found = by_name(site.load())
    assert found["toy"].state == "ok"
    assert "module 'nothing' has no attribute 'plugin'" in found["none"].reason


def test_plugin_without_hooks_is_noted(site: Site) -> None:
    site.add("silent", "def opyard_register(registry): ...")
    (plugin,) = site.load().all
    assert plugin.state == "ok"
    assert plugin.notes == ["it implements no hook; mark its functions with @opyard.hookimpl"]


def test_stated_levels_that_fit(site: Site) -> None:
    site.add("range", "OPYARD_API = (1, 3)")
    site.add("number", "OPYARD_API = 1")
    assert [plugin.state for plugin in site.load().all] == ["ok", "ok"]


def registers(call: str) -> str:
    return f"import opyard\n@opyard.hookimpl\ndef opyard_register(registry):\n    {call}\n"


def test_one_plugin_name_in_two_distributions(site: Site) -> None:
    for distribution, op in (("opyard-one", "add"), ("opyard-two", "subtract")):
        module = distribution.replace("-", "_")
        source = registers(f"registry.kernel('{op}', backend='toy', name='same', load='numpy:{op}')")
        site.add_module("same", module, source, distribution)
    plugins = site.load()
    assert [plugin.state for plugin in plugins.all] == ["ok", "ok"]
    assert [plugin.notes for plugin in plugins.all] == [
        ["the plugin name 'same' is also used by opyard-two", NO_TOY],
        ["the plugin name 'same' is also used by opyard-one", NO_TOY],
    ]
    assert {kernel.op for kernel in plugins.registry.all_kernels()} == {"add", "subtract"}


@pytest.mark.parametrize("names", [("early", "late"), ("late", "early")])
def test_one_kernel_name_in_two_distributions(site: Site, names: tuple[str, str]) -> None:
    first = registers("registry.kernel('add', backend='toy', name='same', load='numpy:add')")
    for plugin, distribution in zip(names, ("opyard-aa", "opyard-bb"), strict=True):
        site.add(plugin, first, distribution=distribution)
    registry = site.load().registry
    (winner,) = registry.kernels("add")
    assert winner.origin.distribution == "opyard-aa"
    assert registry.conflicts == (
        "kernel toy/same of op 'add': opyard-aa 1.0 replaces opyard-bb 1.0 (by name of the distribution; use override=True to replace a kernel on purpose).",
    )


@pytest.mark.parametrize("names", [("early", "late"), ("late", "early")])
def test_override_wins_and_is_shown(site: Site, names: tuple[str, str]) -> None:
    for plugin, distribution, override in zip(names, ("opyard-aa", "opyard-bb"), (False, True), strict=True):
        call = f"registry.kernel('add', backend='toy', name='same', load='numpy:add', override={override})"
        site.add(plugin, registers(call), distribution=distribution)
    registry = site.load().registry
    assert [kernel.origin.distribution for kernel in registry.kernels("add")] == ["opyard-bb"]
    assert registry.conflicts == (
        "kernel toy/same of op 'add': opyard-bb 1.0 replaces opyard-aa 1.0 (by override).",
    )


def test_two_plugins_define_one_op(site: Site) -> None:
    source = "import opyard\n@opyard.op('acme.twice', scalar='x + x')\ndef twice(x): ...\n"
    for name in ("aa", "bb"):
        site.add(name, source + "@opyard.hookimpl\ndef opyard_register(registry):\n    registry.op(twice)\n")
    found = by_name(site.load())
    assert found["aa"].state == "ok"
    assert found["bb"].reason.startswith("RegistryError: op 'acme.twice' is already defined by opyard-aa 1.0")


def test_kernels_for_ops_that_do_not_exist_are_noted(site: Site) -> None:
    calls = "for op in ('ad', 'zzz.unheard'): registry.kernel(op, backend='toy', name='k', load='numpy:add')"
    site.add("orphans", registers(calls))
    (plugin,) = site.load().all
    assert plugin.state == "ok"
    no_toy, near, far = plugin.notes
    assert no_toy == NO_TOY, "once, not for each kernel"
    assert (
        near.startswith("kernel toy/k is for the op 'ad', which does not exist. Did you mean ")
        and "add" in near
    )
    assert far.endswith(
        "'zzz.unheard', which does not exist. Install the package that defines it, or correct the name."
    )


def test_kernels_for_backends_and_inputs_that_do_not_exist_are_noted(site: Site) -> None:
    site.add("toy", TOY)
    calls = [
        "registry.kernel('late.op', backend='toy', name='k', load='numpy:add', dtypes={'y': ('int8',)})",
        "registry.kernel('add', backend='tooy', name='k', load='numpy:add')",
        "registry.pattern(lambda x: x, backend='tooy', name='p', prepare='m:f')",
    ]
    site.add("early", registers("\n    ".join(calls)))
    source = "import opyard\n@opyard.op('late.op', scalar='x + x')\ndef twice(x): ...\n"
    site.add("late", f"{source}@opyard.hookimpl\ndef opyard_register(registry):\n    registry.op(twice)\n")
    found = by_name(site.load())
    assert found["toy"].notes == found["late"].notes == []
    assert sorted(found["early"].notes) == [
        "it has kernels for the backend 'tooy', which does not exist. Did you mean toy?",
        "kernel toy/k of op 'late.op': dtypes names the input 'y'. Inputs: x.",
    ]


@pytest.mark.parametrize("names", [("early", "late"), ("late", "early")])
def test_one_backend_in_two_distributions(site: Site, names: tuple[str, str]) -> None:
    """Both plugins stay in use; the first by name of the distribution gives the devices."""
    for plugin, distribution in zip(names, ("opyard-aa", "opyard-bb"), strict=True):
        call = f"registry.backend('twin', load='{plugin}:make')\n    registry.kernel('add', backend='twin', name='{plugin}', load='numpy:add')"
        site.add(plugin, registers(call), distribution=distribution)
    plugins = site.load()
    found = {plugin.entry.distribution: plugin for plugin in plugins.all}
    assert [plugin.state for plugin in plugins.all] == ["ok", "ok"]
    assert (found["opyard-aa"].backends, found["opyard-bb"].backends) == (("twin",), ())
    assert plugins.registry.backends["twin"].load == f"{names[0]}:make"
    assert plugins.registry.conflicts == (
        "backend 'twin': opyard-aa 1.0 replaces opyard-bb 1.0 (by name of the distribution).",
    )
    assert len(plugins.registry.kernels("add")) == 2


def test_allowed_and_blocked_plugins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        site.add(name, "raise RuntimeError('imported')")
    monkeypatch.setenv("OPYARD_PLUGINS", "one,two")
    monkeypatch.setenv("OPYARD_BLOCK", "two")
    found = by_name(site.load())
    assert (found["three"].state, found["three"].reason) == ("blocked", "OPYARD_PLUGINS allows only one, two")
    assert (found["two"].state, found["two"].reason) == ("blocked", "OPYARD_BLOCK names two")
    assert found["one"].state == "failed"
    monkeypatch.setenv("OPYARD_PLUGINS", "")
    assert {plugin.reason for plugin in site.load().all} == {"OPYARD_PLUGINS allows only nothing"}


def test_report_tells_which_plugins_have_no_device(site: Site) -> None:
    calls = "[registry.backend(n, load=f'test_backends_of_{n}:make') for n in ('idle', 'wrecked')]"
    site.add("mixed", registers(calls))
    site.add("idle_only", registers("registry.backend('lonely', load='test_backends_of_lonely:make')"))
    for name in ("idle", "wrecked", "lonely"):
        body = (
            "raise RuntimeError('no driver')"
            if name == "wrecked"
            else "return NullBackend(reason='install a driver')"
        )
        source = f"from opyard.testing import NullBackend\ndef make():\n    {body}\n"
        (site.folder / f"test_backends_of_{name}.py").write_text(source)
    plugins = site.load()
    assert [plugin.state for plugin in plugins.all] == ["ok", "ok"], "loading opens no backend"
    found = {plugin.entry.name: plugin for plugin in plugins.report()}
    assert (found["idle_only"].state, found["idle_only"].reason) == ("inactive", "install a driver")
    assert found["mixed"].state == "inactive" and found["mixed"].backends == ("idle", "wrecked")
    assert plugins.registry.open("wrecked").reason == "RuntimeError: no driver"


def test_a_plugin_with_one_working_backend_is_ok(site: Site) -> None:
    site.add("toy", TOY + "    registry.backend('other', load='nowhere:make')\n")
    plugins = site.load()
    (plugin,) = plugins.report()
    assert plugin.state == "ok"
    assert plugin.notes == [
        "its backend 'other' is failed: ModuleNotFoundError: No module named 'nowhere'",
    ]
    assert plugins.registry.open("other").reason == "ModuleNotFoundError: No module named 'nowhere'"


OBSERVER = """
import click
import opyard
seen = []

@opyard.hookimpl
def opyard_event(event, detail):
    seen.append((event, detail))

@opyard.hookimpl
def opyard_commands(group):
    group.add_command(click.Command("mine"))
    group.add_command(click.Command("devices"))
"""


def test_observers_hear_of_failing_plugins_and_cannot_harm(site: Site) -> None:
    raising = "import opyard\n@opyard.hookimpl\ndef opyard_event(event):\n    raise SystemExit('observer')\n"
    site.add("a_raising", raising)
    site.add("d_observer", OBSERVER)  # which is loaded after the first failure
    site.add("c_failing", "raise RuntimeError('first')")
    site.add("e_failing", "raise RuntimeError('second')")
    plugins = site.load()
    assert sys.modules["d_observer"].seen == [
        ("plugin_failed", {"plugin": "c_failing", "reason": "RuntimeError: first"}),
        ("plugin_failed", {"plugin": "e_failing", "reason": "RuntimeError: second"}),
    ]
    assert by_name(plugins)["a_raising"].notes == ["its hook opyard_event failed: SystemExit: observer"]


def test_commands_and_an_interrupted_hook(site: Site) -> None:
    site.add("b_observer", OBSERVER)
    site.add(
        "c_interrupted",
        "import opyard\n@opyard.hookimpl\ndef opyard_commands(group):\n    raise KeyboardInterrupt\n",
    )
    devices = click.Command("devices")
    group = click.Group(commands=[devices])
    plugins = site.load()
    with pytest.raises(KeyboardInterrupt):
        plugins.add_commands(group)
    assert sorted(group.commands) == ["devices", "mine"] and group.commands["devices"] is devices
    assert by_name(plugins)["b_observer"].notes == [
        "its command 'devices' is left out: there is one of that name already"
    ]


def test_report_of_an_empty_backend(site: Site) -> None:
    plugins = Plugins(oy.standard_registry())
    plugins.registry.backend("empty", load=NullBackend)
    assert plugins.registry.open("empty").state == "inactive"
    assert plugins.registry.open("empty").reason == "backend 'empty' lists no device on this machine"
