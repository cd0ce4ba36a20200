"""Products share their parts by the threads of opyard_cpu.jit.teams."""

from ..jit.teams import on_threads

__all__ = ["on_threads"]
