"""In which passes over a row a region is computed: each ends with reductions that the next one needs.

A value that a later pass needs again is computed again where that is cheap, read again where it is an output, and otherwise kept
in a row of scratch memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from opyard.graph import Graph, Node, Value

from .scalars import weight
from .space import REDUCTIONS, Space, is_elementwise

CHEAP_INPUTS, CHEAP_WEIGHT = 2, 8
"""What is computed again: from as many inputs, and by as many instructions."""


@dataclass(slots=True)
class Stage:
    """One pass over a row.

    nodes       what is computed for each element, in order
    reductions  whose inputs are complete in this pass
    outputs     that are written
    kept        values that are written to scratch memory
    loaded      values that are read: inputs, outputs of earlier passes, scratch memory
    """

    nodes: list[Node] = field(default_factory=list)
    reductions: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    kept: list[Value] = field(default_factory=list)
    loaded: list[Value] = field(default_factory=list)


def weight_of(stage: Stage) -> int:
    """About how many instructions an element takes in a pass."""
    return sum(weight(node.call) for node in stage.nodes if is_elementwise(node))


def stages_of(graph: Graph, space: Space) -> tuple[list[Stage], list[Value]]:
    """The passes, and the values in scratch memory."""
    return _Scheduler(graph, space).run()


class _Scheduler:
    def __init__(self, graph: Graph, space: Space) -> None:
        self.graph, self.space = graph, space
        self.maker = {node.outputs[0]: node for node in graph.nodes}
        self.level: dict[Value, int] = {}
        for node in graph.nodes:
            deepest = max((self.level.get(v, 0) for v in node.inputs if v is not None), default=0)
            self.level[node.outputs[0]] = deepest + (node.op.name in REDUCTIONS)
        made = dict.fromkeys(graph.outputs.values())
        sums = {node.outputs[0] for node in graph.nodes if node.op.name in REDUCTIONS}
        self.outputs = {value: None for value in made if space.is_wide(value) and value not in sums}
        self.stages: list[Stage] = []
        self.first: dict[Value, Stage] = {}
        self.scratch: dict[Value, None] = {}  # by hash: == would record an op

    def run(self) -> tuple[list[Stage], list[Value]]:
        reductions = [node for node in self.graph.nodes if node.op.name in REDUCTIONS]
        last = max([self.level.get(value, 0) for value in self.outputs] + [0])
        last = max([last] + [self._input_level(node) for node in reductions])
        for number in range(last + 1):
            stage = Stage()
            self.stages.append(stage)
            stage.reductions = [node for node in reductions if self._input_level(node) == number]
            stage.outputs = [v for v in self.outputs if self.level.get(v, 0) == number]
            needed: dict[Value, None] = {}
            for value in (*(_input(node) for node in stage.reductions), *stage.outputs):
                self._need(value, number, stage, needed)
            for value in needed:
                self.first.setdefault(value, stage)
        return self.stages, list(self.scratch)

    def _input_level(self, node: Node) -> int:
        return self.level.get(_input(node), 0)

    def _need(self, value: Value, number: int, stage: Stage, needed: dict[Value, None]) -> None:
        """Puts what computes a value into a stage."""
        if value in needed or not self.space.is_wide(value):
            return
        node = self.maker.get(value)
        earlier = self.first.get(value)
        if node is None or (earlier is not None and self._is_written(value, earlier, number)):
            stage.loaded.append(value)
            needed[value] = None
            return
        for source in node.inputs:
            if source is not None:
                self._need(source, number, stage, needed)
        stage.nodes.append(node)
        needed[value] = None

    def _is_written(self, value: Value, earlier: Stage, number: int) -> bool:
        """Whether an earlier stage writes a value that this one needs; it does from now on where computing it again is dear."""
        if value in self.outputs and self.level.get(value, 0) < number:
            return True
        if value not in self.scratch:
            inputs, total = self._cone(value)
            if len(inputs) <= CHEAP_INPUTS and total <= CHEAP_WEIGHT:
                return False
            self.scratch[value] = None
            earlier.kept.append(value)
        return True

    def _cone(self, value: Value) -> tuple[set[Value], int]:
        """The inputs that a value is made of, and the instructions that this takes."""
        inputs, total = set[Value](), 0
        waiting, seen = [value], set[Value]()
        while waiting:
            one = waiting.pop()
            if one in seen or not self.space.is_wide(one):
                continue
            seen.add(one)
            node = self.maker.get(one)
            if node is None or one in self.scratch:
                inputs.add(one)
                continue
            total += weight(node.call) if is_elementwise(node) else 0
            waiting += [v for v in node.inputs if v is not None]
        return inputs, total


def _input(node: Node) -> Value:
    (value,) = node.inputs
    assert value is not None
    return value
