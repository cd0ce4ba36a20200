"""One run of a kernel in watched memory, and what of its promises shows at once: outputs, inputs, and what lies around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.kernels import Kernel, Work, broken_promise
from opyard.placement.measuring import convert
from opyard.registry import Registry
from opyard_conformance.memory import Guarded, guarded, leave_behind, output, same_bits
from opyard_conformance.oracle import Expected

Array = np.ndarray[Any, Any]


class Broken(Exception):
    """A promise that a kernel broke; the text is a sentence without its end."""


class NotChecked(Exception):
    """What cannot be checked of a kernel, which then counts for nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A kernel bound to some work. ``layout`` is that of the inputs in memory, see memory.py."""

    kernel: Kernel
    device: Device
    registry: Registry
    work: Work
    layout: str
    run: Callable[..., Any]

    @staticmethod
    def of(kernel: Kernel, device: Device, registry: Registry, work: Work, layout: str = "") -> Bench:
        """Prepares the kernel. Raises Broken where that fails."""
        try:
            run = kernel.bind(work, device)
        except Exception as error:
            raise Broken(f"it accepts the call and cannot be prepared: {described(error)}") from error
        return Bench(kernel, device, registry, work, layout, run)

    @property
    def on_numpy(self) -> bool:
        """Whether the kernel takes NumPy arrays as they are, so that memory around them can be watched."""
        return self.device.array_type is np.ndarray and not self.kernel.layouts

    def place(self, contents: Array | None, position: int) -> Any:
        """An input where the kernel reads it: guarded memory, or a native array in the kernel's layout.

        Raises KernelError where no kernel converts to that layout.
        """
        if contents is None:
            return None
        if self.on_numpy:
            return guarded(contents, self.layout)
        spec, layout = self.work.inputs[position], self.kernel.input_layout(self.work, position)
        assert spec is not None
        return convert(self.device.upload(contents.copy()), spec, "", layout, self.device, self.registry)

    def places(self, arrays: tuple[Array | None, ...]) -> list[Any]:
        """All inputs."""
        return [self.place(contents, position) for position, contents in enumerate(arrays)]

    def start(self, places: list[Any], pattern: int = 0) -> tuple[list[Any], Any]:
        """Starts one run: the native results, and what was given as ``out``. Raises Broken."""
        natives = [place.array if isinstance(place, Guarded) else place for place in places]
        options, written = self._out(pattern)
        for spec in self.work.outputs:
            leave_behind(spec.nbytes, pattern)
        try:
            with np.errstate(all="ignore"):
                result = self.run(*natives, **options)
        except Exception as error:
            raise Broken(f"it accepts the call and raises {described(error)}") from error
        return self._results(result), written

    def copies(self, results: list[Any]) -> list[Array]:
        """The results as NumPy arrays of their own, in the plain layout."""
        found: list[Array] = []
        for index, result in enumerate(results):
            layout = self.kernel.output_layout(index)
            plain = convert(result, self.work.outputs[index], layout, "", self.device, self.registry)
            if layout:
                self._promised(plain, index)
            try:
                found.append(np.array(self.device.download(plain)))
            except Exception as error:
                raise Broken(f"output {index}: it cannot be read: {described(error)}") from error
        return found

    def once(self, places: list[Any], expected: Expected, pattern: int) -> tuple[list[Any], list[Array]]:
        """One run, checked: the native results, and copies of them. Raises Broken."""
        results, written = self.start(places, pattern)
        copies = self.copies(results)
        self._check_out(written, results[0] if results else None, copies)
        for position, (place, contents) in enumerate(zip(places, expected.inputs, strict=True)):
            if contents is not None:
                self._check_input(place, contents, position)
        for index, found in enumerate(copies):
            difference = expected.violation(index, found)
            if difference is not None:
                raise Broken(f"output {index}: {difference}")
        return results, copies

    def over(self, expected: Expected, position: int) -> None:
        """One run that writes into an input, checked. Raises Broken."""
        places = self.places(expected.inputs)
        natives = [place.array if isinstance(place, Guarded) else place for place in places]
        what = f"with input {position} as out, which inplace=True allows,"
        try:
            with np.errstate(all="ignore"):
                result = self.run(*natives, out=natives[position])
        except Exception as error:
            raise Broken(f"{what} it raises {described(error)}") from error
        difference = expected.violation(0, self.copies([result])[0])
        if difference is not None:
            raise Broken(f"{what} output 0: {difference}")

    def _out(self, pattern: int) -> tuple[dict[str, Any], Any]:
        """The keyword ``out`` for kernels that take it, full of a pattern."""
        if not self.kernel.out or len(self.work.outputs) != 1 or self.kernel.output_layout(0):
            return {}, None
        spec = self.work.outputs[0]
        made = output(tuple(map(int, spec.shape)), spec.dtype, pattern)
        if self.on_numpy:
            return {"out": made.array}, made
        native = self.device.upload(made.array.copy())
        return {"out": native}, native

    def _results(self, result: Any) -> list[Any]:
        work = self.work
        if work.is_tuple and not isinstance(result, (tuple, list)):
            raise Broken(f"it returns {type(result).__name__}, the op gives {len(work.outputs)} outputs")
        results = list(result) if work.is_tuple else [result]
        if len(results) != len(work.outputs):
            raise Broken(f"it returns {len(results)} outputs, the op gives {len(work.outputs)}")
        for index, found in enumerate(results):
            if not self.kernel.output_layout(index):
                self._promised(found, index)
        return results

    def _promised(self, found: Any, index: int) -> None:
        broken = broken_promise(self.work, found, index)
        if broken is not None:
            raise Broken(f"output {index}: it {broken}")
        if not isinstance(found, (self.device.array_type, np.generic)):
            raise Broken(
                f"output {index}: it returned {type(found).__name__}, which is no array of {self.device.name}"
            )

    def _check_out(self, written: Any, result: Any, copies: list[Array]) -> None:
        if written is None:
            return
        if isinstance(written, Guarded):
            if not written.guards_intact():
                raise Broken("it writes outside of the array given as out")
            same = same_bits(written.array, copies[0]) and (
                not written.array.size or np.shares_memory(result, written.array)
            )
        else:
            same = same_bits(np.asarray(self.device.download(written)), copies[0])
        if not same:
            raise Broken("it is declared with out=True and does not give back the array given as out")

    def _check_input(self, place: Any, contents: Array, position: int) -> None:
        if isinstance(place, Guarded):
            if not same_bits(place.array, contents):
                raise Broken(f"it changes its input {position}")
            if not place.is_intact():
                raise Broken(f"it writes outside of its input {position}")
            return
        is_plain = not self.kernel.input_layout(self.work, position)
        if is_plain and not same_bits(np.asarray(self.device.download(place)), contents):
            raise Broken(f"it changes its input {position}")


def described(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
