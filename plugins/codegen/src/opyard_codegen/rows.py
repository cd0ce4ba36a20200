"""Kernels of row plans: one item for each row on processors, one group of items for each row on GPUs."""

from __future__ import annotations

import numpy as np

from opyard.spec import as_dtype

from .dialect import Dialect
from .elementwise import variables
from .kernels import ports, prelude
from .printing import Printer, type_of, variable_text
from .regions import rounded
from .row_plan import Pass, Reduction, RowPlan
from .terms import Term, apply, computing, converted, variable

LANES, BLOCK = 16, 512
"""Partial results of a loop, so that it becomes vector code; and elements until they are joined, so that long sums lose no digits."""

AHEAD = 2048
"""Elements that are asked for ahead at the begin of a row; more would not stay in the cache until they are used."""

NAME = "rows"


def row_program(dialect: Dialect, plan: RowPlan, group: int = 0) -> str:
    """The program with the kernel NAME of a plan.

    ``group`` is the number of items, a power of two, that compute a row together; 0 for one item for each row.
    Parameters behind the arrays, inputs first: ``rows, width, step, rank, table``, as of elementwise kernels; with a group without
    ``step``.
    """
    writer = _Writer(dialect, plan, group)
    text = writer.kernel()
    formats = {f"P{i}": dialect.formats[dtype] for i, (_, dtype, _) in enumerate(plan.arrays)}
    formats |= {f"R{i}": dialect.formats[dtype] for i, _, dtype in (*plan.elements, *plan.per_row)}
    return "\n".join((prelude(dialect), ports(formats), writer.printer.definitions(), text))


