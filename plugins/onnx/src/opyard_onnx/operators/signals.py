"""Signal processing. Source: ONNX DFT, STFT, MelWeightMatrix. Complex numbers are pairs along a last axis of size 2."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator
from opyard_onnx.tensors import dtype_of


def _dft_spec(x: oy.TensorSpec, *, axis: int, length: int, inverse: bool, onesided: bool) -> oy.TensorSpec:
    bins = length if inverse or not onesided else length // 2 + 1
    last = 1 if inverse and onesided else 2
    shape = [bins if i == axis else n for i, n in enumerate(x.shape)]
    return x.with_shape((*shape[:-1], last))


@oy.op("onnx.dft", infer=_dft_spec, tolerance=oy.Tolerance(64, scaled=True))
def dft_op(x: Any, *, axis: int, length: int, inverse: bool = False, onesided: bool = False) -> Any:
    """Discrete Fourier transform of ``length`` elements along ``axis``. ``[..., 1 or 2] -> [..., 2]``. Source: ONNX DFT.

    The input is cut, or filled with zeros. ``onesided`` gives the first half of the spectrum alone, which of a real signal
    says everything; with ``inverse`` it takes that half and gives the real signal, ``[..., 1]``.
    """
    values = x.astype(np.float64)
    complex_ = values[..., 0] + 1j * values[..., 1] if x.shape[-1] == 2 else values[..., 0]
    if inverse and onesided:
        return np.fft.irfft(complex_, length, axis=axis)[..., None]
    if inverse:
        found = np.fft.ifft(complex_, length, axis=axis)
    elif onesided:
        found = np.fft.fft(complex_, length, axis=axis)
        found = np.take(found, np.arange(length // 2 + 1), axis=axis)
    else:
        found = np.fft.fft(complex_, length, axis=axis)
    return np.stack([found.real, found.imag], axis=-1)


def dft(node: OnnxNode) -> Any:
    """The axis is an attribute before opset 20, and an input from there on."""
    x = node.x
    axis = node.attribute("axis", 1) if node.version < 20 else int(node.number(2, -2))
    axis %= x.ndim
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    have = int(x.shape[axis])
    length = int(node.number(1, (have - 1) * 2 if inverse and onesided else have))
    return dft_op(x, axis=axis, length=length, inverse=inverse, onesided=onesided)


def stft(node: OnnxNode) -> Any:
    """Spectra of frames ``step`` apart: ``[b, s] or [b, s, 1 or 2] -> [b, frames, bins, 2]``."""
    x, step, window = node.x, int(node.number(1)), node.get(2)
    if x.ndim == 2:
        x = oy.expand_dims(x, axis=2)
    length = int(node.number(3, int(window.shape[0]) if window is not None else int(x.shape[1])))
    frames = (int(x.shape[1]) - length) // step + 1
    require_size(max(frames, 1) * max(length, 1), "STFT")
    places = np.arange(frames)[:, None] * step + np.arange(length)
    found = oy.gather(x, node.constant(places), axis=1)  # [b, frames, length, 1 or 2]
    if window is not None:
        found = oy.multiply(found, oy.reshape(window, shape=(length, 1)))
    onesided = bool(node.attribute("onesided", 1))
    return dft_op(found, axis=2, length=length, inverse=False, onesided=onesided)


def mel_weight_matrix(node: OnnxNode) -> Any:
    """Triangles on the mel scale: ``[length // 2 + 1, bins]``."""
    bins, length, rate = (int(node.number(i)) for i in range(3))
    low, high = (2595 * np.log10(1 + node.number(i) / 700) for i in (3, 4))
    require_size((length // 2 + 1) * max(bins, 1024), "MelWeightMatrix, with 1024 columns at least,")
    mels = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
    edges = ((length + 1) * (700 * (10 ** (mels / 2595) - 1)) / rate).astype(np.int64)
    found = np.zeros((length // 2 + 1, bins))
    for i in range(bins):
        left, middle, right = edges[i : i + 3]
        if left == middle:
            found[middle, i] = 1
        else:
            found[left : middle + 1, i] = (np.arange(left, middle + 1) - left) / (middle - left)
        if middle != right:
            found[middle:right, i] = (right - np.arange(middle, right)) / (right - middle)
    return found.astype(dtype_of(node.attribute("output_datatype", 1)))


def _view_spec(x: oy.TensorSpec, *, dtype: str) -> oy.TensorSpec:
    return x.with_dtype(dtype)


@oy.op("onnx.bitcast", infer=_view_spec)
def bitcast_op(x: Any, *, dtype: str) -> Any:
    """The same bits read as another dtype of the same width. ``[...] -> [...]``. Source: ONNX BitCast."""
    return np.ascontiguousarray(x).reshape(x.shape).view(oy.TensorSpec((), dtype).dtype)


def bitcast(node: OnnxNode) -> Any:
    return bitcast_op(node.x, dtype=dtype_of(node.attribute("to")).name)


OPERATORS = (
    Operator("BitCast", 26, bitcast),
    Operator("DFT", 17, dft),
    Operator("MelWeightMatrix", 17, mel_weight_matrix),
    Operator("STFT", 17, stft),
)
