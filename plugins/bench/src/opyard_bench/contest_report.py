"""What people read of a contest: a table, and Markdown, from the record alone."""

from __future__ import annotations

from opyard_bench.contest_record import OK, Contest, Entry, Match, mean_ratio
from opyard_bench.peers.contestants import CONTESTANTS

LIMIT = 1.0
"""Matches above this ratio are listed with the kernels that take the most time."""

SHOWN_KERNELS = 4


def headings(found: Contest) -> list[str]:
    """Of the table: one column for each contestant."""
    peers = [CONTESTANTS[name].title if name in CONTESTANTS else name for name in found.options["peers"]]
    return [
        "model",
        "batch",
        "threads",
        "opyard ms",
        *peers,
        "best peer",
        "ratio",
        "tuning s",
        "second start s",
    ]


def table_rows(found: Contest) -> list[list[str]]:
    """One row for each match; times are medians in milliseconds."""
    return [_row(match) for match in found.matches]


def _row(match: Match) -> list[str]:
    ours, best = match.entries[0], match.best_peer
    return [
        *(match.model, str(match.batch), str(match.threads)),
        *map(_time, match.entries),
        best.name if best else "",
        f"{match.ratio:.2f}" if match.ratio else "",
        f"{ours.tuning:.1f}" if ours.tuning is not None else "",
        f"{ours.first:.2f}" if ours.first is not None else "",
    ]


def _time(entry: Entry) -> str:
    if entry.status != OK:
        return entry.status
    return "" if entry.seconds is None else f"{1e3 * entry.seconds:.3g}"


def remarks(found: Contest) -> list[str]:
    """Sentences below the table: the mean, what is missing or went wrong, and where the time of slower matches goes."""
    sentences = []
    mean = mean_ratio(found)
    if mean is not None:
        above = [match for match in found.matches if match.ratio and match.ratio > LIMIT]
        count = sum(match.ratio is not None for match in found.matches)
        sentences.append(
            f"Geometric mean of the ratios of opyard to the best peer: {mean:.2f}; {len(above)} of {count} are above {LIMIT:g}."
        )
    reasons = {
        f"{entry.name} {entry.status}: {entry.reason}": None
        for match in found.matches
        for entry in match.entries
        if entry.status == "missing"
    }
    sentences += reasons
    for match in found.matches:
        where = f"{match.model}, batch {match.batch}, threads {match.threads}"
        sentences += [
            f"{where}: {entry.name} {entry.status}: {entry.reason}"
            for entry in match.entries
            if entry.status in ("wrong", "failed")
        ]
        if match.ratio and match.ratio > LIMIT:
            parts = [f"{share:.0%} {name}" for name, share in match.entries[0].kernels[:SHOWN_KERNELS]]
            sentences.append(
                f"{where}: {match.ratio:.2f} times the best peer: {', '.join(parts) or 'no profile'}."
            )
    if found.interrupted:
        sentences.append("The run was interrupted: what is missing was not measured.")
    return sentences


def to_markdown(found: Contest) -> str:
    """The table and the remarks."""
    names = headings(found)
    rows = [names, ["---", *["---:"] * (len(names) - 1)], *table_rows(found)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in remarks(found)), ""])
