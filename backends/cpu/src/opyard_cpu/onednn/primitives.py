"""Primitives: what oneDNN computes, described by the memories that go in and out.

Each function here describes one primitive and gives a Primitive, whose ``memories`` are the layouts that it settled on. A
memory of ``any_layout`` leaves the choice to it. All raise KernelError where oneDNN has nothing for such memories; ``ref``
implementations, which are loops without vectors, count as nothing.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from ctypes import c_char_p, c_void_p
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from opyard.errors import KernelError

from . import api
from .library import describe_status, library
from .memory import Descriptor

SLOW = "ref"
"""How the names of implementations begin that are loops without vectors."""


@dataclass(frozen=True, slots=True)
class Eltwise:
    """A post-op: a function of each element of the result, such as "relu" or "gelu_erf"."""

    algorithm: str
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True, slots=True)
class Sum:
    """A post-op: adds what the destination held before."""


@dataclass(frozen=True, slots=True, eq=False)
class Binary:
    """A post-op: combines the result with another memory, which broadcasts. ``algorithm`` is "add", "mul", "max", ..."""

    algorithm: str
    operand: Descriptor


PostOp = Eltwise | Sum | Binary


@dataclass(frozen=True, eq=False)
class Primitive:
    """A primitive: described at once, compiled when ``handle`` is first asked for.

    kind   what it computes, such as "matmul"
    roles  names of the memories that it takes and gives, of ``api.ARGUMENTS``
    threads  how many it was described for, and runs on
    """

    kind: str
    description: c_void_p
    roles: tuple[str, ...]
    post_ops: tuple[PostOp, ...] = ()
    threads: int = field(default_factory=lambda: library().threads)

    def __post_init__(self) -> None:
        destroy = library().held["primitive_desc_destroy"]
        weakref.finalize(self, destroy, self.description).atexit = False

    @cached_property
    def implementation(self) -> str:
        """The name of the implementation, such as "brgemm:avx512_core"."""
        name = c_char_p()
        library().held["primitive_desc_query"](
            self.description, api.QUERY_IMPLEMENTATION, 0, ctypes.byref(name)
        )
        return (name.value or b"").decode()

    @cached_property
    def memories(self) -> dict[str, Descriptor]:
        """The layouts of the memories by their roles; second operands of binary post-ops are "post_0" and so on."""
        roles = {role: api.ARGUMENTS[role] for role in self.roles}
        found = {role: self._memory(number) for role, number in roles.items()}
        for index, post_op in enumerate(self.post_ops):
            if isinstance(post_op, Binary):
                found[f"post_{index}"] = post_op.operand
        return found

    @cached_property
    def scratchpad(self) -> Descriptor:
        """The memory that it needs while it runs."""
        return self._memory(api.ARGUMENTS["scratchpad"])

    def _memory(self, role: int) -> Descriptor:
        held = library().held
        lent = c_void_p(held["primitive_desc_query_md"](self.description, api.QUERY_EXECUTION_ARGUMENT, role))
        own = library().make("memory_desc_clone", lent)
        rank = ctypes.c_int32()
        held["memory_desc_query"](own, api.QUERY_RANK, ctypes.byref(rank))
        sizes = ctypes.POINTER(ctypes.c_int64)()
        held["memory_desc_query"](own, api.QUERY_DIMS, ctypes.byref(sizes))
        return Descriptor(own, tuple(sizes[: rank.value]))

    @cached_property
    def handle(self) -> c_void_p:
        """The compiled primitive."""
        with library().on_one_thread() if self.threads == 1 else nullcontext():
            library().use_threads()
            made = library().make("primitive_create", self.description)
        weakref.finalize(self, library().held["primitive_destroy"], made).atexit = False
        return made


def argument(role: str) -> int:
    """The number of a role; "post_0" is the second operand of the first post-op."""
    if role.startswith("post_"):
        return api.POST_OP * (int(role.removeprefix("post_")) + 1) | api.SECOND_SOURCE
    return api.ARGUMENTS[role]


def _attributes(post_ops: Sequence[PostOp]) -> c_void_p:
    """Attributes with these post-ops, and with a scratchpad that the caller gives. The caller destroys them."""
    functions = library().functions
    attributes = library().make("primitive_attr_create")
    functions["primitive_attr_set_scratchpad_mode"](attributes, api.USER_SCRATCHPAD)
    if not post_ops:
        return attributes
    listed = library().make("post_ops_create")
    for post_op in post_ops:
        if isinstance(post_op, Eltwise):
            algorithm = api.ALGORITHMS[f"eltwise_{post_op.algorithm}"]
            status = functions["post_ops_append_eltwise"](listed, algorithm, post_op.alpha, post_op.beta)
        elif isinstance(post_op, Sum):
            status = functions["post_ops_append_sum"](listed, 1.0, 0, 0)
        else:
            algorithm = api.ALGORITHMS[f"binary_{post_op.algorithm}"]
            status = functions["post_ops_append_binary"](listed, algorithm, post_op.operand.handle)
        if status:
            raise KernelError(f"oneDNN refuses the post-op {post_op}: {describe_status(status)}")
    functions["primitive_attr_set_post_ops"](attributes, listed)
    functions["post_ops_destroy"](listed)
    return attributes


def describe(
    kind: str,
    roles: Sequence[str],
    memories: Sequence[Descriptor | None],
    call: Callable[[Any, Any, Any], int],
    post_ops: Sequence[PostOp] = (),
) -> Primitive:
    """The primitive that ``call(function, place of the result, attributes)`` describes, by the first fast implementation."""
    found = library()
    found.use_threads()
    attributes = _attributes(post_ops)
    made = c_void_p()
    try:
        status = call(found.functions[f"{kind}_primitive_desc_create"], ctypes.byref(made), attributes)
    finally:
        found.functions["primitive_attr_destroy"](attributes)
    if status:
        shapes = ", ".join(f"{list(memory.shape)}" for memory in memories if memory is not None)
        more = f" with {len(post_ops)} post-ops" if post_ops else ""
        raise KernelError(f"oneDNN has no {kind} for {shapes}{more} here: {describe_status(status)}")
    primitive = Primitive(kind, made, tuple(roles), tuple(post_ops))
    if primitive.implementation.startswith(SLOW):
        raise KernelError(
            f"oneDNN has only its slow reference implementation ({primitive.implementation}) of this {kind} here"
        )
    return primitive


def handle_of(memory: Descriptor | None) -> c_void_p | None:
    """The handle of a memory descriptor; None for a memory that is left out."""
    return None if memory is None else memory.handle


def reorder(source: Descriptor, target: Descriptor) -> Primitive:
    """Copies from one layout to another: roles src and dst."""
    engine = library().engine
    return describe(
        "reorder",
        ("src", "dst"),
        (source, target),
        lambda create, made, attributes: create(
            made, source.handle, engine, target.handle, engine, attributes
        ),
    )


def matmul(
    src: Descriptor,
    weights: Descriptor,
    dst: Descriptor,
    bias: Descriptor | None = None,
    post_ops: Sequence[PostOp] = (),
) -> Primitive:
    """``dst = post_ops(src @ weights + bias)`` of equal ranks, where bias broadcasts: roles src, weights, bias, dst."""
    roles = ("src", "weights", *(["bias"] if bias else []), "dst")
    handles = (src.handle, weights.handle, handle_of(bias), dst.handle)
    return describe(
        "matmul",
        roles,
        (src, weights, dst),
        lambda create, made, attributes: create(made, library().engine, *handles, attributes),
        post_ops,
    )


def eltwise(
    function: Eltwise, src: Descriptor, dst: Descriptor, post_ops: Sequence[PostOp] = ()
) -> Primitive:
    """A function of each element: roles src and dst, which may be the same memory."""
    numbers = (api.PROPAGATION["forward_inference"], api.ALGORITHMS[f"eltwise_{function.algorithm}"])
    return describe(
        "eltwise_forward",
        ("src", "dst"),
        (src, dst),
        lambda create, made, attributes: create(
            *(made, library().engine, *numbers, src.handle, dst.handle),
            *(function.alpha, function.beta, attributes),
        ),
        post_ops,
    )


def binary(
    algorithm: str, first: Descriptor, second: Descriptor, dst: Descriptor, post_ops: Sequence[PostOp] = ()
) -> Primitive:
    """``dst = first <algorithm> second``, where second broadcasts: roles src, src_1, dst."""
    handles = (api.ALGORITHMS[f"binary_{algorithm}"], first.handle, second.handle, dst.handle)
    return describe(
        "binary",
        ("src", "src_1", "dst"),
        (first, second, dst),
        lambda create, made, attributes: create(made, library().engine, *handles, attributes),
        post_ops,
    )


def softmax(algorithm: str, src: Descriptor, dst: Descriptor, axis: int) -> Primitive:
    """Softmax along an axis, "accurate", or its logarithm, "log": roles src and dst."""
    numbers = (api.PROPAGATION["forward_inference"], api.ALGORITHMS[f"softmax_{algorithm}"])
    return describe(
        "softmax_forward",
        ("src", "dst"),
        (src, dst),
        lambda create, made, attributes: create(
            made, library().engine, *numbers, src.handle, dst.handle, axis, attributes
        ),
    )


def layer_normalization(
    src: Descriptor, dst: Descriptor, epsilon: float, *, scale: bool, shift: bool
) -> Primitive:
    """Normalizes rows along the last axis: roles src, scale ``[c]``, shift ``[c]``, dst."""
    flags = api.USE_SCALE * scale | api.USE_SHIFT * shift
    return describe(
        "layer_normalization_forward",
        ("src", *(["scale"] if scale else []), *(["shift"] if shift else []), "dst"),
        (src, dst),
        lambda create, made, attributes: create(
            *(made, library().engine, api.PROPAGATION["forward_inference"]),
            *(src.handle, dst.handle, None, epsilon, flags, attributes),
        ),
    )
