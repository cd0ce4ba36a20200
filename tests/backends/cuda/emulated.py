"""Kernels written in CUDA C++, run on the CPU in the place of a GPU: a device of NumPy arrays, and calls to try them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from opyard.cases import Case, Draw
from opyard.kernels import Kernel
from opyard.operation import Op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.testing import violation
from opyard_cuda import native, plugin

NATIVE = tuple(dict.fromkeys((op, name) for ops, name, *_ in native.KERNELS for op in ops))
"""Op and name of each kernel that is written by hand."""


def registry() -> Registry:
    """A registry with the standard ops and this plugin alone."""
    found = Registry()
    found.ops_from(STANDARD)
    plugin.opyard_register(found)
    return found


KERNELS = {(kernel.op, kernel.name): kernel for kernel in registry().all_kernels()}


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a kernel, to be compared with the reference, or with ``expected`` where that has no answer."""

    kernel: Kernel
    work: Any
    arrays: tuple[Any, ...]
    title: str
    expected: Any = None

    def prepared(self, device: Any) -> Any:
        """The kernel's function; its source is then known to the library."""
        return self.kernel.bind(self.work, device)

    def check(self, run: Any) -> str | None:
        """None, or how the result differs from the reference."""
        given = [None if a is None else np.array(a) for a in self.arrays]
        result = run(*given)
        results = result if self.work.is_tuple else (result,)
        if self.expected is not None:
            return None if np.array_equal(result, self.expected) else f"{self.title}: {result}"
        with np.errstate(all="ignore"):
            difference = violation(self.work, self.arrays, results)
        return None if difference is None else f"{self.title}: {difference}"


def trial(name: tuple[str, str], *arrays: Any, title: str = "", **attributes: Any) -> Trial:
    """A run of the kernel (op, name) on these arrays."""
    from opyard.spec import TensorSpec

    op = STANDARD[name[0]].op
    specs = (None if array is None else TensorSpec.of(array) for array in arrays)
    return Trial(KERNELS[name], op.call(*specs, **attributes), arrays, title or f"{name}{attributes}")


def cases(name: tuple[str, str], device: Any) -> Iterator[Trial]:
    """The cases of an op that the kernel takes."""
    kernel, op = KERNELS[name], STANDARD[name[0]].op
    for case in op.cases():
        call = _call(op, case)
        if kernel.refusal(call, device) is None:
            yield Trial(kernel, call, tuple(case.arrays()), f"{name} {case.id}")


def _call(op: Op, case: Case) -> Any:
    return op.call(
        *(draw.spec if isinstance(draw, Draw) else None for draw in case.inputs), **case.attributes
    )


def drawn(
    shape: Sequence[int], dtype: str = "float32", seed: int = 0, low: float = -2, high: float = 2
) -> Any:
    """An array of random numbers."""
    values = np.random.default_rng([seed, *shape]).uniform(low, high, tuple(shape))
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
