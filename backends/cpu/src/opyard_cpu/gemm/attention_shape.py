"""The sizes of an attention, and how its work is cut."""

from __future__ import annotations

from dataclasses import dataclass

ROWS, VECTORS = 8, 2
"""Queries of a block; vectors in a row of a tile. For fewer queries keys and values are read as they lie."""

WORDS = ("query", "key", "value", "output", "mask")
"""What ``data`` has the addresses of."""

STRIDES = tuple(f"{name}.{axis}" for name in WORDS for axis in ("batch", "head", "row"))
"""What ``table`` has: distances in numbers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; each head of keys serves ``shared`` of the queries, and queries are cut into ``parts`` of work.

    A mask is "add"ed, or "hide"s where it is not zero, or there is none, "".
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
