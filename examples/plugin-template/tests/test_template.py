import numpy as np
import opyard as oy
import pytest
from opyard.testing import check_kernel

from opyard_template import swish

REGISTRY = oy.default_registry()


@pytest.mark.parametrize("name", ["cpu/plain", "cpu/inplace"])
def test_a_kernel_agrees_with_the_reference(name):
    kernels = {kernel.id: kernel for kernel in REGISTRY.kernels("template.swish")}
    assert check_kernel(kernels[name], REGISTRY.device("cpu:0"), REGISTRY) == 4


def test_runs_eagerly_and_in_a_graph():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    expected = x / (1 + np.exp(-x))
    np.testing.assert_allclose(swish(x), expected, rtol=1e-6)
    compiled = oy.compile(lambda v: swish(v) + 1.0)
    np.testing.assert_allclose(compiled(x), expected + 1, rtol=1e-6)
