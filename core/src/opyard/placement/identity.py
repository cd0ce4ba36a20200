"""What a measurement is of: the work, the kernel and the device, as texts that change whenever the result might."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache

import numpy as np

from .. import settings
from ..driver import Device
from ..kernels import Kernel, Work
from ..operation import Call
from ..region import MOST_NAMED

POLICY = "batch-1"
"""How times are taken: many calls, one wait, medians of batches (measuring.py). A new way needs a new name."""


def describe_work(work: Work) -> str:
    """A call or a region in one line, with the versions of its ops."""
    if isinstance(work, Call):
        return _call_text(work)
    versions = dict.fromkeys(f"{node.op.name} {node.op.version}" for node in work.graph.nodes)
    return f"{work} (versions {', '.join(versions)})"


def short(work: Work) -> str:
    """The work for people: a call with its specs, or the ops of a region."""
    if isinstance(work, Call):
        return str(work)
    return f"the {'' if len(work.graph.nodes) > MOST_NAMED else 'region '}{work.title}"


def describe_kernel(kernel: Kernel) -> str:
    """A kernel with its version and that of the distribution it comes from."""
    origin = kernel.origin
    return f"{kernel.id} v{kernel.version} {origin.distribution or origin.plugin} {origin.version}".rstrip()


def describe_device(device: Device) -> str:
    """A device with its driver, features, thread count and the versions of NumPy and Python, as JSON."""
    return _device_text(device.name, device.description, device.capabilities.features, settings.num_threads())


def fingerprint(device: Device) -> str:
    """A short name for ``describe_device``: 16 hexadecimal digits."""
    return _digest(describe_device(device))


@lru_cache(maxsize=4096)
def _call_text(call: Call) -> str:
    return f"{call} (version {call.op.version})"


@lru_cache(maxsize=256)
def _device_text(name: str, description: str, features: frozenset[str], threads: int) -> str:
    facts = {
        "name": name,
        "description": description,
        "features": sorted(features),
        "threads": threads,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return json.dumps(facts)


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
