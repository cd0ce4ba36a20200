"""Which op runs in which dtype on which backend, as Markdown, and why not where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opyard.spec import SHORT_NAMES
from opyard_conformance.families import COMPLEX, FLOATS, INTEGERS
from opyard_conformance.report import Outcome, Report

_SHORT = {long: short for short, long in SHORT_NAMES.items()}
_ORDER = {name: number for number, name in enumerate(("bool", *FLOATS, *COMPLEX, *INTEGERS))}
_NOTHING = "–"


def matrix(reports: Sequence[Report]) -> str:
    """A table with a row for each op and a column for each backend, and one of the reasons for what is missing.

    A cell has the dtypes of the first input, conditions left out, in which all cases pass that some kernel accepts; those with a star where
    some cases are refused, those that fail in bold.
    """
    backends = [report.backend for report in reports]
    cells: dict[str, dict[str, str]] = {}
    for report in reports:
        for op, outcomes in _by_op(report.outcomes).items():
            cells.setdefault(op, {})[report.backend] = _cell(outcomes)
    lines = [f"| op | {' | '.join(backends)} |", f"|---|{'---|' * len(backends)}"]
    lines += [
        f"| `{op}` | {' | '.join(cells[op].get(b, _NOTHING) for b in backends)} |" for op in sorted(cells)
    ]
    lines += ["", "| backend | refuses, or cannot be judged, because | ops |", "|---|---|---|"]
    for report in reports:
        reasons: dict[str, dict[str, None]] = {}
        for outcome in report.outcomes:
            if outcome.status in ("unsupported", "unjudged"):
                reasons.setdefault(_reason(outcome), {})[outcome.op] = None
        lines += [
            f"| {report.backend} | {reason.replace('|', '/')} | {', '.join(f'`{op}`' for op in sorted(ops))} |"
            for reason, ops in sorted(reasons.items())
        ]
    return "\n".join(lines) + "\n"


def _by_op(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.op, []).append(outcome)
    return found


def _cell(outcomes: list[Outcome]) -> str:
    """The dtypes of one op on one backend; a case counts as refused where every kernel refuses it."""
    statuses: dict[str, dict[tuple[str, str], set[str]]] = {}
    for outcome in outcomes:
        cases = statuses.setdefault(outcome.dtype, {})
        cases.setdefault((outcome.device, outcome.case), set()).add(outcome.status)
    shown = []
    for dtype, cases in sorted(statuses.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))):
        name = _SHORT.get(dtype, dtype)
        if any("failed" in found for found in cases.values()):
            shown.append(f"**{name}**")
        elif any("passed" in found for found in cases.values()):
            refused = any(found == {"unsupported"} for found in cases.values())
            shown.append(f"{name}\\*" if refused else name)
    return " ".join(shown) or _NOTHING


def _reason(outcome: Outcome) -> str:
    """Why, without the dtype or the place that differ from case to case."""
    for end in (", not ", ": "):
        found = outcome.detail.partition(end)[0]
        if found != outcome.detail:
            return found
    return outcome.detail
