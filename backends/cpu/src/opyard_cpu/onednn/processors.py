"""Which processors multiply narrow numbers: oneDNN computes them elsewhere, too, slower than float32 or not exactly."""

from __future__ import annotations

from .library import library, missing

WITHOUT = {
    "bfloat16": ("sse41", "avx", "avx2", "avx2_vnni", "avx512_core", "avx512_core_vnni"),
    "int8": ("sse41", "avx", "avx2", "avx512_core"),
}
"""Instruction sets, as oneDNN names them, without products of these dtypes. Without VNNI sums of int8 products saturate."""

NEEDED = {"bfloat16": "AVX512_BF16 or AMX", "int8": "AVX_VNNI, AVX512_VNNI or AMX"}


def refusal(dtype: str) -> str | None:
    """Why oneDNN does not multiply numbers of this dtype, "bfloat16" or "int8", here; None where it does."""
    if reason := missing():
        return reason
    name = library().instruction_set()
    if name in WITHOUT[dtype]:
        return f"products of {dtype} need a processor with {NEEDED[dtype]}; oneDNN finds {name} here"
    return None
