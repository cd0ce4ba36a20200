"""cuBLASLt through ctypes: products of matrices that add a bias and apply an activation before they write their result.

CuPy brings the library and has no functions for it. Source of functions, structures and numbers: the cuBLASLt API of cuBLAS 12 and 13.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from opyard.errors import KernelError

TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}
"""cudaDataType of each dtype that is computed; all are summed in float32."""

DEFAULT, RELU, GELU = 1, 2, 32
BIAS = 4
"""Epilogues: one of the first three, and with a bias BIAS is added to it; DEFAULT with a bias is BIAS alone. GELU is the one by tanh."""

_COMPUTE_32F, _R_32F = 68, 0
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8
_MAX_WORKSPACE, _ALIGNMENTS = 1, (5, 6, 7, 8)

WORKSPACE = 32 << 20
"""Bytes that an algorithm may use beside its operands: what NVIDIA recommends for Hopper."""

ALIGNMENT = 256
"""Bytes: no algorithm asks for more, and every allocation of CuPy has it."""


class _Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "Create": (_POINTER,),
    "MatmulDescCreate": (_POINTER, _INT, _INT),
    "MatmulDescSetAttribute": (_POINTER, _INT, _POINTER, _SIZE),
    "MatrixLayoutCreate": (_POINTER, _INT, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "MatmulPreferenceCreate": (_POINTER,),
    "MatmulPreferenceSetAttribute": (_POINTER, _INT, _POINTER, _SIZE),
    "MatmulAlgoGetHeuristic": (*(_POINTER,) * 7, _INT, _POINTER, _POINTER),
    "Matmul": (*(_POINTER,) * 14, _SIZE, _POINTER),
    "MatmulDescDestroy": (_POINTER,),
    "MatrixLayoutDestroy": (_POINTER,),
    "MatmulPreferenceDestroy": (_POINTER,),
}
"""The functions used, without the prefix "cublasLt", and what they take; each gives a status, and 0 is success."""


@cache
def library() -> Any:
    """The library. Raises OSError where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError:  # CuPy before version 14
        return typed(ctypes.CDLL("cublasLt64_12.dll" if sys.platform == "win32" else "libcublasLt.so.12"))
    try:
        return typed(ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path))
    except RuntimeError as error:
        raise OSError(str(error)) from error


def typed(found: Any) -> Any:
    """The library with the types of its functions' arguments."""
    for name, arguments in _FUNCTIONS.items():
        function = getattr(found, f"cublasLt{name}")
        function.argtypes, function.restype = arguments, _INT
    return found


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the library. Raises KernelError unless it succeeds."""
    status = getattr(library(), f"cublasLt{name}")(*arguments)
    if status:
        raise KernelError(
            f"cublasLt{name} gave status {status}; see cublasStatus_t in NVIDIA's documentation of cuBLAS."
        )


def _created(name: str, *arguments: Any) -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    call(f"{name}Create", ctypes.byref(made), *arguments)
    return made


@cache
def handle(device_number: int) -> ctypes.c_void_p:
    """The library's handle for the current GPU, which has this number."""
    return _created("")


@dataclass(frozen=True, slots=True)
class Form:
    """What an algorithm is chosen for: ``[m, k] x [k, n] -> [m, n]``, all of one dtype.

    transposed  for both operands, whether it lies in memory column by column
    alignment   bytes that all addresses are multiples of
    """

    m: int
    n: int
    k: int
    dtype: str
    epilogue: int
    transposed: tuple[bool, bool] = (False, False)
    alignment: int = ALIGNMENT


class Product:
    """A product of matrices with its algorithm, ready to be launched on one GPU.

    The library wants matrices column by column. A matrix that lies row by row is, so read, the transposed one: what is
    computed is the transposed product of the transposed operands in the other order, whose rows are the columns of the result.
    """

    def __init__(self, form: Form, device_number: int) -> None:
        self._handle = handle(device_number)
        self._lock = threading.Lock()  # the address of the bias is part of the description
        self._factors = ctypes.c_float(1), ctypes.c_float(0)
        self._description = _created("MatmulDesc", _COMPUTE_32F, _R_32F)
        left, right = form.transposed
        for attribute, number in ((_TRANSA, int(right)), (_TRANSB, int(left)), (_EPILOGUE, form.epilogue)):
            self._set("MatmulDesc", self._description, attribute, ctypes.c_int32(number))
        kind = TYPES[form.dtype]
        shapes = (
            (form.k, form.n) if right else (form.n, form.k),
            (form.m, form.k) if left else (form.k, form.m),
            (form.n, form.m),
        )
        self._layouts: list[ctypes.c_void_p] = []
        for shape in shapes:
            self._layouts.append(_created("MatrixLayout", kind, *shape, shape[0]))
        self._choose(form)

    def _set(self, kind: str, target: ctypes.c_void_p, attribute: int, value: Any) -> None:
        call(f"{kind}SetAttribute", target, attribute, ctypes.byref(value), ctypes.sizeof(value))

    def _choose(self, form: Form) -> None:
        """The algorithm that the library expects to be the fastest. Raises KernelError where it has none."""
        preference = _created("MatmulPreference")
        try:
            self._set("MatmulPreference", preference, _MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE))
            for attribute in _ALIGNMENTS:
                self._set("MatmulPreference", preference, attribute, ctypes.c_uint32(form.alignment))
            self._best, found = _Heuristic(), ctypes.c_int()
            left, right, result = self._layouts
            call(
                "MatmulAlgoGetHeuristic",
                *(self._handle, self._description, left, right, result, result, preference),
                *(1, ctypes.byref(self._best), ctypes.byref(found)),
            )
        finally:
            call("MatmulPreferenceDestroy", preference)
        if not found.value or self._best.state:
            raise KernelError(f"cuBLASLt has no algorithm for {form}.")

    @property
    def workspace(self) -> int:
        """Bytes that it needs beside its operands."""
        return int(self._best.workspace)

    def launch(
        self, left: int, right: int, bias: int | None, result: int, workspace: int, stream: int
    ) -> None:
        """Starts the product on a stream; all but ``stream`` are addresses in the GPU's memory."""
        alpha, beta = self._factors
        a, b, c = self._layouts
        with self._lock:
            if bias is not None:
                self._set("MatmulDesc", self._description, _BIAS_POINTER, ctypes.c_void_p(bias))
            call(
                "Matmul",
                *(self._handle, self._description, ctypes.byref(alpha), right, a, left, b),
                *(ctypes.byref(beta), result, c, result, c, ctypes.byref(self._best)),
                *(workspace, self.workspace, stream),
            )

    def __del__(self) -> None:
        if description := getattr(self, "_description", None):
            library().cublasLtMatmulDescDestroy(description)
        for layout in getattr(self, "_layouts", ()):
            library().cublasLtMatrixLayoutDestroy(layout)
