"""Products share their parts by the threads of opyard_cpu.jit.teams."""

from ..jit.teams import held, on_threads

__all__ = ["held", "on_threads"]
