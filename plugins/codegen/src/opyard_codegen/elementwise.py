"""Kernels that compute each element of their outputs from elements of their inputs, in any dialect with macros for kernels."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from opyard.operation import Call

from .dialect import Dialect
from .dialects.family import POLYNOMIAL_OPERATIONS
from .expressions import inputs_of, lowered
from .kernels import ports, prelude
from .printing import Printer, type_of, variable_text
from .terms import Term, computing


@dataclass(frozen=True, slots=True)
class Body:
    """What is computed for one element.

    inputs   name and dtype of each array that is read
    steps    values in order: the name of each, and the expression over inputs and earlier steps
    outputs  name of the value that each array is given, and the array's dtype
    """

    inputs: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, Term], ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def dtypes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The dtypes of the arrays: those read, and those written."""
        return tuple(dtype for _, dtype in self.inputs), tuple(dtype for _, dtype in self.outputs)

    def moving(self, strides: tuple[int, ...]) -> set[str]:
        """Names of the values that change along a row in which the inputs have these strides."""
        pairs = zip(self.inputs, strides, strict=True)
        found = {name for (name, _), stride in pairs if stride}
        for name, term in self.steps:
            if not found.isdisjoint(variables(term)):
                found.add(name)
        return found


def variables(term: Term) -> Iterable[str]:
    """Names of the variables of a term."""
    if term.operation == "variable":
        yield term.value
    for argument in term.arguments:
        yield from variables(argument)


RESULT = "0"
"""The name of the one value of a single call: no input can have it."""


def body_of(call: Call) -> Body:
    """The body of a single call. Raises SpecError for what has no expression."""
    inputs = tuple((name, spec.dtype.name) for name, spec in inputs_of(call))
    return Body(inputs, ((RESULT, lowered(call)),), ((RESULT, call.output.dtype.name),))


@dataclass(frozen=True, slots=True)
class Entry:
    """One kernel of a program.

    strides  those of the inputs along a row, 0 or 1: known to the compiler, it can use vectors
    flat     whether there is one row alone
    grid     whether neighbouring items compute neighbouring elements, as GPUs like it; else each has a range of its own
    lanes    elements that are computed at once where there is much to compute, in a dialect with such vectors: some vectors of the
             processor, for one would wait for itself
    """

    name: str
    body: Body
    strides: tuple[int, ...]
    flat: bool
    grid: bool = False
    lanes: int = 0


def program(dialect: Dialect, entries: Iterable[Entry]) -> str:
    """The text of a program with these kernels, whose arrays have the same dtypes in all.

    Parameters of a kernel behind its arrays, inputs first: ``count, step`` if it is flat, else ``rows, width, step, rank, table``:
    the table has the sizes of the ``rank`` axes of rows, then the strides of each input. In a grid they are ``count`` and
    ``count, rank, table`` with all axes. ``step`` is the number of elements, or rows, of an item.
    """
    printer = Printer(dialect)
    chosen = list(entries)
    texts = [_text(printer, entry) for entry in chosen]
    inputs, outputs = chosen[0].body.dtypes
    formats = {f"P{number}": dialect.formats[dtype] for number, dtype in enumerate(inputs)}
    formats |= {f"R{number}": dialect.formats[dtype] for number, dtype in enumerate(outputs)}
    lanes = max((entry.lanes for entry in chosen if is_wide(dialect, entry)), default=0)
    wide = (dialect.wide.replace("{lanes}", str(lanes)), WIDE_ONLY.format(widened(printer.definitions())))
    helpers = (printer.definitions(), *(wide if lanes else ()))
    return "\n".join((prelude(dialect), ports(formats), *helpers, *texts))


