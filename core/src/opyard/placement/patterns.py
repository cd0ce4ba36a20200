"""Patterns: the small graphs of ops that pattern kernels compute, written as Python functions such as
``lambda x, w, b: relu(add(conv(x, w), b))``. The functions are traced without specs; matching.py finds where they occur.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

from ..errors import OpyardError, RegistryError
from ..graph import Node, Value
from ..kernels import Kernel
from ..nest import leaves
from ..operation import Op, freeze
from ..operators import Operators


class PatternValue(Operators):
    """A value of a pattern: a parameter or what an op gives. It records the ops that are called on it; it has no spec."""

    __slots__ = ("index", "name", "step", "steps")

    def __init__(
        self, steps: list[Step], name: str, step: Step | None = None, index: int | None = None
    ) -> None:
        self.steps = steps
        self.name = name
        self.step = step
        self.index = index

    def apply_op(self, op: Op, arguments: tuple[Any, ...], attributes: Mapping[str, Any]) -> PatternValue:
        """Records a call, as graph.Value does."""
        given = {key: freeze(value) for key, value in attributes.items()}
        default = dict(op.signature.attributes)
        kept = {key: value for key, value in given.items() if not _equal(value, default[key])}
        step = Step(op, tuple(_argument(a, op) for a in arguments), kept)
        self.steps.append(step)
        return step.result(self.steps, None)

    def __getitem__(self, index: int) -> PatternValue:
        if self.step is None or self.index is not None or not isinstance(index, int) or index < 0:
            raise RegistryError(
                f"in a pattern, [0], [1], ... select outputs of ops that give a tuple; found {self.name}[{index!r}]. For parts of tensors call oy.slice."
            )
        return self.step.result(self.steps, index)

    def __iter__(self) -> NoReturn:
        raise RegistryError(
            f"{self.name} cannot be unpacked in a pattern; select the outputs of an op that gives a tuple: outputs = op(...), then outputs[0]."
        )

    def __bool__(self) -> NoReturn:
        raise RegistryError(
            f"{self.name} has no truth value in a pattern; register one pattern for each case."
        )

    def __repr__(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"


@dataclass(slots=True, eq=False)
class Step:
    """One call of an op in a pattern. Arguments are PatternValues, Python numbers, and None where an input is left out.

    ``attributes`` are those that differ from their defaults; ``results`` the outputs that are used, by index, or the
    only one under None.
    """

    op: Op
    arguments: tuple[Any, ...]
    attributes: dict[str, Any]
    results: dict[int | None, PatternValue] = field(default_factory=dict)
    both_orders: bool = False

    def result(self, steps: list[Step], index: int | None) -> PatternValue:
        """The value for an output, the same one each time."""
        if index is not None and None in self.results:
            del self.results[None]  # it was there to be selected from
        return self.results.setdefault(index, PatternValue(steps, self.op.name, self, index))

    def fits(self, node: Node) -> bool:
        """Whether the node calls the same op, with equal attributes and as many inputs and outputs."""
        if node.op is not self.op or len(node.inputs) != len(self.arguments):
            return False
        if node.call.is_tuple == (None in self.results):
            return False
        if any(index is not None and index >= len(node.outputs) for index in self.results):
            return False
        return all(
            _equal(value, self.attributes[key])
            for key, value in node.call.attributes
            if key in self.attributes
        )

    def orders(self, node: Node) -> Iterator[tuple[Value | None, ...]]:
        """The node's inputs, in each order in which they may match the arguments."""
        yield node.inputs
        if self.both_orders and node.inputs[0] is not node.inputs[1]:
            yield node.inputs[::-1]


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) or repr(a) == repr(b)  # by repr for NaN


def _argument(argument: Any, op: Op) -> Any:
    if argument is None or isinstance(argument, PatternValue):
        return argument
    try:
        number = freeze(argument)
    except OpyardError:
        number = None
    if not isinstance(number, (bool, int, float, complex)):
        raise RegistryError(
            f"{op.name} takes {type(argument).__name__} in a pattern, where only parameters, results and numbers can be; make it a parameter."
        )
    return number


