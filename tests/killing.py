"""Kills processes while they save a model, and looks after each whether what is there is whole.

    python tests/killing.py FOLDER KILLS SEED

One process forks the others, so that each begins to save at once; it prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import opyard as oy
from opyard_onnx.saved.loading import load_version
from opyard_onnx.saved.versions import versions
from opyard_onnx.saved.writing import UNFINISHED, write_version


def tagged(tag: int) -> oy.Graph:
    """A graph whose weights are all ``tag``."""
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("batch", 32), "float32"))
        graph.output("y", oy.matmul(x, np.full((32, 64), tag, np.float32)))
    return graph


def is_whole(folder: Path, number: int | None = None) -> bool:
    """Whether a version opens, with the weights that its metadata tells of."""
    model = load_version(folder, number)
    (weights,) = model.graph.constants.values()
    return bool((weights == float(model.metadata["tag"])).all())


def save_for_ever(folder: Path, tag: int) -> None:
    """In a process of its own: saves until it is killed."""
    while True:
        write_version(folder, tagged(tag), metadata={"tag": str(tag)})


def main(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """What was seen."""
    write_version(folder, tagged(0), metadata={"tag": "0"})
    draw, known, interrupted, newest_was_whole = random.Random(seed), [1], 0, 0
    for number in range(1, kills + 1):
        process = os.fork()
        if not process:
            try:
                save_for_ever(folder, number)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.001, 0.06))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the saving process failed by itself"
        interrupted += any(folder.glob(f"{UNFINISHED}*"))
        found = versions(folder)
        assert found[: len(known)] == known and found == list(range(1, len(found) + 1))
        newest_was_whole += is_whole(folder)
        known = found
    whole = sum(is_whole(folder, number) for number in known)
    write_version(folder, tagged(0), metadata={"tag": "0"})
    return {
        "kills": kills,
        "interrupted": interrupted,
        "newest_was_whole": newest_was_whole,
        "versions": len(known),
        "whole": whole,
        "left_over": [path.name for path in folder.iterdir() if path.name.startswith(UNFINISHED)],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
