"""Means of whole channels-last images as a compiled loop: a thread sums some channels over all pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opyard.settings import num_threads

from ..gemm.tile import Loads, function
from ..jit.code import Code, Value
from ..jit.compiled import as_dense, pointers
from ..jit.launch import address
from ..jit.machine import compiler, host
from ..jit.pool_source import CHUNKS
from ..jit.region import THREAD_BANDWIDTH
from ..jit.teams import held, on_threads

MOST_VECTORS, SUMS = 4, 8
"""Vectors of channels that are summed at once, and sums in registers: a vector of few channels has several of them."""

HELD_SECONDS, THREAD_SECONDS = 1e-4, 5e-6
"""Up to where the interpreter's lock is held, and what a thread must have to do at least."""


def source(pixels: int, channels: int, lanes: int, vectors: int) -> str:
    """The text: ``kernel(data, table, begin, end)`` on so many vectors of channels of an image; data are x and the means."""
    code = Code()
    loads, groups = Loads(code, lanes), -(-channels // (lanes * vectors))
    code.label("entry")
    x, output = loads.word(0), loads.word(1)
    code.line("%any = icmp ult i64 %begin, %end")
    code.line("br i1 %any, label %units, label %done")
    code.label("units")
    code.line("%unit = phi i64 [ %begin, %entry ], [ %next.unit, %one.end ]")
    image, group = (code.let(f"{kind} i64 %unit, {groups}") for kind in ("udiv", "urem"))
    channel = code.let(f"mul i64 {group}, {lanes * vectors}")
    left = code.let(f"sub i64 {channels}, {channel}")
    masks = [
        loads.mask(code.let(f"sub i64 {left}, {v * lanes}")) if channels % (lanes * vectors) else None
        for v in range(vectors)
    ]
    first = code.let(f"add i64 {code.let(f'mul i64 {image}, {pixels * channels}')}, {channel}")
    start, together = loads.moved(x, first), SUMS // vectors
    whole = pixels - pixels % together
    sums = ["zeroinitializer"] * SUMS
    sums = _sums(loads, "some", (start, channels, masks), sums, (0, whole), together, "units")
    sums = _sums(loads, "one", (start, channels, masks), sums, (whole, pixels), 1, "some.end")
    place = code.let(f"add i64 {code.let(f'mul i64 {image}, {channels}')}, {channel}")
    for v, mask in enumerate(masks):
        total, *others = (Value(name, "float32", lanes) for name in sums[v::vectors])
        for other in others:
            total = code.add(total, other)
        mean = code.divide(total, code.constant(float(pixels), "float32"))
        loads.store(mean, loads.moved(output, code.let(f"add i64 {place}, {v * lanes}")), mask)
    code.line("%next.unit = add i64 %unit, 1")
    code.line("%more = icmp ult i64 %next.unit, %end")
    code.line("br i1 %more, label %units, label %done")
    code.label("done")
    code.line("ret void")
    text = function(code, "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)", 4 * lanes)
    return "\n".join([text, *code.declarations, ""])


def _sums(
    loads: Loads,
    name: str,
    given: tuple[str, int, list[str | None]],
    sums: list[str],
    span: tuple[int, int],
    count: int,
    before: str,
) -> list[str]:
    """The sums behind a loop over some pixels, so many at a time; the first ones take them."""
    code, (start, channels, masks), (begin, end) = loads.code, given, span
    kind, vectors = f"<{loads.lanes} x float>", len(masks)
    code.line(f"br label %{name if begin < end else name + '.end'}")
    if begin == end:
        code.label(f"{name}.end")
        return sums
    code.label(name)
    code.line(f"%{name}.p = phi i64 [ {begin}, %{before} ], [ %{name}.next, %{name} ]")
    inner, mark = [f"%{name}.sum{n}" for n in range(count * vectors)], len(code.lines)
    here, now = loads.moved(start, code.let(f"mul i64 %{name}.p, {channels}")), []
    for n, total in enumerate(inner):
        pixel, v = divmod(n, vectors)
        number = loads.load(loads.moved(here, pixel * channels + v * loads.lanes), masks[v])
        now.append(code.add(Value(total, "float32", loads.lanes), number).name)
    code.lines[mark:mark] = [
        f"  {one} = phi {kind} [ {old}, %{before} ], [ {new}, %{name} ]"
        for one, old, new in zip(inner, sums, now, strict=False)
    ]
    code.line(f"%{name}.next = add i64 %{name}.p, {count}")
    code.line(f"%{name}.more = icmp ult i64 %{name}.next, {end}")
    code.line(f"br i1 %{name}.more, label %{name}, label %{name}.end")
    code.label(f"{name}.end")
    return [*now, *sums[len(now) :]]


def means(batch: int, pixels: int, channels: int) -> Callable[..., Any]:
    """A function of dense images ``[batch, pixels, channels]`` of float32 and a dense array for the means, which it gives back."""
    lanes = host().vector_bytes // 4
    seconds = 4 * batch * pixels * channels / THREAD_BANDWIDTH
    threads = max(1, min(num_threads(), int(seconds / THREAD_SECONDS)))
    whole = -(-channels // lanes)
    vectors = next(n for n in (MOST_VECTORS, 2, 1) if n == 1 or batch * (whole // n) >= 2 * threads)
    module = compiler().function(source(pixels, channels, lanes, vectors))
    units = batch * -(-whole // vectors)
    on_all = on_threads(module, units, threads)

    def released(x: Any, out: Any) -> Any:
        x = as_dense(x)
        on_all(pointers(2)(address(x), address(out)), None)
        return out

    return held(module, 2, units, threads, CHUNKS, 0, released) if seconds <= HELD_SECONDS else released
