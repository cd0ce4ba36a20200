"""Graphs for kernels that compute more than one op: those that a pattern matches, and random ones for region compilers.

The names and the graphs depend on the ops that are registered, and on what the kernel claims; with these they are the same
on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np

from opyard import Graph, Node, trace
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
_SHAPES = ((3, 4), (2, 3, 5), (7,), (33,), (1, 17), (2, 2, 2, 3), (3, 131))
_REGIONS = 1_000  # that are tried to be found
_ATTEMPTS = 400  # to add a call to one
_REFUSED = 4  # calls of a region that is not accepted
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
    """Random connected sets of calls that a compiler claims; of each three at least two are accepted, where such are found.

    Each call that is claimed begins some of them, and those with which an accepted one began begin every second.
    """
    usable = _claimed_cases(registry, kernel, device)
    seed = zlib.crc32(kernel.id.encode())
    order = np.random.default_rng(seed).permutation(len(usable))
    good: list[int] = []
    accepted = refused = 0
    for number in range(_REGIONS if usable else 0):
        generator = np.random.default_rng([number, seed])
        first = good[number // 2 % len(good)] if good and number % 2 else int(order[number % len(order)])
        grown = _Growth(kernel, device, usable, generator).grown(first)
        if grown is None:
            continue
        draws, region = grown
        if kernel.refusal(region, device) is None:
            accepted += 1
            good += [first] * (first not in good)
        elif 2 * refused <= accepted:
            refused += 1
        else:
            continue
        yield Trial(Case(draws), region=region, name=f"region-{number}")


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
        self.nodes: list[Node] = []
        self.is_accepted = False
        self.draws: dict[Any, Draw] = {}
        self.samples: dict[Any, Array] = {}
        self.made: dict[Any, None] = {}
        self.shape: tuple[int, ...] = _SHAPES[int(generator.integers(len(_SHAPES)))]
        self.dtype = _FLOATS[int(generator.integers(4) == 0)]

    def grown(self, first: int) -> tuple[tuple[Draw, ...], Region] | None:
        """What enters, and the region, which begins with a case of an op; None where no two calls were found that go together."""
        self._begin(*self.usable[first])
        size = int(self.generator.integers(2, 13))
        for _ in range(_ATTEMPTS if self.nodes else 0):
            if len(self.nodes) >= (size if self.is_accepted else min(size, _REFUSED)):
                break
            self._attempt()
        if len(self.nodes) < 2:
            return None
        used = {value for node in self.nodes for value in node.inputs}
        inner = [value for value in self.made if value in used]
        more = bool(inner) and self.generator.random() < 0.3
        region, draws = self._region(
            self.nodes, [inner[int(self.generator.integers(len(inner)))]] if more else []
        )
        return draws, region

    def _begin(self, op: Op, cases: list[Case]) -> None:
        """The first call: with all inputs of one shape, or as one of its cases has them, as matrices of a product need it."""
        case = cases[int(self.generator.integers(len(cases)))]
        self._call(op, case, [None if draw is None else self._input(draw, False) for draw in case.inputs])
        if self.nodes:
            return
        given = [None if d is None else replace(d, dtype=self._dtype(d)) for d in case.inputs]
        self._call(op, case, list(given))
        values = (value for node in self.nodes for value in (*node.inputs, *node.outputs))
        shapes = [value.spec.shape for value in values if value is not None]
        if shapes:
            self.shape = tuple(map(int, shapes[int(self.generator.integers(len(shapes)))]))

    def _attempt(self) -> None:
        """One more call, if a random one fits, is claimed, and can be judged: finite, and without a jump near its inputs."""
        op, cases = self.usable[int(self.generator.integers(len(self.usable)))]
        case = cases[int(self.generator.integers(len(cases)))]
        joined = int(self.generator.integers(len(case.inputs)))
        values: list[Any] = []
        for position, draw in enumerate(case.inputs):
            values.append(None if draw is None else self._input(draw, position == joined))
        if any(value in self.made for value in values if not isinstance(value, Draw)):
            self._call(op, case, values)

    def _call(self, op: Op, case: Case, values: list[Any]) -> None:
        specs = [value if value is None else value.spec for value in values]
        try:
            call = op.call(*specs, **case.attributes)
        except OpyardError:
            return
        floats = all(spec.dtype.name in _FLOATS and int(spec.size) for spec in call.outputs)
        if floats and self.kernel.claim_refusal(call, self.device) is None:
            self._append(call, values)

    def _input(self, draw: Draw, join: bool) -> Any:
        """A value that was made, one that entered, or the draw of a new one."""
        chance = 0.0 if join else self.generator.random()
        if join or (self.made and draw.dtype in _FLOATS and chance < 0.5):
            return list(self.made)[int(self.generator.integers(len(self.made)))]
        entered = [value for value, known in self.draws.items() if known.dtype in _FLOATS]
        if entered and draw.dtype in _FLOATS and chance < 0.65:
            return entered[int(self.generator.integers(len(entered)))]
        return replace(draw, shape=self.shape, dtype=self._dtype(draw))

    def _dtype(self, draw: Draw) -> str:
        return self.dtype if draw.dtype in _FLOATS else draw.dtype

    def _append(self, call: Call, values: list[Any]) -> None:
        """Adds a call; what is accepted stays so."""
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
                draw, value = value, self.graph.input(f"input_{len(self.draws)}", value.spec)
                self.draws[value], self.samples[value] = draw, array
            inputs.append(value)
        made = self.graph.apply(call.op, inputs, call.attrs)
        nodes = [
            *self.nodes,
            self.graph.nodes[-1],
        ]  # one that is left out stays in the graph, and in no region
        is_accepted = self.kernel.refusal(self._region(nodes)[0], self.device) is None
        if self.is_accepted and not is_accepted:
            return
        self.nodes, self.is_accepted = nodes, is_accepted
        outputs = made if call.is_tuple else (made,)
        self.made.update(dict.fromkeys(outputs))
        self.samples.update(zip(outputs, results, strict=True))

    def _region(self, nodes: list[Node], more: Sequence[Any] = ()) -> tuple[Region, tuple[Draw, ...]]:
        """The region of some nodes, which gives what none of them uses, and some values more; and what enters."""
        used = dict.fromkeys(value for node in nodes for value in node.inputs)  # by hash, in order
        ends = [value for node in nodes for value in node.outputs if value not in used]
        given = [value for value in used if value in self.draws]
        return Region.of(nodes, given, [*ends, *more]), tuple(self.draws[value] for value in given)

    def _moved(self, array: Array | None) -> Array | None:
        if array is None or array.dtype.kind != "f":
            return array
        factors = 1 + 1e-4 * self.generator.choice([-1, 1], array.shape)
        return np.asarray(array * factors.astype(array.dtype))
