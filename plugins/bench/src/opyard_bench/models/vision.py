"""Networks over images, ``[n, 3, size, size] -> [n, classes]`` unless they say otherwise."""

from __future__ import annotations

from functools import partial

import opyard as oy
from opyard_bench.models.layers import Builder, Layers, Value


def _classify(layers: Layers, x: Value, classes: int) -> None:
    pooled = oy.flatten(oy.global_average_pool(x), axis=1)
    layers.graph.output("logits", layers.dense(pooled, classes))


def resnet(
    layers: Layers, batch: int, *, size: int, width: int, counts: tuple[int, ...], deep: bool, classes: int
) -> None:
    """Residual networks: blocks of two 3x3 convolutions or, ``deep``, of 1x1, 3x3 and 1x1. Source: He et al. 2016."""
    x = oy.relu(layers.conv(layers.input("images", batch, 3, size, size), width, 7, stride=2))
    x = oy.max_pool(x, kernel=3, strides=2, padding=1)
    block = _bottleneck if deep else _basic
    for stage, count in enumerate(counts):
        for number in range(count):
            x = block(layers, x, width * 2**stage, 2 if stage and not number else 1)
    _classify(layers, x, classes)


def _shortcut(layers: Layers, x: Value, channels: int, stride: int) -> Value:
    same = stride == 1 and x.shape[1] == channels
    return x if same else layers.conv(x, channels, 1, stride=stride, gain=1.0)


def _basic(layers: Layers, x: Value, width: int, stride: int) -> Value:
    y = oy.relu(layers.conv(x, width, 3, stride=stride))
    y = layers.conv(y, width, 3, gain=0.2)
    return oy.relu(y + _shortcut(layers, x, width, stride))


def _bottleneck(layers: Layers, x: Value, width: int, stride: int) -> Value:
    y = oy.relu(layers.conv(x, width, 1))
    y = oy.relu(layers.conv(y, width, 3, stride=stride))
    y = layers.conv(y, 4 * width, 1, gain=0.2)
    return oy.relu(y + _shortcut(layers, x, 4 * width, stride))


MOBILE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Of MobileNetV2: expansion, channels, blocks and stride of each stage. Source: Sandler et al. 2018, table 2."""

EFFICIENT = (
    *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
    *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
"""Of EfficientNet-B0: as MOBILE, and the kernel. Source: Tan and Le 2019, table 1."""


def mobilenet(layers: Layers, batch: int, *, size: int, stages: int, last: int, classes: int) -> None:
    """MobileNetV2: inverted residual blocks with depthwise convolutions. Source: Sandler et al. 2018."""
    relu6 = oy.relu6
    x = relu6(layers.conv(layers.input("images", batch, 3, size, size), 32, 3, stride=2))
    for expansion, channels, count, stride in MOBILE[:stages]:
        for number in range(count):
            step = stride if number == 0 else 1
            y = relu6(layers.conv(x, expansion * x.shape[1], 1)) if expansion > 1 else x
            y = relu6(layers.conv(y, y.shape[1], 3, stride=step, groups=y.shape[1]))
            y = layers.conv(y, channels, 1, gain=1.0)
            x = x + y if step == 1 and x.shape[1] == channels else y
    _classify(layers, relu6(layers.conv(x, last, 1)), classes)


def efficientnet(layers: Layers, batch: int, *, size: int, stages: int, last: int, classes: int) -> None:
    """EfficientNet-B0: as MobileNetV2 with SiLU, and channels weighted by what they hold. Source: Tan and Le 2019."""
    x = oy.silu(layers.conv(layers.input("images", batch, 3, size, size), 32, 3, stride=2))
    for expansion, channels, count, stride, kernel in EFFICIENT[:stages]:
        for number in range(count):
            step, narrow = (stride if number == 0 else 1), max(1, x.shape[1] // 4)
            y = oy.silu(layers.conv(x, expansion * x.shape[1], 1)) if expansion > 1 else x
            y = oy.silu(layers.conv(y, y.shape[1], kernel, stride=step, groups=y.shape[1]))
            weights = oy.silu(layers.conv(oy.global_average_pool(y), narrow, 1))
            y = y * oy.sigmoid(layers.conv(weights, y.shape[1], 1))
            y = layers.conv(y, channels, 1)
            x = x + y if step == 1 and x.shape[1] == channels else y
    _classify(layers, oy.silu(layers.conv(x, last, 1)), classes)


def unet(layers: Layers, batch: int, *, size: int, width: int, depth: int, classes: int) -> None:
    """U-Net with padded convolutions: ``[n, 3, size, size] -> [n, classes, size, size]``. Source: Ronneberger et al. 2015."""

    def twice(x: Value, channels: int) -> Value:
        return oy.relu(layers.conv(oy.relu(layers.conv(x, channels, 3)), channels, 3))

    x, kept = layers.input("images", batch, 3, size, size), []
    for level in range(depth):
        x = twice(x, width * 2**level)
        kept.append(x)
        x = oy.max_pool(x, kernel=2)
    x = twice(x, width * 2**depth)
    for level in reversed(range(depth)):
        x = twice(oy.concat(kept[level], layers.up(x, width * 2**level), axis=1), width * 2**level)
    layers.graph.output("masks", layers.conv(x, classes, 1, gain=1.0))


def digits(layers: Layers, batch: int) -> None:
    """A small network for digits: two convolutions, pooling, two dense layers. ``[n, 1, 8, 8] -> [n, 10]``."""
    x = oy.relu(layers.conv(layers.input("images", batch, 1, 8, 8), 16, 3))
    x = oy.max_pool(oy.relu(layers.conv(x, 32, 3)), kernel=2)
    x = oy.relu(layers.dense(oy.flatten(x, axis=1), 64, gain=2.0))
    layers.graph.output("probabilities", oy.softmax(layers.dense(x, 10), axis=-1))


_resnet18 = partial(resnet, counts=(2, 2, 2, 2), deep=False)
_resnet50 = partial(resnet, counts=(3, 4, 6, 3), deep=True)

FULL: dict[str, Builder] = {
    "resnet18": partial(_resnet18, size=224, width=64, classes=1000),
    "resnet50": partial(_resnet50, size=224, width=64, classes=1000),
    "mobilenet_v2": partial(mobilenet, size=224, stages=7, last=1280, classes=1000),
    "efficientnet_b0": partial(efficientnet, size=224, stages=7, last=1280, classes=1000),
    "unet": partial(unet, size=256, width=32, depth=4, classes=2),
    "digits": digits,
}
TINY: dict[str, Builder] = {
    "resnet18": partial(resnet, counts=(1, 1), deep=False, size=32, width=8, classes=10),
    "resnet50": partial(resnet, counts=(1, 1), deep=True, size=32, width=8, classes=10),
    "mobilenet_v2": partial(mobilenet, size=32, stages=2, last=64, classes=10),
    "efficientnet_b0": partial(efficientnet, size=32, stages=3, last=64, classes=10),
    "unet": partial(unet, size=16, width=8, depth=2, classes=2),
    "digits": digits,
}
"""The same structures, of sizes for tests."""
