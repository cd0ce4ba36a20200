from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import add_host
from opyard.errors import RegistryError
from opyard.kernels import Origin
from opyard.registry import EVERY_SCALAR, Registry


@oy.op("acme.twice", scalar="x + x")
def twice(x: Any) -> Any: ...


@oy.op("acme.first", infer=lambda x: x)
def first(x: Any) -> Any:
    return np.array(x)


def origin(name: str) -> Origin:
    return Origin(name, f"opyard-{name}", "1.0")


def test_a_new_registry_is_empty_and_the_standard_one_has_ops() -> None:
    assert not oy.Registry().ops and not oy.Registry().backends
    standard = oy.standard_registry()
    assert standard.get_op("add") is oy.add.op and standard.ops["matmul"] is oy.matmul.op
    assert list(standard.backends) == ["reference"] and list(standard.all_kernels()) == []
    assert list(standard.ops) == sorted(standard.ops)


def test_an_op_that_nobody_has_registered() -> None:
    with pytest.raises(
        RegistryError, match=r"there is no op called 'matmull'. Did you mean matmul.*`opyard ops` lists all"
    ):
        oy.standard_registry().get_op("matmull")


def test_ops_are_registered_as_function_or_as_op_and_once_more_without_harm() -> None:
    registry = oy.Registry()
    assert registry.op(twice) is twice and registry.op(twice.op) is twice.op
    version = registry.version
    registry.op(twice)
    assert (registry.get_op("acme.twice"), registry.version) == (twice.op, version)


@pytest.mark.parametrize("what", [np.add, "add", None])
def test_what_is_no_op(what: object) -> None:
    registry = oy.standard_registry()
    with pytest.raises(
        RegistryError, match=r"registry.op takes a function decorated with @opyard.op; found "
    ):
        registry.op(what)
    if not isinstance(what, str):
        with pytest.raises(
            RegistryError, match=r"registry.kernel takes an op by name or as its function; found "
        ):
            registry.kernel(what, backend="toy", name="k", load=np.add)


def test_the_program_may_define_its_own_anew_and_nobody_elses() -> None:
    again = oy.op("acme.twice", scalar="2 * x")(lambda x: ...)
    registry = oy.standard_registry()
    registry.op(twice)
    registry.op(again)
    assert registry.get_op("acme.twice") is again.op
    own_add = oy.op("add", scalar="x1 + x2 + 1")(lambda x1, x2: ...)
    with pytest.raises(
        RegistryError,
        match=rf"op 'add' is already defined by opyard {oy.__version__} as add\(x1, x2\); program",
    ):
        registry.op(own_add)
    with (
        pytest.raises(RegistryError, match=r"'acme.twice' is already defined by program as .*; opyard-a 1.0"),
        registry.transaction(origin("a")),
    ):
        registry.op(twice)
    for load in (np.add, np.subtract):
        registry.kernel("add", backend="toy", name="k", load=load)
        registry.kernel(EVERY_SCALAR, backend="toy", name="s", load=load)
        registry.pattern(lambda x: oy.relu(-x), backend="toy", name="p", prepare=load)
        registry.backend("toy", load=load)
    assert [k.load for k in registry.kernels("add")] == [np.subtract] * 2 and registry.conflicts == ()
    assert [k.prepare for k in registry.patterns] == [np.subtract]
    assert registry.backends["toy"].load is np.subtract


def test_the_program_replaces_a_kernel_of_a_plugin_only_on_purpose() -> None:
    registry = oy.standard_registry()
    with registry.transaction(origin("a")):
        registry.kernel("matmul", backend="toy", name="k", load=np.matmul)
        registry.kernel(EVERY_SCALAR, backend="toy", name="s", prepare="m:f")
        registry.pattern(lambda x: oy.relu(-x), backend="toy", name="p", prepare="m:f")
    message = (
        "is already registered by opyard-a 1.0; give yours another name, or write override=True to replace it"
    )
    for op, name in (("matmul", "k"), (EVERY_SCALAR, "s"), ("exp", "s")):
        with pytest.raises(RegistryError, match=f"kernel toy/{name} of op '{op}' {message}"):
            registry.kernel(op, backend="toy", name=name, load=np.add)
    with pytest.raises(RegistryError, match=f"pattern kernel toy/p {message}"):
        registry.pattern(lambda x: oy.relu(-x), backend="toy", name="p", prepare=np.add)
    registry.kernel("matmul", backend="toy", name="k", load=np.dot, override=True)
    assert [k.load for k in registry.kernels("matmul")] == [np.dot]
    assert registry.conflicts == (
        "kernel toy/k of op 'matmul': program replaces opyard-a 1.0 (by override).",
    )


