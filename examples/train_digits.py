"""Train the network of `opyard demo` on scikit-learn's digits: loss, gradients, Adam and accuracy in one graph.

    python examples/train_digits.py                        train, and save the model as the next version in digits/
    python examples/train_digits.py --device opencl        on another device
    python examples/train_digits.py --checkpoint c.ckpt    go on from that file if it is there, else begin it
    opyard run digits                                      run what it saved

Every random number is a function of the seed and the number of the step, and kernels are chosen by estimates alone, so training
that was killed and goes on from its checkpoint gives the weights, bit for bit, that it would have given: on the same machine,
with the same versions, devices and number of threads. Every tenth training digit of each class is left out of
training: training ends when the loss on these has not improved for `--patience` epochs, and the best weights are kept.
The held-out digits are looked at once, at the end. What is saved is the network alone: no loss, no labels, no optimizer.

The model of the demo is made by

    rm -r plugins/demo/src/opyard_demo/digits
    python examples/train_digits.py --device cpu:0 --output plugins/demo/src/opyard_demo/digits
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import opyard as oy
from opyard import optimizers
from opyard.errors import OpyardError
from opyard_demo.data import Digits, every_nth_of_each_class, load_digits

BATCH = 32
RATE = 2e-3
DROPOUT = 0.25

SHAPES: dict[str, tuple[int, ...]] = {
    "conv1.weight": (16, 1, 3, 3),
    "conv1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),
    "conv2.bias": (32,),
    "dense1.weight": (512, 64),
    "dense1.bias": (64,),
    "dense2.weight": (64, 10),
    "dense2.bias": (10,),
}


def make_variables(seed: int) -> dict[str, oy.Variable]:
    """Normal weights of variance 2 / fan-in (K. He et al., 2015); biases of zero."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        fan_in = math.prod(shape[1:]) if name.startswith("conv") else shape[0]
        scale = math.sqrt(2 / fan_in) if name.endswith("weight") else 0.0
        found[name] = oy.Variable(random.standard_normal(shape) * scale, name=name, dtype="float32")
    return found


def network(w: dict[str, oy.Variable], images: Any, key: Any = None) -> Any:
    """Images ``[n, 1, 8, 8]`` to logits ``[n, 10]``; with a key, ``[2]``, some of the features are dropped."""
    x = oy.relu(oy.conv(images, w["conv1.weight"], w["conv1.bias"], padding=1))
    x = oy.relu(oy.conv(x, w["conv2.weight"], w["conv2.bias"], padding=1))
    x = oy.flatten(oy.max_pool(x, kernel=2))
    if key is not None:
        x = oy.dropout(x, key, rate=DROPOUT)
    x = oy.relu(oy.matmul(x, w["dense1.weight"]) + w["dense1.bias"])
    return oy.matmul(x, w["dense2.weight"]) + w["dense2.bias"]


def loss_and_right(logits: Any, labels: Any) -> tuple[Any, Any]:
    """The mean cross-entropy in nats, and how many of the greatest logits are those of the labels."""
    loss = oy.softmax_cross_entropy(logits, labels)
    return loss, oy.sum(oy.cast(oy.argmax(logits, axis=1) == labels, dtype="int64"))


