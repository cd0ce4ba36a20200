"""The threads of BLAS, which belong to the whole process: how many there are, and how long idle ones look for work."""

from __future__ import annotations

import ctypes
import os
import threading

from threadpoolctl import threadpool_info, threadpool_limits

TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"
"""The variable that OpenBLAS reads when it is loaded: an idle thread spins for two to the power of so many cycles, 28 by default."""

CYCLES = "16"
"""Some 25 microseconds, as for the threads of oneDNN. By default a thread spins for a tenth of a second after each product, and
takes a processor from kernels of other libraries: on two processors a plan of ResNet-18 with one product in it took twice as long."""


def limit_blas_threads(threads: int) -> str:
    """Lets the BLAS libraries of this process use at most ``threads`` threads, and gives the name of the first.

    This holds for the whole process, for the thread pools of BLAS belong to it. Pools that are already as small, say
    by OPENBLAS_NUM_THREADS, stay as they are.
    """
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if any(pool["num_threads"] > threads for pool in pools):
        threadpool_limits(limits=threads, user_api="blas")
    if not pools:
        return "BLAS of NumPy"
    names = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS", "flexiblas": "FlexiBLAS"}
    name = pools[0]["internal_api"]
    return f"{names.get(name, name)} {pools[0].get('version') or ''}".strip()


def let_idle_threads_sleep() -> bool:
    """Lets idle threads of OpenBLAS sleep soon; gives whether they do so from now on.

    They are ended, and made anew by the next product, with the new limit. That is safe while no product runs: other threads of
    Python could be in one, so with them nothing is changed, nor where the user has set the variable, nor for other BLAS.
    """
    if TIMEOUT in os.environ or threading.active_count() > 1:
        return False
    pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    changed = [_restart(pool["filepath"]) for pool in pools if pool.get("threading_layer") == "pthreads"]
    return bool(changed) and all(changed)


def _restart(path: str) -> bool:
    try:
        library = ctypes.CDLL(path)
        read, stop = library.openblas_read_env, library.blas_thread_shutdown_
    except (AttributeError, OSError):
        return False
    os.environ[TIMEOUT] = CYCLES
    try:
        read()
    finally:
        del os.environ[TIMEOUT]
    stop()
    return True
