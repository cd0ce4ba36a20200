"""Gradients through branches and scans, and with respect to variables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import GraphError

GENERATOR = np.random.default_rng(0)
W, H, XS = GENERATOR.random((3, 3)), GENERATOR.random(3), GENERATOR.random((4, 3))


def differences(function, arguments, number, step=1e-6):
    """The gradient by central differences."""
    found = np.zeros_like(arguments[number])
    for index in np.ndindex(*found.shape):
        ends = []
        for sign in (1, -1):
            moved = [array.copy() for array in arguments]
            moved[number][index] += sign * step
            ends.append(float(function(*moved)))
        found[index] = (ends[0] - ends[1]) / (2 * step)
    return found


def network(h, xs, w, *, reverse=False):
    """A carry of several arrays, one of them a number of steps; w is used by all steps."""

    def step(state, x):
        (h, number) = state
        return (oy.tanh(oy.matmul(h, w) + x), number + 1), {"product": h * x, "number": number}

    (last, number), ys = oy.scan(step, (h, 0), xs, reverse=reverse)
    return oy.sum(last) + oy.sum(ys["product"] * ys["product"]) + oy.cast(number, dtype="float64")


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans(number, reverse):
    def function(*arguments):
        return network(*arguments, reverse=reverse)

    found = oy.grad(function, number)(H, XS, W)
    np.testing.assert_allclose(found, differences(function, [H, XS, W], number), atol=1e-7)


def test_a_part_of_what_a_scan_gives():
    np.testing.assert_allclose(
        oy.grad(lambda h: oy.sum(oy.scan(lambda c, x: (c * x, c), h, XS)[1][2]))(H), XS[0] * XS[1], rtol=1e-12
    )
    np.testing.assert_allclose(
        oy.grad(lambda h: oy.sum(oy.scan(lambda c, x: (c * x, c), h, XS)[0]))(H), XS.prod(0), rtol=1e-12
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_branches(sign):
    def function(x, y):
        return oy.sum(oy.cond(oy.sum(x) > 0, lambda x: oy.exp(x) * y, lambda x: x * x * y, x))

    for number in (0, 1):
        found = oy.grad(function, number)(sign * H, XS)
        np.testing.assert_allclose(found, differences(function, [sign * H, XS], number), atol=1e-7)


def test_a_branch_that_would_give_nan_is_not_taken():
    root = oy.grad(lambda x: oy.cond(x > 0, lambda: oy.sqrt(x), lambda: x))
    assert float(root(np.float64(-4))) == 1
    assert float(root(np.float64(4))) == 0.25


def test_second_derivatives():
    def gradient_length(h):
        return oy.sum(oy.grad(network)(h, XS, W) ** 2)

    found = oy.grad(gradient_length)(H)
    np.testing.assert_allclose(found, differences(gradient_length, [H], 0), atol=1e-6)


def test_maps_and_nested_loops():
    def function(xs):
        inner = oy.map(lambda x: oy.scan(lambda c, y: (c * y, None), oy.sum(x), XS[:, 0])[0], xs)
        return oy.sum(oy.map(lambda x: oy.cond(x > 1.5, lambda: x * x, lambda: x), inner))

    np.testing.assert_allclose(oy.grad(function)(XS), differences(function, [XS], 0), atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_a_scan_has_the_gradient_of_its_unrolled_loop(length, size, reverse):
    numbers = np.random.default_rng(size)
    xs, h = numbers.random((length, size)), numbers.random(size)

    def rolled(h, xs):
        last, ys = oy.scan(lambda c, x: (oy.sin(c) + x * c, c * x), h, xs, reverse=reverse)
        return oy.sum(last) + oy.sum(ys)

    def unrolled(h, xs):
        total = 0.0
        for i in reversed(range(length)) if reverse else range(length):
            total, h = total + oy.sum(h * xs[i]), oy.sin(h) + xs[i] * h
        return oy.sum(h) + total

    for one, other in zip(oy.grad(rolled, (0, 1))(h, xs), oy.grad(unrolled, (0, 1))(h, xs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_while_loops_have_none():
    def function(x):
        return oy.sum(oy.while_loop(lambda s: oy.sum(s) < 100, lambda s: s * 2, x))

    text = r"the gradient of while_loop \(test_control_gradients.py:\d+\): how many steps there are is not known before they are done; use scan"
    with pytest.raises(GraphError, match=text):
        oy.grad(function)(H)


def test_gradients_of_variables():
    w = oy.Variable(W, name="w")

    @oy.compile
    def step(x):
        loss = oy.sum(oy.matmul(x, w) ** 2)
        (found,) = oy.gradients(loss, [w])
        w.assign_sub(0.01 * found)
        return loss, found

    _, found = step(XS)
    np.testing.assert_allclose(found, 2 * XS.T @ (XS @ W), rtol=1e-12)
    np.testing.assert_allclose(w.numpy(), W - 0.01 * found, rtol=1e-12)
