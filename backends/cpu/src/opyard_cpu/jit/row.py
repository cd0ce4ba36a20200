"""One row times a matrix, with bias and relu, as a compiled loop: for networks so small that a call of a library takes longer.

The matrix lies as it is given, by rows. Columns are taken in blocks whose sums stay in registers while the rows go by, and what comes
next is fetched ahead. The function is ``kernel(data, table, begin, end)``, as those of nest.py, for columns, in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.operation import Call

from .launch import built_in
from .machine import Module, Processor, compiler, host, missing
from .region import CALL_SECONDS, THREAD_BANDWIDTH

Array = np.ndarray[Any, Any]

MOST_BYTES = 1 << 22
"""Of a matrix: from here on all threads read it."""

AHEAD = 4
"""Rows between the one that is used and the one that is fetched; with 8 of 4 KiB each, they drive each other out of the first cache."""


def source(target: Processor, bias: bool, relu: bool) -> str:
    """The text for a processor."""
    lanes, width = target.vector_bytes // 4, target.vector_bytes * 8
    attributes = f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    sizes = {"wide": 16 if lanes == 16 else 8, "some": 4, "one": 1, "rest": 1}
    blocks = "".join(
        _block(name, count, lanes, attributes, bias, relu, name == "rest") for name, count in sizes.items()
    )
    last, calls, before = "%begin", "", "%begin"
    for name, count in sizes.items():
        if name == "rest":
            last = "%end"
        else:
            step = 4 * lanes * count
            last = f"%{name}"
            calls += f"  %{name}.bytes = sub i64 %end, {before}\n  %{name}.whole = and i64 %{name}.bytes, {-step}\n"
            calls += f"  {last} = add i64 {before}, %{name}.whole\n"
        calls += f"  call void @{name}(ptr %x, ptr %w, ptr %b, ptr %y, i64 %depth, i64 %line, i64 {before}, i64 {last})\n"
        before = last
    names = ("x", "w", "b", "y") if bias else ("x", "w", "y")
    loads = "".join(
        f"  %at.{name} = getelementptr ptr, ptr %data, i64 {place}\n  %{name} = load ptr, ptr %at.{name}\n"
        for place, name in enumerate(names)
    )
    return f"""{blocks}
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare <{lanes} x float> @llvm.masked.load.v{lanes}f32.p0(ptr, i32, <{lanes} x i1>, <{lanes} x float>)
declare void @llvm.masked.store.v{lanes}f32.p0(<{lanes} x float>, ptr, i32, <{lanes} x i1>)
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {attributes} {{
  %depth = load i64, ptr %table
  %at.line = getelementptr i64, ptr %table, i64 1
  %line = load i64, ptr %at.line
{loads}{calls if bias else calls.replace("ptr %b", "ptr null")}  ret void
}}
"""


def _block(name: str, count: int, lanes: int, attributes: str, bias: bool, relu: bool, masked: bool) -> str:
    """A function for the columns from begin to end, so many vectors at once; what is left over at the end is ``masked``."""
    kind, step, numbers = f"<{lanes} x float>", 4 * lanes * count, range(count)
    zero = "zeroinitializer"

    def load(result: str, base: str, i: int) -> str:
        place = f"  %{result}.at{i} = getelementptr i8, ptr {base}, i64 {4 * lanes * i}\n"
        if masked:
            call = f"call {kind} @llvm.masked.load.v{lanes}f32.p0(ptr %{result}.at{i}, i32 4, <{lanes} x i1> %mask, {kind} {zero})"
            return f"{place}  %{result}{i} = {call}\n"
        return f"{place}  %{result}{i} = load {kind}, ptr %{result}.at{i}, align 4\n"

    biases = "".join(load("bias", "%b.c", i) for i in numbers) if bias else ""
    sums = "".join(
        f"  %sum{i} = phi {kind} [ {f'%bias{i}' if bias else zero}, %begin.block ], [ %new{i}, %loop ]\n"
        for i in numbers
    )
    products = "".join(
        f"{load('w', '%row', i)}  %product{i} = fmul contract {kind} %w{i}, %factors\n"
        f"  %new{i} = fadd contract {kind} %product{i}, %sum{i}\n"
        f"  %ahead{i} = getelementptr i8, ptr %next, i64 {4 * lanes * i}\n"
        f"  call void @llvm.prefetch.p0(ptr %ahead{i}, i32 0, i32 3, i32 1)\n"
        for i in numbers
    )
    stores, mask = _stores(numbers, lanes, relu, masked), _mask(lanes) if masked else ""
    return f"""
