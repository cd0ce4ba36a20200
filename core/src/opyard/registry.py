"""Registry: the ops, backends and kernels that exist, and where each came from.

What is chosen is a function of what is registered, never of the order of registration.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from . import quarantine
from .contents import BackendEntry, BackendStatus, Contents, kernel_order, winners, with_backend, with_claim
from .driver import Device
from .entrypoints import EntryPoint
from .errors import DeviceUnavailable, RegistryError, SettingsError, did_you_mean
from .facts import check_facts
from .kernels import PROGRAM, Dtypes, Kernel, Loadable, Origin, resolve
from .operation import Call, Op

REFERENCE = "reference"
EVERY_SCALAR = "every op with a scalar expression"


class Registry:
    """Ops, backends and kernels. Make as many as you like; the eager functions use the default one (runtime.py)."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._contents = Contents({}, {}, {}, (), (), ())
        self._origin = Origin()
        self._opened: dict[BackendEntry, BackendStatus] = {}
        self._aside: dict[str, str] = {}
        self._kernels_of: dict[str, tuple[Kernel, ...]] = {}
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._listeners_lock = threading.Lock()
        self.version = 0

    # What is registered ------------------------------------------------------------------------------------------

    @property
    def ops(self) -> Mapping[str, Op]:
        """All ops by name."""
        return {name: op for name, (op, _) in sorted(self._contents.ops.items())}

    @property
    def backends(self) -> Mapping[str, BackendEntry]:
        """All backends by name."""
        found = {name: claims[0] for name, claims in sorted(self._contents.backends.items())}
        return MappingProxyType(found)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """A sentence for each name of a backend or kernel that was registered more than once."""
        return self._contents.conflicts

    @property
    def patterns(self) -> tuple[Kernel, ...]:
        """All pattern kernels."""
        return winners(self._contents.patterns)

    @property
    def region_compilers(self) -> tuple[Kernel, ...]:
        """All region compilers."""
        return winners(self._contents.region_compilers)

    def get_op(self, name: str) -> Op:
        """The op called ``name``. Raises RegistryError with near names when there is none."""
        found = self._contents.ops.get(name)
        if found is None:
            raise RegistryError(
                f"there is no op called {name!r}.{did_you_mean(name, tuple(self._contents.ops))} `opyard ops` lists all."
            )
        return found[0]

    def kernels(self, op: str) -> tuple[Kernel, ...]:
        """The kernels of an op, ordered by backend and name."""
        memo = self._kernels_of  # taken before the contents: after a change there is a new one
        found = memo.get(op)
        if found is None:
            contents = self._contents
            found = winners(contents.kernels.get(op, ()))
            if op in contents.ops and contents.ops[op][0].scalar is not None:
                taken = {kernel.id for kernel in found}
                generated = [replace(k, op=op) for k in winners(contents.scalars) if k.id not in taken]
                found = tuple(sorted((*found, *generated), key=kernel_order))
            memo[op] = found
        return found

    def all_kernels(self) -> Iterator[Kernel]:
        """Every kernel; pattern kernels and region compilers last."""
        for op in sorted({*self._contents.kernels, *self._contents.ops}):
            yield from self.kernels(op)
        yield from (*self.patterns, *self.region_compilers)

    def claims(self) -> Iterator[Kernel]:
        """Every kernel as it was registered, those included that lost a conflict."""
        for claims in self._contents.claims:
            yield from claims

    def orphans(self) -> tuple[Kernel, ...]:
        """Kernels whose op nobody has registered: they are never used."""
        return tuple(k for k in self.all_kernels() if k.op and k.op not in self._contents.ops)

    # Registration ------------------------------------------------------------------------------------------------

    def op(self, function: Any) -> Any:
        """Registers an op, given as what the decorator ``opyard.op`` returned; gives it back.

        The program may define an op of its own anew, as when a cell of a notebook runs again: kernels for it stay.
        """
        declared = function if isinstance(function, Op) else getattr(function, "op", None)
        if not isinstance(declared, Op):
            raise RegistryError(
                f"registry.op takes a function decorated with @opyard.op; found {function!r}."
            )
        with self._lock:
            contents = self._contents
            known = contents.ops.get(declared.name)
            if known is None or (known[0] is not declared and known[1] == self._origin == PROGRAM):
                self._forget_failures(op=declared.name)
                self._change(replace(contents, ops={**contents.ops, declared.name: (declared, self._origin)}))
            elif known[0] is not declared:
                raise RegistryError(
                    f"op {declared.name!r} is already defined by {known[1]} as {known[0].name}{known[0].signature}; "
                    f"{self._origin} defines it as {declared.name}{declared.signature}. Give yours a name of its own: 'domain.name'."
                )
        return function

    def ops_from(self, functions: Mapping[str, Any]) -> None:
        """Registers many ops at once, as ``op`` does."""
        for function in functions.values():
            self.op(function)

    def backend(self, name: str, *, load: Loadable, arrays: tuple[str, ...] = ()) -> None:
        """Registers a backend: ``load`` names a function or class that gives an object with ``devices()``."""
        if not name.isidentifier():
            raise RegistryError(f"a backend's name is an identifier; {name!r} is not one.")
        with self._lock:
            contents = self._contents
            entry = BackendEntry(name, load, tuple(arrays), self._origin)
            claims = with_backend(contents.backends.get(name, ()), entry)
            self._change(replace(contents, backends={**contents.backends, name: claims}))

    def kernel(
        self,
        op: str | Any,
        *,
        backend: str,
        name: str,
        load: Loadable | None = None,
        prepare: Loadable | None = None,
        dtypes: Dtypes = None,
        ranks: tuple[int, int] | None = None,
        requires: tuple[str, ...] = (),
        accepts: Loadable | None = None,
        cost: Loadable | None = None,
        efficiency: float = 1.0,
        out: bool = False,
        inplace: bool = False,
        deterministic: bool = True,
        layouts: Mapping[str, str] | None = None,
        version: int = 1,
        override: bool = False,
        magnitudes: Loadable | None = None,
        least_size: int = 0,
    ) -> None:
        """Registers a kernel of an op, given by name or as its function. The arguments are those of Kernel.

        Ops and kernels may be registered in any order. Raises RegistryError for a malformed registration.
        """
        declared = getattr(op, "op", op)
        if not isinstance(declared, (str, Op)):
            raise RegistryError(f"registry.kernel takes an op by name or as its function; found {op!r}.")
        op_name = declared if isinstance(declared, str) else declared.name
        self._add_kernel(
            Kernel(
                *(op_name, backend, name, load, prepare, dtypes, ranks, requires, accepts, cost),
                *(efficiency, out, deterministic, {} if layouts is None else layouts),
                *(version, override, None, self._origin),
                inplace=inplace,
                magnitudes=magnitudes,
                least_size=least_size,
            )
        )

    def pattern(
        self, function: Callable[..., Any], *, backend: str, name: str, prepare: Loadable, **facts: Any
    ) -> None:
        """Registers a kernel for a small graph of ops: ``lambda x, w, b: relu(add(conv(x, w), b))``.

        The parameters of the function are the kernel's inputs, in this order; it may give several results.
        ``prepare(region, device)`` gives ``run(*arrays)``: ``region.graph`` holds the ops of the pattern in the order
        in which the function calls them, with the specs and attributes of the place where it was found, see Region.
        ``facts`` are those of Kernel. placement/matching.py says what is matched.
        """
        self._add_kernel(
            Kernel("", backend, name, prepare=prepare, pattern=function, origin=self._origin, **facts)
        )

    def region_compiler(
        self, *, backend: str, name: str, claims: Loadable, prepare: Loadable, **facts: Any
    ) -> None:
        """Registers what compiles parts of graphs: generated code that fuses elementwise ops, or a whole-graph compiler.

        ``claims(call, device)`` gives None where it can compute a call as a part of a region, or the reason why not.
        Of connected claimed nodes placement makes regions, see placement/regions.py. ``prepare(region, device)`` gives
        ``run(*arrays)``, as for patterns; ``facts`` are those of Kernel.
        """
        self._add_kernel(
            Kernel("", backend, name, prepare=prepare, claims=claims, origin=self._origin, **facts)
        )

    def _add_kernel(self, kernel: Kernel) -> None:
        op, _ = self._contents.ops.get(kernel.op, (None, None))
        check_facts(kernel, op)
        if kernel.backend == REFERENCE:
            raise RegistryError(f"{kernel.title}: a kernel belongs to a backend other than 'reference'.")
        with self._lock:
            if kernel.origin == PROGRAM:
                self._check_override(kernel)
                self._forget_failures("" if kernel.op == EVERY_SCALAR else kernel.op, kernel.id)
            contents = self._contents
            if kernel.pattern is not None:
                self._change(replace(contents, patterns=with_claim(contents.patterns, kernel)))
            elif kernel.claims is not None:
                claims = with_claim(contents.region_compilers, kernel)
                self._change(replace(contents, region_compilers=claims))
            elif kernel.op == EVERY_SCALAR:
                self._change(replace(contents, scalars=with_claim(contents.scalars, kernel)))
            else:
                claims = with_claim(contents.kernels.get(kernel.op, ()), kernel)
                self._change(replace(contents, kernels={**contents.kernels, kernel.op: claims}))

    def _check_override(self, kernel: Kernel) -> None:
        """A program replaces what a plugin brought only on purpose."""
        if kernel.override:
            return
        same_op = winners(self._contents.scalars) if kernel.op == EVERY_SCALAR else self.kernels(kernel.op)
        unnamed = self.patterns if kernel.claims is None else self.region_compilers
        for rival in same_op if kernel.op else unnamed:
            if rival.id == kernel.id and rival.origin != PROGRAM:
                raise RegistryError(
                    f"{kernel.title} is already registered by {rival.origin}; give yours another name, or write override=True to replace it."
                )

    @contextmanager
    def transaction(self, origin: Origin) -> Iterator[None]:
        """Registrations inside are marked with ``origin`` and undone as a whole when an exception leaves the block."""
        with self._lock:
            before, outer, self._origin = self._contents, self._origin, origin
            try:
                yield
            except BaseException:
                self._change(before)
                raise
            finally:
                self._origin = outer

    def _change(self, contents: Contents) -> None:
        self._contents = contents
        self._kernels_of = {}
        self.changed()

    def changed(self) -> None:
        """Raises the version and tells the listeners."""
        self.version += 1
        with self._listeners_lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.registry_changed()

    def subscribe(self, listener: Any) -> None:
        """Calls ``listener.registry_changed()`` after each change, for as long as the listener lives."""
        with self._listeners_lock:
            self._listeners.add(listener)

    # Kernels put aside -------------------------------------------------------------------------------------------

    @property
    def failures(self) -> Mapping[str, str]:
        """Kernels that failed at run time and are not used again in this process: "op backend/name" -> reason."""
        return MappingProxyType(self._aside)

    def set_aside(self, op: str, kernel: Kernel, reason: str) -> bool:
        """Stops using a kernel for an op. Gives whether that is news."""
        with self._lock:
            key = f"{op} {kernel.id}"
            if key in self._aside:
                return False
            self._aside[key] = reason
            self.changed()
            return True

    def why_aside(self, op: str, kernel: Kernel) -> str | None:
        """Why a kernel was set aside, or None."""
        return self._aside.get(f"{op} {kernel.id}") if self._aside else None

    def _forget_failures(self, op: str = "", kernel: str = "") -> None:
        """What the program defines anew, an op or a kernel, gets another chance."""
        for key in list(self._aside):
            failed_op, _, failed_kernel = key.rpartition(" ")
            if op in ("", failed_op) and kernel in ("", failed_kernel):
                del self._aside[key]

    # Devices -----------------------------------------------------------------------------------------------------

    def open(self, backend: str) -> BackendStatus:
        """Opens a backend once and remembers the outcome. A backend without devices is a status, never an exception."""
        entry = self.backends.get(backend)
        if entry is None:
            known = tuple(sorted(self._contents.backends))
            hint = f"{did_you_mean(backend, known)} Known: {', '.join(known)}."
            return BackendStatus(backend, "failed", f"there is no backend called {backend!r}.{hint}", ())
        status = self._opened.get(entry)
        if status is None:
            with self._lock:
                status = self._opened.get(entry) or self._open(entry)
                self._opened[entry] = status
        return status

    def _open(self, entry: BackendEntry) -> BackendStatus:
        name, origin = entry.name, entry.origin
        plugin = EntryPoint(origin.plugin, origin.distribution, origin.version, origin.value)
        if origin.value and (why := quarantine.reason(plugin, name)) is not None:
            return BackendStatus(name, "quarantined", why, ())
        try:
            with quarantine.marked(plugin, name) if origin.value else nullcontext():
                devices = tuple(resolve(entry.load)().devices())
            for number, device in enumerate(devices):
                if device.backend != name:
                    raise RegistryError(
                        f"backend {name!r} lists device {number} as {device.name!r}; its name must begin with '{name}'."
                    )
        except DeviceUnavailable as error:
            return BackendStatus(name, "inactive", str(error), ())
        except (KeyboardInterrupt, SettingsError):  # the user's
            raise
        except BaseException as error:  # a driver may raise anything, SystemExit included
            return BackendStatus(name, "failed", describe_error(error), ())
        if not devices:
            return BackendStatus(name, "inactive", f"backend {name!r} lists no device on this machine", ())
        return BackendStatus(name, "ok", "", devices)

    def devices(self) -> tuple[Device, ...]:
        """All devices of this machine: accelerators, then processors, then the reference. Opens every backend."""
        found = [device for name in self.backends for device in self.open(name).devices]
        order = {"accelerator": 0, "gpu": 1, "cpu": 2}
        return tuple(sorted(found, key=lambda d: (d.backend == REFERENCE, order.get(d.kind, 3), d.name)))

    def device(self, name: str) -> Device:
        """A device by its name, such as "opencl:0"; a backend's bare name gives its first device.

        Raises DeviceUnavailable with the reason and with the names that exist.
        """
        status = self.open(name.partition(":")[0])
        for device in status.devices:
            if name in (device.name, device.backend):
                return device
        known = ", ".join(d.name for d in self.devices())
        reason = status.reason or f"backend {status.name!r} has {', '.join(d.name for d in status.devices)}."
        raise DeviceUnavailable(
            f"there is no device {name!r}: {reason} Devices here: {known}. `opyard devices` lists them with reasons."
        )

    def device_of(self, array: Any) -> Device | None:
        """The device whose native array this is, or None. NumPy arrays belong to the best host device."""
        cls = type(array)
        names = {f"{base.__module__}:{base.__qualname__}" for base in cls.__mro__}
        for entry in sorted(self.backends.values(), key=lambda e: (e.name == REFERENCE, e.name)):
            if names.intersection(entry.arrays):
                for device in self.open(entry.name).devices:
                    if device.owns(array):
                        return device
        return None


def describe_error(error: BaseException) -> str:
    """An exception in one line, for tables."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def reference_kernel(op: Op) -> Kernel:
    """The kernel that runs an op's reference: it accepts every call and is the last resort."""
    return Kernel(op.name, REFERENCE, REFERENCE, prepare=_prepare_reference, efficiency=0.02)


def _prepare_reference(call: Call, device: Device) -> Callable[..., Any]:
    if call.is_tuple:
        return call.reference
    return lambda *arrays: call.reference(*arrays)[0]
