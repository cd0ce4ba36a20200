"""Measures a training step of a convolutional network against the same step in PyTorch, eager, on the CPU.

    uv run python tests/bench/training.py                     a table in Markdown, in about two minutes
    uv run python tests/bench/training.py --json              the same as JSON
    uv run python tests/bench/training.py --profile           where the time goes, step by step; needs no PyTorch
    uv run python tests/bench/training.py --sizes small --rounds 50 --threads 1

Two convolutions, max pooling, dropout, two dense layers, softmax cross-entropy, Adam and accuracy: one graph. Both sides run in a
process of their own, with as many threads, and take turns; medians of wall time and of CPU time, and the median of the ratios of
neighbours. Before that both take one step from the same weights, with the same elements dropped, and must agree on loss,
accuracy and new weights. PyTorch is no dependency: `uv pip install torch`. docs/performance.md holds a table made by this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

RATE, DROPOUT = 1e-3, 0.25

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of images and of the network; images have one channel, there are ten classes."""

    batch: int
    pixels: int
    channels: tuple[int, int]
    hidden: int


SIZES = {"small": Size(64, 8, (16, 32), 64), "large": Size(64, 28, (32, 64), 128)}
"""Digits as scikit-learn has them, and as MNIST has."""


def make_weights(size: Size) -> Arrays:
    """Normal weights of variance 2 / fan-in, biases of zero."""
    first, second = size.channels
    flat = second * (size.pixels // 2) ** 2
    shapes = {
        "conv1.weight": (first, 1, 3, 3),
        "conv2.weight": (second, first, 3, 3),
        "dense1.weight": (flat, size.hidden),
        "dense2.weight": (size.hidden, 10),
    }
    random, found = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if name.startswith("conv") else shape[0]
        found[name] = (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        count = shape[0] if name.startswith("conv") else shape[1]
        found[name.replace("weight", "bias")] = np.zeros(count, np.float32)
    return found


def make_batch(size: Size) -> tuple[Any, Any, Any]:
    """Images, labels, and the key of dropout."""
    random = np.random.default_rng(1)
    images = random.random((size.batch, 1, size.pixels, size.pixels), dtype=np.float32)
    return images, random.integers(0, 10, size.batch), np.array([1, 2], np.uint32)


class Ours:
    """The step by opyard, on the CPU alone, and on the references of the ops that it has no kernels for."""

    def __init__(self, size: Size) -> None:
        import opyard as oy
        from opyard import optimizers

        w = {name: oy.Variable(array, name=name) for name, array in make_weights(size).items()}
        optimizer = optimizers.adam(RATE)

        def step(images: Any, labels: Any, key: Any) -> Any:
            x = oy.relu(oy.conv(images, w["conv1.weight"], w["conv1.bias"], padding=1))
            x = oy.relu(oy.conv(x, w["conv2.weight"], w["conv2.bias"], padding=1))
            x = oy.dropout(oy.flatten(oy.max_pool(x, kernel=2)), key, rate=DROPOUT)
            x = oy.relu(oy.matmul(x, w["dense1.weight"]) + w["dense1.bias"])
            logits = oy.matmul(x, w["dense2.weight"]) + w["dense2.bias"]
            loss = oy.softmax_cross_entropy(logits, labels)
            right = oy.mean(oy.cast(oy.argmax(logits, axis=1) == labels, dtype="float32"))
            optimizer.minimize(loss, list(w.values()))
            return loss, right

        self.variables = w
        self.batch = make_batch(size)
        self.compiled = oy.compile(step, devices=["cpu:0", "reference"])

    def step(self) -> tuple[Any, Any]:
        """Loss and accuracy of one step."""
        found: tuple[Any, Any] = self.compiled(*self.batch)
        return found

    def checked(self) -> tuple[float, float, Arrays]:
        """Loss and accuracy of the first step, and the weights behind it."""
        loss, right = self.step()
        return float(loss), float(right), {name: v.numpy() for name, v in self.variables.items()}


class Theirs:
    """The step by PyTorch, eager: modules, autograd, torch.optim.Adam as it is by default or ``fused``."""

    def __init__(self, size: Size, threads: int, fused: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        (first, second), flat = size.channels, size.channels[1] * (size.pixels // 2) ** 2
        self.layers = {
            "conv1": torch.nn.Conv2d(1, first, 3, padding=1),
            "conv2": torch.nn.Conv2d(first, second, 3, padding=1),
            "dense1": torch.nn.Linear(flat, size.hidden),
            "dense2": torch.nn.Linear(size.hidden, 10),
        }
        for name, array in make_weights(size).items():
            layer, _, kind = name.partition(".")
            self._parameter(layer, kind).data = torch.from_numpy(_turned(name, array)).contiguous()
        parameters = [p for layer in self.layers.values() for p in layer.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=RATE, fused=fused or None)
        self.images, self.labels = (torch.from_numpy(array) for array in make_batch(size)[:2])

    def _parameter(self, layer: str, kind: str) -> Any:
        return getattr(self.layers[layer], kind)

    def step(self, drop: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
        """Loss and accuracy of one step; ``drop`` takes the place of dropout."""
        functional, layers = self.torch.nn.functional, self.layers
        self.optimizer.zero_grad()
        x = functional.relu(layers["conv1"](self.images))
        x = functional.relu(layers["conv2"](x))
        x = functional.max_pool2d(x, 2).flatten(1)
        x = drop(x) if drop else functional.dropout(x, DROPOUT)
        logits = layers["dense2"](functional.relu(layers["dense1"](x)))
        loss = functional.cross_entropy(logits, self.labels)
        right = (logits.argmax(1) == self.labels).float().mean()
        loss.backward()
        self.optimizer.step()
        return loss, right

    def checked(self, kept: Any) -> tuple[float, float, Arrays]:
        """As ``Ours.checked``, with the elements dropped that are false in ``kept``."""
        mask = self.torch.from_numpy(kept)
        loss, right = self.step(lambda x: x * mask / (1 - DROPOUT))
        names = [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]
        arrays = {name: self._parameter(*name.split(".")).detach().numpy() for name in names}
        return (
            float(loss.detach()),
            float(right),
            {name: _turned(name, array) for name, array in arrays.items()},
        )


def _turned(name: str, array: Any) -> Any:
    """PyTorch keeps the weights of dense layers as ``[outputs, inputs]``."""
    return array.T if name in ("dense1.weight", "dense2.weight") else array


def _worker(pipe: Connection, side: str, size: Size, threads: int, fused: bool) -> None:
    """Answers "check" with what the first step gives, and numbers with seconds of wall and CPU time for as many steps."""
    made: Any = Ours(size) if side == "ours" else Theirs(size, threads, fused)
    while (message := pipe.recv()) is not None:
        if isinstance(message, int):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(message):
                made.step()
            pipe.send((time.perf_counter() - wall, time.process_time() - cpu))
        else:
            pipe.send(made.checked(*message))


class Side:
    """A process of its own that takes steps when it is told to."""

    def __init__(self, side: str, size: Size, threads: int, fused: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_worker, args=(other, side, size, threads, fused), daemon=True)
        self._process.start()
        other.close()

    def ask(self, message: Any) -> Any:
        """The answer of the process."""
        self.pipe.send(message)
        return self.pipe.recv()

    def close(self) -> None:
        """Lets the process end."""
        self.pipe.send(None)
        self._process.join()


def nodes(size: Size) -> dict[str, int]:
    """How many nodes are traced, how many the passes leave, and how many kernels the plan calls."""
    import opyard as oy
    from opyard.rewrite import extract

    ours = Ours(size)
    traced = ours.compiled.graph(*ours.batch)
    wanted = [*traced.outputs.values(), *(value for value, _ in traced.state.writes)]
    inputs = [*traced.inputs, *(value.name for value in traced.state.reads.values())]
    left = oy.simplify(extract(traced, wanted, inputs))
    steps = len(ours.compiled.explain(*ours.batch).decisions)
    return {"traced": len(traced.nodes), "passes": len(left.nodes), "steps": steps}


def compare(size: Size, threads: int, rounds: int, fused: bool) -> dict[str, float]:
    """Milliseconds of a step on both sides, by wall and CPU time, and the ratios ours / theirs."""
    import opyard as oy

    sides = {name: Side(name, size, threads, fused) for name in ("ours", "theirs")}
    flat = size.channels[1] * (size.pixels // 2) ** 2
    kept = oy.random_bernoulli(make_batch(size)[2], shape=(size.batch, flat), probability=1 - DROPOUT)
    _check(sides["ours"].ask(()), sides["theirs"].ask((np.asarray(kept),)))
    for side in sides.values():
        side.ask(5)
    steps = max(1, round(0.1 / (sides["theirs"].ask(5)[0] / 5)))
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            rows[name].append(sides[name].ask(steps))
    for side in sides.values():
        side.close()
    found: dict[str, float] = {}
    for kind, index in (("wall", 0), ("cpu", 1)):
        times = {name: [row[index] / steps * 1e3 for row in rows[name]] for name in sides}
        found |= {f"{name}_{kind}": statistics.median(times[name]) for name in sides}
        ratios = [a / b for a, b in zip(times["ours"], times["theirs"], strict=True)]
        found[f"ratio_{kind}"] = statistics.median(ratios)
    return found


def _check(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-4)
    for name, array in ours[
        2
    ].items():  # Adam's first step is the rate, whatever the gradient: signs must agree
        apart = np.abs(array - theirs[2][name]) > 1e-5
        assert apart.mean() < 1e-3, f"{name}: {apart.mean():.1%} of the new weights differ"


def profile(size: Size, seconds: float) -> list[tuple[float, int, str, str]]:
    """Milliseconds, number of steps, kernel and op, the slowest first; steps of one op and kernel under 2 % are together."""
    from opyard.rehearsal import rehearse

    ours = Ours(size)
    ours.step()
    placement = ours.compiled.explain(*ours.batch)
    reads = ours.compiled.graph(*ours.batch).state.reads
    arrays = {value.name: variable.array for variable, value in reads.items()}
    arrays |= dict(zip(("images", "labels", "key"), ours.batch, strict=True))
    found = rehearse(placement, arrays, seconds)
    rows: dict[tuple[str, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for step in found.steps:
        title = getattr(step.work, "title", None) or getattr(getattr(step.work, "op", None), "name", "copy")
        work = str(step.work) if step.seconds > 0.02 * found.seconds else title
        key = (step.kernel.id if step.kernel else "", work)
        rows[key] = (rows[key][0] + step.seconds * 1e3, rows[key][1] + 1)
    return sorted(((ms, count, *key) for key, (ms, count) in rows.items()), reverse=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused Adam, which is not its default")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for variable in ("OPYARD_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    if options.profile:
        for name in options.sizes:
            print(f"{name}:")
            for ms, count, kernel, work in profile(SIZES[name], 5.0):
                print(f"{ms:9.3f} ms  {count:3d} x {kernel:22s} {work[:150]}")
        return
    rows = []
    for name in options.sizes:
        row: dict[str, Any] = {"size": name, **asdict(SIZES[name]), "threads": options.threads}
        row |= nodes(SIZES[name])
        if importlib.util.find_spec("torch"):
            row |= compare(SIZES[name], options.threads, options.rounds, options.fused)
        rows.append(row)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        "| size | traced | passes | steps | opyard wall | PyTorch wall | ratio | opyard CPU | PyTorch CPU | ratio |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['size']} | {row['traced']} | {row['passes']} ({row['passes'] / row['traced']:.1%}) | {row['steps']} |",
            end="",
        )
        if "ratio_wall" not in row:
            print(" PyTorch is not installed |")
            continue
        for kind in ("wall", "cpu"):
            ours, theirs, ratio = (row[f"{what}_{kind}"] for what in ("ours", "theirs", "ratio"))
            print(f" {ours:.2f} ms | {theirs:.2f} ms | {ratio:.2f} |", end="")
        print()


if __name__ == "__main__":
    main()
