from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.errors import KernelError, RegistryError
from opyard.kernels import Kernel
from opyard.registry import Registry
from opyard.selection import Policy, active_policy, candidates, policy
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

X = np.ones((4, 4), np.float32)


def fast(x1: Any, x2: Any) -> Any:
    return np.add(x1, x2)


def slow(x1: Any, x2: Any) -> Any:
    return np.add(x1, x2)


def other(x1: Any, x2: Any) -> Any:
    return np.add(x1, x2)


@pytest.fixture
def registry() -> Registry:
    """Kernels a/fast, a/slow and b/other of add, fastest first."""
    made = oy.standard_registry()
    add_host(made, "a")
    add_host(made, "b")
    made.kernel("add", backend="a", name="slow", load=slow, efficiency=0.1)
    made.kernel("add", backend="a", name="fast", load=fast)
    made.kernel("add", backend="b", name="other", load=other, efficiency=0.05)
    return made


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFER", "BLOCK", "PIN", "STRICT"):
        monkeypatch.delenv(f"OPYARD_{name}", raising=False)


def ids(registry: Registry, *arrays: Any, costs: oy.Costs | None = None, **chosen: Any) -> list[str]:
    x = oy.TensorSpec(X.shape, X.dtype)
    rows = candidates(
        oy.add.op.call(x, x), registry.devices(), registry, policy(**chosen), costs or oy.Roofline()
    )
    return [row.kernel.id + (" refused" if row.refusal else "") for row in rows]


def reason(registry: Registry, kernel: str, **chosen: Any) -> str | None:
    x = oy.TensorSpec(X.shape, X.dtype)
    rows = candidates(oy.add.op.call(x, x), registry.devices(), registry, policy(**chosen))
    (found,) = [row.refusal for row in rows if row.kernel.id == kernel]
    return found


# Order ---------------------------------------------------------------------------------------------------------------


def test_by_cost_and_the_reference_last(registry: Registry) -> None:
    assert ids(registry) == ["a/fast", "a/slow", "b/other", "reference/reference"]
    scripted = ScriptedCosts({"a/fast": 3.0, "a/slow": 2.0, "b/other": 1.0, "reference/reference": 0.0})
    assert ids(registry, costs=scripted) == ["b/other", "a/slow", "a/fast", "reference/reference"]


def test_equal_costs_go_by_name(registry: Registry) -> None:
    equal = ScriptedCosts(dict.fromkeys(("a/fast", "a/slow", "b/other"), 1.0))
    assert ids(registry, costs=equal) == ["a/fast", "a/slow", "b/other", "reference/reference"]


def test_preferences_of_backends_and_kernels(registry: Registry) -> None:
    assert ids(registry, prefer=("b",)) == ["b/other", "a/fast", "a/slow", "reference/reference"]
    assert ids(registry, prefer=("a/slow", "b")) == ["a/slow", "b/other", "a/fast", "reference/reference"]
    assert ids(registry, prefer=("reference",))[0] == "reference/reference"
    assert ids(registry, prefer=("unheard",)) == ids(registry)


def test_blocked_and_pinned_kernels_are_refused_with_the_reason(registry: Registry) -> None:
    assert ids(registry, block=("a",)) == [
        *("b/other", "reference/reference", "a/fast refused", "a/slow refused"),
    ]
    assert reason(registry, "a/slow", block=("a/slow",)) == "blocked: a/slow"
    assert reason(registry, "a/slow", block=("a",)) == "blocked: a"
    assert reason(registry, "reference/reference", block=("reference",)) == "blocked: reference"
    pinned: dict[str, Any] = {"pins": (("add", "b/other"),)}
    assert ids(registry, **pinned)[0] == "b/other"
    assert reason(registry, "reference/reference", **pinned) == "add is pinned to b/other"
    assert reason(registry, "b/other", pins=(("subtract", "a/fast"),)) is None


@pytest.mark.parametrize(
    ("cost", "refusal"),
    [
        (lambda call, device: math.nan, "its cost function returned nan; it must return seconds"),
        (lambda call, device: -1, "its cost function returned -1.0; it must return seconds"),
        (lambda call, device: None, "its cost function failed: TypeError: "),
        (lambda call, device: 1 / 0, "its cost function failed: ZeroDivisionError: division by zero"),
        ("a_module_nobody_has:f", "its cost function failed: ModuleNotFoundError: "),
        (lambda call, device: math.inf, None),
        (lambda call, device: 0, None),
    ],
)
def test_cost_functions(registry: Registry, cost: Any, refusal: str | None) -> None:
    registry.kernel("add", backend="a", name="costly", load=fast, cost=cost)
    found = reason(registry, "a/costly")
    assert found == refusal or (refusal and found and found.startswith(refusal))


