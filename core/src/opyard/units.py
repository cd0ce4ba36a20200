"""Numbers for people."""

from __future__ import annotations


def format_seconds(seconds: float, sign: bool = False) -> str:
    """Seconds for people: ``12.3 us``."""
    plus = "+" if sign else ""
    for scale, unit in ((1e-6, "ns"), (1e-3, "us"), (1.0, "ms")):
        if abs(seconds) < scale:
            return f"{seconds / scale * 1e3:{plus}.3g} {unit}"
    return f"{seconds:{plus}.3g} s"