class Training:
    """The variables, and one compiled function for a step of training and one for looking at digits."""

    def __init__(self, seed: int, steps: int, device: str) -> None:
        self.seed = seed
        self.variables = make_variables(seed)
        weights = list(self.variables.values())
        self.best = {name: oy.Variable(v.numpy(), name=f"best/{name}") for name, v in self.variables.items()}
        self.best_loss, self.best_epoch = (
            oy.Variable(np.inf, name="best_loss"),
            oy.Variable(0, name="best_epoch"),
        )
        self.optimizer = optimizers.adam(
            lambda step: 0.5 * RATE * (1.0 + oy.cos(math.pi * (step - 1.0) / steps))
        )
        self.optimizer.prepare(weights)

        def step(images: Any, labels: Any, key: Any) -> Any:
            loss, right = loss_and_right(network(self.variables, images, key), labels)
            self.optimizer.minimize(loss, weights)
            return loss, right

        devices = "auto" if device == "auto" else [device, "reference"]  # for ops that it has no kernels for
        # what is measured on this machine, by anybody and at any time, would change kernels, and with them the last bits
        estimates = oy.Roofline()
        self.step = oy.compile(step, devices=devices, costs=estimates)
        self.look = oy.compile(
            lambda x, y: loss_and_right(network(self.variables, x), y), devices=devices, costs=estimates
        )

    @property
    def state(self) -> list[oy.Variable]:
        """All that a checkpoint holds."""
        best = (*self.best.values(), self.best_loss, self.best_epoch)
        return [*self.variables.values(), *self.optimizer.variables, *best]

    def batch(self, number: int, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        """The digits of one step, each moved by up to one pixel, and a key; the same for the same seed and step."""
        per_epoch = math.ceil(len(images) / BATCH)
        epoch, place = divmod(number, per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(images))
        chosen = order[place * BATCH : (place + 1) * BATCH]
        random = np.random.default_rng([self.seed, 2, number])
        padded = np.pad(images[chosen], ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(2, 3))
        rows, columns = random.integers(0, 3, size=(2, len(chosen)))
        moved = np.ascontiguousarray(windows[np.arange(len(chosen)), :, rows, columns])
        return moved, labels[chosen], random.integers(0, 2**32, 2, dtype=np.uint32)

    def end_epoch(self, epoch: int, images: Any, labels: Any) -> tuple[float, float]:
        """Loss and accuracy on other digits; keeps the weights if the loss is the least so far."""
        loss, right = (float(found) for found in self.look(images, labels))
        if loss < float(self.best_loss.numpy()):
            self.best_loss.assign(loss)
            self.best_epoch.assign(epoch)
            for name, variable in self.variables.items():
                self.best[name].assign(variable)
        return loss, right / len(labels)


def train(
    training: Training, digits: Digits, epochs: int, patience: int, checkpoint: Path | None, every: int
) -> None:
    """Trains from where the training stands to its end."""
    kept = every_nth_of_each_class(digits.train_labels, 10)
    images, labels = digits.train_images[~kept], digits.train_labels[~kept]
    per_epoch = math.ceil(len(images) / BATCH)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        first = int(training.optimizer.step.numpy())
        task = progress.add_task("training", total=epochs * per_epoch, completed=first)
        for number in range(first, epochs * per_epoch):
            training.step(*training.batch(number, images, labels))
            progress.advance(task)
            epoch, rest = divmod(number + 1, per_epoch)
            if not rest:
                loss, share = training.end_epoch(epoch, digits.train_images[kept], digits.train_labels[kept])
                progress.update(
                    task, description=f"epoch {epoch}: validation loss {loss:.4f}, accuracy {share:.4f}"
                )
            if checkpoint is not None and (not rest or (number + 1) % every == 0):
                oy.save(
                    checkpoint, training.state, metadata={"seed": str(training.seed), "epochs": str(epochs)}
                )
            if not rest and epoch - int(training.best_epoch.numpy()) >= patience:
                break


def inference_graph(variables: dict[str, oy.Variable]) -> oy.Graph:
    """From ``images`` float32[batch, 1, 8, 8] to ``logits`` float32[batch, 10]."""
    with oy.Graph() as graph:
        images = graph.input("images", oy.TensorSpec(("batch", 1, 8, 8), "float32"))
        graph.output("logits", network(variables, images))
    return graph


def resume(training: Training, checkpoint: Path, epochs: int) -> None:
    """Goes on from a checkpoint of the same training. Raises OpyardError for one of another."""
    found = oy.restore(checkpoint, training.state).metadata
    wanted = {"seed": str(training.seed), "epochs": str(epochs)}
    if dict(found) != wanted:
        raise OpyardError(
            f"{checkpoint} is of a training with {dict(found)}, asked for was {wanted}; name another file, or the same options."
        )


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Train the network of opyard demo.")
    parser.add_argument(
        "--device",
        default="auto",
        help="such as cpu:0 or opencl, beside the references of the ops; default: all devices",
    )
    parser.add_argument(
        "--epochs", type=int, default=30, help="at most so many passes over the digits (default: 30)"
    )
    parser.add_argument(
        "--patience", type=int, default=8, help="epochs without a better validation loss (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep the state of the training here, and go on from it",
    )
    parser.add_argument(
        "--every", type=int, default=50, metavar="STEPS", help="steps between checkpoints (default: 50)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("digits"), metavar="FOLDER", help="where the saved model goes"
    )
    options = parser.parse_args(arguments)
    try:
        digits, began = load_digits(), time.perf_counter()
        count = int((~every_nth_of_each_class(digits.train_labels, 10)).sum())
        training = Training(options.seed, options.epochs * math.ceil(count / BATCH), options.device)
        if options.checkpoint is not None and options.checkpoint.exists():
            resume(training, options.checkpoint, options.epochs)
        train(training, digits, options.epochs, options.patience, options.checkpoint, options.every)
        for name, variable in training.variables.items():
            variable.assign(training.best[name])
        _, right = training.look(digits.test_images, digits.test_labels)
        share = int(right) / len(digits.test_labels)
        facts = {
            "seed": str(options.seed),
            "epochs": str(options.epochs),
            "held_out_accuracy": f"{share:.4f}",
        }
        saved = oy.save(options.output, inference_graph(training.variables), metadata=facts)
    except (OpyardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"held-out accuracy {share:.4f} on {len(digits.test_labels)} digits, {time.perf_counter() - began:.0f} s"
    )
    print(f"saved {saved}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
