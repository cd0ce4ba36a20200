"""A step of a region in machine code, and how it is called: by a built-in function, on all threads, or in parts."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from opyard.graph import Node, Value
from opyard.region import Region
from opyard.settings import num_threads
from opyard.spec import TensorSpec

from ..allocation import MOST_BYTES
from ..onednn.addresses import images_maker
from ..threads import LEAST_WORK, in_parts
from .combining import UFUNCS, identity
from .launch import DENSE, KERNEL, address, aligned, built_in
from .machine import Module, compiler, host
from .nest import Nest, arrays_of
from .passes import CACHE_LINE
from .pool import missing as no_teams
from .steps import Step
from .teams import Shared, team
from .transposes import dense_copy
from .unlocked import UNLOCKED, unlocking

Array = np.ndarray[Any, Any]

SMALL_SECONDS = 2e-5
"""Below this the interpreter's lock is not released."""

TEAM_SECONDS = 1e-5
"""From here on, reckoned with all threads, another one of the pool pays."""

THREAD_SECONDS = 1e-4
"""From here on another one of Python pays."""

STREAM_BYTES = 1 << 26
"""Outputs from this size on go past the caches."""

STACK_BYTES = 1 << 16
"""The most that a row of scratch memory takes on the stack."""

UNIT = 1024
"""Elements that threads do not divide further."""

CHUNK, ROWS = 1 << 20, 512
"""Elements, and rows of columns, that are reduced in one go: rounding errors grow with the number of additions."""