def test_the_text_of_a_candidate(registry: Registry) -> None:
    x = oy.TensorSpec((0,), "float32")
    rows = candidates(oy.add.op.call(x, x), registry.devices(), registry, policy(block=("b",)))
    assert str(rows[0]) == "a/fast on a:0: 1 us (roofline)"
    assert str(rows[-1]) == "b/other on b:0: blocked: b" and rows[-1].seconds == math.inf


# Costs ---------------------------------------------------------------------------------------------------------------


def test_the_roofline_is_work_or_bytes_whichever_takes_longer() -> None:
    capabilities = oy.Capabilities(flops=100.0, bandwidth=1000.0, launch_seconds=0.5)
    registry = oy.standard_registry()
    device = add_host(registry, "a", capabilities)
    n = oy.TensorSpec((10, 10), "float32")
    costs = oy.Roofline()
    assert costs.kernel_seconds(Kernel("add", "a", "k", load=fast), oy.add.op.call(n, n), device) == (
        1200 / 1000 + 0.5,
        "roofline",
        "",
    )
    call = oy.matmul.op.call(n, n)
    assert call.cost.flops / 100 > call.cost.bytes / 1000
    half = Kernel("matmul", "a", "k", load=fast, efficiency=0.5)
    assert costs.kernel_seconds(half, call, device).seconds == pytest.approx(2 * call.cost.flops / 100 + 0.5)
    own = Kernel("add", "a", "k", load=fast, cost=lambda call, device: 7, efficiency=0.5)
    assert costs.kernel_seconds(own, call, device) == (7.0, "kernel", "")


def test_transfers_cost_the_slower_rates_and_nothing_where_arrays_are_shared() -> None:
    slow_bus = oy.Capabilities(transfer_bandwidth=100.0, transfer_seconds=1.0, wrap_seconds=0.25)
    fast_bus = oy.Capabilities(transfer_bandwidth=1000.0, transfer_seconds=0.125, wrap_seconds=0.5)
    registry = oy.standard_registry()
    host, twin = add_host(registry, "a", fast_bus), add_host(registry, "b")
    one, two = NullDevice("null:0", capabilities=slow_bus), NullDevice("null:1", capabilities=fast_bus)
    mapped = NullDevice("null:2", memory="host", capabilities=slow_bus)
    seconds = oy.Roofline().transfer_seconds
    assert seconds(host, twin, 1e9) == 0.0 == seconds(one, one, 1e9)
    assert seconds(host, one, 100.0) == 1.0 + 1.0 == seconds(one, host, 100.0)
    assert seconds(one, two, 100.0) == pytest.approx(1.0 + 1.0 + 0.125 + 0.1)
    assert seconds(host, mapped, 1e9) == 0.5, "one memory, two array types: the arrays are wrapped"


# Policies ------------------------------------------------------------------------------------------------------------


def test_policies_of_equal_contents_are_one_object(registry: Registry) -> None:
    assert policy(prefer=("a",)) is policy(prefer=("a",))
    assert policy(registry=registry) is not policy(registry=oy.standard_registry())
    assert policy(strict=True) is not policy()


def test_using_inherits_what_is_not_given(registry: Registry) -> None:
    before = active_policy()
    for name in ("x", "y"):
        registry.kernel("mean", backend="b", name=name, load=other)
    with oy.using(prefer="a", block="b/x", pin={"add": "a/fast"}, registry=registry):
        with oy.using(prefer=["b", "a"], block=("b/other", "b/x"), pin={"mean": "b/y"}, strict=True) as inner:
            assert inner is active_policy()
            assert inner.prefer == ("b", "a") and inner.block == ("b/x", "b/other") and inner.strict
            assert dict(inner.pins) == {"add": "a/fast", "mean": "b/y"} and inner.registry is registry
            with oy.using(strict=False, pin={"add": "a/slow"}) as innermost:
                assert innermost.prefer == ("b", "a") and not innermost.strict
                assert dict(innermost.pins)["add"] == "a/slow"
        assert active_policy().prefer == ("a",) and not active_policy().strict
    assert active_policy() is before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prefer": "a/fats"}, "prefer names 'a/fats', which is no backend or kernel. Did you mean a/fast"),
        ({"block": ["a", "cuda"]}, "block names 'cuda', which is no backend or kernel."),
        ({"pin": {"ad": "a/fast"}}, "pin names the op 'ad', which does not exist. Did you mean "),
        ({"pin": {"add": "a/none"}}, "pin names the kernel 'a/none', which does not exist."),
        (
            {"pin": {"subtract": "a/fast"}},
            "pin names the kernel 'a/fast', which subtract does not have. It has reference/reference.",
        ),
        ({"strict": "yes"}, "strict is True or False; found 'yes'"),
    ],
)
def test_using_refuses_names_that_nothing_has(
    registry: Registry, given: dict[str, Any], message: str
) -> None:
    before = active_policy()
    for _ in range(2):
        with pytest.raises(RegistryError, match=message), oy.using(**given, registry=registry):
            pytest.fail("the block is not entered")
    assert active_policy() is before
    with oy.using(registry=registry), pytest.raises(RegistryError, match=message), oy.using(**given):
        pytest.fail("the registry in use counts as well")


