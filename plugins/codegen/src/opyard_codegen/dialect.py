"""Dialect: a language as a table of data, from which expressions and kernels are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Templates = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Format:
    """How a dtype is stored in memory, and computed with.

    storage  type of the elements in memory
    compute  type to calculate with
    kind     "f" floating, "i" signed, "u" unsigned, "b" boolean
    load     expression that reads element ``i`` of ``p``
    store    statement that writes ``v`` to element ``i`` of ``p``
    feature  what the device must have, or ""
    """

    storage: str
    compute: str
    kind: str
    load: str = "((p)[i])"
    store: str = "((p)[i] = (v))"
    feature: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A language. In the templates ``{0}``, ``{1}`` are operands, ``{type}`` is a type and ``{value}`` what is converted.

    formats     each dtype that the language can hold, by name
    operations  templates of each operation (see Term) by dtype of its operands, or by kinds of dtypes: "f", "iu", ...
                A template ``@name(...)`` calls one of ``helpers``
    convert     a value in another type
    truth       a number as a truth value
    choose      ``{0}`` is a truth value, then the two results
    literals    template of a constant by computing dtype, where its number alone is not enough
    special     the constants nan, inf and -inf by computing dtype, as "inf float32"
    wraps       whether a result of narrow integers has to be converted to be as wide as its type
    helpers     texts of functions: ``T`` is the type, ``self`` the function's own name, ``TRUTH`` the type of truth values;
                ``%exp(x)`` calls an operation, ``@name(x)`` another helper
    macros      what kernels are written with: KERNEL, GLOBAL, ITEM, ..., see docs/codegen.md
    prelude     further text before everything else
    wide        text before kernels that compute ``{lanes}`` float32 at once: the types WIDE and WIDE_INT, and the macros LANES,
                AS_WIDE(x), AS_WIDE_INT(x), AT_WIDE(space, p), which is what ``p`` points to, and WIDE_ALIGNED behind
                a variable; without LANES such loops are left out
    """

    name: str
    formats: Mapping[str, Format]
    operations: Mapping[str, Templates]
    convert: str = "(({type})({value}))"
    truth: str = "({value} != 0)"
    choose: str = "({0} ? {1} : {2})"
    literals: Templates = field(default_factory=dict)
    special: Templates = field(default_factory=dict)
    wraps: bool = True
    helpers: Templates = field(default_factory=dict)
    macros: Templates = field(default_factory=dict)
    prelude: str = ""
    wide: str = ""
