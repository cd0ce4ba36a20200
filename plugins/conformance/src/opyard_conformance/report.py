"""What was checked, and how it came out: counted for each kernel, as plain data, and as JUnit XML."""

from __future__ import annotations

import re
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
    device: str
    case: str
    dtype: str
    status: str
    detail: str = ""
    seed: int = 0

    @property
    def command(self) -> str:
        """What runs this trial alone."""
        words = ["opyard", "conformance", "--backend", self.device, "--op", self.op]
        words += ["--kernel", self.kernel, "--case", self.case]
        return shlex.join([*words, "--seed", str(self.seed)] if self.seed else words)


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcomes of one kernel of one op on one device, counted, and why cases were refused, most frequent first."""

    op: str
    kernel: str
    device: str
    counts: Counter[str]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of a run, in order, and how long it took."""

    backend: str
    devices: tuple[str, ...]
    level: str
    seed: int
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
        groups: dict[tuple[str, str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.op, outcome.kernel, outcome.device), []).append(outcome)
        return [
            Summary(
                *(*key, Counter(o.status for o in group)),
                tuple(
                    r for r, _ in Counter(o.detail for o in group if o.status == "unsupported").most_common()
                ),
            )
            for key, group in groups.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data: the counts, a row for each kernel of each op, and every failure with its command."""
        return {
            "backend": self.backend,
            "devices": list(self.devices),
            "level": self.level,
            "seed": self.seed,
            **{status: self.counts[status] for status in STATUSES},
            "seconds": self.seconds,
            "kernels": [
                {
                    "op": s.op,
                    "kernel": s.kernel,
                    "device": s.device,
                    **{status: s.counts[status] for status in STATUSES},
                    "reasons": list(s.reasons),
                }
                for s in self.summaries()
            ],
            "failures": [
                {
                    "op": o.op,
                    "kernel": o.kernel,
                    "device": o.device,
                    "case": o.case,
                    "detail": o.detail,
                    "command": o.command,
                }
                for o in self.failures
            ],
        }

    def to_junit(self) -> str:
        """JUnit XML: a suite for each kernel of each op on each device. Unsupported and unjudged cases count as skipped.

        The attributes are those of the schema that Jenkins, GitLab and GitHub actions read, sums at the root included.
        """
        title = f"opyard conformance {self.backend} {self.level}"
        root = ElementTree.Element(
            "testsuites", {"name": title, **_attributes(self.counts), "time": f"{self.seconds:.3f}"}
        )
        suites: dict[tuple[str, str, str], ElementTree.Element] = {}
        for s in self.summaries():
            name = f"{s.op} {s.kernel} {s.device}"
            key = s.op, s.kernel, s.device
            suites[key] = ElementTree.SubElement(root, "testsuite", {"name": name, **_attributes(s.counts)})
        for outcome in self.outcomes:
            suite = suites[outcome.op, outcome.kernel, outcome.device]
            classname = f"{outcome.op}.{outcome.kernel}.{outcome.device}"
            case = ElementTree.SubElement(suite, "testcase", classname=classname, name=outcome.case)
            if outcome.status == "failed":
                failure = ElementTree.SubElement(
                    case, "failure", message=_text(outcome.detail), type="failed"
                )
                failure.text = _text(f"{outcome.detail}\n{outcome.command}")
            elif outcome.status != "passed":
                ElementTree.SubElement(case, "skipped", message=_text(f"{outcome.status}: {outcome.detail}"))
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, such as those that color the messages of compilers."""


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)


def _attributes(counts: Counter[str]) -> dict[str, str]:
    skipped = counts["unsupported"] + counts["unjudged"]
    return {
        "tests": str(counts.total()),
        "failures": str(counts["failed"]),
        "errors": "0",
        "skipped": str(skipped),
    }
