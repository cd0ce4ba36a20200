"""What was checked, and how it came out: counted for each kernel, as plain data, and as JUnit XML."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

STATUSES = ("passed", "failed", "unsupported", "unjudged")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a kernel did on a trial: a status out of STATUSES, and for all but "passed" a sentence."""

    op: str
    kernel: str
    case: str
    status: str
    detail: str = ""

    @property
    def command(self) -> str:
        """What runs this trial alone."""
        words = ["opyard", "conformance", "--backend", self.kernel.partition("/")[0], "--op", self.op]
        return shlex.join([*words, "--kernel", self.kernel, "--case", self.case])


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcomes of one kernel of one op, counted, and the reasons why cases were refused, most frequent first."""

    op: str
    kernel: str
    counts: Counter[str]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of a run on one device, in order, and how long it took."""

    backend: str
    device: str
    level: str
    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that failed."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def counts(self) -> Counter[str]:
        """Number of outcomes by status."""
        return Counter(outcome.status for outcome in self.outcomes)

    def summaries(self) -> list[Summary]:
        """One for each op and kernel, in order."""
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.op, outcome.kernel), []).append(outcome)
        return [
            Summary(
                *(op, kernel, Counter(o.status for o in group)),
                tuple(
                    r for r, _ in Counter(o.detail for o in group if o.status == "unsupported").most_common()
                ),
            )
            for (op, kernel), group in groups.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data: the counts, a row for each kernel of each op, and every failure with its command."""
        return {
            "backend": self.backend,
            "device": self.device,
            "level": self.level,
            **{status: self.counts[status] for status in STATUSES},
            "seconds": self.seconds,
            "kernels": [
                {
                    "op": s.op,
                    "kernel": s.kernel,
                    **{status: s.counts[status] for status in STATUSES},
                    "reasons": list(s.reasons),
                }
                for s in self.summaries()
            ],
            "failures": [
                {"op": o.op, "kernel": o.kernel, "case": o.case, "detail": o.detail, "command": o.command}
                for o in self.failures
            ],
        }

    def to_junit(self) -> str:
        """JUnit XML: a suite for each kernel of each op. What is unsupported or unjudged counts as skipped."""
        root = ElementTree.Element("testsuites", name=f"opyard conformance {self.device} {self.level}")
        suites: dict[tuple[str, str], ElementTree.Element] = {}
        for s in self.summaries():
            skipped = s.counts["unsupported"] + s.counts["unjudged"]
            suites[s.op, s.kernel] = ElementTree.SubElement(
                root,
                "testsuite",
                name=f"{s.op} {s.kernel}",
                tests=str(s.counts.total()),
                failures=str(s.counts["failed"]),
                skipped=str(skipped),
            )
        for outcome in self.outcomes:
            suite = suites[outcome.op, outcome.kernel]
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{outcome.op}.{outcome.kernel}", name=outcome.case
            )
            if outcome.status == "failed":
                ElementTree.SubElement(case, "failure", message=outcome.detail).text = outcome.command
            elif outcome.status != "passed":
                ElementTree.SubElement(case, "skipped", message=f"{outcome.status}: {outcome.detail}")
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