def _text(printer: Printer, entry: Entry) -> str:
    body, moving = entry.body, entry.body.moving(entry.strides)
    parameters = [f"GLOBAL const P{i} *RESTRICT p{i}" for i in range(len(body.inputs))]
    parameters += [f"GLOBAL R{i} *RESTRICT r{i}" for i in range(len(body.outputs))]
    loads = {name: _load(printer, entry, i) for i, (name, _) in enumerate(body.inputs)}
    fixed = [load for name, load in loads.items() if name not in moving]
    fixed += [_step(printer, name, term) for name, term in body.steps if name not in moving]
    if entry.grid:
        changing = [load for name, load in loads.items() if name in moving]
        changing += [_step(printer, name, term) for name, term in body.steps if name in moving]
        changing += _stores(body)
        fixed, changing = (fixed, changing) if entry.flat else ([], [*fixed, *changing])
    else:
        changing = _loops(printer, entry, {name: load for name, load in loads.items() if name in moving})
    template = (_GRID_FLAT if entry.flat else _GRID) if entry.grid else (_FLAT if entry.flat else _ROWS)
    return template.format(
        name=entry.name,
        parameters=", ".join(parameters),
        starts="".join(f", o{i} = 0" for i in range(len(body.inputs))),
        advance="\n            ".join(
            f"o{i} += index * table[{i + 1} * rank + axis];" for i in range(len(body.inputs))
        ),
        fixed="\n        ".join(fixed),
        changing="\n            ".join(changing),
    )


def _load(printer: Printer, entry: Entry, i: int) -> str:
    name, dtype = entry.body.inputs[i]
    place = f"o{i}" if entry.grid and not entry.flat else f"o{i} + i" if entry.strides[i] else f"o{i}"
    return f"const {printer.dialect.formats[dtype].compute} {variable_text(name)} = LOAD_P{i}(p{i}, {place});"


def _step(printer: Printer, name: str, term: Term) -> str:
    return f"const {_type(printer, term)} {variable_text(name)} = {printer.text(term)};"


def _type(printer: Printer, term: Term) -> str:
    return type_of(computing(term.dtype), printer.dialect)


def _stores(body: Body) -> list[str]:
    return [f"STORE_R{i}(r{i}, o + i, {variable_text(name)});" for i, (name, _) in enumerate(body.outputs)]


CHUNK = 256
"""Elements that are computed between two calls of READ_AHEAD, and, halved, that the loops of several stages pass on."""

_FUNCTIONS = frozenset(POLYNOMIAL_OPERATIONS) - {"absolute"}
_MOST_FUNCTIONS = 2  # of a loop: the numbers and constants of more do not fit into the registers


def _stages(body: Body, moving: Container[str]) -> list[dict[str, Term]]:
    """The steps that change along a row, in groups with so few functions each that a loop over them is fast."""
    stages: list[list[tuple[str, Term]]] = [[]]
    functions = 0
    for name, term in reversed(body.steps):  # so that a step is where its result is needed, as a rule
        if name not in moving:
            continue
        own = _functions(term)
        if functions and own and functions + own > _MOST_FUNCTIONS:
            stages.append([])
            functions = 0
        functions += own
        stages[-1].append((name, term))
    return [dict(reversed(stage)) for stage in reversed(stages)]


def _functions(term: Term) -> int:
    return (term.operation in _FUNCTIONS) + sum(map(_functions, term.arguments))


