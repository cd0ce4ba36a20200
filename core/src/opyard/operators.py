"""Python's operators in terms of ops, for what records the ops that are called on it, and hints for what they do not cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import GraphError
from .ops import STANDARD, arithmetic, comparison, exponential, linear_algebra, logic

_Operator = Callable[[Any, Any], Any]

_OF_ARRAYS = {
    *("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "matmul"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
}
"""What NumPy calls when an array is on the left-hand side of an operator."""

_NAMES = dict(
    (
        *(("power", "pow"), ("absolute", "abs"), ("fabs", "abs"), ("conjugate", "conj"), ("rint", "round")),
        *(("left_shift", "bitwise_left_shift"), ("right_shift", "bitwise_right_shift")),
        *(("add.reduce", "sum"), ("multiply.reduce", "prod"), ("add.accumulate", "cumulative_sum")),
        *(("maximum.reduce", "max"), ("minimum.reduce", "min"), ("invert", "bitwise_invert")),
        *(("logical_and.reduce", "all"), ("logical_or.reduce", "any"), ("cumsum", "cumulative_sum")),
        *(("T", "matrix_transpose"), ("mT", "matrix_transpose"), ("transpose", "permute_dims")),
        *(("astype", "cast"), ("ravel", "flatten"), ("dot", "matmul"), ("take", "gather")),
    )
)
"""Ops under the names that they have elsewhere."""


def op_called(name: str) -> str:
    """The call of the standard op of this name, or of what NumPy calls so, for messages; "" where there is none."""
    found = _NAMES.get(name, name)
    found = found if found in STANDARD else found.replace("arc", "a", 1)
    return f"opyard.{found}(...)" if found in STANDARD else ""


def _operators(function: Callable[..., Any]) -> tuple[_Operator, _Operator]:
    """The methods for a value on the left-hand side, and on the right-hand side, of an operator."""
    return lambda self, other: function(self, other), lambda self, other: function(other, self)


class Operators:
    """Python's operators in terms of ops. Equality is one of them; hashes, and so sets and dicts, go by identity."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """The op for a NumPy array on the left-hand side of an operator. Raises GraphError for NumPy's other functions."""
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        if name in _OF_ARRAYS and not options:
            return STANDARD[_NAMES.get(name, name)](*inputs)
        hint = op_called(name) or "an op of opyard instead (docs/ops.md lists them)"
        if "out" in options:
            hint = f"{hint} and use its result: an array cannot hold what is not computed yet"
        raise GraphError(f"numpy.{name} cannot compute with {self!r}; call {hint}.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise GraphError(
            f"{self!r} has no contents while the graph is built, so NumPy cannot make an array of it; call ops of opyard on it, and fetch it with a Session."
        )

    def __neg__(self) -> Any:
        return arithmetic.negative(self)

    def __pos__(self) -> Any:
        return arithmetic.positive(self)

    def __invert__(self) -> Any:
        return logic.bitwise_invert(self)

    def __abs__(self) -> Any:
        return arithmetic.abs(self)

    __add__, __radd__ = _operators(arithmetic.add)
    __sub__, __rsub__ = _operators(arithmetic.subtract)
    __mul__, __rmul__ = _operators(arithmetic.multiply)
    __truediv__, __rtruediv__ = _operators(arithmetic.divide)
    __floordiv__, __rfloordiv__ = _operators(arithmetic.floor_divide)
    __mod__, __rmod__ = _operators(arithmetic.remainder)
    __pow__, __rpow__ = _operators(exponential.pow)
    __matmul__, __rmatmul__ = _operators(linear_algebra.matmul)
    __and__, __rand__ = _operators(logic.bitwise_and)
    __or__, __ror__ = _operators(logic.bitwise_or)
    __xor__, __rxor__ = _operators(logic.bitwise_xor)
    __lshift__, __rlshift__ = _operators(logic.bitwise_left_shift)
    __rshift__, __rrshift__ = _operators(logic.bitwise_right_shift)

    def __eq__(self, other: Any) -> Any:
        return comparison.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return comparison.not_equal(self, other)

    def __lt__(self, other: Any) -> Any:
        return comparison.less(self, other)

    def __le__(self, other: Any) -> Any:
        return comparison.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return comparison.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return comparison.greater_equal(self, other)
