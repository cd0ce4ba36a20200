"""Symbolic dimensions: integer polynomials over named sizes, such as ``2*batch + 1``.

A dimension of a TensorSpec is an ``int``, or a ``Dim`` where it is not known before feeds arrive. Arithmetic
that ends in a number gives a plain ``int`` again, so that code which computes shapes need not care.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import SpecError

Atom = str | tuple["Dim", "Dim"]  # a name, or the floor quotient of two dimensions
Monomial = tuple[Atom, ...]
Size = "int | Dim"


class Dim:
    """An integer polynomial: ``terms`` maps products of atoms to their integer coefficients."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = tuple(sorted(terms.items(), key=repr))
        self._hash = hash(self.terms)

    @staticmethod
    def symbol(name: str) -> Dim:
        """The dimension called ``name``."""
        if not name.isidentifier():
            raise SpecError(
                f"a symbolic dimension is named by an identifier; {name!r} is not one. Write for example 'batch'."
            )
        return Dim({(name,): 1})

    @property
    def name(self) -> str | None:
        """The name, if the dimension is just a name."""
        ((atoms, factor), *more) = self.terms
        only = factor == 1 and len(atoms) == 1 and not more
        return atoms[0] if only and isinstance(atoms[0], str) else None

    def __reduce__(self) -> tuple[type[Dim], tuple[dict[Monomial, int]]]:
        return Dim, (dict(self.terms),)  # not the hash: that of a name differs from process to process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return " + ".join(_term_text(monomial, factor) for monomial, factor in self.terms)

    def __add__(self, other: int | Dim) -> int | Dim:
        total = dict(self.terms)
        for monomial, factor in _terms(other).items():
            total[monomial] = total.get(monomial, 0) + factor
        return _normal(total)

    __radd__ = __add__

    def __neg__(self) -> int | Dim:
        return self * -1

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self + other * -1

    def __rsub__(self, other: int | Dim) -> int | Dim:
        return self * -1 + other

    def __mul__(self, other: int | Dim) -> int | Dim:
        product: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other).items():
                key = tuple(sorted(left + right, key=repr))
                product[key] = product.get(key, 0) + a * b
        return _normal(product)

    __rmul__ = __mul__

    def __floordiv__(self, other: int | Dim) -> int | Dim:
        return _floor_divide(self, other)

    def __rfloordiv__(self, other: int) -> int | Dim:
        return _floor_divide(other, self)

    def __mod__(self, other: int | Dim) -> int | Dim:
        return self - (self // other) * other

    def _unordered(self, other: object) -> NoReturn:
        raise SpecError(
            f"the symbolic dimension {self!r} cannot be compared with {other!r} before it is bound; give it a number here."
        )

    __lt__ = __le__ = __gt__ = __ge__ = _unordered

    def __index__(self) -> int:
        raise SpecError(
            f"the symbolic dimension {self!r} has no number yet; bind it by feeding an array, or give it a number."
        )

    __int__ = __index__

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The number that this dimension is when every name has the size given. Raises SpecError for a missing name."""
        total = 0
        for monomial, factor in self.terms:
            for atom in monomial:
                factor *= _atom_value(atom, sizes)
            total += factor
        return total


def symbols(value: Any) -> frozenset[str]:
    """The names in a size, or in an attribute: a number, a Dim, or a tuple or list of those."""
    if isinstance(value, Dim):
        atoms = [atom for monomial, _ in value.terms for atom in monomial]
        return symbols([part for atom in atoms if isinstance(atom, tuple) for part in atom]).union(
            atom for atom in atoms if isinstance(atom, str)
        )
    if isinstance(value, (tuple, list)):
        return frozenset[str]().union(*map(symbols, value))
    return frozenset()


def _atom_value(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, tuple):
        return atom[0].evaluate(sizes) // atom[1].evaluate(sizes)
    if atom not in sizes:
        raise SpecError(
            f"the symbolic dimension {atom!r} is not bound by any feed; known: {', '.join(sizes) or 'none'}."
        )
    return sizes[atom]


def _terms(value: int | Dim) -> dict[Monomial, int]:
    if isinstance(value, Dim):
        return dict(value.terms)
    if not hasattr(value, "__index__"):
        raise SpecError(
            f"sizes are integers: a symbolic dimension cannot be combined with {value!r}; write for example n * 3 // 2 instead of n * 1.5."
        )
    return {(): value.__index__()}


def _normal(terms: dict[Monomial, int]) -> int | Dim:
    kept = {monomial: factor for monomial, factor in terms.items() if factor}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Dim(kept)


def _floor_divide(left: int | Dim, right: int | Dim) -> int | Dim:
    divisor = _terms(right)
    if len(divisor) == 1:  # a single monomial may divide every term exactly
        ((atoms, factor),) = divisor.items()
        quotient: dict[Monomial, int] = {}
        for monomial, coefficient in _terms(left).items():
            rest = list(monomial)
            for atom in atoms:
                if atom not in rest:
                    break
                rest.remove(atom)
            else:
                if factor and coefficient % factor == 0:
                    quotient[tuple(rest)] = coefficient // factor
                    continue
            break
        else:
            return _normal(quotient)
    return Dim({((_as_dim(left), _as_dim(right)),): 1})


def _as_dim(value: int | Dim) -> Dim:
    return value if isinstance(value, Dim) else Dim({(): value})


def _atom_text(atom: Atom) -> str:
    return f"(({atom[0]!r}) // ({atom[1]!r}))" if isinstance(atom, tuple) else atom


def _term_text(monomial: Monomial, factor: int) -> str:
    if not monomial:
        return str(factor)
    product = "*".join(_atom_text(atom) for atom in monomial)
    return product if factor == 1 else f"{factor}*{product}"
