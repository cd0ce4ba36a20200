"""How threads share work, as LLVM IR: one word says which work it is and which of its chunks are taken.

The upper half of the word counts works, the lower half has one bit for each chunk. A thread takes a chunk by exchanging the word it
read for one with another bit. That fails where anything changed meanwhile, so what was read of the work before is right when it
succeeds; and the work stays until all of its chunks are done.
"""

from __future__ import annotations

from .launch import loads

CHUNKS = 32
"""Parts of a work at most: the bits of half a word."""

CLOSED = (1 << CHUNKS) - 1
"""No chunk is free."""

PLACES = {
    "state": 0,
    "done": 8,
    "sleepers": 16,
    "busy": 24,
    "run": 32,
    "data": 33,
    "table": 34,
    "count": 35,
    "chunks": 36,
    "threads": 37,
    "syscall": 40,
    "sched_yield": 41,
}
"""Words of the pool by name; those that several threads write lie on cache lines of their own."""

AWAKE = 200_000
"""Cycles, some 80 microseconds, for which a thread without work looks for some before it sleeps: longer than the pause between
two kernels of a plan, and mostly than that between two runs."""

PATIENT = 5_000
"""Cycles after which a thread that waits lets others have its processor, where there are any."""

_FUTEX, _WAIT, _WAKE = 202, 128, 129
"""The system call of Linux on x86-64, and what it shall do: wait and wake, within one process."""


def _words(*names: str) -> str:
    """Addresses of words of the pool."""
    return "\n".join(f"  %{name}.at = getelementptr i64, ptr %pool, i64 {PLACES[name]}" for name in names)


def _values(**kinds: str) -> str:
    """Words of the pool that other threads may be writing."""
    found = (
        f"  %{name}.word = load atomic i64, ptr %{name}.at monotonic, align 8\n"
        + (
            f"  %{name} = inttoptr i64 %{name}.word to ptr"
            if kind == "ptr"
            else f"  %{name} = add i64 %{name}.word, 0"
        )
        for name, kind in kinds.items()
    )
    return "\n".join([_words(*kinds), *found])


def _pause(again: str, later: str) -> str:
    """Looks again soon after ``%start``, and later goes on elsewhere; both are labels. ``%waited`` are the cycles in between."""
    return f"""
  call void @llvm.x86.sse2.pause()
  %now = call i64 @llvm.readcyclecounter()
  %waited = sub i64 %now, %start
  %early = icmp ult i64 %waited, {PATIENT}
  br i1 %early, label %{again}, label %{later}"""


_LEADING = {"pool": "ptr", "run": "i64", "table": "i64", "threads": "i64", "most": "i64"}
"""What the leader is told."""

_SHARED = f"""
declare void @llvm.x86.sse2.pause()
declare i64 @llvm.readcyclecounter()
declare i32 @llvm.fshr.i32(i32, i32, i32)
declare i32 @llvm.cttz.i32(i32, i1)

define internal i64 @take(ptr %pool, i64 %index) nounwind {{
entry:
  br label %again
again:
  %seen = load atomic i64, ptr %pool acquire, align 8
  %taken = trunc i64 %seen to i32
  %free = xor i32 %taken, -1
  %closed = icmp eq i32 %free, 0
  br i1 %closed, label %none, label %open
open:
{_values(chunks="i64", threads="i64")}
  %helps = icmp ult i64 %index, %threads
  br i1 %helps, label %choose, label %none
choose:
  %before = mul i64 %index, %chunks
  %own = udiv i64 %before, %threads
  %home = trunc i64 %own to i32
  %turned = call i32 @llvm.fshr.i32(i32 %free, i32 %free, i32 %home)
  %further = call i32 @llvm.cttz.i32(i32 %turned, i1 true)
  %sum = add i32 %home, %further
  %chunk = and i32 %sum, {CHUNKS - 1}
  %bit = shl i32 1, %chunk
  %wide = zext i32 %bit to i64
  %new = or i64 %seen, %wide
  %pair = cmpxchg ptr %pool, i64 %seen, i64 %new acq_rel acquire
  %success = extractvalue {{ i64, i1 }} %pair, 1
  %found = zext i32 %chunk to i64
  br i1 %success, label %yes, label %again
yes:
  ret i64 %found
none:
  ret i64 -1
}}

define internal void @compute(ptr %pool, i64 %chunk) nounwind {{
{_values(run="ptr", data="ptr", table="ptr", count="i64", chunks="i64")}
  %next = add i64 %chunk, 1
  %from = mul i64 %chunk, %count
  %to = mul i64 %next, %count
  %begin = udiv i64 %from, %chunks
  %end = udiv i64 %to, %chunks
  call void %run(ptr %data, ptr %table, i64 %begin, i64 %end)
{_words("done")}
  %old = atomicrmw add ptr %done.at, i64 1 release
  ret void
}}
"""


