"""Random numbers: published known answers of Philox, the documented conversions, and statistics under fixed keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops.random import (
    dropout,
    philox4x32,
    philox_bits,
    random_bernoulli,
    random_normal,
    random_uniform,
    split_key,
)
from opyard.spec import TensorSpec, as_dtype

KEY = np.array([0x12345678, 0x9ABCDEF0], np.uint32)
KEY_SPEC = TensorSpec((2,), "uint32")


def run(function: Any, *arrays: Any, **attributes: Any) -> Any:
    call = function.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert TensorSpec.of(result) == call.output
    return result


def words(text: str) -> Any:
    return np.array([int(word, 16) for word in text.split()], np.uint64)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (" ".join(["ffffffff"] * 4), "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    np.testing.assert_array_equal(philox4x32(words(counter)[None], words(key)), words(expected)[None])


def test_the_stream_counts_blocks() -> None:
    counters = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]], np.uint64)
    expected = philox4x32(counters, KEY.astype(np.uint64)).reshape(-1)
    np.testing.assert_array_equal(run(philox_bits, KEY, shape=(3, 3)).reshape(-1), expected[:9])
    np.testing.assert_array_equal(run(philox_bits, KEY, shape=()), expected[0])
    assert run(philox_bits, KEY, shape=(0, 4)).shape == (0, 4)
    zero = np.zeros(2, np.uint32)
    assert run(philox_bits, zero, shape=(1,))[0] == 0x6627E8D5


def test_bits_are_balanced() -> None:
    bits = np.unpackbits(run(philox_bits, KEY, shape=(4096,)).view(np.uint8).reshape(-1, 4), axis=1)
    deviation = np.abs(bits.mean(axis=0) - 0.5)
    assert deviation.max() < 5 * 0.5 / math.sqrt(4096)


def test_derived_keys_differ_from_the_stream_and_each_other() -> None:
    keys = run(split_key, KEY, count=64)
    assert len({tuple(key) for key in keys.tolist()}) == 64
    stream = {tuple(pair) for pair in run(philox_bits, KEY, shape=(128, 2)).tolist()}
    assert not stream & {tuple(key) for key in keys.tolist()}
    np.testing.assert_array_equal(run(split_key, KEY), keys[:2])
    assert run(split_key, KEY, count=0).shape == (0, 2)


def test_uniform_is_made_of_the_top_bits() -> None:
    bits = run(philox_bits, KEY, shape=(8,)).astype(np.uint64)
    expected = (bits >> np.uint64(8)) / 2.0**24
    np.testing.assert_array_equal(run(random_uniform, KEY, shape=(8,)), expected.astype(np.float32))
    np.testing.assert_array_equal(run(random_uniform, KEY, shape=(8,)).astype(np.float64), expected)
    joined = (bits[::2] << np.uint64(32)) | bits[1::2]
    np.testing.assert_array_equal(
        run(random_uniform, KEY, shape=(4,), dtype="float64"), (joined >> np.uint64(11)) / 2.0**53
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_uniform_never_reaches_one(dtype: str) -> None:
    x = run(random_uniform, KEY, shape=(20_000,), dtype=dtype).astype(np.float64)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 5 * math.sqrt(1 / 12 / x.size) + 2.0**-9  # bfloat16 cuts 2^-9 off on average


def test_uniform_limits() -> None:
    x = run(random_uniform, KEY, shape=(100, 100), low=-3.0, high=5.0)
    assert -3 <= x.min() < -2.9
    assert 4.9 < x.max() <= 5
    counts, _ = np.histogram(x, bins=16, range=(-3, 5))
    assert ((counts - 625) ** 2 / 625).sum() < 40  # chi-square of 15 degrees: p about 0.0005


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_normal_statistics(dtype: str) -> None:
    x = run(random_normal, KEY, shape=(20_001,), mean=2.0, standard_deviation=3.0, dtype=dtype).astype(
        np.float64
    )
    z = (x - 2) / 3
    n = z.size
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(n)


def test_normal_is_box_muller() -> None:
    u, v = run(random_uniform, KEY, shape=(2,)).astype(np.float64)
    radius = math.sqrt(-2 * math.log(1 - u))
    expected = [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    np.testing.assert_allclose(run(random_normal, KEY, shape=(2,)), expected, rtol=1e-6)
    np.testing.assert_allclose(run(random_normal, KEY, shape=(1,)), expected[:1], rtol=1e-6)
    assert run(random_normal, KEY, shape=(), standard_deviation=0.0, mean=1.5) == 1.5


def test_bernoulli_is_uniform_below_probability() -> None:
    unit = run(random_uniform, KEY, shape=(1000,))
    for probability in (0.0, 0.3, 1.0):
        found = run(random_bernoulli, KEY, shape=(1000,), probability=probability)
        np.testing.assert_array_equal(found, unit.astype(np.float64) < probability)


def test_dropout_keeps_the_expectation() -> None:
    x = np.ones((100, 200), np.float32)
    y = run(dropout, x, KEY, rate=0.25)
    kept = y != 0
    np.testing.assert_allclose(y[kept], 4 / 3, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_array_equal(kept, run(random_bernoulli, KEY, shape=x.shape, probability=0.75))


def test_dropout_drops_nan_and_infinity_too() -> None:
    x = np.full((64,), math.nan, np.float32)
    y = run(dropout, x, KEY)
    assert set(np.unique(y[~np.isnan(y)]).tolist()) == {0.0}
    np.testing.assert_array_equal(run(dropout, np.arange(5.0), KEY, rate=0), np.arange(5.0))


def test_keys_give_different_numbers() -> None:
    first, second = run(split_key, KEY)
    a, b = (run(random_normal, key, shape=(10_000,)) for key in (first, second))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(10_000)


@pytest.mark.parametrize("function", [philox_bits, random_uniform, random_normal, random_bernoulli])
def test_keys_are_checked(function: Any) -> None:
    for spec in (TensorSpec((2,), "int64"), TensorSpec((3,), "uint32")):
        with pytest.raises(
            SpecError,
            match=r"a key is uint32\[2\], found .*; write numpy.array\(\[0, seed\], dtype='uint32'\)",
        ):
            function.op.call(spec, shape=(2,))
    with pytest.raises(SpecError, match=r"shape\[0\] is at least 0; found -1"):
        function.op.call(KEY_SPEC, shape=(-1,))
    assert function.op.call(KEY_SPEC, shape=(Dim.symbol("n"),)).output.shape == (Dim.symbol("n"),)


def test_attributes_are_checked() -> None:
    with pytest.raises(SpecError, match="low=2 is greater than high=1; exchange them"):
        random_uniform.op.call(KEY_SPEC, shape=(2,), low=2, high=1)
    with pytest.raises(
        SpecError, match="random numbers are made as float64, float32, float16, bfloat16; found dtype='int32'"
    ):
        random_uniform.op.call(KEY_SPEC, shape=(2,), dtype="int32")
    with pytest.raises(SpecError, match="standard_deviation is from 0 to inf; found -1"):
        random_normal.op.call(KEY_SPEC, shape=(2,), standard_deviation=-1)
    with pytest.raises(SpecError, match=r"probability is from 0 to 1; found 1\.5"):
        random_bernoulli.op.call(KEY_SPEC, shape=(2,), probability=1.5)
    with pytest.raises(SpecError, match=r"rate is from 0 to 1; found -0\.1"):
        dropout.op.call(TensorSpec((2,)), KEY_SPEC, rate=-0.1)
    with pytest.raises(
        SpecError, match=r"rate=1 drops everything and leaves nothing to scale; use zeros_like\(x\)"
    ):
        dropout.op.call(TensorSpec((2,)), KEY_SPEC, rate=1)
    with pytest.raises(SpecError, match=r"must be floating, it is int32\[2\]"):
        dropout.op.call(TensorSpec((2,), "int32"), KEY_SPEC)
    with pytest.raises(SpecError, match="count is at least 0; found -1"):
        split_key.op.call(KEY_SPEC, count=-1)


def test_bfloat16_dropout_keeps_the_dtype() -> None:
    assert run(dropout, np.ones(4, as_dtype("bfloat16")), KEY).dtype == as_dtype("bfloat16")
