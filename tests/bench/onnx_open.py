"""Opens a large ONNX model whose weights lie in a file beside it: the time, and the memory that it takes.

    uv run python tests/bench/onnx_open.py                     1 GB of weights, in a temporary folder
    uv run python tests/bench/onnx_open.py --megabytes 8 --json

The model is made first and opened in a process of its own, which has opened a small one before. The file is in the page cache
of the system then, as after any copy. "mapped" counts the weights whose memory is that of the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

SIDE = 1024
"""Rows and columns of each weight matrix, in float32: 4 MiB."""


def layers(count: int, side: int) -> ModelProto:
    """``count`` products with matrices ``[side, side]`` that lie in weights.bin one behind the other."""
    tensors = []
    for number in range(count):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        nbytes = 4 * side * side
        for key, value in {"location": "weights.bin", "offset": number * nbytes, "length": nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    rows = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side])
        for name in ("x0", f"x{count}")
    ]
    graph = helper.make_graph(nodes, "layers", rows[:1], rows[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def make(folder: Path, megabytes: int, side: int = SIDE) -> Path:
    """Writes a model with so many megabytes (10^6 bytes) of weights, at least one matrix."""
    count = max(1, -(-megabytes * 10**6 // (4 * side * side)))
    (folder / "model.onnx").write_bytes(layers(count, side).SerializeToString())
    generator = np.random.default_rng(0)
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(count):
            generator.random((side, side), dtype=np.float32).tofile(file)
    return folder / "model.onnx"


def is_mapped(array: Any) -> bool:
    """Whether an array is a view of a mapped file."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def opened(path: Path, small: Path) -> dict[str, Any]:
    """Opens the model in this process."""
    import opyard_onnx

    opyard_onnx.load(small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    graph = opyard_onnx.load(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = list(graph.constants.values())
    return {
        "weights": len(weights),
        "mapped": sum(map(is_mapped, weights)),
        "weight_bytes": sum(w.nbytes for w in weights),
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_growth_bytes": (after - before) * 1024,
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--megabytes", type=int, default=1000)
    options.add_argument("--json", action="store_true")
    options.add_argument("--open", nargs=2, type=Path)
    given = options.parse_args()
    if given.open:
        print(json.dumps(opened(*given.open)))
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        path, small = make(Path(folder), given.megabytes), make(Path(other), 0, 8)
        command = [sys.executable, __file__, "--open", str(path), str(small)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"weights  {found['weight_bytes'] / 1e6:.0f} MB in {found['weights']} tensors, {found['mapped']} of them mapped"
    )
    print(f"time     {found['seconds']:.3f} s, {found['cpu_seconds']:.3f} s of the processor")
    print(f"memory   the peak grew by {found['peak_growth_bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
