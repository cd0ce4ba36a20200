"""The sizes of an attention, and how its work is cut."""

from __future__ import annotations

from dataclasses import dataclass

ROWS, VECTORS = 8, 2
"""Queries of a block; vectors in a row of a tile. For fewer queries keys and values are read as they lie."""

WORDS = ("query", "key", "value", "output", "mask")
"""What ``data`` has the addresses of."""

CACHED = ("past.key", "past.value", "all.key", "all.value")
"""The same where keys and values are joined to those before."""

STREAM_BYTES = 1 << 18
"""Joined keys and values of so many bytes go past the caches: the next step of a decoder is too far away to find them there."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; each head of keys serves ``shared`` of the queries, and queries are cut into ``parts`` of work.

    A mask is "add"ed, or "hide"s where it is not zero, or there is none, "". The first ``past`` keys and values come from arrays of
    their own, and are written out together with the others.
    """

    batch: int
    heads: int
    shared: int
    length: int
    keys: int
    width: int
    values: int
    lanes: int
    factor: float
    causal: bool
    mask: str
    parts: int
    past: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """What ``data`` has the addresses of."""
        return (*WORDS, *CACHED) if self.past else WORDS

    @property
    def strides(self) -> tuple[str, ...]:
        """What ``table`` has: distances in numbers."""
        return tuple(f"{name}.{axis}" for name in self.words for axis in ("batch", "head", "row"))

    @property
    def streams(self) -> bool:
        """Whether what is joined goes past the caches."""
        rows = self.batch * self.heads // self.shared * self.keys if self.past else 0
        return 4 * rows * (self.width + self.values) >= STREAM_BYTES

    @property
    def columns(self) -> int:
        """Columns of a panel."""
        return VECTORS * self.lanes

    @property
    def row(self) -> int:
        """Numbers of a row of scores."""
        return -(-self.keys // self.columns) * self.columns

    @property
    def blocks(self) -> int:
        """Blocks of queries."""
        return -(-self.length // ROWS)

    @property
    def units(self) -> int:
        """Units of work."""
        return self.batch * self.heads * self.parts

    @property
    def is_narrow(self) -> bool:
        """Whether there are so few queries that bringing keys and values into panels does not pay."""
        return self.length < ROWS

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of what a thread needs: of a block queries, scores, sums and factors, and keys and values in panels."""
        rows = min(ROWS, self.length)
        block = {
            "queries": rows * self.width,
            "scores": rows * self.row,
            "sums": rows * self.columns,
            "shares": rows * self.lanes,
        }
        if self.is_narrow:
            return block
        return {**block, "keys": self.row * self.width, "values": self.keys * self.values}
