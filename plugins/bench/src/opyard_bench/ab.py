"""Two opyards beside each other: each in a process of its own, the same kernels timed in turns, batch by batch.

A change of the machine's mood so meets both alike, and each round gives a pair of times. Where the memory of a process lies
favours it for as long as it lives (Curtsinger and Berger, "Stabilizer", ASPLOS 2013), so both are started anew for each pass.
"""

from __future__ import annotations

import math
import pickle
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import SettingsError
from opyard.placement.measuring import expect
from opyard.registry import describe_error
from opyard_bench import machine
from opyard_bench.record import OK, Cell, Roof, Row, Run
from opyard_bench.sweep import Progress, check_kernels, is_asked
from opyard_bench.tasks import Options, dtypes_of, find_tasks

PASSES = 30
BATCH_SECONDS = 5e-4
"""A batch lasts about so long: long beside the waking up of a process, and short beside the turns that a busy machine gives."""

MOST_CALLS = 4000
MOST_ROUNDS = 200
GROUP_BYTES = 256 * 2**20
"""Cells are prepared together up to this many bytes, and take turns: so the rounds of each lie far apart in time."""

Name = tuple[str, str]


class Side:
    """One of the two: its process, which answers what it is asked."""

    def __init__(
        self,
        name: str,
        python: str,
        program: Sequence[str] = (str(Path(__file__).with_name("worker.py")),),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._answered = False
        try:
            self._process = subprocess.Popen(  # Ctrl-C is for the parent alone, which ends its children
                [python, "-P", *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            raise SettingsError(f"--{name}: {python} cannot be started: {error}.") from None

    def send(self, *request: Any) -> None:
        """Asks something, and does not wait."""
        assert self._process.stdin is not None
        try:
            pickle.dump(request, self._process.stdin, protocol=4)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Any:
        """The answer to the oldest request. Raises WorkerError with the sentence of the other side."""
        assert self._process.stdout is not None
        try:
            status, result = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._ended() from None
        self._answered = True
        if status != "ok":
            raise WorkerError(result)
        return result

    def ask(self, *request: Any) -> Any:
        """Asks, and waits for the answer."""
        self.send(*request)
        return self.answer()

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _ended(self) -> SettingsError:
        self._process.kill()
        status = self._process.wait()
        advice = (
            "Leave the kernel that ends it out with --kernel."
            if self._answered
            else "Each side needs a Python of version 3.11 or newer."
        )
        return SettingsError(
            f"the process of the {self.name} ended with status {status} in the place of an answer; what it said is above. {advice}"
        )


class WorkerError(Exception):
    """A request that failed on one side, with its sentence."""


@dataclass
class _Kernel:
    """What both sides have measured of one kernel on one device, over all passes."""

    calls: int = 0
    samples: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    passes: list[int] = field(default_factory=list)
    faults: list[tuple[str, str] | None] = field(default_factory=lambda: [None, None])
    known: list[bool] = field(default_factory=lambda: [False, False])

    def row(self, name: Name, side: int) -> Row | None:
        """The row of one side; None where it has no such kernel."""
        if not self.known[side]:
            return None
        status, reason = self.faults[side] or (OK, "")
        if status != OK or not self.passes:
            return Row(*name, status, reason)
        whole = self.samples[side][: sum(self.passes)]  # an interrupt may come between two samples
        return Row(*name, OK, "", self.calls, tuple(whole), passes=tuple(self.passes))


@dataclass(frozen=True)
class _Cell:
    """One call in all passes; ``note`` says why it was not timed on a side."""

    call: oy.Call
    case: str
    drawn: oy.Case | None
    kernels: dict[Name, _Kernel] = field(default_factory=dict)
    notes: list[str] = field(default_factory=lambda: ["", ""])


@dataclass
class _Turn:
    """One kernel in one pass: its positions on both sides, and the seconds that were spent on it."""

    kernel: _Kernel
    positions: tuple[int, int]
    share: float
    spent: float = 0.0
    rounds: int = 0


def ab(
    options: Options, passes: int, pythons: tuple[str, str], registry: oy.Registry, progress: Progress
) -> tuple[Run, Run]:
    """The runs of the base and of the head, measured in turns; an interrupt ends them, and keeps what was measured.

    ``pythons`` are the programs of base and head. The cells are those of ``registry``. Raises as ``sweep`` does, and
    SettingsError where one of the two has no opyard, or one that is too old.
    """
    check_kernels(options, registry)
    tasks = find_tasks(options, registry)
    started = datetime.now(UTC)
    cells = [_Cell(task.work, task.case, task.drawn) for task in tasks if isinstance(task.work, oy.Call)]
    facts: list[dict[str, Any]] = [{"versions": {}, "devices": []}] * 2
    random, interrupted = Random(options.seed), False
    try:
        for number in range(passes):
            progress(number / passes, f"pass {number + 1} of {passes}: starting")
            with _sides(pythons) as sides:
                facts = [_opened(side, options) for side in sides]
                groups = list(_groups(random.sample(cells, len(cells))))
                for position, group in enumerate(groups):
                    done = (number + position / len(groups)) / passes
                    progress(
                        done,
                        f"pass {number + 1} of {passes}: {', '.join(c.call.op.name for c in group)[:40]}",
                    )
                    _Pass(sides, group, options, passes, random).measure()
    except KeyboardInterrupt:
        interrupted = True
    load = machine.load()
    pair = f"{started.isoformat()} {random.getrandbits(64):016x}"
    base, head = (
        Run(
            machine=machine.describe(),
            versions=fact["versions"],
            options={**asdict(options), "passes": passes},
            started=started.isoformat(timespec="seconds"),
            load=load,
            devices=tuple(Roof(name, kind, text, "") for name, kind, text in fact["devices"]),
            interrupted=interrupted,
            cells=tuple(_recorded(cell, number) for cell in cells),
            pair=pair,
        )
        for number, fact in enumerate(facts)
    )
    return base, head


@contextmanager
def _sides(pythons: tuple[str, str]) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        found = []
        for name, python in zip(("base", "head"), pythons, strict=True):
            side = Side(name, python)
            stack.callback(side.close)
            found.append(side)
        yield found[0], found[1]


def _opened(side: Side, options: Options) -> dict[str, Any]:
    """What the side says of itself. Raises SettingsError where it has no opyard, or one without what is needed."""
    try:
        found: dict[str, Any] = side.ask("open", options.devices)
    except WorkerError as error:
        raise SettingsError(
            f"the {side.name} cannot be timed: {error}. It needs opyard with opyard.placement.measuring, and the devices asked for; opyard-bench it does not need."
        ) from None
    return found


def _groups(cells: Sequence[_Cell]) -> Iterator[list[_Cell]]:
    group: list[_Cell] = []
    size = 0.0
    for cell in cells:
        if group and size + cell.call.bytes > GROUP_BYTES:
            yield group
            group, size = [], 0.0
        group.append(cell)
        size += cell.call.bytes
    yield group


class _Pass:
    """Some cells, prepared by one process of each side, which take turns."""

    def __init__(
        self, sides: tuple[Side, Side], cells: Sequence[_Cell], options: Options, passes: int, random: Random
    ) -> None:
        self.sides, self.cells, self.options, self.random = sides, cells, options, random
        self.seconds = options.seconds / passes
        self.turns: list[_Turn] = []

    def measure(self) -> None:
        """Prepares, times and checks; a round is kept whole or not at all."""
        for side in self.sides:
            side.ask("forget")
        for cell in self.cells:
            self._prepare(cell)
        try:
            for turn in self.turns:
                self._warm(turn)
            for _ in range(MOST_ROUNDS):
                waiting = [turn for turn in self.turns if not turn.rounds or turn.spent < turn.share]
                if not waiting:
                    break
                for turn in self.random.sample(waiting, len(waiting)):
                    self._round(turn)
            for turn in self.turns:
                self._check(turn)
        finally:
            for turn in self.turns:
                if turn.rounds:
                    turn.kernel.passes.append(turn.rounds)

    def _prepare(self, cell: _Cell) -> None:
        call = cell.call
        known = cell.drawn.arrays(self.options.seed) if cell.drawn else [None] * len(call.inputs)
        with np.errstate(all="ignore"):
            try:
                arrays = known if cell.drawn else expect(call, known, self.options.seed).arrays
            except Exception as error:
                cell.notes[:] = [f"the reference fails on this case: {describe_error(error)}"] * 2
                return
        specs = [spec and (tuple(spec.shape), spec.dtype.name) for spec in call.inputs]
        for side in self.sides:
            side.send("prepare", call.op.name, specs, dict(call.attributes), arrays)
        ready: list[dict[Name, int]] = [{}, {}]
        for number, side in enumerate(self.sides):
            try:
                rows = side.answer()
            except WorkerError as error:
                cell.notes[number] = str(error)
                continue
            for position, name, device, status, reason in rows:
                if is_asked(name, self.options):
                    kernel = cell.kernels.setdefault((name, device), _Kernel())
                    kernel.known[number] = True
                    if status == OK:
                        ready[number][name, device] = position
                    else:
                        kernel.faults[number] = status, reason
        both = [name for name in ready[0] if name in ready[1]]
        for name in both:
            positions = ready[0][name], ready[1][name]
            self.turns.append(_Turn(cell.kernels[name], positions, self.seconds / len(both)))

    def _warm(self, turn: _Turn) -> None:
        """Runs batches of both sides; the first pass settles the number of calls, equal on both."""
        calls, seconds = turn.kernel.calls or 1, math.inf
        while True:
            slower = max(self._time(turn, number, calls) for number in (0, 1))
            seconds = min(seconds, slower)
            if turn.kernel.calls or seconds * calls >= BATCH_SECONDS or calls >= MOST_CALLS:
                break
            calls = min(MOST_CALLS, max(2 * calls, math.ceil(BATCH_SECONDS / max(seconds, 1e-9))))
        if not turn.kernel.calls:
            turn.kernel.calls = max(1, min(calls, round(BATCH_SECONDS / max(seconds, 1e-9))))

    def _round(self, turn: _Turn) -> None:
        begin = time.perf_counter()
        found = [0.0, 0.0]
        for number in self.random.sample((0, 1), 2):
            found[number] = self._time(turn, number, turn.kernel.calls)
        for samples, seconds in zip(turn.kernel.samples, found, strict=True):
            samples.append(seconds)
        turn.rounds += 1
        turn.spent += time.perf_counter() - begin

    def _time(self, turn: _Turn, number: int, calls: int) -> float:
        return float(self.sides[number].ask("time", turn.positions[number], calls))

    def _check(self, turn: _Turn) -> None:
        for number, side in enumerate(self.sides):
            side.send("check", turn.positions[number])
        for number, side in enumerate(self.sides):
            status, reason = side.answer()
            if status != OK:
                turn.kernel.faults[number] = status, f"after it was timed: {reason}"


def _recorded(cell: _Cell, side: int) -> Cell:
    call = cell.call
    rows = [kernel.row(name, side) for name, kernel in cell.kernels.items()]
    return Cell(
        op=call.op.name,
        case=cell.case,
        flops=float(call.cost.flops),
        bytes=float(call.cost.bytes),
        dtypes=dtypes_of(call),
        note=cell.notes[side],
        rows=tuple(row for row in rows if row is not None),
    )
