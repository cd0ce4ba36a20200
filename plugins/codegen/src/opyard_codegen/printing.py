"""Prints typed expressions in a dialect, with the functions that they call."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opyard.errors import SpecError

from .dialect import Dialect
from .terms import BOOL, Term, computing, logistic_of

_WORDS = re.compile(r"([@%]?)\b(\w+)\b")


def variable_text(name: str) -> str:
    """What holds the value called ``name``: an input may have a name that a language reserves."""
    return f"v_{name}"


@dataclass(slots=True)
class Printer:
    """Prints terms of one dialect. ``functions`` has the texts of the helpers that they call, in order of need."""

    dialect: Dialect
    functions: dict[str, str] = field(default_factory=dict)

    def text(self, term: Term) -> str:
        """The term as an expression. Raises SpecError for what the dialect has no form for."""
        found = logistic_of(term)
        if found is not None and term.dtype.name in self.dialect.operations.get("logistic", ()):
            term = found
        dialect, arguments = self.dialect, [self.text(argument) for argument in term.arguments]
        match term.operation:
            case "variable":
                return variable_text(term.value)
            case "constant":
                return literal(term.value, term.dtype, dialect)
            case "convert":
                return self._converted(arguments[0], term.arguments[0].dtype, term.dtype)
            case "round_to":
                return self._rounded(arguments[0], term.value)
            case "choose":
                return dialect.choose.format(*arguments)
        dtype = term.arguments[0].dtype
        template = self._template(term.operation, dtype)
        text = self._called(template, dtype).format(*arguments)
        result = term.dtype
        if dialect.wraps and result.kind in "iu" and template[0] != "@" and template != "{0}":
            return dialect.convert.format(type=type_of(result, dialect), value=text)
        return text

    def definitions(self) -> str:
        """The functions that were called so far."""
        return "\n".join(self.functions.values())

    def call(self, operation: str, dtype: np.dtype[Any]) -> str:
        """The name of the function that computes an operation, for texts that are written by hand."""
        return self._called(self._template(operation, dtype), dtype).partition("(")[0]

    def helper(self, name: str, dtype: np.dtype[Any]) -> str:
        """The name of one of the dialect's helpers for a dtype; its text is among ``functions`` then."""
        own = f"opyard_{name}_{dtype.name}"
        if own not in self.functions:
            words = {"T": type_of(dtype, self.dialect), "TRUTH": type_of(BOOL, self.dialect), "self": own}

            def replaced(found: re.Match[str]) -> str:
                mark, word = found.groups()
                if mark:
                    return self.call(word, dtype) if mark == "%" else self.helper(word, dtype)
                return words.get(word, word)

            self.functions[own] = "FUNCTION " + _WORDS.sub(replaced, self.dialect.helpers[name])
            self.functions[own] = self.functions.pop(own)  # behind those that it calls
        return own

    def _template(self, operation: str, dtype: np.dtype[Any]) -> str:
        templates = self.dialect.operations.get(operation, {})
        found = templates.get(dtype.name)
        if found is None:
            kinds = (text for key, text in templates.items() if dtype.kind in key and set(key) <= set("fiub"))
            found = next(kinds, None)
        if found is None:
            raise SpecError(f"{operation} of {dtype.name} has no form in {self.dialect.name}")
        return found

    def _called(self, template: str, dtype: np.dtype[Any]) -> str:
        if template[0] != "@":
            return template
        name, bracket, rest = template[1:].partition("(")
        return f"{self.helper(name, dtype)}{bracket}{rest}"

    def _converted(self, text: str, source: np.dtype[Any], target: np.dtype[Any]) -> str:
        if target.kind == "b":
            return self.dialect.truth.format(value=text)
        if type_of(source, self.dialect) == type_of(target, self.dialect):
            return text
        return self.dialect.convert.format(type=type_of(target, self.dialect), value=text)

    def _rounded(self, text: str, dtype: np.dtype[Any]) -> str:
        """A float32 with the digits of a smaller dtype."""
        name = f"@rounded_to_{dtype.name}({{0}})"
        if name[1:].partition("(")[0] not in self.dialect.helpers:
            raise SpecError(f"rounding to {dtype.name} has no form in {self.dialect.name}")
        return self._called(name, computing(dtype)).format(text)


def type_of(dtype: np.dtype[Any], dialect: Dialect) -> str:
    """The type that values of a dtype are computed in."""
    found = dialect.formats.get(dtype.name)
    if found is None:
        raise SpecError(f"{dialect.name} takes {', '.join(dialect.formats)}, not {dtype.name}")
    return found.compute


def literal(value: bool | int | float, dtype: np.dtype[Any], dialect: Dialect) -> str:
    """A number as a constant of a dtype."""
    dtype = computing(dtype)
    template = dialect.literals.get(dtype.name, "{0}")
    if dtype.kind != "f":
        named = dialect.special.get(f"{int(value)} {dtype.name}")
        return template.format(int(value)) if named is None else named
    number = float(value)
    if not math.isfinite(number):
        name = "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"
        return dialect.special[f"{name} {dtype.name}"]
    return template.format(str(dtype.type(number)))  # the shortest digits that read back as this number
