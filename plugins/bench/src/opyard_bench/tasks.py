"""What is timed: calls from the cases of ops, from sizes that the user names, or from a model with its patterns and regions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import opyard as oy
from opyard.cli.program import load
from opyard.errors import OpyardError, RegistryError
from opyard.kernels import Work
from opyard.operation import Call
from opyard.placement import Match, Placement, default_costs
from opyard.region import Region
from opyard.registry import REFERENCE
from opyard.spec import parse_spec
from opyard_bench import sizes
from opyard_bench.record import CALL, HOT, PARTS, PATTERN, REGION

CELL_SECONDS, QUICK_CELL_SECONDS = 1.0, 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """What to time. Empty tuples stand for everything; ``seconds`` is the time for all kernels of one case and regime.

    model   the program whose calls are timed in the place of ops, or empty; ``inputs``: of the program, as people write them
    """

    ops: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    model: str = ""
    inputs: tuple[str, ...] = ()
    regimes: tuple[str, ...] = (HOT,)
    quick: bool = False
    seconds: float = CELL_SECONDS
    seed: int = 0
    calibrate: bool = True
    save: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """Work to time: a call, or a pattern or region with the candidates that take all of it.

    drawn   the case that makes the arrays, where there is one; ``times``: how often the work occurs in the model
    """

    work: Work
    title: str
    case: str
    drawn: oy.Case | None = None
    kind: str = CALL
    times: int = 1
    fused: tuple[oy.Candidate, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the cells of a run apart."""
        return self.kind, self.title, self.case

    def candidates(self, devices: Sequence[oy.Device], registry: oy.Registry) -> tuple[oy.Candidate, ...]:
        """Every kernel on every device, the best first; of patterns and regions also the single calls, one by one."""
        if isinstance(self.work, Call):
            return oy.candidates(self.work, devices, registry, costs=default_costs(), any_layout=True)
        fused = [c for c in self.fused if c.device in devices]
        for device in devices:
            if device.backend == REFERENCE or any(c.device is device for c in fused):
                fused.append(_parts(self.work, device, registry))
        return tuple(
            sorted(fused, key=lambda c: (c.refusal is not None, c.device.backend == REFERENCE, c.seconds))
        )


def find_tasks(options: Options, registry: oy.Registry) -> list[Task]:
    """Everything to time, each once. Raises RegistryError where there is nothing."""
    if options.model:
        specs = tuple(map(parse_spec, options.inputs))
        with oy.using(registry=registry):
            return list(_model_tasks(load(options.model, specs).placement()))
    ops = [registry.get_op(name) for name in options.ops] or [registry.ops[n] for n in sorted(registry.ops)]
    found: dict[Any, Task] = {}
    for op in ops:
        for task in _tasks_of(op, options):
            found.setdefault(task.key, task)
    if not found:
        asked = ", ".join(options.dtypes) or "any dtype"
        raise RegistryError(
            f"there is nothing to time: none of the ops has a case for {asked}. Leave --dtype out to see the cases that there are: opyard bench --quick."
        )
    return list(found.values())


def _tasks_of(op: oy.Op, options: Options) -> Iterator[Task]:
    if options.shapes:
        for call in sizes.named_calls(op, options.shapes, options.dtypes):
            yield Task(call, op.name, case_name(call))
        return
    limits = (sizes.SMALL, sizes.MEDIUM) if options.quick else (sizes.SMALL, sizes.MEDIUM, sizes.LARGE)
    for case in sizes.scaled_cases(op, limits, options.dtypes):
        try:
            yield Task(sizes.call_of(op, case), op.name, case.id, case)
        except OpyardError:
            continue  # a case that is there to show an error


def case_name(work: Work) -> str:
    """A stable name: the inputs, then the attributes that differ from their defaults, or of a region what it computes."""
    names = [repr(spec).replace(" ", "") if spec is not None else "none" for spec in work.inputs]
    if isinstance(work, Region):
        return "-".join([*names, hashlib.sha256(str(work).encode()).hexdigest()[:8]])
    defaults = dict(work.op.signature.attributes)
    given = [(key, value) for key, value in work.attributes if repr(value) != repr(defaults[key])]
    return "-".join([*names, *(f"{key}={value}".replace(" ", "") for key, value in given)])


# Models ----------------------------------------------------------------------------------------------------------


