"""Running primitives: the arguments are made once, and each call only says where the data lie.

A primitive may run in several threads at once, so each thread has memories and a scratchpad of its own. A call sets the
addresses that changed since the last one and executes: 0.2 microseconds beside oneDNN's own, and 0.2 more for each address that
changed (measured with CPython 3.11). The interpreter lock is released meanwhile.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from opyard.errors import KernelError
from opyard.settings import num_threads

from . import api
from .addresses import Array, address, aligned
from .library import describe_status, library
from .memory import Descriptor
from .primitives import Primitive, argument, reorder


class Execution(threading.local):
    """The call of a primitive, made anew for each thread: ``run`` takes one address for each of ``roles``, in their order."""

    def __init__(self, primitive: Primitive, roles: Sequence[str]) -> None:
        memories = primitive.memories
        if sorted(memories) != sorted(roles):
            raise KernelError(
                f"oneDNN's {primitive.kind} takes {', '.join(memories)}, each once; found {', '.join(roles)}"
            )
        self.run = _frame(primitive, tuple(roles))


class Scratch:
    """Memory that primitives use while they run, shared by many: it stays in the cache."""

    def __init__(self) -> None:
        self.memory = aligned(1 << 16)

    def of(self, nbytes: int) -> Array:
        """So many bytes or more."""
        if nbytes > self.memory.nbytes:
            self.memory = aligned(max(nbytes, 2 * self.memory.nbytes))
        return self.memory


class _Local(threading.local):
    """What a thread has for the primitives that it runs."""

    def __init__(self) -> None:
        library().use_threads()
        self.scratch = Scratch()


@cache
def _local() -> _Local:
    return _Local()


def _frame(primitive: Primitive, roles: tuple[str, ...]) -> Callable[..., None]:
    """The call for one thread: memories without addresses, and the array of arguments that names them."""
    found = library()
    scratch = _local().scratch.of(primitive.scratchpad.nbytes)
    memories, arguments = arguments_of(primitive, roles, scratch)
    make: Callable[..., Callable[..., None]] = _maker(len(roles))
    return make(
        (primitive, memories, scratch),
        found.held["memory_set_data_handle"],
        found.execute,
        *(primitive.handle, found.stream, ctypes.c_int(len(memories)), arguments),
        lambda status: fail(primitive, status),
        *(memory.handle for memory in memories[: len(roles)]),
    )


def arguments_of(
    primitive: Primitive, roles: Sequence[str], scratch: Array
) -> tuple[list[_Memory], ctypes.Array[api.Argument]]:
    """Memories without addresses, one for each role, and with a scratchpad, and the array of arguments that names them."""
    memories = [_memory(primitive.memories[role], None) for role in roles]
    kinds = [argument(role) for role in roles]
    if primitive.scratchpad.nbytes:
        memories.append(_memory(primitive.scratchpad, address(scratch)))
        kinds.append(api.ARGUMENTS["scratchpad"])
    named = (api.Argument(kind, memory.handle) for kind, memory in zip(kinds, memories, strict=True))
    return memories, (api.Argument * len(memories))(*named)


class _Memory:
    """A memory object of oneDNN, which goes with this object."""

    def __init__(self, handle: Any, destroy: Callable[[Any], int]) -> None:
        self.handle = handle
        self._destroy = destroy

    def __del__(self) -> None:
        self._destroy(self.handle)


def _memory(descriptor: Descriptor, place: int | None) -> _Memory:
    found = library()
    made = found.make("memory_create", descriptor.handle, found.engine, place)
    return _Memory(made, found.held["memory_destroy"])


def fail(primitive: Primitive, status: int) -> None:
    raise KernelError(
        f"oneDNN's {primitive.kind} ({primitive.implementation}) failed: {describe_status(status)}"
    )


@cache
def _maker(count: int) -> Callable[..., Callable[..., None]]:
    """``make(kept, set_address, execute, ..., *memories)`` for calls with so many addresses: no loop, no argument list."""
    numbers = range(count)
    known = " = ".join(f"k{n}" for n in numbers)
    lines = [
        f"def make(kept, set_address, execute, primitive, stream, count, arguments, fail, {', '.join(f'm{n}' for n in numbers)}):",
        f"    {known} = 0",
        f"    def run({', '.join(f'a{n}' for n in numbers)}):",
        f"        nonlocal {', '.join(f'k{n}' for n in numbers)}",
    ]
    for n in numbers:
        lines += [
            f"        if a{n} != k{n}:",
            f"            set_address(m{n}, a{n})",
            f"            k{n} = a{n}",
        ]
    lines += [
        "        status = execute(primitive, stream, count, arguments)",
        "        if status: fail(status)",
    ]
    lines += ["    run.kept = kept", "    return run"]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    return scope["make"]  # type: ignore[no-any-return]


_reorders: dict[tuple[int, int, int], Execution] = {}


def reordered(array: Array, source: Descriptor, target: Descriptor) -> Array:
    """The bytes of a new memory in the layout ``target`` with the contents of ``array``, which lies as ``source`` says."""
    key = source.number, target.number, num_threads()
    if key not in _reorders:
        _reorders[key] = Execution(reorder(source, target), ("src", "dst"))
    made = aligned(target.nbytes)
    _reorders[key].run(address(array), address(made))
    return made
