"""The canary: a small kernel that is built and run in another process before an OpenCL compiler is trusted in this one.

Some compilers end the whole process when something is wrong with their installation. ``python -m opyard_opencl.canary
PLATFORM DEVICE`` (two numbers) exits with 0 when the device computes what it should.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from typing import Any

from opyard.settings import cache_dir

_TIMEOUT = 120  # seconds: a cold compiler on a busy machine takes ten

_SOURCE = """
kernel void canary(global const float *x, global float *y, int count) {
    for (int i = 8 * get_global_id(0); i < count; i += 8 * get_global_size(0))
        vstore8(vload8(0, x + i) * 2.0f + 1.0f, 0, y + i);
}
"""


def verdict(platform_number: int, device_number: int, device: Any) -> str | None:
    """None if the device can be trusted, else a sentence that says how the canary ended.

    A good outcome is remembered in the cache folder, by the versions of driver and binding and the linker on PATH; a bad one is
    tried again.
    """
    record = cache_dir() / "opencl" / f"canary-{_key(device)}.json"
    if record.exists():
        return None
    command = [sys.executable, "-m", "opyard_opencl.canary", str(platform_number), str(device_number)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"its compiler did not finish a small kernel within {_TIMEOUT} seconds"
    except OSError as error:
        return f"a process to try its compiler in could not be started ({error})"
    if ended.returncode:
        words = (ended.stderr.strip() or ended.stdout.strip() or "no output").splitlines()
        how = (
            f"was killed by signal {-ended.returncode}"
            if ended.returncode < 0
            else f"ended with code {ended.returncode}"
        )
        return f"a process that tried its compiler {how}: {words[-1].rstrip('.')}"
    _remember(record, device)
    return None


def _remember(record: Any, device: Any) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(_facts(device), indent=1))
    except OSError:
        return  # a cache folder that cannot be written costs a second per process, no more


def _facts(device: Any) -> dict[str, str]:
    import pyopencl as cl

    platform = device.platform
    return {
        "platform": f"{platform.name} {platform.version}",
        "device": f"{device.name} {device.driver_version}",
        "pyopencl": cl.VERSION_TEXT,
        "python": sys.version,
        "linker": shutil.which("ld") or "",
    }


def _key(device: Any) -> str:
    return hashlib.sha256(json.dumps(_facts(device)).encode()).hexdigest()[:16]


def main(platform_number: int, device_number: int) -> int:
    """Runs the canary here; 0 if the result is right. A broken compiler may end this process instead."""
    import numpy as np
    import pyopencl as cl

    device = cl.get_platforms()[platform_number].get_devices()[device_number]
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    x = np.arange(1024, dtype=np.float32)
    source = cl.Buffer(context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    target = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, size=x.nbytes)
    kernel = cl.Kernel(cl.Program(context, _SOURCE).build(), "canary")
    kernel.set_args(source, target, np.int32(x.size))
    cl.enqueue_nd_range_kernel(queue, kernel, (4,), (1,))
    y = np.empty_like(x)
    cl.enqueue_copy(queue, y, target, is_blocking=True)
    if np.array_equal(y, x * 2 + 1):
        return 0
    print("the kernel ran and its result is wrong", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
