"""Steps of training and composite ops run on an OpenCL device alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard import optimizers
from opyard.ops import STANDARD
from opyard.testing import violation


def _step(weights: list[oy.Variable], optimizer: Any, kernel: int, strides: int) -> Any:
    def step(images: Any, labels: Any, key: Any) -> Any:
        x = oy.relu(oy.conv(images, weights[0], weights[1], padding=1))
        x = oy.max_pool(x, kernel=kernel, strides=strides, padding=kernel // 3)
        x = oy.dropout(oy.flatten(oy.conv(x, weights[2], strides=2)), key, rate=0.25)
        logits = oy.matmul(x, weights[3])
        loss = oy.softmax_cross_entropy(logits, labels)
        optimizer.minimize(loss, weights)
        return loss, oy.sum(oy.cast(oy.argmax(logits, axis=1) == labels, dtype="int64"))

    return step


def _weights(features: int) -> list[oy.Variable]:
    random = np.random.default_rng(7)
    shapes = ((4, 1, 3, 3), (4,), (6, 4, 2, 2), (features, 3))
    return [oy.Variable(random.normal(size=shape) * 0.3, dtype="float32") for shape in shapes]


def test_every_op_of_a_training_step_has_a_kernel(opencl: Any) -> None:
    random = np.random.default_rng(8)
    images = random.normal(size=(5, 1, 8, 8)).astype(np.float32)
    labels, key = random.integers(0, 3, 5), np.array([1, 2], np.uint32)
    for kernel, strides in ((2, 2), (3, 2)):  # windows that lie apart, and windows that overlap
        losses = []
        for device in ("opencl:0", "reference"):
            weights = _weights(6 * 2 * 2)
            optimizer = optimizers.adam(1e-2)
            optimizer.prepare(weights)
            step = oy.compile(_step(weights, optimizer, kernel, strides), devices=[device])
            places = step.explain(images, labels, key).decisions
            assert {decision.chosen.device.name for decision in places} == {device}
            losses.append([float(step(images, labels, key)[0]) for _ in range(4)])
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


_COMPOSITE = sorted(
    name
    for name in STANDARD
    if not any(kernel.backend == "opencl" for kernel in oy.default_registry().kernels(name))
)


def test_every_primitive_op_has_a_kernel() -> None:
    assert all(STANDARD[name].op.decompose is not None for name in _COMPOSITE)


@pytest.mark.parametrize("name", _COMPOSITE)
def test_composite_ops_run_by_their_parts(name: str, opencl: Any) -> None:
    declared = STANDARD[name].op
    case = next(iter(declared.cases()))
    arrays = [array for array in case.arrays() if array is not None]
    call = declared.call(*(draw and draw.spec for draw in case.inputs), **case.attributes)
    run = oy.compile(lambda *inputs: STANDARD[name](*inputs, **case.attributes), devices=["opencl:0"])
    assert violation(call, case.arrays(), [np.asarray(run(*arrays))]) is None
