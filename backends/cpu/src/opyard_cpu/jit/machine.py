"""The processor as LLVM knows it: text of LLVM IR becomes machine code in memory, by way of a cache on the disk."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from opyard.files import replace_file
from opyard.settings import cache_dir

_VERSION = 1
"""Raised when what is stored, or how it is called, changes."""

_CHECKSUM = 32
"""Bytes of SHA-256 before the object code in a file of the cache."""

_lock = threading.Lock()
_names = itertools.count()


@cache
def missing() -> str | None:
    """What to install where the compiler is not there; None where it is."""
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed; type: pip install 'opyard-cpu[jit]'"
    return None


@dataclass(frozen=True, slots=True)
class Processor:
    """What code is made for. ``vector_bytes`` is the width of its registers."""

    name: str
    features: str
    vector_bytes: int
    is_x86: bool


@cache
def host() -> Processor:
    """The processor of this machine."""
    from llvmlite import binding

    found = binding.get_host_cpu_features()
    return processor(binding.get_host_cpu_name(), found.flatten(), binding.get_process_triple())


def processor(name: str, features: str, triple: str) -> Processor:
    """The processor of a name, with features such as ``+avx2,-avx512f``."""
    has = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    wide = 64 if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= has else 32 if "avx2" in has else 16
    return Processor(name, features, wide, triple.startswith(("x86_64", "i686", "amd64")))


@dataclass(frozen=True, slots=True)
class Module:
    """Machine code of one function; it lives as long as this object."""

    address: int
    library: Any


class Compiler:
    """Compiles for one processor, each text once in a process."""

    def __init__(self, target: Processor) -> None:
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        self.target = target
        self._machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
            cpu=target.name, features=target.features, opt=3, jit=True, reloc="pic"
        )
        self._jit = binding.create_lljit_compiler(self._machine)
        self._known: dict[str, Module] = {}
        binding_version = ".".join(map(str, binding.llvm_version_info))
        self._identity = f"{_VERSION}\n{binding_version}\n{target.name}\n{target.features}\n"

    def function(self, source: str) -> Module:
        """The function ``kernel`` of a text of LLVM IR."""
        with _lock:
            found = self._known.get(source)
            if found is None:
                found = self._known[source] = self._linked(self._object(source))
            return found

    def assembly(self, source: str) -> str:
        """The same as assembly language, to be read."""
        from llvmlite import binding

        with _lock:
            return str(self._machine.emit_assembly(binding.parse_assembly(source)))

    def _linked(self, code: bytes) -> Module:
        from llvmlite import binding

        builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
        library = builder.export_symbol("kernel").link(self._jit, f"opyard{next(_names)}")
        return Module(library["kernel"], library)

    def _object(self, source: str) -> bytes:
        """Object code from the cache on the disk, or newly made; a file that is damaged counts as none."""
        from llvmlite import binding

        key = hashlib.sha256((self._identity + source).encode()).hexdigest()
        path = cache_dir() / "jit" / key
        try:
            contents = path.read_bytes()
        except OSError:
            contents = b""
        code = contents[_CHECKSUM:]
        if code and contents[:_CHECKSUM] == hashlib.sha256(code).digest():
            return code
        module = binding.parse_assembly(source)
        module.verify()
        code = bytes(self._machine.emit_object(module))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, hashlib.sha256(code).digest() + code)
        except OSError:  # a cache that cannot be written is no reason to fail
            pass
        return code


@cache
def compiler() -> Compiler:
    """The compiler for this machine."""
    return Compiler(host())
