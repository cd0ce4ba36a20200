"""Random numbers without state: functions of a key alone, the same on every backend.

The generator is Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11. A key is
uint32 ``[2]``. Stream: block i, of four 32-bit words, is Philox of the counter (i mod 2^32, i div 2^32, 0, 0); the words of
all blocks in order are the stream. Derived keys come from counters that end in 1, so that they overlap with no stream.

Numbers in [0, 1), called unit numbers below, are the top 24 bits of one word times 2^-24, or for float64 the top 53 bits of
two words (the first is the high one) times 2^-53. Narrower dtypes take as many top bits as they hold exactly: float16 11,
bfloat16 8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, broadcast
from ._attributes import require_integer, require_real, require_shape
from .arithmetic import Array, constant_like, multiply
from .selection import where

__all__ = [
    "dropout",
    "masked_scale",
    "philox_bits",
    "random_bernoulli",
    "random_normal",
    "random_uniform",
    "split_key",
]

Words = np.ndarray[Any, np.dtype[np.uint64]]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85  # golden ratio and sqrt(3) - 1, in 32 bits
_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def philox4x32(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of each counter: ``[n, 4], [2] -> [n, 4]``, 32-bit words held in uint64, where products fit."""
    c0, c1, c2, c3 = (counter[:, i] for i in range(4))
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (second >> _HALF) ^ c1 ^ np.uint64(k0), (first >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def _blocks(key: Array, count: int, purpose: int) -> Words:
    """``count`` blocks of four words; ``purpose`` is the last word of their counters."""
    number = np.arange(count, dtype=np.uint64)
    fixed = np.full(count, purpose, np.uint64)
    counter = np.stack([number & _LOW, number >> _HALF, np.zeros_like(number), fixed], axis=1)
    return philox4x32(counter, np.asarray(key, np.uint64))


def _stream(key: Array, count: int) -> Words:
    """The first ``count`` words of the stream."""
    return _blocks(key, -(-count // 4), 0).reshape(-1)[:count]


def _unit(key: Array, count: int, bits: int) -> Any:
    """``count`` unit numbers of so many bits, in float64 ``[count]``."""
    if bits <= 32:
        words = _stream(key, count)
        return (words >> np.uint64(32 - bits)).astype(np.float64) * 2.0**-bits
    words = _stream(key, 2 * count)
    joined = (words[::2] << _HALF) | words[1::2]
    return (joined >> np.uint64(64 - bits)).astype(np.float64) * 2.0**-bits


def _require_key(key: TensorSpec) -> None:
    if key.shape != (2,) or key.dtype != np.dtype(np.uint32):
        raise SpecError(f"a key is uint32[2], found {key!r}; write numpy.array([0, seed], dtype='uint32').")


def _random_spec(key: TensorSpec, shape: Any, dtype: Any) -> TensorSpec:
    _require_key(key)
    spec = TensorSpec(require_shape(shape), dtype)
    if spec.dtype.name not in _BITS:
        raise SpecError(f"random numbers are made as {', '.join(_BITS)}; found dtype={spec.dtype.name!r}.")
    return spec


def _cost(flops_per_element: float) -> Any:
    def cost(call: Call) -> Cost:
        return Cost(flops_per_element * int(call.output.size), call.bytes)

    return cost


_KEY = Draw((2,), "uint32", 0, 2**32 - 1)


def _infer_bits(key: TensorSpec, *, shape: Any) -> TensorSpec:
    _require_key(key)
    return TensorSpec(require_shape(shape), "uint32")


def _bits_cases() -> list[Case]:
    return [case(_KEY, shape=shape) for shape in ((4,), (3, 5), (), (0, 3), (257, 3))]


@op("philox_bits", infer=_infer_bits, cost=_cost(20), cases=_bits_cases)
def philox_bits(key: Array, *, shape: tuple[int, ...]) -> Array:
    """Random 32-bit words: uint32 ``[2] -> shape``, the first words of the key's stream in row-major order."""
    return _stream(key, math.prod(shape)).astype(np.uint32).reshape(shape)


def _infer_split(key: TensorSpec, *, count: Any = 2) -> TensorSpec:
    _require_key(key)
    return TensorSpec((require_integer(count, "count", 0), 2), "uint32")


@op(
    "split_key",
    infer=_infer_split,
    cost=_cost(20),
    cases=lambda: [case(_KEY), case(_KEY, count=5), case(_KEY, count=0)],
)
def split_key(key: Array, *, count: int = 2) -> Array:
    """New keys, independent of each other and of the numbers that ``key`` itself gives: uint32 ``[2] -> [count, 2]``.

    Key i is the first two words of Philox of the counter (i, 0, 0, 1).
    """
    return _blocks(key, count, 1)[:, :2].astype(np.uint32)


def _infer_uniform(
    key: TensorSpec, *, shape: Any, low: Any = 0.0, high: Any = 1.0, dtype: Any = "float32"
) -> TensorSpec:
    if require_real(low, "low") > require_real(high, "high"):
        raise SpecError(f"low={low} is greater than high={high}; exchange them.")
    return _random_spec(key, shape, dtype)


def _uniform_cases() -> list[Case]:
    return [
        *(
            case(_KEY, shape=(3, 5)),
            case(_KEY, shape=()),
            case(_KEY, shape=(0, 3)),
            case(_KEY, shape=(257, 3), low=-1.5, high=2.0),
        ),
        *(case(_KEY, shape=(5,), dtype=dtype) for dtype in ("float64", "float16", "bfloat16")),
    ]


@op(
    "random_uniform",
    infer=_infer_uniform,
    cost=_cost(22),
    cases=_uniform_cases,
    tolerance=Tolerance(2, scaled=True),
)
def random_uniform(
    key: Array, *, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: str = "float32"
) -> Array:
    """``low + (high - low) * u`` for the key's unit numbers u: uint32 ``[2] -> shape``.

    All lie in [low, high); rounding may give ``high`` where low is not 0 or high not 1.
    """
    unit = _unit(key, math.prod(shape), _BITS[dtype])
    return (low + (high - low) * unit).reshape(shape)


def _infer_normal(
    key: TensorSpec, *, shape: Any, mean: Any = 0.0, standard_deviation: Any = 1.0, dtype: Any = "float32"
) -> TensorSpec:
    require_real(mean, "mean")
    require_real(standard_deviation, "standard_deviation", low=0.0)
    return _random_spec(key, shape, dtype)


def _normal_cases() -> list[Case]:
    return [
        *(
            case(_KEY, shape=(3, 5)),
            case(_KEY, shape=()),
            case(_KEY, shape=(0, 3)),
            case(_KEY, shape=(257, 3), mean=-1.5, standard_deviation=2.0),
        ),
        *(case(_KEY, shape=(5,), dtype=dtype) for dtype in ("float64", "float16", "bfloat16")),
    ]


@op(
    "random_normal",
    infer=_infer_normal,
    cost=_cost(40),
    cases=_normal_cases,
    tolerance=Tolerance(8, scaled=True),
)
def random_normal(
    key: Array,
    *,
    shape: tuple[int, ...],
    mean: float = 0.0,
    standard_deviation: float = 1.0,
    dtype: str = "float32",
) -> Array:
    """Numbers of the normal distribution by the transform of Box and Muller: uint32 ``[2] -> shape``.

    Unit numbers u, v in pairs (of 24 bits, of 53 for float64) give r cos(2 pi v) and r sin(2 pi v) with
    r = sqrt(-2 log(1 - u)). No number is further than 5.8 (float64: 8.6) standard deviations from the mean.
    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    count = math.prod(shape)
    unit = _unit(key, count + count % 2, 53 if dtype == "float64" else 24).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log1p(-unit[:, 0]))
    angle = 2 * np.pi * unit[:, 1]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    return (mean + standard_deviation * values).reshape(shape)


def _infer_bernoulli(key: TensorSpec, *, shape: Any, probability: Any = 0.5) -> TensorSpec:
    _require_key(key)
    require_real(probability, "probability", 0.0, 1.0)
    return TensorSpec(require_shape(shape), "bool")


def _bernoulli_cases() -> list[Case]:
    return [
        *(
            case(_KEY, shape=(3, 5)),
            case(_KEY, shape=()),
            case(_KEY, shape=(0, 3)),
            case(_KEY, shape=(257, 3), probability=0.1),
        ),
        *(case(_KEY, shape=(5,), probability=0.0), case(_KEY, shape=(5,), probability=1.0)),
    ]


@op("random_bernoulli", infer=_infer_bernoulli, cost=_cost(21), cases=_bernoulli_cases)
def random_bernoulli(key: Array, *, shape: tuple[int, ...], probability: float = 0.5) -> Array:
    """True with the given probability: uint32 ``[2] -> bool shape``, true where the key's unit number of 24 bits is less.

    In integers: the top 24 bits of the word are less than ceil(probability * 2^24).
    """
    return (_unit(key, math.prod(shape), 24) < probability).reshape(shape)


def _infer_dropout(x: TensorSpec, key: TensorSpec, *, rate: Any = 0.5) -> TensorSpec:
    require_kind(x, "floating")
    _require_key(key)
    if require_real(rate, "rate", 0.0, 1.0) == 1:
        raise SpecError("rate=1 drops everything and leaves nothing to scale; use zeros_like(x).")
    return x


def _decompose_dropout(x: Array, key: Array, *, rate: float = 0.5) -> Array:
    keep = random_bernoulli(key, shape=tuple(x.shape), probability=1 - rate)
    return masked_scale(x, keep, scale=1 / (1 - rate))


def _infer_masked_scale(x: TensorSpec, mask: TensorSpec, *, scale: Any) -> TensorSpec:
    require_kind(x, "floating")
    require_kind(mask, "bool", "the mask")
    require_real(scale, "scale", -math.inf, math.inf)
    return x.with_shape(broadcast(x.shape, mask.shape))


def _decompose_masked_scale(x: Array, mask: Array, *, scale: float) -> Array:
    return where(mask, multiply(x, constant_like(scale, x)), constant_like(0, x))


@op(
    "masked_scale",
    infer=_infer_masked_scale,
    decompose=_decompose_masked_scale,
    cases=lambda: [
        case(Draw(shape, dtype), Draw(shape, "bool"), scale=1.25)
        for shape, dtype in [
            ((3, 4), "float32"),
            ((), "float64"),
            ((0, 3), "float16"),
            ((257, 129), "float32"),
        ]
        + [((5,), dtype) for dtype in ("bfloat16", "complex64")]
    ],
    tolerance=Tolerance(2),
)
def masked_scale(x: Array, mask: Array, *, scale: float) -> Array:
    """``x * scale`` where the mask is true, else 0: what dropout does, forward and backward. ``[...], bool[...] -> [...]``."""
    scaled = x * constant_like(scale, x)
    return np.where(mask, scaled, np.zeros_like(scaled))


def _dropout_cases() -> list[Case]:
    return [
        *(
            case((3, 5), _KEY),
            case((), _KEY),
            case((0, 3), _KEY),
            case((257, 3), _KEY, rate=0.1),
            case((5,), _KEY, rate=0.0),
        ),
        *(case(Draw((3, 4), dtype), _KEY) for dtype in ("float64", "float16", "bfloat16", "complex64")),
    ]


@op(
    "dropout",
    infer=_infer_dropout,
    cost=_cost(23),
    decompose=_decompose_dropout,
    cases=_dropout_cases,
    tolerance=Tolerance(2),
)
def dropout(x: Array, key: Array, *, rate: float = 0.5) -> Array:
    """Zero with the probability ``rate``, else ``x / (1 - rate)``, so that the expectation stays: ``[...], [2] -> [...]``.

    Elements stay where ``random_bernoulli(key, probability=1 - rate)`` is true. For training only.
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    keep = _unit(key, math.prod(x.shape), 24).reshape(x.shape) < 1 - rate
    return masked_scale.op.reference(x, keep, scale=1 / (1 - rate))
