"""The digits of the demo, their split, and the model that was trained on them."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from safetensors.numpy import load_file

from opyard.errors import OpyardError
from opyard_demo.command import MODEL, load_model
from opyard_demo.data import Digits, every_nth_of_each_class, load_digits

SHAPES = {
    "conv1.weight": (16, 1, 3, 3),
    "conv1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),
    "conv2.bias": (32,),
    "dense1.weight": (512, 64),
    "dense1.bias": (64,),
    "dense2.weight": (64, 10),
    "dense2.bias": (10,),
}


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def convolve(images: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]):  # type: ignore[no-untyped-def]
    """Same-padded 3x3 correlation written as nine shifted products."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = bias[:, None, None]
    for row in range(3):
        for column in range(3):
            part = padded[:, :, row : row + 8, column : column + 8]
            result = result + np.einsum("nchw,oc->nohw", part, weight[:, :, row, column])
    return result


def logits(weights: dict[str, npt.NDArray[np.float32]], images: npt.NDArray[np.float32]):  # type: ignore[no-untyped-def]
    hidden = np.maximum(convolve(images, weights["conv1.weight"], weights["conv1.bias"]), 0)
    hidden = np.maximum(convolve(hidden, weights["conv2.weight"], weights["conv2.bias"]), 0)
    pooled = hidden.reshape(-1, 32, 4, 2, 4, 2).max(axis=(3, 5)).reshape(-1, 512)
    dense = np.maximum(pooled @ weights["dense1.weight"] + weights["dense1.bias"], 0)
    return dense @ weights["dense2.weight"] + weights["dense2.bias"]


# --- the split


def test_shapes_and_types(digits: Digits) -> None:
    for images, labels in (
        (digits.train_images, digits.train_labels),
        (digits.test_images, digits.test_labels),
    ):
        assert images.shape == (len(labels), 1, 8, 8)
        assert images.dtype == np.float32 and labels.dtype == np.int64
        assert images.flags.c_contiguous
        assert images.min() == 0 and images.max() == 1
    assert len(digits.train_labels) + len(digits.test_labels) == 1797


def test_split_is_disjoint(digits: Digits) -> None:
    train = {image.tobytes() for image in digits.train_images}
    test = {image.tobytes() for image in digits.test_images}
    # All images of the data set differ, so that images identify digits.
    assert len(train) + len(test) == 1797
    assert not train & test


def test_split_is_stratified(digits: Digits) -> None:
    test = np.bincount(digits.test_labels, minlength=10)
    total = test + np.bincount(digits.train_labels, minlength=10)
    assert 0.20 <= test.sum() / total.sum() <= 0.25
    assert np.all(np.abs(test - total / 5) < 1)


def test_split_is_the_same_every_time_and_draws_nothing(digits: Digits) -> None:
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    again = load_digits()
    assert np.random.random() == expected
    assert np.array_equal(again.train_images, digits.train_images)
    assert np.array_equal(again.test_images, digits.test_images)
    assert np.array_equal(again.test_labels, digits.test_labels)


def test_split_is_that_of_the_published_accuracy(digits: Digits) -> None:
    assert np.bincount(digits.test_labels).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert digits.test_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 9]


def test_images_keep_their_labels(digits: Digits) -> None:
    from sklearn.datasets import load_digits as load_from_sklearn

    source = load_from_sklearn()
    label_of = {
        (image / 16).astype(np.float32).tobytes(): label
        for image, label in zip(source.images, source.target, strict=True)
    }
    assert [label_of[image.tobytes()] for image in digits.test_images] == digits.test_labels.tolist()
    assert [label_of[image.tobytes()] for image in digits.train_images] == digits.train_labels.tolist()


@pytest.mark.parametrize(
    ("labels", "n", "expected"),
    [
        ([], 5, []),
        ([7], 5, [True]),
        ([1, 1, 2, 1, 2, 1], 2, [True, False, True, True, False, False]),
        ([3, 3, 3], 1, [True, True, True]),
    ],
)
def test_every_nth_of_each_class(labels: list[int], n: int, expected: list[bool]) -> None:
    assert every_nth_of_each_class(np.array(labels, dtype=np.int64), n).tolist() == expected


def test_missing_scikit_learn_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        OpyardError, match=r"come with scikit-learn.*Type: pip install opyard-demo .*pip install scikit-learn"
    ):
        load_digits()


# --- the model


def test_the_model_is_one_small_saved_model() -> None:
    assert [path.name for path in MODEL.iterdir()] == ["1"]
    assert sum(path.stat().st_size for path in (MODEL / "1").iterdir()) < 200_000
    weights = load_file(MODEL / "1" / "weights.safetensors")
    assert {name: weight.shape for name, weight in weights.items()} == SHAPES
    assert all(weight.dtype == np.float32 and np.isfinite(weight).all() for weight in weights.values())


def test_the_weights_classify_the_held_out_digits_as_their_metadata_says(digits: Digits) -> None:
    predicted = logits(load_file(MODEL / "1" / "weights.safetensors"), digits.test_images).argmax(axis=1)
    accuracy = float((predicted == digits.test_labels).mean())
    metadata = load_model().metadata
    assert accuracy >= 0.98
    # Another order of summation may turn a digit whose two greatest logits are nearly equal, hence one of them.
    assert abs(accuracy - float(metadata["held_out_accuracy"])) <= 1.1 / len(digits.test_labels)
    assert (metadata["seed"], metadata["epochs"]) == ("0", "30")


def test_the_graph_computes_the_network(digits: Digits) -> None:
    """Also by another runtime, and as written out here by hand."""
    images = digits.test_images[:9]
    expected = logits(load_file(MODEL / "1" / "weights.safetensors"), images)
    np.testing.assert_allclose(load_model()(images), expected, rtol=1e-4, atol=1e-4)
    other = onnxruntime.InferenceSession(MODEL / "1" / "graph.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(other.run(None, {"images": images})[0], expected, rtol=1e-4, atol=1e-4)