class _Writer:
    """Prints the parts of a kernel."""

    def __init__(self, dialect: Dialect, plan: RowPlan, group: int) -> None:
        self.printer, self.plan, self.group = Printer(dialect), plan, group

    def kernel(self) -> str:
        plan, count = self.plan, len(self.plan.arrays)
        outputs = len(plan.elements) + len(plan.per_row)
        parameters = [f"GLOBAL const P{i} *RESTRICT p{i}" for i in range(count)]
        parameters += [f"GLOBAL R{i} *RESTRICT r{i}" for i in range(outputs)]
        parameters += ["INDEX rows", "INDEX width", *(() if self.group else ("INDEX step",)), "int rank"]
        lines = [f"KERNEL {NAME}({', '.join(parameters)}, GLOBAL const INDEX *RESTRICT table WORK_ITEM) {{"]
        if self.group:
            types = dict.fromkeys(self._type(r.term) for found in plan.passes for r in found.reductions)
            lines += [f"LOCAL {name} shared_{name.replace(' ', '_')}[{self.group}];" for name in types]
            lines.append("for (INDEX r = GROUP; r < rows; r += GROUPS) {")
        else:
            lines.append("const INDEX first = ITEM * step, last = first + step < rows ? first + step : rows;")
            lines.append("for (INDEX r = first; r < last; r++) {")
        starts = "".join(f", o{i} = 0" for i in range(count))
        lines.append("const INDEX v_width = width;")
        lines.append(f"INDEX rest = r{starts};")
        lines.append("for (int axis = rank - 1; axis >= 0; axis--) {")
        lines.append("const INDEX index = rest % table[axis]; rest /= table[axis];")
        lines += [f"o{i} += index * table[{i + 1} * rank + axis];" for i in range(count)]
        lines.append("}")
        moving = [i for i, (_, _, moves) in enumerate(plan.arrays) if moves and not self.group]
        lines += [f"READ_AHEAD(p{i} + o{i}, width < {AHEAD} ? width : {AHEAD});" for i in moving]
        lines += [self._load(i, f"o{i}") for i, (_, _, moves) in enumerate(plan.arrays) if not moves]
        for number, found in enumerate(plan.passes):
            lines += [self._assignment(name, term) for name, term in found.before]
            if number == len(plan.passes) - 1:
                lines += self._writing(found)
            else:
                lines += self._grouped(found) if self.group else self._reducing(found)
        return "\n".join([*lines, "}", "}"]) + "\n"

    def _type(self, term: Term) -> str:
        return type_of(computing(term.dtype), self.printer.dialect)

    def _load(self, number: int, place: str) -> str:
        name, dtype, _ = self.plan.arrays[number]
        compute = self.printer.dialect.formats[dtype].compute
        return f"const {compute} {variable_text(name)} = LOAD_P{number}(p{number}, {place});"

    def _assignment(self, name: str, term: Term) -> str:
        return f"const {self._type(term)} {variable_text(name)} = {self.printer.text(term)};"

    def _element(self, found: Pass, results: list[str]) -> str:
        """What is computed for the element ``i``, in one line: the loads and steps that ``results`` or reductions need."""
        used = {name for _, term in found.steps for name in variables(term)} | set(results)
        used |= {name for reduction in found.reductions for name in variables(reduction.term)}
        lines = [
            self._load(number, f"o{number} + i")
            for number, (name, _, moves) in enumerate(self.plan.arrays)
            if moves and name in used
        ]
        return "\n".join([*lines, *(self._assignment(name, term) for name, term in found.steps)])

    def _join(self, reduction: Reduction, left: str, right: str | Term) -> str:
        """``left`` joined with ``right``: names of variables of the kernel, or a term."""
        kind = computing(reduction.term.dtype)
        term = right if isinstance(right, Term) else variable(right, kind)
        text = self.printer.text(apply(reduction.joined, variable(left, kind), term))
        return f"{variable_text(left)} = {text};"

    def _started(self, reduction: Reduction, name: str) -> str:
        return f"{variable_text(name)} = {self.printer.text(reduction.start())};"

    def _totals(self, found: Pass) -> list[str]:
        return [
            f"{self._type(each.term)} {self._started(each, f'{each.name}_total')}"
            for each in found.reductions
        ]

    def _finished(self, reduction: Reduction) -> str:
        """The value for the row, from what was accumulated."""
        kind = computing(reduction.term.dtype)
        total = variable(f"{reduction.name}_total", kind)
        if reduction.is_mean:
            total = apply("true_divide", total, converted(variable("width", np.dtype(np.int64)), kind))
        return self._assignment(reduction.name, rounded(total, as_dtype(reduction.dtype)))

    def _reducing(self, found: Pass) -> list[str]:
        """The loops of one item over a row: in blocks, and in lanes within a block."""
        element, lines = self._element(found, []), self._totals(found)
        lines.append(f"for (INDEX block = 0; block < width; block += {BLOCK}) {{")
        lines.append(f"const INDEX end = block + {BLOCK} < width ? block + {BLOCK} : width;")
        for reduction in found.reductions:
            name = f"{reduction.name}_lane"
            lines.append(f"{self._type(reduction.term)} {variable_text(name)}[{LANES}];")
            lines.append(f"for (int l = 0; l < {LANES}; l++) {self._started(reduction, f'{name}[l]')}")
        joined = [self._join(r, f"{r.name}_lane[l]", r.term) for r in found.reductions]
        tail = [self._join(r, f"{r.name}_lane[0]", r.term) for r in found.reductions]
        lines += ["INDEX base = block;", f"for (; base + {LANES} <= end; base += {LANES})"]
        lines += [f"for (int l = 0; l < {LANES}; l++) {{", "const INDEX i = base + l;", element, *joined, "}"]
        lines += ["for (INDEX i = base; i < end; i++) {", element, *tail, "}"]
        for reduction in found.reductions:
            name = f"{reduction.name}_lane"
            join = self._join(reduction, f"{name}[0]", f"{name}[l]")
            lines.append(f"for (int l = 1; l < {LANES}; l++) {join}")
            lines.append(self._join(reduction, f"{reduction.name}_total", f"{name}[0]"))
        lines.append("}")
        return lines + [self._finished(reduction) for reduction in found.reductions]

    def _grouped(self, found: Pass) -> list[str]:
        """The loop of a group of items over a row, and the tree that joins what each of them has."""
        lines = self._totals(found)
        lines.append("for (INDEX i = GROUP_ITEM; i < width; i += GROUP_ITEMS) {")
        lines.append(self._element(found, []))
        lines += [self._join(r, f"{r.name}_total", r.term) for r in found.reductions]
        lines.append("}")
        for reduction in found.reductions:
            shared = f"shared_{self._type(reduction.term).replace(' ', '_')}"
            total = variable_text(f"{reduction.name}_total")
            left, right = f"{reduction.name}_left", f"{reduction.name}_right"
            kind = self._type(reduction.term)
            lines += [f"{shared}[GROUP_ITEM] = {total};", "BARRIER;"]
            lines.append(f"for (int half_size = {self.group // 2}; half_size > 0; half_size /= 2) {{")
            lines.append("if (GROUP_ITEM < half_size) {")
            lines.append(f"{kind} {variable_text(left)} = {shared}[GROUP_ITEM];")
            lines.append(f"const {kind} {variable_text(right)} = {shared}[GROUP_ITEM + half_size];")
            lines += [
                self._join(reduction, left, right),
                f"{shared}[GROUP_ITEM] = {variable_text(left)};",
                "}",
            ]
            lines += ["BARRIER;", "}", f"{total} = {shared}[0];", "BARRIER;", self._finished(reduction)]
        return lines

    def _writing(self, found: Pass) -> list[str]:
        """The last pass."""
        lines = []
        if self.plan.elements:
            start, stride = ("GROUP_ITEM", "i += GROUP_ITEMS") if self.group else ("0", "i++")
            lines += [*(() if self.group else ("LOOP",)), f"for (INDEX i = {start}; i < width; {stride}) {{"]
            lines.append(self._element(found, [name for _, name, _ in self.plan.elements]))
            for number, name, _ in self.plan.elements:
                lines.append(f"STORE_R{number}(r{number}, r * width + i, {variable_text(name)});")
            lines.append("}")
        if self.plan.per_row and self.group:
            lines.append("if (GROUP_ITEM == 0) {")
        for number, name, _ in self.plan.per_row:
            lines.append(f"STORE_R{number}(r{number}, r, {variable_text(name)});")
        return [*lines, "}"] if self.plan.per_row and self.group else lines
