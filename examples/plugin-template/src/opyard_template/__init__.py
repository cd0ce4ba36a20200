"""The op template.swish, with two kernels for the CPU."""

import numpy as np
from opyard import case, hookimpl, op

FLOATS = ("float32", "float64")


def cases():
    """Inputs on which every kernel of the op is compared with its reference."""
    return [case((3, 4)), case(()), case((0, 3)), case((257, 129))]


@op("template.swish", scalar="x / (1 + exp(-x))", cases=cases)
def swish(x):
    """Swish, ``x * sigmoid(x)``, elementwise: ``[...] -> [...]``.

    Source: Ramachandran et al., "Searching for Activation Functions", arXiv 1710.05941.
    """


def plain(x):
    return x / (1 + np.exp(-x))


def in_place(x, out=None):
    """As ``plain``, with one array for all steps: ``out``, where opyard gives one."""
    out = np.empty_like(x) if out is None else out
    np.exp(np.negative(x, out=out), out=out)
    out += 1
    return np.divide(x, out, out=out)


@hookimpl
def opyard_register(registry):
    registry.op(swish)
    # efficiency: the part of the device's roofline that the kernel reaches, for the estimates
    shared = {"backend": "cpu", "dtypes": FLOATS}
    registry.kernel(swish, name="plain", load=plain, efficiency=0.1, **shared)
    registry.kernel(swish, name="inplace", load=in_place, efficiency=0.2, out=True, **shared)
