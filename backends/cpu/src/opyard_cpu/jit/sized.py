"""One of two functions by the size of the arrays, as a built-in function: small arrays must not wait for Python to look at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .launch import built_in_of, function_of_python, loads

_WORDS = {"kind": "ptr", "least": "i64", "small": "ptr", "large": "ptr", "call": "ptr"}
"""The type of arrays, the number of elements of large ones, both functions, and the function of Python that calls them."""

_SOURCE = f"""
define ptr @kernel(ptr %self, ptr %arguments, i64 %given, ptr %names) nounwind {{
entry:
  %place = getelementptr i8, ptr %self, i64 16
  %words = load ptr, ptr %place
{loads("%words", _WORDS)}
  %count = and i64 %given, 9223372036854775807
  br label %argument
argument:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %look, label %go
look:
  %at.object = getelementptr ptr, ptr %arguments, i64 %i
  %object = load ptr, ptr %at.object
  %at.type = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %at.type
  %same = icmp eq ptr %type, %kind
  br i1 %same, label %array, label %next
array:
  %at.rank = getelementptr i8, ptr %object, i64 24
  %short = load i32, ptr %at.rank
  %rank = zext i32 %short to i64
  %at.sizes = getelementptr i8, ptr %object, i64 32
  %sizes = load ptr, ptr %at.sizes
  br label %axis
axis:
  %a = phi i64 [ 0, %array ], [ %b, %multiply ]
  %total = phi i64 [ 1, %array ], [ %product, %multiply ]
  %left = icmp ult i64 %a, %rank
  br i1 %left, label %multiply, label %compare
multiply:
  %at.size = getelementptr i64, ptr %sizes, i64 %a
  %size = load i64, ptr %at.size
  %product = mul i64 %total, %size
  %b = add i64 %a, 1
  br label %axis
compare:
  %is.large = icmp uge i64 %total, %least
  br i1 %is.large, label %go, label %next
next:
  %j = add i64 %i, 1
  br label %argument
go:
  %function = phi ptr [ %small, %argument ], [ %large, %compare ]
  %result = tail call ptr %call(ptr %function, ptr %arguments, i64 %count, ptr %names)
  ret ptr %result
}}
"""


def by_size(least: int, small: Callable[..., Any], large: Callable[..., Any]) -> Callable[..., Any] | None:
    """``large`` where a NumPy array has so many elements or more, else ``small``; None where Python's objects are not known."""
    words = [id(np.ndarray), least, id(small), id(large), function_of_python("PyObject_Vectorcall")]
    return built_in_of(_SOURCE, words, (small, large))
