"""Numbers for people."""

from __future__ import annotations

import re

_SIZES = {"": 1, **{f"{p}B": 1000**i for i, p in enumerate(("", "K", "M", "G", "T"))}}
_SIZES |= {f"{p}IB": 1024**i for i, p in enumerate(("K", "M", "G", "T"), start=1)}


def format_seconds(seconds: float, sign: bool = False) -> str:
    """Seconds for people: ``12.3 us``."""
    plus = "+" if sign else ""
    for scale, unit in ((1e-6, "ns"), (1e-3, "us"), (1.0, "ms")):
        if abs(seconds) < scale:
            return f"{seconds / scale * 1e3:{plus}.3g} {unit}"
    return f"{seconds:{plus}.3g} s"


def format_bytes(count: float) -> str:
    """Bytes for people: ``1.5 MB``; a kilobyte has 1000 bytes."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g} B"


def parse_bytes(text: str | int) -> int:
    """Bytes of a number, or of a text such as "512MB" (512 * 1000**2) or "2GiB" (2 * 1024**3). Raises ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?b|)", str(text).strip(), re.IGNORECASE)
    if found is None or found[2].upper() not in _SIZES:
        raise ValueError(
            f"{text!r} is no size in bytes; write a whole number, or for example '512MB' or '2GiB'"
        )
    return int(float(found[1]) * _SIZES[found[2].upper()])