def test_using_sees_what_was_registered_meanwhile(registry: Registry) -> None:
    with (
        pytest.raises(RegistryError, match="prefer names 'a/new'"),
        oy.using(prefer="a/new", registry=registry),
    ):
        pytest.fail("not yet")
    registry.kernel("add", backend="a", name="new", load=other)
    with oy.using(prefer="a/new", registry=registry):
        assert oy.add.resolve(X, X) is other


def test_using_is_undone_by_an_exception(registry: Registry) -> None:
    before = active_policy()
    with pytest.raises(ZeroDivisionError), oy.using(prefer="a", registry=registry):
        raise ZeroDivisionError
    assert active_policy() is before


def test_the_environment_states_the_policy(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPYARD_PREFER", "b, a/slow")
    monkeypatch.setenv("OPYARD_BLOCK", "c")
    monkeypatch.setenv("OPYARD_PIN", "add=a/fast")
    monkeypatch.setenv("OPYARD_STRICT", "1")
    assert active_policy() is policy(("b", "a/slow"), ("c",), (("add", "a/fast"),), True)
    with oy.using(block="reference", strict=False, registry=registry) as inner:
        assert inner.prefer == ("b", "a/slow") and inner.block == ("c", "reference") and not inner.strict


def test_policies_steer_eager_calls(registry: Registry) -> None:
    with oy.using(registry=registry):
        assert oy.add.resolve(X, X) is fast
        with oy.using(prefer="b"):
            assert oy.add.resolve(X, X) is other
            with oy.using(block="b"):
                assert oy.add.resolve(X, X) is fast
        with oy.using(pin={"add": "a/slow"}):
            assert oy.add.resolve(X, X) is slow
            assert oy.subtract(X, X).sum() == 0, "a pin of one op leaves the others alone"
        with (
            oy.using(pin={"add": "a/slow"}, block="a/slow"),
            pytest.raises(KernelError, match=r"no kernel can run add.*add is pinned to a/slow"),
        ):
            oy.add(X, X)


def test_a_policy_belongs_to_its_thread(registry: Registry) -> None:
    inside, chosen = threading.Event(), []

    def work() -> None:
        chosen.append(active_policy())
        with oy.using(prefer="a/slow", registry=registry):
            inside.set()
            chosen.append(oy.add.resolve(X, X))

    with oy.using(prefer="b", registry=registry):
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        assert oy.add.resolve(X, X) is other
        thread.join()
    assert chosen == [policy(), slow]


def test_a_policy_belongs_to_its_task(registry: Registry) -> None:
    async def task(prefer: str) -> Any:
        with oy.using(prefer=prefer):
            await asyncio.sleep(0)
            first = oy.add.resolve(X, X)
            await asyncio.sleep(0)
            return first, oy.add.resolve(X, X)

    async def main() -> Any:
        with oy.using(registry=registry):
            results = await asyncio.gather(task("a/slow"), task("b"))
            return *results, oy.add.resolve(X, X)

    assert asyncio.run(main()) == ((slow, slow), (other, other), fast)


def test_unknown_names_with_near_ones(registry: Registry) -> None:
    add_null_backend(registry, ops=["exp"])
    wrong = Policy(
        prefer=("a", "nul"),
        block=("a/fat", "reference", "reference/reference"),
        pins=(("ad", "a/fast"), ("add", "zzz/zzz")),
    )
    rows = wrong.unknown_names(registry)
    assert rows[0] == "prefer names 'nul', which is no backend or kernel. Did you mean null?"
    assert rows[1].startswith("block names 'a/fat', which is no backend or kernel. Did you mean a/fast")
    assert rows[2].startswith("pin names the op 'ad', which does not exist. Did you mean ")
    assert rows[3] == "pin names the kernel 'zzz/zzz', which does not exist."
    assert len(rows) == 4
    right = Policy(
        prefer=("a", "null"), block=("b/other",), pins=(("exp", "null/null"), ("add", "reference/reference"))
    )
    assert right.unknown_names(registry) == []