def _loops(printer: Printer, entry: Entry, loads: dict[str, str]) -> list[str]:
    """The loops over a chunk of a row: one for each stage. What a later one needs is kept in arrays; the last one writes."""
    body = entry.body
    moving = body.moving(entry.strides)
    stages = _stages(body, moving)
    last = len(stages) - 1
    needs = [{used for term in stage.values() for used in variables(term)} for stage in stages]
    needs[last] |= {name for name, _ in body.outputs}
    made = [{*stage} for stage in stages]
    kept = {
        name: term
        for number, stage in enumerate(stages)
        for name, term in stage.items()
        if any(name in later for later in needs[number + 1 :])
    }
    chunk, ahead = (CHUNK, "") if len(stages) == 1 else (CHUNK // 2, f" + {CHUNK}")
    lines = [
        f"READ_AHEAD(p{i} + o{i} + c{ahead}, end - c);"
        for i, (name, _) in enumerate(body.inputs)
        if name in loads
    ]
    wide = is_wide(printer.dialect, entry)
    aligned = " WIDE_ALIGNED" if wide else ""
    lines += [f"{_type(printer, term)} k_{name}[{chunk}]{aligned};" for name, term in kept.items()]
    for number, stage in enumerate(stages):
        element = [load for name, load in loads.items() if name in needs[number]]
        element += [
            f"const {_type(printer, term)} {variable_text(name)} = k_{name}[i - c];"
            for name, term in kept.items()
            if name in needs[number] - made[number]
        ]
        for name, term in stage.items():
            element.append(_step(printer, name, term))
            if name in kept:
                element.append(f"k_{name}[i - c] = {variable_text(name)};")
        element += _stores(body) if number == last else ()
        if wide:
            whole = f"if (end - c == {chunk}) for (INDEX i = c; i < c + {chunk}; i += LANES) {{"
            lines.append(WIDE_ONLY.format("\n".join((whole, *map(widened, element), "} else"))))
        lines += ["LOOP", "for (INDEX i = c; i < end; i++) {", *element, "}"]
    head = f"for (INDEX c = begin; c < stop; c += {chunk}) {{"
    return [head, f"const INDEX end = c + {chunk} < stop ? c + {chunk} : stop;", *lines, "}"]


_WIDE_OPERATIONS = frozenset(
    ("variable", "constant", "add", "subtract", "multiply", "true_divide", "negative", "positive")
    + ("absolute", "exp", "expm1", "tanh", "erf")
)
WIDE_ONLY = "#ifdef LANES\n{}\n#endif"


def is_wide(dialect: Dialect, entry: Entry) -> bool:
    """Whether a kernel has loops of many elements at once: all is float32, there are several stages, and no rare operation."""
    body = entry.body
    terms = [term for _, term in body.steps]
    return (
        bool(dialect.wide and entry.lanes and not entry.grid)
        and {*body.dtypes[0], *body.dtypes[1]} == {"float32"}
        and all(map(_widens, terms))
        and len(_stages(body, body.moving(entry.strides))) > 1
    )


def _widens(term: Term) -> bool:
    known = term.operation in _WIDE_OPERATIONS and term.dtype.name == "float32"
    return known and all(map(_widens, term.arguments))


_WIDER = (
    (r"\bLOAD_P\d+\((\w+), ([^)]*)\)", r"AT_WIDE(GLOBAL, \1 + \2)"),
    (r"\bSTORE_R\d+\((\w+), ([^)]*), (\w+)\)", r"AT_WIDE(GLOBAL, \1 + \2) = \3"),
    (r"\b(k_\w+)\[([^]]*)\]", r"AT_WIDE(, \1 + \2)"),
    (r"\bopyard_(\w+)_float32\b", r"opyard_\1_wide"),
    (r"\bAS_INT\b", "AS_WIDE_INT"),
    (r"\bAS_FLOAT\b", "AS_WIDE"),
    (r"\bfloat\b", "WIDE"),
    (r"\bint\b", "WIDE_INT"),
)


def widened(text: str) -> str:
    """The text of statements or functions of float32 for LANES elements at once."""
    for pattern, replacement in _WIDER:
        text = re.sub(pattern, replacement, text)
    return text


_FLAT = """
KERNEL {name}({parameters}, INDEX count, INDEX step WORK_ITEM) {{
    const INDEX begin = ITEM * step, stop = begin + step < count ? begin + step : count, o = 0{starts};
    if (begin < count) {{
        {fixed}
            {changing}
    }}
}}
"""

_ROWS = """
KERNEL {name}({parameters}, INDEX rows, INDEX width, INDEX step, int rank, GLOBAL const INDEX *RESTRICT table WORK_ITEM) {{
    const INDEX first = ITEM * step, last = first + step < rows ? first + step : rows, begin = 0, stop = width;
    for (INDEX r = first; r < last; r++) {{
        INDEX rest = r, o = r * width{starts};
        for (int axis = rank - 1; axis >= 0; axis--) {{
            const INDEX index = rest % table[axis];
            rest /= table[axis];
            {advance}
        }}
        {fixed}
            {changing}
    }}
}}
"""

_GRID_FLAT = """
KERNEL {name}({parameters}, INDEX count WORK_ITEM) {{
    const INDEX o = 0{starts};
    if (ITEM < count) {{
        {fixed}
        for (INDEX i = ITEM; i < count; i += ITEMS) {{
            {changing}
        }}
    }}
}}
"""

_GRID = """
KERNEL {name}({parameters}, INDEX count, int rank, GLOBAL const INDEX *RESTRICT table WORK_ITEM) {{
    const INDEX o = 0;
    for (INDEX i = ITEM; i < count; i += ITEMS) {{
        INDEX rest = i{starts};
        for (int axis = rank - 1; axis >= 0; axis--) {{
            const INDEX index = rest % table[axis];
            rest /= table[axis];
            {advance}
        }}
        {fixed}
            {changing}
    }}
}}
"""