class Pattern:
    """The traced pattern of a kernel: its parameters, its steps in the order of the calls, and its outputs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        steps: list[Step] = []
        self.parameters = _parameters(kernel, steps)
        self.outputs = _trace(kernel, self.parameters)
        self.steps = tuple(steps)
        uses = [a for step in steps for a in step.arguments if isinstance(a, PatternValue)]
        counts = Counter(uses)  # by hash, for == would record an op
        for step in steps:
            values = [a for a in step.arguments if isinstance(a, PatternValue)]
            free = len(values) == len(step.arguments) and all(a.step is None for a in values)
            once = all(counts[a] == 1 for a in values)
            step.both_orders = step.op.commutative and not (once and free)
        self._check(set(uses))
        self.starts = self._starts()

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(kernel: Kernel) -> Pattern:
        """The pattern of a kernel, traced once. Raises RegistryError, naming the kernel, for one that cannot be meant."""
        return Pattern(kernel)

    def _fail(self, reason: str) -> NoReturn:
        raise RegistryError(f"{self.kernel.title}: its pattern {reason}")

    def _check(self, uses: set[PatternValue]) -> None:
        if not self.steps:
            self._fail("calls no op; write for example lambda x, w: relu(matmul(x, w)).")
        for parameter in self.parameters:
            if parameter not in uses:
                self._fail(f"never uses its parameter {parameter.name!r}; leave it out.")
        for output in self.outputs:
            if not isinstance(output, PatternValue) or output.step is None:
                self._fail(f"returns {output!r}; it returns results of ops, one or a tuple of them.")
        if len(set(self.outputs)) < len(self.outputs):
            self._fail("returns one result twice; return it once.")
        outputs = set(self.outputs)
        for step in self.steps:
            if not any(result in uses or result in outputs for result in step.results.values()):
                self._fail(
                    f"calls {step.op.name} and uses its result for nothing; return it, or leave it out."
                )
            if any(v.step is step and v.index not in step.results for v in uses | outputs):
                self._fail(f"uses {step.op.name} both whole and by output; select each output: [0], [1], ...")

    def _starts(self) -> tuple[tuple[Step, PatternValue | None], ...]:
        """The steps that the search starts from, each with a value, known by then, that the step takes."""
        root = self.outputs[0].step
        assert root is not None
        starts: list[tuple[Step, PatternValue | None]] = [(root, None)]
        known = _cone(root)
        while missing := [step for step in self.steps if step not in known]:
            found = next(((s, a) for s in missing for a in s.arguments if a in known), None)
            if found is None:
                self._fail(
                    f"falls into parts that share no value: {missing[0].op.name} has nothing to do with {root.op.name}; register two patterns."
                )
            starts.append(found)
            known |= _cone(found[0])
        return tuple(starts)

    def __repr__(self) -> str:
        return f"<Pattern of {self.kernel.id}: {' '.join(step.op.name for step in self.steps)}>"


def _parameters(kernel: Kernel, steps: list[Step]) -> tuple[PatternValue, ...]:
    if kernel.pattern is None:
        raise RegistryError(f"{kernel.title} has no pattern; it is registered with registry.kernel.")
    signature = inspect.signature(kernel.pattern).parameters.values()
    for parameter in signature:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise RegistryError(
                f"{kernel.title}: its pattern takes {str(parameter)!r}; name each parameter, for they are the kernel's inputs."
            )
    return tuple(PatternValue(steps, parameter.name) for parameter in signature)


def _trace(kernel: Kernel, parameters: tuple[PatternValue, ...]) -> tuple[PatternValue, ...]:
    assert kernel.pattern is not None
    try:
        return tuple(leaves(kernel.pattern(*parameters)))
    except RegistryError as error:
        raise RegistryError(f"{kernel.title}: {error}") from None
    except Exception as error:
        raise RegistryError(
            f"{kernel.title}: its pattern function failed ({type(error).__name__}: {error}); it can call ops, and has no shapes or dtypes to look at."
        ) from error


def _cone(step: Step) -> set[Any]:
    """A step with everything that it depends on: steps, their results, parameters."""
    found: set[Any] = {step, *step.results.values()}
    for argument in step.arguments:
        if isinstance(argument, PatternValue):
            found |= {argument} if argument.step is None else _cone(argument.step)
    return found
