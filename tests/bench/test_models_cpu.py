"""``opyard bench --models --peers`` on the full models: whole networks beside other runtimes. Skipped unless benchmarks are asked for.

    uv run pytest tests/bench/test_models_cpu.py --benchmark-only -s

The command itself is what docs/performance.md is made with; this takes its smaller half: batch size 1, two threads.
"""

from __future__ import annotations

import pytest

from opyard_bench.contest import ContestOptions, contest
from opyard_bench.contest_record import Contest
from opyard_bench.contest_report import to_markdown
from opyard_bench.models.suite import NAMES
from opyard_bench.peers.contestants import PEERS


@pytest.mark.benchmark(group="models")
@pytest.mark.parametrize("name", NAMES)
def test_model(name: str, benchmark: object) -> None:
    """The time is that of the whole contest; the ratio to the best peer is in ``extra_info``."""
    options = ContestOptions((name,), tuple(PEERS), (1,), (2,), rounds=5, tuning=20.0)
    made: list[Contest] = []
    benchmark.pedantic(  # type: ignore[attr-defined]
        lambda: made.append(contest(options, lambda part, text: None)), rounds=1
    )
    (match,) = made[0].matches
    print(f"\n{to_markdown(made[0])}")
    benchmark.extra_info["ratio"] = match.ratio  # type: ignore[attr-defined]
    assert match.entries[0].status == "ok", match.entries[0].reason