define internal void @{name}(ptr %x, ptr %w, ptr %b, ptr %y, i64 %depth, i64 %line, i64 %begin, i64 %end) nounwind {attributes} {{
entry:
  br label %head
head:
  %c = phi i64 [ %begin, %entry ], [ %c.next, %store ]
  %c.more = icmp ult i64 %c, %end
  br i1 %c.more, label %begin.block, label %done
begin.block:
{mask}  %b.c = getelementptr i8, ptr %b, i64 %c
  %w.c = getelementptr i8, ptr %w, i64 %c
  %far = mul i64 %line, {AHEAD}
{biases}  br label %loop
loop:
  %k = phi i64 [ 0, %begin.block ], [ %k.next, %loop ]
  %row = phi ptr [ %w.c, %begin.block ], [ %row.next, %loop ]
{sums}  %next = getelementptr i8, ptr %row, i64 %far
  %x.at = getelementptr float, ptr %x, i64 %k
  %factor = load float, ptr %x.at, align 4
  %factor.one = insertelement {kind} poison, float %factor, i64 0
  %factors = shufflevector {kind} %factor.one, {kind} poison, <{lanes} x i32> zeroinitializer
{products}  %row.next = getelementptr i8, ptr %row, i64 %line
  %k.next = add i64 %k, 1
  %k.more = icmp ult i64 %k.next, %depth
  br i1 %k.more, label %loop, label %store
store:
  %y.c = getelementptr i8, ptr %y, i64 %c
{stores}  %c.next = add i64 %c, {step}
  br label %head
done:
  ret void
}}
"""


def _stores(numbers: range, lanes: int, relu: bool, masked: bool) -> str:
    """What writes the sums of a block."""
    kind, zero = f"<{lanes} x float>", "zeroinitializer"
    stores = ""
    for i in numbers:
        result = f"%new{i}"
        if relu:
            stores += f"  %low{i} = fcmp ole {kind} %new{i}, {zero}\n"
            stores += f"  %relu{i} = select <{lanes} x i1> %low{i}, {kind} {zero}, {kind} %new{i}\n"
            result = f"%relu{i}"
        stores += f"  %y.at{i} = getelementptr i8, ptr %y.c, i64 {4 * lanes * i}\n"
        if masked:
            stores += f"  call void @llvm.masked.store.v{lanes}f32.p0({kind} {result}, ptr %y.at{i}, i32 4, <{lanes} x i1> %mask)\n"
        else:
            stores += f"  store {kind} {result}, ptr %y.at{i}, align 4\n"
    return stores


def _mask(lanes: int) -> str:
    """Which lanes are before the last column."""
    places = ", ".join(f"i32 {4 * lane}" for lane in range(lanes))
    return f"""  %left = sub i64 %end, %c
  %left.short = trunc i64 %left to i32
  %left.one = insertelement <{lanes} x i32> poison, i32 %left.short, i64 0
  %left.all = shufflevector <{lanes} x i32> %left.one, <{lanes} x i32> poison, <{lanes} x i32> zeroinitializer
  %mask = icmp ult <{lanes} x i32> <{places}>, %left.all
"""


@lru_cache(maxsize=4)
def _module(bias: bool, relu: bool) -> Module:
    return compiler().function(source(host(), bias, relu))


def _base(work: Work) -> tuple[Call, bool]:
    """The product, and whether relu follows."""
    if isinstance(work, Call):
        return work, False
    return work.graph.nodes[0].call, True


def accepts(work: Work, device: Device) -> str | None:
    """Why this product is not made here, or None."""
    if reason := missing():
        return reason
    if host().vector_bytes < 32:
        return "processors without AVX2 have too few registers"
    call, _ = _base(work)
    x, weight = call.inputs[:2]
    assert x is not None and weight is not None
    if weight.ndim != 2 or any(int(n) != 1 for n in x.shape[:-1]) or not x.ndim:
        return "takes one row, and a matrix"
    if not x.size or not weight.size:
        return "an empty tensor has no need of a loop"
    if weight.nbytes > MOST_BYTES:
        return f"a matrix of more than {MOST_BYTES >> 20} MiB is read by all threads elsewhere"
    return None


def cost(work: Work, device: Device) -> float:
    """Estimated seconds."""
    return work.cost.bytes / min(device.capabilities.bandwidth, THREAD_BANDWIDTH) + CALL_SECONDS


def prepare(work: Work, device: Device) -> Callable[..., Any]:
    """``run(x, weight, bias)``; bias may be left out of the call."""
    call, relu = _base(work)
    weight, shape = call.inputs[1], tuple(map(int, call.output.shape))
    assert weight is not None
    depth, columns = map(int, weight.shape)
    bias = len(call.inputs) > 2 and call.inputs[2] is not None
    table, dtype, empty = np.array([depth, 4 * columns], np.int64), call.output.dtype, np.empty
    inputs = 3 if bias else 2

    def otherwise(*arrays: Any, out: Array | None = None) -> Any:
        """What the built-in function hands on: calls without a result, and arrays that are not dense."""
        given = [array for array in arrays[:inputs] if array is not None]
        target = arrays[inputs] if len(arrays) > inputs and arrays[inputs] is not None else out
        if native is not otherwise:
            made = empty(shape, dtype) if target is None else target
            if all(
                type(a) is np.ndarray and a.flags.c_contiguous and a.flags.aligned for a in (*given, made)
            ):
                return native(*given, made)
        result = np.matmul(given[0], given[1], out=target)
        if bias:
            np.add(result, given[2], out=result)
        return np.maximum(result, 0, out=result) if relu else result

    native = built_in(_module(bias, relu), inputs + 1, table, 4 * columns, 0, otherwise)
    return native
