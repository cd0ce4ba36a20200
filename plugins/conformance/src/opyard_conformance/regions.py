"""Graphs for kernels that compute more than one op: those that a pattern matches, and random ones for region compilers.

The names and the graphs depend on the ops that are registered, and on what the kernel claims; with these they are the same
on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np

from opyard import Graph, trace
from opyard.cases import Case, Draw
from opyard.driver import Device
from opyard.errors import OpyardError
from opyard.kernels import Kernel
from opyard.operation import Call, Op
from opyard.placement.patterns import Pattern, PatternValue
from opyard.region import Region
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_conformance.families import Trial
from opyard_conformance.memory import LAYOUTS

Array = np.ndarray[Any, Any]

PATTERNS, REGIONS = "patterns", "regions"
"""What pattern kernels and region compilers are listed under, as others are under their op."""

MOST = {"smoke": 6, "core": 30, "full": 120}
"""Graphs for one kernel."""

_VALUES = ("nan", "nan-last", "infinite", "zeros", "constant")
_SHAPES = ((3, 4), (2, 3, 5), (7,), (33,), (1, 17), (2, 2, 2, 3))
_ATTEMPTS = 400
_FLOATS = ("float32", "float64")


def region_trials(registry: Registry, kernel: Kernel, device: Device, level: str) -> Iterator[Trial]:
    """The trials of a pattern kernel or of a region compiler, those of lower levels first."""
    if kernel.pattern is not None:
        found = _matched(Pattern.of(kernel))
    else:
        found = _random_regions(registry, kernel, device)
    seen: set[str] = set()
    for number, trial in enumerate(islice(found, MOST[level])):
        if trial.id not in seen:
            seen.add(trial.id)
            yield trial
        if number == 0 and level != "smoke":
            yield from (replace(trial, values=name) for name in _VALUES)
            yield from (replace(trial, layout=name) for name in LAYOUTS)
            yield from (replace(trial, contract=name) for name in ("threads", "overlap"))


# Patterns --------------------------------------------------------------------------------------------------------


def _matched(pattern: Pattern) -> Iterator[Trial]:
    """Graphs that a pattern matches: its inputs are those of its ops' cases, and such as fit to what these give."""
    function = pattern.kernel.pattern
    assert function is not None
    names = [parameter.name for parameter in pattern.parameters]
    for draws in _assignments(pattern, 0, {}, {}):
        given = [draws.get(parameter) for parameter in pattern.parameters]
        if any(draw is None for draw in given):
            continue
        try:
            graph = trace(function, *(draw.spec for draw in given if draw is not None))
        except OpyardError:
            continue
        title = "+".join(node.op.name for node in graph.nodes)
        yield Trial(Case(tuple(given)), region=Region(graph, tuple(names)), name=title)


Draws = dict[Any, Draw]
Specs = dict[Any, TensorSpec]


def _assignments(pattern: Pattern, number: int, draws: Draws, specs: Specs) -> Iterator[Draws]:
    """Draws for all parameters, step by step; ``specs`` has those of the values known so far."""
    if number == len(pattern.steps):
        yield draws
        return
    step = pattern.steps[number]
    values = dict.fromkeys(
        a for a in step.arguments if isinstance(a, PatternValue)
    )  # by hash: == would record an op
    missing = dict.fromkeys(a for a in values if a.step is None and a not in draws)
    for chosen in _choices(step.op, step.arguments, missing, specs):
        now = {**draws, **chosen}
        known = {**specs, **{parameter: draw.spec for parameter, draw in chosen.items()}}
        dtype = next((known[a].dtype.name for a in values), "float32")
        arguments = [
            known[a] if isinstance(a, PatternValue) else None if a is None else TensorSpec((), dtype)
            for a in step.arguments
        ]
        try:
            call = step.op.call(*arguments, **step.attributes)
        except OpyardError:
            continue
        for index, result in step.results.items():
            known[result] = call.outputs[index or 0]
        yield from _assignments(pattern, number + 1, now, known)


def _choices(op: Op, arguments: Any, missing: dict[Any, None], specs: Specs) -> Iterator[Draws]:
    if not missing:
        yield {}
        return
    others = [specs[a] for a in arguments if isinstance(a, PatternValue) and a in specs]
    if not others:  # nothing is known yet: the op's own cases
        for case in op.cases():
            inputs = (*case.inputs, *(None,) * (len(arguments) - len(case.inputs)))
            found = {a: draw for a, draw in zip(arguments, inputs, strict=False) if draw is not None}
            if all(a in found for a in missing):
                yield {a: found[a] for a in missing}
        return
    shape, dtype = others[0].shape, others[0].dtype.name
    shapes = [shape, shape[-1:], (1,) * len(shape), ()]
    if len(shape) > 1:
        shapes += [(*shape[1:2], *(1,) * (len(shape) - 2)), (int(shape[-1]), 5)]
    options = list(dict.fromkeys(tuple(map(int, s)) for s in shapes))
    for combination in product(options, repeat=len(missing)):
        yield {a: Draw(s, dtype) for a, s in zip(missing, combination, strict=True)}


# Regions ---------------------------------------------------------------------------------------------------------


