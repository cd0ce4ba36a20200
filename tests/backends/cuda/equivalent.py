"""Mutants that compute the same as the kernel does, by file, line and changed line: how many there are, and the reason."""

from __future__ import annotations

_LOOP = "for (int k = 0; k < PACKS; ++k) {"
_LANE = "if (lane == 0) parts[threadIdx.x / 32] = value;"
_LANES = (
    "if (lane == 0) greatest[threadIdx.x / 32] = weight.greatest, totals[threadIdx.x / 32] = weight.total;"
)
_WRITE = "if (threadIdx.x % GROUP == 0) y[row * gridDim.y + blockIdx.y] = narrowed<U>(result / W(divisor));"
_GREATER = "greatest = other > before ? other : before;"
_WRAP = "if (index < 0 || index >= size) index = (index % size + size) % size;"
_COUNT = "if (MEAN) counted += inside || (include_padding && v < bottom && u < right);"
_TAPS = "for (int start = 0; start < taps; start += DEPTH) {"
_LOAD = "for (int i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {"
_KEYS = "for (int start = 0; start < end; start += KEYS) {"
_OUT = "for (int j = 0; j < MOST_WIDTH / QUAD; ++j)"

EQUIVALENT: dict[tuple[str, str, str], tuple[int, str]] = {
    ("rows", _LANE, _LANE.replace("0", "1", 1)): (1, "all lanes have the whole"),
    ("rows", _LANES, _LANES.replace("0", "1", 1)): (1, "all lanes have the whole"),
    ("rows", _LOOP, _LOOP.replace("<", "<=")): (3, "a pack more is behind the row, and left out"),
    ("rows", "if (x > greatest) {", "if (x >= greatest) {"): (1, "equal ones change nothing: exp(0) is 1"),
    ("rows", _GREATER, _GREATER.replace(">", ">=")): (1, "equal ones are the same number"),
    ("reduce", _WRITE, _WRITE.replace("== 0", "== 1")): (1, "all lanes have the whole"),
    ("move", _WRAP, _WRAP.replace("<", "<=")): (1, "zero stays zero"),
    ("pool", _COUNT, _COUNT.replace("MEAN", "true")): (1, "nobody asks for the count of a maximum"),
    ("convolution", _TAPS, _TAPS.replace("<", "<=")): (1, "taps behind the last are zero"),
    ("convolution", _LOAD, _LOAD.replace("<", "<=")): (1, "one more goes into the column that only pads"),
    ("attention", _KEYS, _KEYS.replace("<", "<=")): (1, "keys behind the last are not seen"),
    ("attention", "if (MASK && seen) {", "if (seen) {"): (1, "what follows asks for MASK again"),
    ("attention", _OUT, _OUT.replace("<", "<=")): (1, "columns behind the last are not written"),
}
