"""What stands before a kernel: the macros of a dialect, and how the elements of its arrays are read and written."""

from __future__ import annotations

from collections.abc import Mapping

from .dialect import Dialect, Format

HAND_WRITTEN = ("FUNCTION", "AS_INT(x)", "AS_UINT(x)", "AS_FLOAT(x)")
"""The macros that helpers need: all that is defined for kernels that do not use the others."""


def prelude(dialect: Dialect, only: tuple[str, ...] | None = None) -> str:
    """The macros of a dialect, or ``only`` some of them, and its own text."""
    macros = dialect.macros if only is None else {name: dialect.macros[name] for name in only}
    return defines(macros) + dialect.prelude


def ports(formats: Mapping[str, Format]) -> str:
    """For each array the macros NAME (its type), LOAD_NAME(p, i) and STORE_NAME(p, i, v)."""
    macros: dict[str, str] = {}
    for name, found in formats.items():
        macros |= {
            name: found.storage,
            f"LOAD_{name}(p, i)": found.load,
            f"STORE_{name}(p, i, v)": found.store,
        }
    return defines(macros)


def defines(macros: Mapping[str, object]) -> str:
    """Macros, one on each line."""
    return "".join(f"#define {name} {text}\n" for name, text in macros.items())
