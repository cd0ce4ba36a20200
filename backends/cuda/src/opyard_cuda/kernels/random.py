"""Random numbers by Philox4x32-10, the same as the reference's, each by a thread of its own.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11; streams as in opyard.ops.random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from opyard.operation import Call

from .. import array_module

PHILOX = """
// word `number` of the key's stream; `purpose` tells streams from derived keys
__device__ inline unsigned int opyard_word(unsigned long long number, unsigned int purpose, unsigned int k0, unsigned int k1) {
  unsigned long long block = number / 4;
  unsigned int c[4] = {(unsigned int)block, (unsigned int)(block >> 32), 0u, purpose};
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    unsigned long long first = 0xD2511F53ull * c[0], second = 0xCD9E8D57ull * c[2];
    unsigned int next[4] = {(unsigned int)(second >> 32) ^ c[1] ^ k0, (unsigned int)second,
                            (unsigned int)(first >> 32) ^ c[3] ^ k1, (unsigned int)first};
    for (int j = 0; j < 4; ++j) c[j] = next[j];
  }
  // not c[number % 4]: an index that is not known in advance would put the words into local memory
  return number & 2 ? (number & 1 ? c[3] : c[2]) : number & 1 ? c[1] : c[0];
}
// a number in [0, 1) of 53 bits from two words, or of fewer from one
__device__ inline double opyard_unit(unsigned long long number, int bits, unsigned int k0, unsigned int k1) {
  if (bits <= 32) return (opyard_word(number, 0u, k0, k1) >> (32 - bits)) * (1.0 / (1ull << bits));
  unsigned long long high = opyard_word(2 * number, 0u, k0, k1), low = opyard_word(2 * number + 1, 0u, k0, k1);
  return (((high << 32) | low) >> (64 - bits)) * (1.0 / (1ull << bits));
}
__device__ inline double opyard_normal(unsigned long long number, int bits, unsigned int k0, unsigned int k1) {
  double radius = sqrt(-2.0 * log1p(-opyard_unit(number / 2 * 2, bits, k0, k1)));
  double turns = 2.0 * opyard_unit(number / 2 * 2 + 1, bits, k0, k1);
  // of half turns: for any angle in radians sin and cos would need local memory
  return radius * (number % 2 ? sinpi(turns) : cospi(turns));
}
"""

BITS = {"float64": 53, "float32": 24, "float16": 11}
"""How many bits a unit number of each dtype has."""

_NUMBERS = "float64 low, float64 span, int32 bits"

OPERATIONS: Mapping[str, tuple[str, str]] = {
    "philox_bits": ("", "result = opyard_word(i, 0u, key[0], key[1])"),
    "split_key": ("", "result = opyard_word(i / 2 * 4 + i % 2, 1u, key[0], key[1])"),
    "random_uniform": (_NUMBERS, "result = {type}(low + span * opyard_unit(i, bits, key[0], key[1]))"),
    "random_normal": (_NUMBERS, "result = {type}(low + span * opyard_normal(i, bits, key[0], key[1]))"),
    "random_bernoulli": ("float64 probability", "result = opyard_unit(i, 24, key[0], key[1]) < probability"),
}
"""Parameters behind the key, and what is computed for element ``i``, for each op."""


def numbers(call: Call) -> tuple[float, ...]:
    """The values of the parameters of the op's kernel."""
    attributes, dtype = call.attrs, call.output.dtype.name
    match call.op.name:
        case "random_uniform":
            return attributes["low"], attributes["high"] - attributes["low"], BITS[dtype]
        case "random_normal":
            return attributes["mean"], attributes["standard_deviation"], 53 if dtype == "float64" else 24
        case "random_bernoulli":
            return (attributes["probability"],)
    return ()


def operation(call: Call) -> tuple[str, str]:
    """Input parameters, and the text for one element, of the op's kernel."""
    parameters, text = OPERATIONS[call.op.name]
    computed = {"float64": "double"}.get(call.output.dtype.name, "float")
    return ", ".join(filter(None, ["raw uint32 key", parameters])), text.replace("{type}", computed)


def prepare(call: Call, device: Any) -> Callable[..., Any]:
    """A function from a key to random numbers."""
    inputs, text = operation(call)
    output = call.output
    kernel = _kernel(inputs, f"{output.dtype.name} result", text, f"opyard_{call.op.name}")
    values = numbers(call)

    def run(key: Any, *, out: Any = None) -> Any:
        result = device.empty(output) if out is None else out
        with device.handle:
            kernel(key, *values, result)
        return result

    return run


@lru_cache(maxsize=64)
def _kernel(inputs: str, output: str, text: str, name: str) -> Any:
    return array_module.xp().ElementwiseKernel(inputs, output, text, name, preamble=PHILOX)
