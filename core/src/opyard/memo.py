"""Memo: what was made for a key, the latest ones."""

from __future__ import annotations

from typing import Any


def remember(cache: dict[Any, Any], key: Any, item: Any, limit: int) -> None:
    """Stores an item and forgets the oldest ones beyond the limit; safe in threads."""
    for old in list(cache)[: max(0, len(cache) - limit + 1)]:
        cache.pop(old, None)
    cache[key] = item