WORKER = f"""{_SHARED}
define ptr @kernel(ptr %words) nounwind {{
entry:
{loads("%words", {"pool": "ptr", "index": "i64"})}
  %epoch.at = getelementptr i32, ptr %pool, i64 1
{_words("sleepers", "syscall", "sched_yield")}
  %syscall = load ptr, ptr %syscall.at
  %sched_yield = load ptr, ptr %sched_yield.at
  br label %fresh
fresh:
  %start = call i64 @llvm.readcyclecounter()
  br label %look
look:
  %epoch = load atomic i32, ptr %epoch.at acquire, align 4
  %chunk = call i64 @take(ptr %pool, i64 %index)
  %any = icmp sge i64 %chunk, 0
  br i1 %any, label %work, label %idle
work:
  call void @compute(ptr %pool, i64 %chunk)
  br label %fresh
idle:
{_pause("look", "later")}
later:
  %late = icmp ugt i64 %waited, {AWAKE}
  br i1 %late, label %sleep, label %yield
yield:
  %yielded = call i32 %sched_yield()
  br label %look
sleep:
  %one = atomicrmw add ptr %sleepers.at, i64 1 seq_cst
  %expected = zext i32 %epoch to i64
  %result = call i64 (i64, ...) %syscall(i64 {_FUTEX}, ptr %epoch.at, i64 {_WAIT}, i64 %expected, ptr null, ptr null, i64 0)
  %less = atomicrmw sub ptr %sleepers.at, i64 1 seq_cst
  br label %fresh
}}
"""
"""``kernel(words)``: what a thread does for ever. The words are the address of the pool, and its number from 1 on."""

LEADER = f"""{_SHARED}
define void @kernel(ptr %data, ptr %words, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%words", _LEADING)}
{_words("done", "sleepers", "busy", "run", "data", "table", "count", "chunks", "threads", "syscall", "sched_yield")}
  %claim = cmpxchg ptr %busy.at, i64 0, i64 1 acq_rel acquire
  %ours = extractvalue {{ i64, i1 }} %claim, 1
  br i1 %ours, label %publish, label %alone
alone:
  %function = inttoptr i64 %run to ptr
  %own = inttoptr i64 %table to ptr
  call void %function(ptr %data, ptr %own, i64 0, i64 %end)
  ret void
publish:
  %few = icmp ult i64 %end, %most
  %chunks = select i1 %few, i64 %end, i64 %most
  %given = ptrtoint ptr %data to i64
  store atomic i64 %run, ptr %run.at monotonic, align 8
  store atomic i64 %given, ptr %data.at monotonic, align 8
  store atomic i64 %table, ptr %table.at monotonic, align 8
  store atomic i64 %end, ptr %count.at monotonic, align 8
  store atomic i64 %chunks, ptr %chunks.at monotonic, align 8
  store atomic i64 %threads, ptr %threads.at monotonic, align 8
  store atomic i64 0, ptr %done.at monotonic, align 8
  %seen = load atomic i64, ptr %pool acquire, align 8
  %following = add i64 %seen, 1
  %high = shl i64 -1, %chunks
  %low = and i64 %high, {CLOSED}
  %state = or i64 %following, %low
  store atomic i64 %state, ptr %pool seq_cst, align 8
  %asleep = load atomic i64, ptr %sleepers.at seq_cst, align 8
  %wake = icmp ne i64 %asleep, 0
  br i1 %wake, label %call, label %look
call:
  %epoch.at = getelementptr i32, ptr %pool, i64 1
  %syscall = load ptr, ptr %syscall.at
  %woken = call i64 (i64, ...) %syscall(i64 {_FUTEX}, ptr %epoch.at, i64 {_WAKE}, i64 2147483647, ptr null, ptr null, i64 0)
  br label %look
look:
  %chunk = call i64 @take(ptr %pool, i64 0)
  %any = icmp sge i64 %chunk, 0
  br i1 %any, label %work, label %taken
work:
  call void @compute(ptr %pool, i64 %chunk)
  br label %look
taken:
  %start = call i64 @llvm.readcyclecounter()
  br label %wait
wait:
  %ready = load atomic i64, ptr %done.at acquire, align 8
  %all = icmp eq i64 %ready, %chunks
  br i1 %all, label %finish, label %more
more:
{_pause("wait", "yield")}
yield:
  %sched_yield = load ptr, ptr %sched_yield.at
  %yielded = call i32 %sched_yield()
  br label %wait
finish:
  store atomic i64 0, ptr %busy.at release, align 8
  ret void
}}
"""
"""``kernel(data, table, begin, end)``: the table has the pool, the function, its own table, how many threads may work, and the
most chunks.

Where another work has the helpers, the caller does all of it.
"""
