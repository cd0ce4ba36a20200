"""Eager dispatch: what the generated op functions do when their cache misses, and when a kernel fails.

For arrays of one device, the candidates are the kernels of all devices that can use these arrays as they are.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from . import runtime
from .dim import symbols
from .driver import Device, plain_array, shares_arrays
from .errors import DeviceError, KernelError, OpyardError
from .explanation import Explanation, absent, elsewhere
from .graph import record, weak_scalar
from .kernels import Kernel, broken_promise
from .operation import Call, Op, check_dtypes
from .opfunction import cache_path, current_policy
from .placement import default_costs
from .registry import REFERENCE, Registry, describe_error
from .selection import Candidate, Policy, active_policy, candidates
from .spec import TensorSpec
from .takeover import report_failure

CACHE_LIMIT = 4096
"""Entries of one op's cache; it is emptied when it is full, as by attributes that change on every call."""

Run = Callable[..., Any]


class _StepFailed(Exception):
    """Carries which kernel failed out of a cached function; ``reason`` is how, where it did not raise."""

    def __init__(self, kernel: Kernel, error: Exception, reason: str = "") -> None:
        self.kernel = kernel
        self.error = error
        self.reason = reason


class EagerDispatcher:
    """See the protocol Dispatcher in opfunction.py."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._caches: dict[int, tuple[dict[Any, Any], int]] = {}  # with the number of entries made
        self._by_op: dict[Op, dict[Any, Any]] = {}
        self._direct: dict[tuple[str, int], tuple[Run, Kernel]] = {}
        self._registries: weakref.WeakSet[Registry] = weakref.WeakSet()

    def registry_changed(self) -> None:
        """Forgets all choices. What ``_direct`` tells stays true, and a call that is under way may need it."""
        with self._lock:
            for cache, _ in self._caches.values():
                cache.clear()
            self._caches.clear()

    def miss(self, op: Op, cache: dict[Any, Any], arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Run:
        """See Dispatcher.miss."""
        recorder = next((a for a in arrays if hasattr(a, "apply_op")), None)
        if recorder is not None:  # a graph's value, or anything else that records the ops called on it
            if all(a is None or hasattr(a, "apply_op") for a in arrays):
                run: Run = partial(_record, op, attributes)
                self._store(None, cache, op, arrays, attributes, run)
                return run
            return lambda *_: recorder.apply_op(op, arrays, attributes)
        if symbols(list(attributes.values())):
            return lambda *_: record(op, arrays, attributes)
        registry = _registry()
        version = registry.version
        given = tuple(map(plain_array, arrays))
        plain = _native(op, given, registry)
        run = self._choose(op, plain, attributes, registry)
        if any(new is not old for new, old in zip(plain, given, strict=True)):
            # a number or a list: nothing worth remembering
            run = self._checked(op, run, attributes)
            return lambda *_: self._guarded(op, run, plain, attributes)
        if any(new is not old for new, old in zip(given, arrays, strict=True)):
            run = self._converting(op, run)
        store = partial(self._store, (registry, version), cache, op, arrays, attributes, run)
        return self._checked(op, run, attributes, store)

    def _checked(
        self, op: Op, run: Run, attributes: dict[str, Any], store: Callable[[], None] = lambda: None
    ) -> Run:
        """The function for the first use: it looks at the result, and stores the function itself where that is right."""
        found = self._direct.get((op.name, id(run)))
        if found is None:  # it looks for itself, at the first result for each combination of shapes
            store()
            return run
        kernel = found[1]

        def first(*arrays: Any) -> Any:
            call = op.call(*_specs(map(plain_array, arrays)), **attributes)
            result = _first_use(run, kernel, call, arrays)
            store()
            return result

        return first

    def _converting(self, op: Op, run: Run) -> Run:
        """The same for subclasses of NumPy's array, which are among the types that it is stored for."""

        def convert(*arrays: Any) -> Any:
            return run(*map(plain_array, arrays))

        if found := self._direct.get((op.name, id(run))):
            self._direct[(op.name, id(convert))] = (convert, found[1])
        return convert

    def _store(
        self,
        made: tuple[Registry, int] | None,
        cache: dict[Any, Any],
        op: Op,
        arrays: tuple[Any, ...],
        attributes: dict[str, Any],
        run: Run,
    ) -> None:
        try:
            path = cache_path(op.signature, arrays, attributes, current_policy.get())
            hash(path)
        except (AttributeError, TypeError):
            return
        with self._lock:
            if made is not None:
                if made[0] not in self._registries:
                    made[0].subscribe(self)
                    self._registries.add(made[0])
                if made[0].version != made[1]:
                    return  # chosen from what was registered before: serves this call only
            _, count = self._caches.get(id(cache), (cache, 0))
            if count >= CACHE_LIMIT:
                cache.clear()
                count = 0
            self._caches[id(cache)] = (cache, count + 1)
            inner = cache
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = run

    def _choose(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any], registry: Registry) -> Run:
        policy = active_policy()
        devices = _devices_for(op, arrays, registry)
        call = op.call(*_specs(arrays), **attributes)
        possible = [
            (k, d)
            for d in devices
            for k in registry.kernels(op.name)
            if k.backend == d.backend and _possible(k, call, d, registry, policy)
        ]
        by_shape = self._by_shape(op, attributes, devices, registry, policy)
        of_any_size = [pair for pair in possible if not pair[0].least_size]
        if len(of_any_size) != 1 or any(name.startswith(REFERENCE) for name in policy.prefer):
            return by_shape
        kernel, device = of_any_size[0]
        if kernel.looks_at_shapes or default_costs().doubts(kernel):
            return by_shape
        try:
            run = kernel.bind(call, device)
        except Exception:  # met again, and reported, where its substitute is chosen
            return by_shape
        if len(possible) > 1:
            run = device.by_size(min(k.least_size for k, _ in possible if k.least_size), run, by_shape)
        if len(self._direct) >= CACHE_LIMIT:
            self._direct.clear()
        self._direct[(op.name, id(run))] = (run, kernel)
        return run

    def _guarded(self, op: Op, run: Run, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        try:
            return run(*arrays)
        except Exception as error:
            return self.failed(op, run, error, arrays, attributes)

    def _by_shape(
        self,
        op: Op,
        attributes: dict[str, Any],
        devices: tuple[Device, ...],
        registry: Registry,
        policy: Policy,
    ) -> Run:
        """A function that chooses among several kernels, or specialises one, for each combination of shapes."""
        chosen: dict[Any, tuple[Run, Kernel]] = {}

        def by_shape(*arrays: Any) -> Any:
            key = tuple([None if a is None else a.shape for a in arrays])
            found = chosen.get(key)
            if found is None:
                call = op.call(*_specs(arrays), **attributes)
                run, kernel = _first_that_loads(_rows(call, devices, registry, policy), call)
                result = _first_use(run, kernel, call, arrays)
                if len(chosen) >= CACHE_LIMIT:
                    chosen.clear()
                chosen[key] = run, kernel
                return result
            try:
                return found[0](*arrays)
            except Exception as error:
                raise _StepFailed(found[1], error) from error

        return by_shape

    def failed(
        self, op: Op, run: Run, error: Exception, arrays: tuple[Any, ...], attributes: dict[str, Any]
    ) -> Any:
        """See Dispatcher.failed: the user's mistakes are explained, a kernel's failure is survived."""
        kernel: Kernel | None = None
        reason = ""
        if isinstance(error, _StepFailed):
            kernel, reason, error = error.kernel, error.reason, error.error
        elif (op.name, id(run)) in self._direct:
            kernel = self._direct[(op.name, id(run))][1]
        if kernel is None or isinstance(error, Warning):  # a filter of the user's made it an error
            raise error
        if isinstance(error, OpyardError) and kernel.backend == REFERENCE:
            raise error from error.__cause__  # without the detour over _StepFailed
        arrays = _native(op, arrays, _registry())
        call = op.call(*_specs(arrays), **attributes)  # raises SpecError if the user's shapes were the reason
        if active_policy().strict:
            raise KernelError(
                f"kernel {kernel.id} failed on {call}: {describe_error(error)} (OPYARD_STRICT=1)."
            ) from error
        reason = reason or f"raised {describe_error(error)} on {call}"
        return self._take_over(call, kernel, error, reason, arrays)

    def _take_over(
        self, call: Call, failed: Kernel, error: Exception, reason: str, arrays: tuple[Any, ...]
    ) -> Any:
        registry, policy = _registry(), active_policy()
        devices = _devices_for(call.op, arrays, registry)
        for candidate in _rows(call, devices, registry, policy):
            if candidate.refusal is not None or candidate.kernel.id == failed.id:
                continue
            try:
                run = candidate.kernel.bind(call, candidate.device)
                result = _first_use(run, candidate.kernel, call, arrays)
            except Exception:  # it will be met again, with its own reason, when its turn comes
                continue
            report_failure(registry, call, failed, reason, candidate.kernel.id)
            return result
        error.add_note(f"raised by kernel {failed.id} in {call}; no other kernel can compute it either")
        raise error from error.__cause__

    def call(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """What the function of the op does, for those who do not have it."""
        cache = self._by_op.setdefault(op, {})
        run: Any = cache
        try:
            for key in cache_path(op.signature, arrays, attributes, current_policy.get()):
                run = run[key]
        except (KeyError, AttributeError, TypeError):
            run = self.miss(op, cache, arrays, attributes)
        return self._guarded(op, run, arrays, attributes)

    def resolve(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Run:
        """See OpFunction.resolve."""
        registry = _registry()
        arrays = _native(op, arrays, registry)
        call = op.call(*_specs(arrays), **attributes)
        devices = _devices_for(op, arrays, registry)
        return _first_that_loads(_rows(call, devices, registry, active_policy()), call)[0]

    def explain(self, op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> Explanation:
        """See OpFunction.explain."""
        registry = _registry()
        arrays = _native(op, arrays, registry)
        call = op.call(*_specs(arrays), **attributes)
        devices = _devices_for(op, arrays, registry)
        rows = _rows(call, devices, registry, active_policy())
        return Explanation(call, (*rows, *elsewhere(call, devices, registry)), absent(op, registry))


def _record(op: Op, attributes: dict[str, Any], *values: Any) -> Any:
    return next(v for v in values if v is not None).apply_op(op, values, attributes)


def _registry() -> Registry:
    return active_policy().registry or runtime.registry()


def _as_array(argument: Any, arguments: tuple[Any, ...]) -> Any:
    if argument is None or (hasattr(argument, "dtype") and hasattr(argument, "shape")):
        return argument
    if isinstance(argument, (bool, int, float, complex)):
        return weak_scalar(argument, arguments)
    return np.asarray(argument)


def _native(op: Op, arguments: tuple[Any, ...], registry: Registry) -> tuple[Any, ...]:
    """The arguments as arrays; numbers and lists among them as arrays of the device that the others live on."""
    arguments = tuple(map(plain_array, arguments))
    check_dtypes(op, arguments)
    arrays = tuple(_as_array(a, arguments) for a in arguments)
    loose = [new is not a or isinstance(a, np.generic) for new, a in zip(arrays, arguments, strict=True)]
    settled = (a for a, moves in zip(arrays, loose, strict=True) if a is not None and not moves)
    home = next(map(registry.device_of, settled), None)
    if home is None or home.array_type is np.ndarray:
        return arrays
    return tuple(home.upload(np.asarray(a)) if moves else a for a, moves in zip(arrays, loose, strict=True))


def _specs(arrays: Iterable[Any]) -> list[TensorSpec | None]:
    return [None if a is None else TensorSpec(a.shape, a.dtype) for a in arrays]


def _devices_for(op: Op, arrays: tuple[Any, ...], registry: Registry) -> tuple[Device, ...]:
    """The devices that can use all these arrays as they are."""
    owners: dict[str, Device] = {}
    for array in arrays:
        if array is None:
            continue
        owner = registry.device_of(array)
        if owner is None:
            raise DeviceError(
                f"{op.name}: no device here has arrays of type {type(array).__name__}; convert it to a NumPy array, or see `opyard devices`."
            )
        owners.setdefault(owner.name, owner)
    first = next(iter(owners.values()), None) or registry.device_of(np.empty(0))
    assert first is not None  # the reference device owns NumPy arrays
    if strangers := {name for name, device in owners.items() if not shares_arrays(first, device)}:
        names = ", ".join([first.name, *sorted(strangers)])
        raise DeviceError(
            f"{op.name}: its arrays live on different devices ({names}); move them to one first: opyard.to_device(x, {first.name!r})."
        )
    return tuple(d for d in registry.devices() if shares_arrays(d, first))


def _rows(
    call: Call, devices: tuple[Device, ...], registry: Registry, policy: Policy
) -> tuple[Candidate, ...]:
    """The candidates by what was measured on this machine, as in sessions."""
    return candidates(call, devices, registry, policy, default_costs())


def _possible(kernel: Kernel, call: Call, device: Device, registry: Registry, policy: Policy) -> bool:
    """Whether the kernel may be chosen for calls of these types: shapes are looked at later where a kernel asks for that."""
    if policy.refusal(call.op.name, kernel) or registry.why_aside(call.op.name, kernel):
        return False
    return not kernel.layouts and (kernel.looks_at_shapes or kernel.refusal(call, device) is None)


def _first_use(run: Run, kernel: Kernel, call: Call, arrays: tuple[Any, ...]) -> Any:
    """The kernel's result. Raises _StepFailed when it raises, and for other shapes and dtypes than the op infers."""
    try:
        result = run(*arrays)
    except _StepFailed:  # by another kernel, which took over for its size
        raise
    except Exception as error:
        raise _StepFailed(kernel, error) from error
    count = len(result) if isinstance(result, (tuple, list)) else None
    if not call.is_tuple:
        reason = broken_promise(call, result)
    elif count != len(call.outputs):
        found = type(result).__name__ if count is None else f"{count} arrays"
        reason = f"returned {found} where {call} promises {len(call.outputs)} arrays"
    else:
        reasons = (broken_promise(call, array, index) for index, array in enumerate(result))
        reason = next(filter(None, reasons), None)
    if reason is not None:
        raise _StepFailed(kernel, KernelError(f"kernel {kernel.id} {reason}"), reason)
    return result


def _first_that_loads(rows: tuple[Candidate, ...], call: Call) -> tuple[Run, Kernel]:
    """The best candidate that loads; those that do not are put aside with the reason."""
    broken: list[tuple[Kernel, Exception]] = []
    for row in rows:
        if row.refusal is not None:
            continue
        try:
            run = row.kernel.bind(call, row.device)
        except Exception as error:
            if active_policy().strict:
                raise KernelError(
                    f"kernel {row.kernel.id} cannot be prepared for {call}: {describe_error(error)} (OPYARD_STRICT=1)."
                ) from error
            broken.append((row.kernel, error))
            continue
        for kernel, cause in broken:
            reason = f"raised {describe_error(cause)} on {call}"
            report_failure(_registry(), call, kernel, reason, row.kernel.id)
        return run, row.kernel
    refused = [f"{row.kernel.id}: {row.refusal}" for row in rows if row.refusal]
    refused += [f"{kernel.id}: {describe_error(error)}" for kernel, error in broken]
    reasons = "; ".join(reason.removesuffix(".") for reason in refused)
    raise KernelError(
        f"no kernel can run {call}: {reasons or 'none is registered for these arrays'}. `opyard kernels {call.op.name}` lists them."
    )


dispatcher = EagerDispatcher()
