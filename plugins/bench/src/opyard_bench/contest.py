"""A contest: the same model by opyard and by its peers, each in a process of its own, timed in turns."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from random import Random
from typing import Any

import numpy as np

from opyard.errors import SettingsError
from opyard_bench import machine
from opyard_bench.ab import Side, WorkerError
from opyard_bench.contest_record import FAILED, MISSING, OK, WRONG, Contest, Entry, Match
from opyard_bench.peers.contestants import CONTESTANTS, OURS
from opyard_bench.sweep import Progress

TOLERANCE = 1e-4
"""Outputs may differ by this part of the greatest number among them: some thousand roundings of float32."""

THREAD_VARIABLES = ("OPYARD_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

WALL, PROCESSOR = CLOCKS = ("wall", "processor")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ContestOptions:
    """What is asked for. ``tuning``: seconds for ours, 0 for none; ``cache``: folder of its costs, "" for a new one;
    ``clock``: "wall", or "processor", which other programs disturb less, and which tells something of one thread alone.
    """

    models: tuple[str, ...]
    peers: tuple[str, ...]
    batches: tuple[int, ...] = (1, 16)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    tuning: float = 30.0
    scale: str = "full"
    cache: str = ""
    clock: str = WALL
    seed: int = 0


def contest(
    options: ContestOptions, progress: Progress, keep: Callable[[Contest], None] = lambda found: None
) -> Contest:
    """All matches; ``keep`` sees what there is after each. An interrupt ends it, and keeps what was measured."""
    found = Contest(
        machine.describe(),
        machine.versions() | _versions(options.peers),
        asdict(options),
        datetime.now(UTC).isoformat(timespec="seconds"),
        machine.load(),
    )
    cells = list(product(options.models, options.batches, options.threads))
    with tempfile.TemporaryDirectory(prefix="opyard-models-") as folder:
        cache = options.cache or folder
        for number, cell in enumerate(cells):

            def report(part: float, text: str, before: int = number) -> None:
                progress((before + part) / len(cells), text)

            match = _play(options, cell, cache, report)
            found = replace(
                found,
                matches=(*found.matches, match),
                interrupted=match.interrupted,
            )
            keep(found)
            if match.interrupted:
                break
    return found


def _versions(peers: Sequence[str]) -> dict[str, str]:
    """Of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in peers:
        package = CONTESTANTS[name].packages[0]
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class _Player:
    """A contestant in a match, its process, and what was found of it so far."""

    entry: Entry
    side: Side | None = None
    outputs: Sequence[Array] = ()

    def fail(self, error: Exception) -> None:
        self.entry = replace(self.entry, status=FAILED, reason=" ".join(str(error).split())[:300])
        self.close()

    def close(self) -> None:
        if self.side is not None:
            self.side.close()
            self.side = None


def _play(options: ContestOptions, cell: tuple[str, int, int], cache: str, progress: Progress) -> Match:
    """One match, with what an interrupt leaves of it."""
    model, batch, threads = cell
    title = f"{model}, batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}"
    players = [_Player(Entry(name, OK)) for name in (OURS, *options.peers)]
    match = Match(model, batch, threads, 0, 0, ())
    interrupted = False
    with ExitStack() as stack:
        for player in players:
            stack.callback(player.close)
        try:
            for number, player in enumerate(players):
                progress(0.6 * number / len(players), f"{title}: {player.entry.name} is made ready")
                match = _make_ready(player, match, options, cache)
            _compare(players)
            for number in range(options.rounds):
                progress(0.6 + 0.4 * number / options.rounds, f"{title}: round {number + 1}")
                _round(players, options.clock, Random(options.seed + number))
            _profile(players[0])
        except KeyboardInterrupt:
            interrupted = True
    return replace(match, entries=tuple(player.entry for player in players), interrupted=interrupted)


def _start(name: str, threads: int, cache: str) -> Side:
    """The process of a contestant, with so many processors."""
    environment = {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "OPYARD_CACHE_DIR": cache,
        **(CONTESTANTS[name].environment or {}),
    }
    side = Side(name, sys.executable, ("-m", "opyard_bench.peers.process"), environment)
    side.ask("start", threads)
    return side


def _make_ready(player: _Player, match: Match, options: ContestOptions, cache: str) -> Match:
    """Starts a contestant and runs the model once; gives the match with what is known of the model then."""
    name = player.entry.name
    sentence = CONTESTANTS[name].missing
    if sentence is not None:
        player.entry = replace(player.entry, status=MISSING, reason=sentence)
        return match
    built = match.model, match.batch, options.scale
    try:
        if name == OURS and options.tuning:
            player.side = _start(name, match.threads, cache)
            player.side.ask("build", *built)
            seconds, tuned = player.side.ask("tune", options.tuning)
            player.entry = replace(player.entry, tuning=seconds, tuned=tuned)
            player.close()
        player.side = _start(name, match.threads, cache)
        nodes, weights = player.side.ask("build", *built)
        first, player.outputs = player.side.ask("prepare", name, match.threads)
        player.entry = replace(player.entry, first=first)
        return replace(match, nodes=nodes, weights=weights)
    except (WorkerError, SettingsError) as error:
        player.fail(error)
        return match


def difference(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The greatest difference, over the greatest number of each output; infinite where shapes differ or NaN appears."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        scale = float(np.max(np.abs(other), initial=0.0)) or 1.0
        worst = float(
            np.fmax(worst, np.nan_to_num(np.max(np.abs(one - other), initial=0.0) / scale, nan=np.inf))
        )
    return worst


def _compare(players: Sequence[_Player]) -> None:
    """Compares the outputs of all with those of the one that most others agree with."""
    ready = [player for player in players if player.side is not None]
    if len(ready) < 2:
        return
    table = [[difference(one.outputs, other.outputs) for other in ready] for one in ready]
    votes = [sum(error <= TOLERANCE for error in column) for column in zip(*table, strict=True)]
    yardstick = votes.index(max(votes))
    for number, player in enumerate(ready):
        error = table[number][yardstick]
        player.outputs = ()
        player.entry = replace(player.entry, error=error if np.isfinite(error) else None)
        if not error <= TOLERANCE:
            sentence = f"its outputs differ by {error:.1e} from those of {ready[yardstick].entry.name}, more than {TOLERANCE:g}"
            player.entry = replace(player.entry, status=WRONG, reason=sentence)
            player.close()


def _round(players: Sequence[_Player], clock: str, random: Random) -> None:
    """One sample of each, in random order."""
    ready = [player for player in players if player.side is not None]
    for player in random.sample(ready, len(ready)):
        assert player.side is not None
        try:
            wall, cpu = player.side.ask("sample")
        except (WorkerError, SettingsError) as error:
            player.fail(error)
            continue
        entry = player.entry
        taken = wall if clock == WALL else cpu
        player.entry = replace(entry, samples=(*entry.samples, taken), cpu=(*entry.cpu, cpu))


def _profile(ours: _Player) -> None:
    """Where the time of ours goes."""
    if ours.side is not None:
        rows = ours.side.ask("profile")
        ours.entry = replace(ours.entry, kernels=tuple((name, share) for name, share in rows))
