"""Single ops on large arrays: compiled loops take them, and small arrays do not pay for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.registry import Registry
from opyard.settings import limit_threads
from opyard.spec import TensorSpec
from opyard_cpu import plugin
from opyard_cpu.jit import sized

pytest.importorskip("llvmlite", reason="llvmlite is not installed: opyard-cpu[jit]")

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")


def named(*arrays: Any, **_: Any) -> str:
    return "small"


def test_functions_by_the_size_of_the_largest_array() -> None:
    """Numbers, None and other types count as small; broadcast arrays by what they are."""

    def large(*arrays: Any, **_: Any) -> str:
        return "large"

    found = sized.by_size(12, named, large)
    assert found is not None
    few, many, none = np.zeros((11, 1)), np.zeros((3, 2, 2)), np.zeros((100, 0))
    for choose in (found, super(type(DEVICE), DEVICE).by_size(12, named, large)):
        assert choose(few) == choose(few, None, 2.0, np.float32(1)) == choose(none) == choose() == "small"
        assert choose(many) == choose(few, None, many) == choose(np.float32(1), many) == "large"
        assert choose(np.array(1.0), [1] * 50) == "small"


def test_errors_and_results_pass_through() -> None:
    found = sized.by_size(4, np.add, np.subtract)
    assert found is not None
    assert found(np.ones(3), np.ones(3)).tolist() == [2, 2, 2] and not found(np.ones(4), np.ones(4)).any()
    with pytest.raises(ValueError, match="could not be broadcast"):
        found(np.ones(3), np.ones(2))
    out = np.empty(4)
    assert found(np.ones(4), np.ones(4), out=out) is out


@pytest.mark.parametrize("threads", [1, 2])
def test_eager_calls_of_large_arrays_are_compiled(threads: int) -> None:
    """Past the caches, into memory that was used before, from views, and by rows."""
    x = np.random.default_rng(0).standard_normal((1 << 12, 1 << 12)).astype(np.float32)
    with limit_threads(threads), oy.using(block=("opencl",)):
        assert next(row.kernel.id for row in oy.add.explain(x, x)) == "cpu/jit"
        for _ in range(2):
            total = oy.add(x, x)
            assert np.array_equal(total, x + x)
        del total
        np.testing.assert_allclose(oy.exp(x[:64]), np.exp(x[:64]), rtol=1e-6)
        part = x[:1024, :1024]
        assert np.array_equal(oy.multiply(part.T, x[0, :1024]), part.T * x[0, :1024])
        assert np.array_equal(oy.greater(part, part.T), part > part.T)


def test_small_arrays_stay_with_numpy() -> None:
    few, many = TensorSpec((100,)), TensorSpec((1 << 18,))
    kernel = next(k for k in REGISTRY.kernels("add") if k.name == "jit")
    assert (
        kernel.refusal(oy.add.op.call(few, few), DEVICE)
        == "takes results of at least 262144 elements, not 100"
    )
    assert kernel.refusal(oy.add.op.call(many, many), DEVICE) is None
    compiler = next(k for k in REGISTRY.region_compilers if k.name == "jit")
    graph = oy.trace(lambda x: oy.add(x, x), many)
    region = oy.region.Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())
    assert compiler.refusal(region, DEVICE) == "the kernel cpu/jit of add does the same"
