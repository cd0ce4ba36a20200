"""The public names of opyard, loaded by ``opyard.__getattr__`` on first use."""

from __future__ import annotations

from . import errors, infer, optimizers, testing
from .cases import Case, Cost, Draw, Tolerance, case
from .colocation import colocate_with
from .compiled import compile
from .control import cond, map, scan, while_loop
from .costs import Costs, Estimate, Roofline
from .derivatives import checkpoint, custom_gradient, grad, jvp, stop_gradient, value_and_grad, vjp
from .driver import Backend, Capabilities, Device
from .eager import (
    default_registry,
    devices,
    failures,
    kernel,
    plugins,
    refresh,
    register,
    to_device,
    to_numpy,
    using,
)
from .errors import OpyardError
from .generators import Generator
from .graph import Graph, Node, Value
from .hookspecs import API_LEVEL, hookimpl
from .kernels import Kernel
from .models import SavedModel, load, save
from .operation import Call, Op
from .opfunction import OpFunction, op
from .ops import (
    activation,
    arithmetic,
    attention,
    backward,
    channel_normalization,
    comparison,
    convolution,
    creation,
    exponential,
    image,
    indexing,
    joining,
    linear_algebra,
    logic,
    loss,
    normalization,
    pooling,
    random,
    rearrange,
    reduction,
    rounding,
    scattering,
    selection,
    shape,
    slicing,
    sorting,
    trigonometric,
)  # isort: skip
from .ops.activation import *  # noqa: F403
from .ops.arithmetic import *  # noqa: F403
from .ops.attention import *  # noqa: F403
from .ops.backward import *  # noqa: F403
from .ops.channel_normalization import *  # noqa: F403
from .ops.comparison import *  # noqa: F403
from .ops.convolution import *  # noqa: F403
from .ops.creation import *  # noqa: F403
from .ops.exponential import *  # noqa: F403
from .ops.image import *  # noqa: F403
from .ops.indexing import *  # noqa: F403
from .ops.joining import *  # noqa: F403
from .ops.linear_algebra import *  # noqa: F403
from .ops.logic import *  # noqa: F403
from .ops.loss import *  # noqa: F403
from .ops.normalization import *  # noqa: F403
from .ops.pooling import *  # noqa: F403
from .ops.random import *  # noqa: F403
from .ops.rearrange import *  # noqa: F403
from .ops.reduction import *  # noqa: F403
from .ops.rounding import *  # noqa: F403
from .ops.scattering import *  # noqa: F403
from .ops.selection import *  # noqa: F403
from .ops.shape import *  # noqa: F403
from .ops.slicing import *  # noqa: F403
from .ops.sorting import *  # noqa: F403
from .ops.trigonometric import *  # noqa: F403
from .passes import decompose, eliminate_common, fold_constants, prune, simplify
from .placement import CostStore, Decision, MeasuredCosts, Placement, TuneReport, place
from .plan import Plan, make_plan
from .profiles import Profile
from .registry import Registry
from .reverse import gradients
from .runtime import standard_registry
from .saving import RestoreReport, restore
from .scalar import Scalar
from .scope import device, source
from .selection import Candidate, candidates
from .session import Session
from .spec import TensorSpec
from .takeover import KernelWarning
from .tracing import trace
from .variables import Variable

__all__ = [
    "API_LEVEL",
    "Backend",
    "Call",
    "Candidate",
    "Capabilities",
    "Case",
    "Cost",
    "CostStore",
    "Costs",
    "Decision",
    "Device",
    "Draw",
    "Estimate",
    "Generator",
    "Graph",
    "Kernel",
    "KernelWarning",
    "MeasuredCosts",
    "Node",
    "Op",
    "OpFunction",
    "OpyardError",
    "Placement",
    "Plan",
    "Profile",
    "Registry",
    "RestoreReport",
    "Roofline",
    "SavedModel",
    "Scalar",
    "Session",
    "TensorSpec",
    "Tolerance",
    "TuneReport",
    "Value",
    "Variable",
    "candidates",
    "case",
    "checkpoint",
    "colocate_with",
    "compile",
    "cond",
    "custom_gradient",
    "decompose",
    "default_registry",
    "device",
    "devices",
    "eliminate_common",
    "errors",
    "failures",
    "fold_constants",
    "grad",
    "gradients",
    "hookimpl",
    "infer",
    "jvp",
    "kernel",
    "load",
    "make_plan",
    "map",
    "op",
    "optimizers",
    "place",
    "plugins",
    "prune",
    "refresh",
    "register",
    "restore",
    "save",
    "scan",
    "simplify",
    "source",
    "standard_registry",
    "stop_gradient",
    "testing",
    "to_device",
    "to_numpy",
    "trace",
    "using",
    "value_and_grad",
    "vjp",
    "while_loop",
]
__all__ += activation.__all__
__all__ += arithmetic.__all__
__all__ += attention.__all__
__all__ += backward.__all__
__all__ += channel_normalization.__all__
__all__ += comparison.__all__
__all__ += convolution.__all__
__all__ += creation.__all__
__all__ += exponential.__all__
__all__ += image.__all__
__all__ += indexing.__all__
__all__ += joining.__all__
__all__ += linear_algebra.__all__
__all__ += logic.__all__
__all__ += loss.__all__
__all__ += normalization.__all__
__all__ += pooling.__all__
__all__ += random.__all__
__all__ += rearrange.__all__
__all__ += reduction.__all__
__all__ += rounding.__all__
__all__ += scattering.__all__
__all__ += selection.__all__
__all__ += shape.__all__
__all__ += slicing.__all__
__all__ += sorting.__all__
__all__ += trigonometric.__all__
