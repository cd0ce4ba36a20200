"""The plugin: registers the engines as region compilers of the CPU backend. Nothing heavy is imported here."""

from __future__ import annotations

from opyard import hookimpl
from opyard.registry import Registry

OPYARD_API = (1, 1)

ENGINES = ("onnxruntime", "openvino")


@hookimpl
def opyard_register(registry: Registry) -> None:
    """Registers an engine whether it is installed or not: one that is not says in its refusals what to type."""
    for name in ENGINES:
        registry.region_compiler(
            backend="cpu",
            name=name,
            claims=f"opyard_engines.{name}:claims",
            accepts="opyard_engines.regions:accepts",
            prepare=f"opyard_engines.{name}:prepare",
            cost="opyard_engines.regions:cost",
            out=True,
            constants=True,
        )
