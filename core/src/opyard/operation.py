"""Op and Call: what to compute, and one use of it.

An Op knows nothing of devices. Kernels (see kernel.py) say how to compute it.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .cases import Case, Cost, Tolerance
from .dim import Dim, symbols
from .errors import OpyardError, SpecError, did_you_mean
from .scalar import Scalar
from .spec import TensorSpec, as_dtype

REQUIRED = type("REQUIRED", (), {"__repr__": lambda self: "REQUIRED"})()
"""Stands in Signature.attributes for an attribute without a default."""


DEFAULT_TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True)
class Signature:
    """Names of an op's inputs (arrays, positional) and of its attributes (keyword-only) with their defaults."""

    inputs: tuple[str, ...]
    optional: frozenset[str]
    variadic: bool
    attributes: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(function: Callable[..., Any]) -> Signature:
        """The signature of a Python function; an input whose default is None is optional, ``*xs`` takes any number."""
        code = function.__code__
        names = code.co_varnames
        inputs = names[: code.co_argcount]
        keywords = names[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        defaults = function.__defaults__ or ()
        if any(default is not None for default in defaults):
            raise SpecError(
                f"op function {function.__name__!r}: an input's only default is None; make it an attribute by writing it behind '*'."
            )
        if code.co_flags & inspect.CO_VARKEYWORDS:
            raise SpecError(
                f"op function {function.__name__!r}: attributes are named one by one behind '*'; '**' says nothing about them."
            )
        variadic = bool(code.co_flags & inspect.CO_VARARGS)
        if variadic:
            inputs = (*inputs, names[code.co_argcount + code.co_kwonlyargcount])
        given = function.__kwdefaults__ or {}
        attributes = tuple((name, freeze(given[name]) if name in given else REQUIRED) for name in keywords)
        optional = frozenset(inputs[code.co_argcount - len(defaults) : code.co_argcount])
        return Signature(tuple(inputs), optional, variadic, attributes)

    def __str__(self) -> str:
        inputs = [f"{name}=None" if name in self.optional else name for name in self.inputs]
        if self.variadic:
            inputs[-1] = "*" + inputs[-1]
        attributes = [name if value is REQUIRED else f"{name}={value!r}" for name, value in self.attributes]
        separator = ["*"] if attributes and not self.variadic else []
        return f"({', '.join([*inputs, *separator, *attributes])})"


class Program(ABC):
    """A graph as an attribute of a call: what its op does as a part of its work, such as a branch or the body of a loop.

    Made by bodies.py. Equal programs compute the same, and hash equally.
    """

    @property
    @abstractmethod
    def graph(self) -> Any:
        """The graph, a graph.Graph."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what it takes."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what it gives."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """Operations and bytes of one run. Specs must be concrete."""

    @abstractmethod
    def reference(self, *arrays: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Computes the outputs with the references of its ops."""

    @property
    @abstractmethod
    def symbols(self) -> frozenset[str]:
        """The symbolic sizes that it mentions."""

    @abstractmethod
    def bind(self, sizes: Mapping[str, int]) -> Program:
        """The same with its symbolic sizes bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """What to compute. Made by the decorator ``op`` in opfunction.py.

    infer        (*specs, **attributes) -> TensorSpec or a tuple of them; raises SpecError
    reference    (*arrays, **attributes) -> NumPy array or a tuple: oracle, documentation and last-resort kernel
    decompose    the same in terms of other ops (composite ops), or None
    grad         (cotangent, output, *inputs, **attributes) -> cotangents of the inputs, or None: see docs/gradients.md
    scalar       what an elementwise op computes for one element, or None
    commutative  whether its two inputs may change places
    cost         (call) -> Cost; the default counts one operation per output element
    cases        () -> cases that check and time it
    tolerance    how far kernels may be from the reference
    terms        (call) -> how many numbers an output is the sum of, on which its rounding errors depend, or None
    unspecified  (*arrays, **attributes) -> for each output an array, which broadcasts to it, that is true where any value is
                 right; None: nowhere
    version      raised when the meaning changes
    """

    name: str
    signature: Signature
    infer: Callable[..., TensorSpec | tuple[TensorSpec, ...]]
    reference: Callable[..., Any]
    decompose: Callable[..., Any] | None = None
    grad: Callable[..., Any] | None = None
    scalar: Scalar | None = None
    commutative: bool = False
    cost: Callable[[Call], Cost] | None = None
    cases: Callable[[], Iterable[Case]] = tuple
    tolerance: Tolerance = DEFAULT_TOLERANCE
    version: int = 1
    doc: str = ""
    terms: Callable[[Call], float] | None = None
    unspecified: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<Op {self.name}{self.signature}>"

    def call(self, *inputs: TensorSpec | None, **attributes: Any) -> Call:
        """One use of this op. Raises SpecError, naming the op, its inputs and attributes, when it cannot be used so."""
        inputs = self._bind_inputs(inputs)
        bound = self._bind_attributes(attributes)
        try:
            outputs = _as_specs(self.infer(*inputs, **dict(bound)))
        except OpyardError as error:
            raise SpecError(f"{describe_call(self.name, inputs, bound)}: {error}") from None
        if isinstance(outputs, tuple):
            return Call(self, inputs, bound, outputs, True)
        return Call(self, inputs, bound, (outputs,), False)

    def _bind_inputs(self, inputs: tuple[TensorSpec | None, ...]) -> tuple[TensorSpec | None, ...]:
        names = self.signature.inputs[:-1] if self.signature.variadic else self.signature.inputs
        if len(inputs) > len(names) and not self.signature.variadic:
            raise SpecError(
                f"{self.name}{self.signature} takes {len(names)} inputs, {len(inputs)} were given."
            )
        inputs = inputs + (None,) * (len(names) - len(inputs))
        for name, spec in zip(names, inputs, strict=False):
            if spec is None and name not in self.signature.optional:
                raise SpecError(f"{self.name}{self.signature} needs the input {name!r}.")
        return inputs

    def _bind_attributes(self, attributes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        known = tuple(name for name, _ in self.signature.attributes)
        for name in attributes:
            if name not in known:
                raise SpecError(
                    f"{self.name}{self.signature} has no attribute {name!r}.{did_you_mean(name, known)} Known: {', '.join(known) or 'none'}."
                )
        bound = []
        for name, default in self.signature.attributes:
            value = freeze(attributes[name]) if name in attributes else default
            if value is REQUIRED:
                raise SpecError(f"{self.name}{self.signature} needs the attribute {name!r}.")
            bound.append((name, value))
        return tuple(bound)


@dataclass(frozen=True, slots=True)
class Call:
    """One use of an op with concrete or symbolic specs: all that a kernel is ever told.

    ``inputs`` has None where an optional input is left out; ``is_tuple`` says whether the op returns a tuple.
    """

    op: Op
    inputs: tuple[TensorSpec | None, ...]
    attributes: tuple[tuple[str, Any], ...]
    outputs: tuple[TensorSpec, ...]
    is_tuple: bool = field(compare=False)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs; where the last takes any number of them, it stands for all the rest."""
        return self.op.signature.inputs

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes as a new dict."""
        return dict(self.attributes)

    @property
    def programs(self) -> tuple[Program, ...]:
        """The graphs among the attributes, for control flow; none for other ops."""
        return tuple(value for _, value in self.attributes if isinstance(value, Program))

    @property
    def symbols(self) -> frozenset[str]:
        """The symbolic sizes that the attributes mention."""
        plain = [value for _, value in self.attributes if not isinstance(value, Program)]
        return symbols(plain).union(*(program.symbols for program in self.programs))

    @property
    def title(self) -> str:
        """What is computed, in short: the op's name."""
        return self.op.name

    @property
    def output(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]

    @property
    def cost(self) -> Cost:
        """Arithmetic operations and bytes moved. Specs must be concrete."""
        if self.op.cost is not None:
            return self.op.cost(self)
        return Cost(float(sum(int(spec.size) for spec in self.outputs)), self.bytes)

    @property
    def bytes(self) -> float:
        """Bytes of all inputs and outputs together."""
        return float(sum(spec.nbytes for spec in (*self.inputs, *self.outputs) if spec is not None))

    def reference(self, *arrays: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Computes the outputs with the op's reference, in exactly the dtypes that ``infer`` promises."""
        with np.errstate(all="ignore"):  # NaN and infinity are values, not accidents
            result = self.op.reference(*arrays, **self.attrs)
            results = result if self.is_tuple else (result,)
            if not isinstance(results, (tuple, list)) or len(results) != len(self.outputs):
                raise SpecError(f"{self}: its reference returned {_count(results)}, not {len(self.outputs)}.")
            return tuple(self._promised(r, index) for index, r in enumerate(results))

    @property
    def tolerance(self) -> Tolerance:
        """That of the op, for as many terms as an output of this call is the sum of."""
        tolerance, terms = self.op.tolerance, self.op.terms
        return tolerance if terms is None else replace(tolerance, terms=float(terms(self)))

    def magnitudes(self, *arrays: Any) -> tuple[np.ndarray[Any, Any] | None, ...]:
        """What rounding errors are measured against: for sums the sums of the absolute values of their terms.

        None for an output whose tolerance is relative to the value itself, or to the largest one.
        """
        if self.op.terms is None or self.op.tolerance.scaled:
            return (None,) * len(self.outputs)
        absolute = (a if a is None or a.dtype.kind in "biu" else abs(a).astype(a.dtype) for a in arrays)
        return self.reference(*absolute)

    def _promised(self, result: Any, index: int) -> np.ndarray[Any, Any]:
        spec = self.outputs[index]
        found = np.asarray(result, dtype=spec.dtype)
        if found.shape != spec.shape or result is None:
            shape = "None" if result is None else f"an array of shape {found.shape}"
            raise SpecError(
                f"{self}: its reference returned {shape} for output {index}, where its infer function promises {spec!r}."
            )
        return found

    def __str__(self) -> str:
        outputs = ", ".join(map(repr, self.outputs))
        return f"{describe_call(self.op.name, self.inputs, self.attributes)} -> {outputs}"


def _as_specs(outputs: Any) -> Any:
    for spec in outputs if isinstance(outputs, tuple) else (outputs,):
        if not isinstance(spec, TensorSpec):
            raise SpecError(
                f"an infer function returns a TensorSpec or a tuple of them; this one returned {outputs!r}."
            )
    return outputs


def _count(results: Any) -> str:
    return f"{len(results)} outputs" if isinstance(results, (tuple, list)) else type(results).__name__


def check_dtypes(op: Op, arguments: Iterable[Any]) -> None:
    """Raises SpecError, naming the input, for an array or list of a dtype that no tensor has."""
    names = op.signature.inputs
    for position, argument in enumerate(arguments):
        if argument is not None and not isinstance(argument, (bool, int, float, complex)):
            try:
                as_dtype(argument.dtype if hasattr(argument, "dtype") else np.asarray(argument).dtype)
            except SpecError as error:
                name = names[min(position, len(names) - 1)] if names else position
                raise SpecError(f"{op.name}: input {name!r}: {error}") from None


def describe_call(name: str, inputs: Iterable[object], attributes: Iterable[tuple[str, Any]]) -> str:
    """``name(float32[2], axis=0)``, for messages."""
    arguments = [*(repr(spec) for spec in inputs), *(f"{key}={value!r}" for key, value in attributes)]
    return f"{name}({', '.join(arguments)})"


def freeze(value: Any) -> Any:
    """An attribute value in its canonical, hashable form: tuples for lists, Python numbers, names for dtypes.

    Raises SpecError for what cannot be an attribute, such as an array of several elements.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()  # first, for numpy.float64 is a float, too
    if value is None or isinstance(value, (bool, int, float, complex, str, Dim)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(freeze(item) for item in value)
    if isinstance(value, Program):
        return value
    if isinstance(value, np.dtype) or (
        isinstance(value, type) and issubclass(value, (np.generic, bool, int, float))
    ):
        return np.dtype(value).name
    if isinstance(value, slice):
        return (freeze(value.start), freeze(value.stop), freeze(value.step))
    raise SpecError(
        f"an attribute is a number, a string, a dtype or a tuple of those; found {type(value).__name__}. Arrays are positional inputs."
    )
