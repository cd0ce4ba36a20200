"""The decorator ``op``, and the generated function that every op is to its users.

``add(x1, x2)`` looks its kernel up by the types and dtypes of its arrays, its attributes and the current policy; only a
miss asks the dispatcher. The look-up goes through one dict per key, because hashing a tuple of all keys costs a quarter
more; and the function is generated, one code object per signature, because a class with ``__call__(*args)`` costs four
times as much.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from .cases import Case, Cost, Tolerance
from .errors import SpecError
from .infer import elementwise
from .operation import REQUIRED, Call, Op, Signature
from .scalar import Scalar
from .spec import TensorSpec

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result", covariant=True)

current_policy: ContextVar[Any] = ContextVar("opyard_policy", default=None)
"""The policy of the running thread or task; None is the default one (see selection.py)."""


class OpFunction(Protocol, Generic[Parameters, Result]):
    """What the decorator ``op`` makes of a function."""

    __name__: str
    op: Op

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        """Runs the op on arrays by the best registered kernel, or records it when an argument is a graph's Value."""

    def resolve(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Callable[..., Result]:
        """The kernel that these arguments would use, as a function of the arrays alone: no dispatch on later calls.

        It is for arrays of exactly these shapes, dtypes and devices; what it does with others is the kernel's affair.
        """

    def explain(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
        """Every registered kernel of the op for these arguments: chosen, its estimated seconds, or why it is refused."""


class Dispatcher(Protocol):
    """What dispatch.py offers to the generated functions."""

    def miss(
        self, op: Op, cache: dict[Any, Any], arrays: tuple[Any, ...], attributes: dict[str, Any]
    ) -> Callable[..., Any]:
        """A kernel for these arguments, stored in ``cache`` if it serves equal keys."""

    def failed(
        self,
        op: Op,
        kernel: Callable[..., Any],
        error: Exception,
        arrays: tuple[Any, ...],
        attributes: dict[str, Any],
    ) -> Any:
        """The result by another kernel after one raised ``error``, or the error that the user has to see."""

    def resolve(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Callable[..., Any]:
        """See OpFunction.resolve."""

    def explain(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """See OpFunction.explain."""


def _dispatcher() -> Dispatcher:
    # The one edge that points up: an op's function needs the dispatcher when it is first called, never before.
    # By name and not by import statement, so that ops can be declared and traced without a registry.
    return cast(Dispatcher, import_module("opyard.dispatch").dispatcher)


def op(
    name: str,
    *,
    scalar: str | None = None,
    infer: Callable[..., TensorSpec | tuple[TensorSpec, ...]] | None = None,
    decompose: Callable[..., Any] | None = None,
    grad: Callable[..., Any] | None = None,
    commutative: bool = False,
    cost: Callable[[Call], Cost] | None = None,
    cases: Callable[[], Iterable[Case]] = tuple,
    tolerance: Tolerance | None = None,
    terms: Callable[[Call], float] | None = None,
    unspecified: Callable[..., Any] | None = None,
    version: int = 1,
) -> Callable[[Callable[Parameters, Result]], OpFunction[Parameters, Result]]:
    """Declares an op. The decorated function gives the signature, the documentation and, by its body, the reference.

    Arrays are positional, attributes keyword-only. A body of ``...`` takes the reference from ``scalar`` or ``decompose``.
    Names of third parties are ``domain.name``. Raises SpecError for a declaration that cannot work.
    """
    _check_name(name)

    def declare(function: Callable[Parameters, Result]) -> OpFunction[Parameters, Result]:
        plain = cast(types.FunctionType, function)
        signature = Signature.of(plain)
        names = (*signature.inputs, *(key for key, _ in signature.attributes))
        expression = Scalar(scalar, names) if scalar is not None else None
        rule = infer or (elementwise() if expression else None)
        _check_signature(name, signature, expression, commutative)
        if rule is None:
            raise SpecError(
                f"op {name!r} needs infer=..., a function from input specs to output specs (see opyard.infer), or scalar=..."
            )
        declared = Op(
            name=name,
            signature=signature,
            infer=rule,
            reference=_reference(plain, name, expression, decompose),
            decompose=decompose,
            grad=grad,
            scalar=expression,
            commutative=commutative,
            cost=cost,
            cases=cases,
            tolerance=tolerance or Tolerance(),
            version=version,
            doc=plain.__doc__ or "",
            terms=terms,
            unspecified=unspecified,
        )
        return cast("OpFunction[Parameters, Result]", make_function(declared, plain))

    return declare


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise SpecError(
            f"op takes a name: write @op('domain.name', infer=...) above the function; found {name!r}."
        )
    if not all(part.isidentifier() for part in name.split(".")):
        raise SpecError(f"an op's name is an identifier, or domain.name; {name!r} is neither.")


def _check_signature(name: str, signature: Signature, expression: Scalar | None, commutative: bool) -> None:
    if expression and signature.variadic:
        raise SpecError(
            f"op {name!r}: a scalar expression names each input; write a NumPy reference for '*{signature.inputs[-1]}' instead."
        )
    if commutative and (len(signature.inputs) != 2 or signature.optional or signature.variadic):
        raise SpecError(
            f"op {name!r}: two inputs can commute, both of them required; {name}{signature} has others."
        )


def _reference(
    function: types.FunctionType, name: str, scalar: Scalar | None, decompose: Callable[..., Any] | None
) -> Callable[..., Any]:
    if not _is_empty(function):
        return function
    if scalar is not None:
        names = function.__code__.co_varnames

        def evaluate(*arrays: Any, **attributes: Any) -> Any:
            return scalar(**dict(zip(names, arrays, strict=False)), **attributes)

        return evaluate
    if decompose is not None:
        return decompose  # on NumPy arrays the ops inside run eagerly
    raise SpecError(
        f"op {name!r} has no body; write its NumPy reference there, or give scalar=... or decompose=..."
    )


def _is_empty(function: types.FunctionType) -> bool:
    """Whether the body is only a docstring or an ellipsis."""
    code, empty = function.__code__, _is_empty.__globals__["_empty"].__code__
    same_instructions = code.co_code[::2] == empty.co_code[::2]
    return same_instructions and set(code.co_consts) <= {None, Ellipsis, function.__doc__}


def _empty() -> None: ...


def make_function(declared: Op, function: types.FunctionType) -> types.FunctionType:
    """The generated function of an op, with its cache, ``op``, ``resolve`` and ``explain``."""
    cache: dict[Any, Any] = {}
    namespace = {
        "__builtins__": {},
        "__name__": function.__module__,
        "_cache": cache,
        "_type": type,
        "_repr": repr,
        "_policy": current_policy.get,
        "_miss": lambda arrays, attributes: _dispatcher().miss(declared, cache, arrays, attributes),
        "_failed": lambda kernel, error, arrays, attributes: _dispatcher().failed(
            declared, kernel, error, arrays, attributes
        ),
        "_Exception": Exception,
        "_miss_errors": (KeyError, AttributeError, TypeError),
    }
    generated = types.FunctionType(
        _code(declared.signature), namespace, function.__name__, function.__defaults__
    )
    generated.__kwdefaults__ = function.__kwdefaults__
    generated.__doc__, generated.__qualname__ = function.__doc__, function.__qualname__
    generated.__annotations__, generated.__wrapped__ = function.__annotations__, function  # type: ignore[attr-defined]
    generated.op = declared  # type: ignore[attr-defined]
    generated.resolve = lambda *arrays, **attributes: _dispatcher().resolve(declared, arrays, attributes)  # type: ignore[attr-defined]
    generated.explain = lambda *arrays, **attributes: _dispatcher().explain(declared, arrays, attributes)  # type: ignore[attr-defined]
    return generated


def _code(signature: Signature) -> types.CodeType:
    attributes = tuple(
        (name, value is not REQUIRED, _may_be_float(value)) for name, value in signature.attributes
    )
    return _code_for(signature.inputs, signature.optional, signature.variadic, attributes)


def cache_path(
    signature: Signature, arrays: tuple[Any, ...], attributes: dict[str, Any], policy: Any
) -> tuple[Any, ...]:
    """The keys that the generated code looks up one after the other, for the same arguments.

    Raises AttributeError for an argument that has no dtype.
    """
    fixed = len(signature.inputs) - signature.variadic
    path: list[Any] = []
    for array in arrays[:fixed]:
        path += [type(array), None if array is None else array.dtype]
    if signature.variadic:
        rest = arrays[fixed:]
        path.append((*(type(array) for array in rest), *(array.dtype for array in rest)))
    for name, default in signature.attributes:
        value = attributes[name]
        path += [type(value), (value or repr(value)) if _may_be_float(default) else value]
    return (*path, policy)


def _may_be_float(default: Any) -> bool:
    return default is REQUIRED or isinstance(default, float)


@cache  # ops of one signature share the code object: compiling is most of the cost of a declaration
def _code_for(
    inputs: tuple[str, ...],
    optional: frozenset[str],
    variadic: bool,
    attributes: tuple[tuple[str, bool, bool], ...],
) -> types.CodeType:
    path = []
    for name in inputs[:-1] if variadic else inputs:
        path += [
            f"_type({name})",
            f"None if {name} is None else {name}.dtype" if name in optional else f"{name}.dtype",
        ]
    if variadic:
        path.append(f"(*[_type(_x) for _x in {inputs[-1]}], *[_x.dtype for _x in {inputs[-1]}])")
    for name, _, may_be_float in attributes:  # with its type, for 1 == 1.0 == True would share an entry
        path += [f"_type({name})", f"{name} or _repr({name})" if may_be_float else name]  # and 0.0 == -0.0
    path.append("_policy()")
    parameters = [f"{name}=None" if name in optional else name for name in inputs]
    arrays = list(inputs)
    if variadic:
        parameters[-1] = arrays[-1] = f"*{inputs[-1]}"
    elif attributes:
        parameters.append("*")
    parameters += [f"{name}=None" if has_default else name for name, has_default, _ in attributes]
    called = ", ".join(arrays)
    packed = f"({called},)" if arrays else "()"
    everything = f"{packed}, {{{', '.join(f'{name!r}: {name}' for name, *_ in attributes)}}}"
    source = f"""
def generated({", ".join(parameters)}):
    try:
        _kernel = _cache{"".join(f"[{key}]" for key in path)}
    except _miss_errors:
        _kernel = _miss({everything})
    try:
        return _kernel({called})
    except _Exception as _error:
        return _failed(_kernel, _error, {everything})
"""
    scope: dict[str, Any] = {}
    exec(source, scope)
    return cast(types.CodeType, scope["generated"].__code__)