class Compiled:
    """A step that is one nest of loops. Several threads may run it at once."""

    def __init__(self, step: Step, seconds: float) -> None:
        nest = Nest(step.region, step.space, host())
        self.step, self.seconds = step, seconds
        self.sizes = step.space.sizes
        self.module = compiler().function(nest.source())
        self.kernel = KERNEL(self.module.address)
        scratch = sum(v.dtype.itemsize for v in nest.scratch) * self.sizes[-1]
        self.scratch_bytes = scratch and scratch + CACHE_LINE  # it begins as far behind a line as an output
        self.specs = step.region.outputs
        constants = step.region.graph.constants.values()
        self.constants = [np.ascontiguousarray(array) for array in constants if array.size != 1]
        self.arrays = arrays_of(step.region)
        self.table = self._table()
        self.streaming = self._streaming()
        self.is_flat = len(self.sizes) == 1
        self.end = self.sizes[0] if self.is_flat else math.prod(self.sizes[:-1])
        self.units = -(-self.end // UNIT) if self.is_flat else self.end
        if self.is_flat and step.space.reduces:
            self.units = 1

    def _streaming(self) -> Module | None:
        """The same with outputs that go past the caches, where they are large and alike; else None."""
        sizes = {spec.dtype.itemsize for spec in self.specs}
        wide = all(spec.size == math.prod(self.sizes) for spec in self.specs)
        if len(sizes) > 1 or not wide or sum(spec.nbytes for spec in self.specs) < STREAM_BYTES:
            return None
        return compiler().function(Nest(self.step.region, self.step.space, host(), True).source())

    def _table(self) -> Array:
        words = [self.sizes[-1], *self.sizes[1:-1]]
        for value in self.arrays:
            step, strides = value.dtype.itemsize, []
            axes = zip(reversed(self.sizes), reversed(self.step.space.present[value]), strict=True)
            for size, present in axes:
                strides.append(step if present else 0)
                step *= size if present else 1
            words += strides[:0:-1]
        return np.array(words, np.int64)

    def function(self) -> Callable[..., Any]:
        """What a plan calls: a built-in function, for interpreted code is cold after large arrays. It asks for the number of threads."""
        several = self.streaming is not None and len(self.specs) > 1  # they may lie in different ways
        is_small, run = self.seconds <= SMALL_SECONDS, self.run
        if several or (not is_small and self.scratch_bytes > STACK_BYTES):
            return run
        native = self._native(1)
        least = (
            THREAD_SECONDS if num_threads() == 1 else TEAM_SECONDS
        )  # asking takes a microsecond in each call
        if native is None or self.seconds <= least or self.units < 2:
            return native or run
        by_threads: dict[int, Callable[..., Any] | None] = {1: native}
        make = self._native if no_teams() is None else self._pooled

        def on_threads(*arrays: Any, out: Array | None = None) -> Any:
            threads = num_threads()
            call = by_threads.get(threads) or by_threads.setdefault(threads, make(threads)) or run
            return call(*arrays) if out is None else call(*arrays, out=out)

        return on_threads

    def _pooled(self, threads: int) -> Callable[..., Any] | None:
        """Threads of Python take longer to begin."""
        return self.run if self.seconds > THREAD_SECONDS else self._native(1)

    def _native(self, threads: int) -> Callable[..., Any] | None:
        """The built-in function; where little is computed it holds the interpreter's lock. None where there is none."""
        makers = [_maker(spec) for spec in self.specs]
        inputs, constants = len(self.step.region.graph.inputs), self.constants
        is_tuple, run = len(makers) > 1, self.run

        def without_outputs(*arrays: Any, out: Array | None = None) -> Any:
            """What the built-in function hands on: calls without arrays for the outputs, or with others than it knows."""
            if out is not None or len(arrays) > inputs:
                given = arrays[inputs + len(constants) :] if out is None else (out,)
                dense = [as_dense(array) for array in arrays[:inputs]]  # views of a split array are not
                if not all(type(a) is np.ndarray and a.flags.num & DENSE == DENSE for a in (*dense, *given)):
                    return run(*arrays, out=out)
                native(*dense, *constants, *given)
                return given if is_tuple else given[0]
            made = [make() for make in makers]
            native(*arrays, *constants, *made)
            return tuple(made) if is_tuple else made[0]

        native = self._built_in(threads, without_outputs)
        if native is without_outputs:
            return None
        return without_outputs if constants or is_tuple else native

    def _built_in(self, threads: int, fallback: Callable[..., Any]) -> Callable[..., Any]:
        """The built-in function of inputs, constants and outputs on so many threads; the fallback where there is none."""
        module, words, scratch = self._called(threads)
        table = np.array([*words, *self.table], np.int64)
        return built_in(module, len(self.arrays), table, self.end, scratch, fallback)

    def _called(self, threads: int) -> tuple[Module, list[int], int]:
        """What the built-in function calls, what is in front of the table, and bytes of scratch memory that it brings."""
        module, count = self.streaming or self.module, len(self.arrays)
        if threads > 1:
            unit = UNIT if self.is_flat else 1
            return *team(Shared(module, count, self.scratch_bytes, self.units, unit, self.end), threads), 0
        if self.seconds <= SMALL_SECONDS:
            return module, [], self.scratch_bytes
        return compiler().function(UNLOCKED), unlocking(module, count, self.scratch_bytes), 0

    def run(self, *arrays: Any, out: Array | None = None) -> Any:
        """Any arrays, on all threads."""
        inputs = len(self.step.region.graph.inputs)
        dense = [as_dense(array) for array in arrays[:inputs]]
        made: list[Array] = list(arrays[inputs + len(self.constants) :])  # called by the built-in function
        if not made:
            fits = out is not None and out.flags.c_contiguous and out.flags.aligned
            made = [out] if out is not None and fits else [_maker(spec)() for spec in self.specs]
        self._compute([*dense, *self.constants, *made], len(made))
        if out is not None and made[0] is not out:
            out[...] = made[0]
            return out
        return tuple(made) if len(self.specs) > 1 else made[0]

    def _compute(self, arrays: Sequence[Array], outputs: int) -> None:
        addresses = [address(array) for array in arrays]
        kernel = self.kernel
        if self.streaming is not None and len({place % 64 for place in addresses[-outputs:]}) == 1:
            kernel = KERNEL(self.streaming.address)
        table, end, units, words = address(self.table), self.end, self.units, pointers(len(addresses) + 1)

        def part(first: int, last: int) -> None:
            scratch = aligned(self.scratch_bytes)
            data = words(*addresses, address(scratch))
            if self.is_flat:
                first, last = first * UNIT, end if last == units else last * UNIT
            kernel(data, table, first, last)

        in_parts(part, units, LEAST_WORK * self.seconds / THREAD_SECONDS)


class Parts(Compiled):
    """A step whose outputs are reductions: of columns, or of one long row. Each part reduces some of it."""

    def run(self, *arrays: Any, out: Array | None = None) -> Any:
        """Any arrays, on all threads; ``out`` where there is one output. Behind constants there may be outputs, too."""
        inputs = len(self.step.region.graph.inputs)
        dense = [as_dense(array) for array in arrays[:inputs]]
        addresses = [address(array) for array in (*dense, *self.constants)]
        reductions, starts = self._reductions(), self._starts()
        ufuncs = [UFUNCS[node.op.name] for node in reductions]
        wider = [_wider(node.op.name, spec.dtype) for node, spec in zip(reductions, self.specs, strict=True)]
        table, words = address(self.table), pointers(len(self.arrays) + 1)
        step = self._at_once()
        found: dict[int, list[Array]] = {}

        def part(first: int, last: int) -> None:
            totals: list[Array] = []
            scratch = aligned(self.scratch_bytes)
            last = min(last * UNIT, self.end) if self.is_flat else last
            begin = first * UNIT if self.is_flat else first
            made = [np.empty(spec.shape, spec.dtype) for spec in self.specs]
            data = words(*addresses, *(address(array) for array in made), address(scratch))
            for start in range(begin, last, step):
                for array, value in zip(made, starts, strict=True):
                    array.fill(value)
                self.kernel(data, table, start, min(start + step, last))
                if not totals:
                    totals = [array.astype(dtype) for array, dtype in zip(made, wider, strict=True)]
                    continue
                for total, array, ufunc in zip(totals, made, ufuncs, strict=True):
                    ufunc(total, array, out=total)
            found[first] = totals

        count = -(-self.end // UNIT) if self.is_flat else self.end
        in_parts(part, count, LEAST_WORK * self.seconds / THREAD_SECONDS)
        (totals, *others) = (found[first] for first in sorted(found))
        for other in others:
            for total, array, ufunc in zip(totals, other, ufuncs, strict=True):
                ufunc(total, array, out=total)
        with np.errstate(all="ignore"):
            results = [total.astype(spec.dtype) for total, spec in zip(totals, self.specs, strict=True)]
        given = arrays[inputs + len(self.constants) :] if out is None else (out,)
        for array, result in zip(given, results, strict=False):
            array[...] = result
        results = list(given) or results
        return tuple(results) if len(results) > 1 else results[0]

    def _at_once(self) -> int:
        """Elements, or rows of columns, that are reduced in one go."""
        return CHUNK if self.is_flat else max(1, min(ROWS, CHUNK // self.sizes[-1]))

    def function(self) -> Callable[..., Any]:
        """What a plan calls: a built-in function where all is done in one go, and on one thread."""
        run, constants, empty, is_long = self.run, self.constants, np.empty, self.seconds >= THREAD_SECONDS
        if self.end > self._at_once() or self.scratch_bytes > STACK_BYTES:
            return run
        native, starts = self._built_in(1, run), self._starts()
        if native is run:
            return run
        specs = [(spec.shape, spec.dtype) for spec in self.specs]

        def at_once(*arrays: Any, out: Array | None = None) -> Any:
            if is_long and num_threads() > 1:
                return run(*arrays, out=out)
            made = [empty(shape, dtype) for shape, dtype in specs]
            for array, start in zip(made, starts, strict=True):
                array.fill(start)
            native(*arrays, *constants, *made)
            if out is not None:  # which may be an input
                out[...] = made[0]
                return out
            return tuple(made) if len(made) > 1 else made[0]

        return at_once

    def _reductions(self) -> list[Node]:
        nodes = {node.outputs[0]: node for node in self.step.region.graph.nodes}
        return [nodes[value] for value in self.step.region.graph.outputs.values()]

    def _starts(self) -> list[Any]:
        return [identity(node).constant for node in self._reductions()]


def _maker(spec: TensorSpec) -> Callable[[], Array]:
    """A function that makes an array; what the C library would give back when it is freed lies where earlier ones did."""
    shape, dtype = tuple(map(int, spec.shape)), spec.dtype
    return images_maker(shape, dtype) if spec.nbytes > MOST_BYTES else partial(np.empty, shape, dtype)


def _wider(op: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What the results of parts are added up in."""
    return np.dtype(np.float64) if op in ("sum", "prod") and dtype.kind == "f" else dtype


def compiled(step: Step, seconds: float) -> Compiled:
    """A step in machine code; ``seconds`` is what it is expected to take."""
    return (Parts if step.in_parts else Compiled)(step, seconds)


def in_steps(region: Region, steps: Sequence[Compiled]) -> Callable[..., Any]:
    """A function that runs one step after the other."""
    values = list(region.graph.inputs.values())
    number: dict[Value, int] = {value: place for place, value in enumerate(values)}
    for one in steps:
        for value in one.step.outputs:
            number.setdefault(value, len(number))
    functions = [one.function() for one in steps]
    reads = [[number[value] for value in one.step.inputs] for one in steps]
    results = [number[value] for value in region.graph.outputs.values()]
    writes = len(results) == 1 and [number[value] for value in steps[-1].step.outputs] == results

    def run(*arrays: Any, out: Array | None = None) -> Any:
        known = [array for array in arrays if array is not None]
        for function, places in zip(functions[:-1], reads, strict=False):
            made = function(*(known[place] for place in places))
            known += made if isinstance(made, tuple) else (made,)
        given = {"out": out} if writes and out is not None else {}
        made = functions[-1](*(known[place] for place in reads[-1]), **given)
        known += made if isinstance(made, tuple) else (made,)
        if out is not None and not writes:
            out[...] = known[results[0]]
            return out
        return tuple(known[place] for place in results) if region.is_tuple else known[results[0]]

    return run


def as_dense(array: Any) -> Array:
    """The array itself where it is dense and aligned, or such a copy."""
    if isinstance(array, np.ndarray) and array.flags.num & DENSE == DENSE:
        return array
    return dense_copy(array)


@lru_cache(maxsize=64)
def pointers(count: int) -> Any:
    """The type of an array of so many addresses."""
    return ctypes.c_void_p * count