def test_an_input_that_the_op_does_not_have_is_told_where_the_op_is_known() -> None:
    registry = oy.Registry()
    registry.kernel("acme.twice", backend="toy", name="early", load=np.add, dtypes={"y": ("int8",)})
    registry.op(twice)
    with pytest.raises(
        RegistryError, match=r"kernel toy/late of op 'acme.twice': dtypes names the input 'y'"
    ):
        registry.kernel("acme.twice", backend="toy", name="late", load=np.add, dtypes={"y": ("int8",)})


def test_a_failure_is_forgotten_when_its_kernel_or_op_is_defined_anew() -> None:
    registry = oy.standard_registry()
    registry.op(twice)

    def fail() -> None:
        registry.kernel(EVERY_SCALAR, backend="toy", name="s", load=np.add)
        registry.kernel("add", backend="toy", name="k", load=np.add)
        for op, kernel in (("add", "k"), ("exp", "s"), ("acme.twice", "s"), ("log", "k")):
            found = oy.Kernel(op, "toy", kernel, load=np.add)
            registry.set_aside(op, found, "why")

    fail()
    registry.kernel("add", backend="toy", name="k", load=np.subtract)
    assert list(registry.failures) == ["exp toy/s", "acme.twice toy/s", "log toy/k"]
    registry.op(oy.op("acme.twice", scalar="2 * x")(lambda x: ...))
    assert list(registry.failures) == ["exp toy/s", "log toy/k"]
    registry.kernel(EVERY_SCALAR, backend="toy", name="s", load=np.subtract)
    assert list(registry.failures) == ["log toy/k"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_backend_that_two_distributions_register(order: tuple[str, str]) -> None:
    registry = oy.standard_registry()
    for name in order:
        with registry.transaction(origin(name)):
            registry.backend("toy", load=f"{name}:Backend")
    assert registry.backends["toy"].load == "a:Backend"
    assert registry.conflicts == (
        "backend 'toy': opyard-a 1.0 replaces opyard-b 1.0 (by name of the distribution).",
    )


def test_two_ops_of_one_name() -> None:
    @oy.op("acme.twice", scalar="2 * x * scale")
    def other(x: Any, *, scale: float = 1.0) -> Any: ...

    registry = oy.Registry()
    with registry.transaction(origin("a")):
        registry.op(twice)
    message = (
        r"op 'acme.twice' is already defined by opyard-a 1.0 as acme.twice\(x\); program defines it as "
        r"acme.twice\(x, \*, scale=1.0\). Give yours a name of its own: 'domain.name'."
    )
    with pytest.raises(RegistryError, match=message):
        registry.op(other)


def test_backends_have_one_registration_and_a_name_that_can_be_written() -> None:
    registry = oy.standard_registry()
    with registry.transaction(origin("a")):
        registry.backend("toy", load="m:B")
    message = r"backend 'toy' is already registered by opyard-a 1.0; give yours another name"
    with pytest.raises(RegistryError, match=message):
        registry.backend("toy", load="m:B")
    with pytest.raises(RegistryError, match=message), registry.transaction(origin("a")):
        registry.backend("toy", load="m:B")
    with (
        pytest.raises(RegistryError, match=r"backend 'reference' is already registered by opyard \d"),
        registry.transaction(origin("a")),
    ):
        registry.backend("reference", load="m:B")
    with pytest.raises(RegistryError, match="a backend's name is an identifier; 'my-toy' is not one"):
        registry.backend("my-toy", load="m:B")


def test_kernels_by_name_function_and_op_before_or_after_the_op() -> None:
    registry = oy.Registry()
    for number, op in enumerate(("acme.twice", twice, twice.op)):
        registry.kernel(op, backend="toy", name=f"k{number}", load=np.add)
    assert [kernel.id for kernel in registry.orphans()] == ["toy/k0", "toy/k1", "toy/k2"]
    registry.op(twice)
    assert registry.orphans() == () and len(registry.kernels("acme.twice")) == 3
    assert registry.kernels("acme.unheard") == ()


def test_registrations_of_malformed_kernels_change_nothing() -> None:
    registry = oy.standard_registry()
    version = registry.version
    with pytest.raises(RegistryError, match="needs either load="):
        registry.kernel("add", backend="toy", name="k")
    with pytest.raises(RegistryError, match="a kernel belongs to a backend other than 'reference'"):
        registry.kernel("add", backend="reference", name="k", load=np.add)
    with pytest.raises(RegistryError, match="pattern kernel toy/ga/p: a backend's name is an identifier"):
        registry.pattern(lambda x: x, backend="toy", name="ga/p", prepare="m:f")
    with pytest.raises(RegistryError, match=r"requires is a tuple of names; write \('fp64',\)"):
        registry.kernel("add", backend="toy", name="k", load=np.add, requires="fp64")  # type: ignore[arg-type]
    assert registry.version == version


def test_a_kernel_registered_twice_by_one_origin_even_with_another_between() -> None:
    registry = oy.standard_registry()
    for name in ("b", "a"):
        with registry.transaction(origin(name)):
            registry.kernel("add", backend="toy", name="k", load=np.add)
    with (
        pytest.raises(
            RegistryError,
            match=r"kernel toy/k of op 'add' is registered twice by opyard-b 1.0; give the second",
        ),
        registry.transaction(origin("b")),
    ):
        registry.kernel("add", backend="toy", name="k", load=np.add)
    assert len(registry.conflicts) == 1


def test_patterns_settle_conflicts_as_kernels_do() -> None:
    registry = oy.standard_registry()
    for name in ("b", "a"):
        with registry.transaction(origin(name)):
            registry.pattern(
                lambda x: oy.relu(oy.exp(x)), backend="toy", name="p", prepare="m:f", deterministic=False
            )
    (winner,) = registry.patterns
    assert winner.origin == origin("a") and not winner.deterministic
    assert registry.conflicts[0].startswith("pattern kernel toy/p: opyard-a 1.0 replaces opyard-b 1.0")
    assert list(registry.all_kernels()) == [winner] and registry.orphans() == ()


def test_kernels_for_every_scalar_op_give_way_to_kernels_of_the_op() -> None:
    registry = oy.standard_registry()
    registry.kernel(EVERY_SCALAR, backend="toy", name="scalar", prepare="m:f")
    registry.kernel("add", backend="toy", name="scalar", load=np.add)
    assert [(k.op, k.id, k.load) for k in registry.kernels("add")] == [("add", "toy/scalar", np.add)]
    assert [(k.op, k.id) for k in registry.kernels("exp")] == [("exp", "toy/scalar")]
    assert registry.kernels("matmul") == ()
    registry.op(twice)
    assert [k.op for k in registry.kernels("acme.twice")] == ["acme.twice"]


# Transactions --------------------------------------------------------------------------------------------------------


def test_a_transaction_marks_its_registrations_and_those_alone() -> None:
    registry = oy.standard_registry()
    with registry.transaction(origin("outer")):
        registry.kernel("add", backend="toy", name="a", load=np.add)
        with registry.transaction(origin("inner")):
            registry.kernel("add", backend="toy", name="b", load=np.add)
        registry.kernel("add", backend="toy", name="c", load=np.add)
    registry.kernel("add", backend="toy", name="d", load=np.add)
    assert [k.origin.plugin for k in registry.kernels("add")] == ["outer", "inner", "outer", "program"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_transaction_that_fails_leaves_nothing(error: type[BaseException]) -> None:
    registry = oy.standard_registry()
    registry.kernel("add", backend="toy", name="k", load=np.add)
    before = registry.kernels("add")
    ops = set(registry.ops)
    with pytest.raises(error), registry.transaction(origin("bad")):
        registry.op(twice)
        registry.backend("bad", load="m:B")
        registry.kernel("add", backend="toy", name="k", load=np.subtract, override=True)
        registry.kernel(twice, backend="toy", name="k", load=np.add)
        registry.pattern(lambda x: x, backend="toy", name="p", prepare="m:f")
        registry.kernel(EVERY_SCALAR, backend="toy", name="s", prepare="m:f")
        assert registry.kernels("add") != before
        raise error
    assert registry.kernels("add") == before and set(registry.ops) == ops
    assert list(registry.all_kernels()) == list(before) and list(registry.backends) == ["reference"]
    assert registry.conflicts == ()


def test_changes_are_told_to_those_who_listen() -> None:
    class Listener:
        heard = 0

        def registry_changed(self) -> None:
            self.heard += 1

    registry, listener, deaf = oy.standard_registry(), Listener(), Listener()
    registry.subscribe(listener)
    registry.subscribe(deaf)
    del deaf  # the registry keeps no listener alive
    version = registry.version
    registry.kernel("add", backend="toy", name="k", load=np.add)
    registry.set_aside("add", registry.kernels("add")[0], "why")
    assert listener.heard == registry.version - version == 2


def test_those_who_listen_see_what_is_new() -> None:
    class Listener:
        seen: tuple[Any, ...] = ()

        def registry_changed(self) -> None:
            self.seen = registry.kernels("add")

    registry, listener = oy.standard_registry(), Listener()
    assert registry.kernels("add") == ()
    registry.subscribe(listener)
    registry.kernel("add", backend="toy", name="k", load=np.add)
    assert [kernel.id for kernel in listener.seen] == ["toy/k"]


def test_listeners_may_come_while_others_are_told() -> None:
    class Listener:
        def registry_changed(self) -> None: ...

    registry, kept, errors = oy.standard_registry(), [], []

    def subscribe() -> None:
        try:
            for _ in range(2000):
                kept.append(Listener())
                registry.subscribe(kept[-1])
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=subscribe)
        thread.start()
        while thread.is_alive():
            registry.changed()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


def test_kernels_put_aside() -> None:
    registry = oy.standard_registry()
    registry.kernel("add", backend="toy", name="k", load=np.add)
    (kernel,) = registry.kernels("add")
    assert registry.why_aside("add", kernel) is None and not registry.failures
    assert registry.set_aside("add", kernel, "it raised") and not registry.set_aside("add", kernel, "again")
    assert registry.why_aside("add", kernel) == "it raised" and registry.why_aside("subtract", kernel) is None
    assert dict(registry.failures) == {"add toy/k": "it raised"}
    with pytest.raises(TypeError):
        registry.failures["x"] = "y"  # type: ignore[index]


# The order of registration does not matter ---------------------------------------------------------------------------

ARRAYS = (np.ones(2, np.float32), np.ones(2, np.float32))


def _register_all(registry: Registry, order: list[int]) -> None:
    """Two backends, two ops and kernels of three distributions, of which several claim one name, in the given order."""

    def kernel(distribution: str, op: Any, backend: str, name: str, **facts: Any) -> Any:
        def register() -> None:
            with registry.transaction(origin(distribution)):
                registry.kernel(op, backend=backend, name=name, **{"load": np.add, **facts})

        return register

    steps = [
        lambda: add_host(registry, "alpha"),
        lambda: add_host(registry, "beta"),
        lambda: registry.op(twice),
        lambda: registry.op(first),
        *(kernel(d, "add", "alpha", "same", cost=_cost(i)) for i, d in enumerate("abc")),
        *(kernel(d, "add", "beta", "same", override=d != "a", cost=_cost(i)) for i, d in enumerate("abc")),
        kernel("a", "add", "alpha", "tied", efficiency=0.5),
        kernel("b", "add", "beta", "tied", efficiency=0.5),
        kernel("c", "add", "beta", "refused", dtypes=("int8",)),
        *(kernel(d, op, "alpha", "same") for d in "ab" for op in ("subtract", "multiply")),
        kernel("a", EVERY_SCALAR, "alpha", "scalar", efficiency=0.1),
        kernel("b", EVERY_SCALAR, "alpha", "scalar", efficiency=0.2),
        kernel("c", twice, "alpha", "twice", load=np.positive),
    ]
    for number in order:
        steps[number]()


def _cost(number: int) -> Any:
    return lambda call, device: 1e-9 * (number + 1)


def _summary(registry: Registry) -> tuple[Any, ...]:
    with oy.using(registry=registry):
        rows = oy.add.explain(*ARRAYS)
        chosen = oy.add.resolve(*ARRAYS)
        table = [
            (row.kernel.id, str(row.kernel.origin), row.device.name, row.seconds, row.refusal) for row in rows
        ]
        everything = [(k.op, k.id, str(k.origin)) for k in registry.all_kernels()]
        return (
            table,
            chosen,
            everything,
            registry.conflicts,
            [d.name for d in registry.devices()],
            list(registry.ops),
        )


EXPECTED = oy.standard_registry()
_register_all(EXPECTED, list(range(20)))


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(20)))
def test_selection_does_not_depend_on_the_order_of_registration(order: list[int]) -> None:
    registry = oy.standard_registry()
    _register_all(registry, order)
    assert _summary(registry) == _summary(EXPECTED)


def test_what_the_order_independent_selection_is() -> None:
    table, chosen, _, conflicts, _, _ = _summary(EXPECTED)
    assert [row[:2] for row in table if row[4] is None][:2] == [
        ("alpha/same", "opyard-a 1.0"),
        ("beta/same", "opyard-b 1.0"),
    ]
    assert chosen is np.add and len(conflicts) == 7