def _random_regions(registry: Registry, kernel: Kernel, device: Device) -> Iterator[Trial]:
    """Random connected sets of calls that a compiler claims."""
    usable = _claimed_cases(registry, kernel, device)
    if not usable:
        return
    for number in range(1_000):
        generator = np.random.default_rng([number, zlib.crc32(kernel.id.encode())])
        trial = _Growth(kernel, device, usable, generator).grown(number)
        if trial is not None:
            yield trial


def _claimed_cases(registry: Registry, kernel: Kernel, device: Device) -> list[tuple[Op, list[Case]]]:
    """The ops of which a compiler claims some case of floats, with these cases."""
    found = []
    for name in registry.ops:
        op = registry.get_op(name)
        if op.tolerance.check_values:
            cases = [case for case in op.cases() if _is_claimed(op, case, kernel, device)]
            if cases:
                found.append((op, cases))
    return found


def _is_claimed(op: Op, case: Case, kernel: Kernel, device: Device) -> bool:
    if not any(draw is not None and draw.dtype in _FLOATS for draw in case.inputs):
        return False
    call = op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
    floats = all(spec.dtype.name in _FLOATS and int(spec.size) for spec in call.outputs)
    return floats and kernel.claim_refusal(call, device) is None


class _Growth:
    """A graph that grows by random calls, each of which takes what an earlier one gave."""

    def __init__(
        self,
        kernel: Kernel,
        device: Device,
        usable: list[tuple[Op, list[Case]]],
        generator: np.random.Generator,
    ) -> None:
        self.kernel, self.device, self.usable, self.generator = kernel, device, usable, generator
        self.graph = Graph()
        self.draws: list[Draw] = []
        self.samples: dict[Any, Array] = {}
        self.made: dict[Any, None] = {}
        self.used: dict[Any, None] = {}
        self.shape = _SHAPES[int(generator.integers(len(_SHAPES)))]
        self.dtype = _FLOATS[int(generator.integers(4) == 0)]

    def grown(self, number: int) -> Trial | None:
        """The trial of this graph; None where no two calls were found that go together."""
        size = int(self.generator.integers(2, 13))
        for _ in range(_ATTEMPTS):
            self._attempt()
            if len(self.graph.nodes) >= size:
                break
        if len(self.graph.nodes) < 2:
            return None
        ends = [value for value in self.made if value not in self.used]  # both are dicts: by hash
        inner = [value for value in self.made if value in self.used]
        if inner and self.generator.random() < 0.3:
            ends.append(inner[int(self.generator.integers(len(inner)))])
        for position, value in enumerate(ends):
            self.graph.output(f"output_{position}", value)
        return Trial(Case(tuple(self.draws)), region=Region(self.graph), name=f"region-{number}")

    def _attempt(self) -> None:
        """One more call, if a random one fits, is claimed, and can be judged: finite, and without a jump near its inputs."""
        op, cases = self.usable[int(self.generator.integers(len(self.usable)))]
        case = cases[int(self.generator.integers(len(cases)))]
        joined = int(self.generator.integers(len(case.inputs))) if self.made else -1
        values: list[Any] = []
        for position, draw in enumerate(case.inputs):
            values.append(None if draw is None else self._input(draw, position == joined))
        if self.made and not any(value in self.made for value in values if not isinstance(value, Draw)):
            return
        specs = [value if value is None else value.spec for value in values]
        try:
            call = op.call(*specs, **case.attributes)
        except OpyardError:
            return
        floats = all(spec.dtype.name in _FLOATS and int(spec.size) for spec in call.outputs)
        if floats and self.kernel.claim_refusal(call, self.device) is None:
            self._append(call, values)

    def _input(self, draw: Draw, join: bool) -> Any:
        """A value that there is, or the draw of a new input."""
        if join or (self.made and draw.dtype in _FLOATS and self.generator.random() < 0.5):
            return list(self.made)[int(self.generator.integers(len(self.made)))]
        if draw.dtype not in _FLOATS:
            return replace(draw, shape=self.shape)
        return replace(draw, shape=self.shape, dtype=self.dtype)

    def _append(self, call: Call, values: list[Any]) -> None:
        arrays = [
            None if v is None else v.array(self.generator) if isinstance(v, Draw) else self.samples[v]
            for v in values
        ]
        try:
            results, moved = call.reference(*arrays), call.reference(*map(self._moved, arrays))
        except Exception:  # numbers that the op has no meaning for
            return
        for one, other in zip(results, moved, strict=True):
            if not np.isfinite(one).all() or np.abs(one - other).max() > 1e-2 * np.abs(one).max():
                return
        inputs: list[Any] = []
        for value, array in zip(values, arrays, strict=True):
            if isinstance(value, Draw) and array is not None:
                self.draws.append(value)
                value = self.graph.input(f"input_{len(self.draws) - 1}", value.spec)
                self.samples[value] = array
            inputs.append(value)
        made = self.graph.apply(call.op, inputs, call.attrs)
        outputs = made if call.is_tuple else (made,)
        self.used.update(dict.fromkeys(value for value in inputs if value is not None))
        self.made.update(dict.fromkeys(outputs))
        self.samples.update(zip(outputs, results, strict=True))

    def _moved(self, array: Array | None) -> Array | None:
        if array is None or array.dtype.kind != "f":
            return array
        factors = 1 + 1e-4 * self.generator.choice([-1, 1], array.shape)
        return np.asarray(array * factors.astype(array.dtype))