def _model_tasks(placement: Placement) -> Iterator[Task]:
    """The distinct calls of a placed graph, composite ones whole and decomposed; then the patterns and regions in it."""
    graph = placement.graph
    calls = [*(whole.call for whole in reversed(placement.wholes)), *(node.call for node in graph.nodes)]
    for call, times in Counter(calls).items():
        yield Task(call, call.op.name, case_name(call), times=times)
    matches: dict[str, dict[tuple[Any, ...], Match]] = {}
    fused: dict[str, dict[tuple[str, str], oy.Candidate]] = {}
    for match, candidate in _several(placement):
        text = str(match.work)
        matches.setdefault(text, {})[match.nodes] = match
        fused.setdefault(text, {})[candidate.kernel.id, candidate.device.name] = candidate
    for text, found in matches.items():
        work = next(iter(found.values())).work
        candidates = tuple(fused[text].values())
        kind = PATTERN if any(c.kernel.claims is None for c in candidates) else REGION
        yield Task(work, work.title, case_name(work), kind=kind, times=len(found), fused=candidates)


def _several(placement: Placement) -> Iterator[tuple[Match, oy.Candidate]]:
    """What placement weighed for more than one node: all patterns; of the regions those chosen and the largest."""
    regions: dict[tuple[str, str], list[tuple[Match, oy.Candidate]]] = {}
    for decision in placement.decisions:
        chosen = (decision.match, decision.chosen)
        for match, candidate in (chosen, *((a.match, a.candidate) for a in decision.alternatives)):
            if not isinstance(match.work, Region) or len(match.work.graph.nodes) < 2:
                continue
            if candidate.kernel.claims is None or candidate is decision.chosen:
                yield match, candidate
            else:
                key = candidate.kernel.id, candidate.device.name
                regions.setdefault(key, []).append((match, candidate))
    for rows in regions.values():
        rows.sort(key=lambda row: -len(row[0].nodes))
        largest: list[set[Any]] = []
        for match, candidate in rows:
            nodes = set(match.nodes)
            if not any(nodes <= other for other in largest):
                largest.append(nodes)
                yield match, candidate


def dtypes_of(work: Work) -> tuple[str, ...]:
    """Names of the dtypes of inputs and outputs."""
    return tuple(sorted({spec.dtype.name for spec in (*work.inputs, *work.outputs) if spec is not None}))


# Sums of parts ---------------------------------------------------------------------------------------------------


def _parts(work: Work, device: oy.Device, registry: oy.Registry) -> oy.Candidate:
    """The calls of a pattern or region one after the other, each by the best kernel on a device, as one candidate."""
    assert isinstance(work, Region)
    best: list[oy.Candidate] = []
    name = REFERENCE if device.backend == REFERENCE else PARTS
    for node in work.graph.nodes:
        found = oy.candidates(node.call, [device], registry, costs=default_costs())
        usable = next((c for c in found if c.refusal is None), None)
        if usable is None:
            kernel = oy.Kernel("", device.backend, name, prepare=_prepare_parts([]))
            return oy.Candidate(kernel, device, None, f"no kernel on {device.name} takes its {node.op.name}")
        best.append(usable)
    kernel = oy.Kernel("", device.backend, name, prepare=_prepare_parts(best))
    source = " + ".join(c.kernel.id for c in best)
    return oy.Candidate(kernel, device, oy.Estimate(sum(c.seconds for c in best), source), None)


def _prepare_parts(best: Sequence[oy.Candidate]) -> Callable[[Any, oy.Device], Callable[..., Any]]:
    def prepare(region: Region, device: oy.Device) -> Callable[..., Any]:
        graph = region.graph
        runs = [c.kernel.bind(node.call, device) for c, node in zip(best, graph.nodes, strict=True)]
        constants = {value: device.upload(array) for value, array in graph.constants.items()}
        inputs = [graph.inputs.get(name) for name in region.input_names]

        def run(*arrays: Any) -> Any:
            known: dict[Any, Any] = {None: None, **constants, **dict(zip(inputs, arrays, strict=True))}
            for step, node in zip(runs, graph.nodes, strict=True):
                result = step(*[known[value] for value in node.inputs])
                known.update(zip(node.outputs, result if node.call.is_tuple else (result,), strict=True))
            results = tuple(known[value] for value in graph.outputs.values())
            return results if region.is_tuple else results[0]

        return run

    return prepare
