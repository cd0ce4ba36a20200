"""The digits of the demo, their split, the trained weights, and the script that trains them."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from opyard.errors import OpyardError
from opyard_demo.data import WEIGHTS_PATH, Digits, every_nth_of_each_class, load_digits

SCRIPT = Path(__file__).parents[2] / "tools" / "train_demo.py"
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


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    result: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return result


def convolve(images: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]):  # type: ignore[no-untyped-def]
    """Same-padded 3x3 correlation written as nine shifted products, unlike that of the script."""
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


# --- the weights


def test_weight_file_holds_what_the_demo_expects() -> None:
    assert WEIGHTS_PATH.stat().st_size < 500_000
    weights = load_file(WEIGHTS_PATH)
    assert {name: weight.shape for name, weight in weights.items()} == SHAPES
    assert all(weight.dtype == np.float32 and np.isfinite(weight).all() for weight in weights.values())


def test_weights_classify_the_held_out_digits_as_their_metadata_says(digits: Digits) -> None:
    predicted = logits(load_file(WEIGHTS_PATH), digits.test_images).argmax(axis=1)
    accuracy = float((predicted == digits.test_labels).mean())
    facts = json.loads(metadata(WEIGHTS_PATH)["opyard_demo"])
    assert accuracy >= 0.97
    # Another order of summation may turn a digit whose two greatest logits are nearly equal, hence one of them.
    assert abs(accuracy - facts["held_out_accuracy"]) <= 1.1 / len(digits.test_labels)
    assert facts["architecture"].startswith("conv 3x3 same 1-16") and isinstance(facts["seed"], int)


# --- the script


def test_forward_pass_agrees_with_another_way_to_compute_it(digits: Digits, script: ModuleType) -> None:
    weights = load_file(WEIGHTS_PATH)
    images = digits.test_images[:5]
    np.testing.assert_allclose(
        script.forward(weights, images).logits, logits(weights, images), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_agree_with_finite_differences(digits: Digits, script: ModuleType, name: str) -> None:
    random = np.random.default_rng(3)
    weights = {key: random.normal(0, 0.2, shape) for key, shape in SHAPES.items()}
    images, labels = digits.train_images[:4].astype(np.float64), digits.train_labels[:4]

    def loss() -> float:
        return float(script.cross_entropy(script.forward(weights, images).logits, labels)[0])

    seen = script.forward(weights, images)
    gradient = script.backward(weights, seen, script.cross_entropy(seen.logits, labels)[1])[name]
    assert gradient.shape == SHAPES[name]
    # The steepest weights, since a weight behind a closed relu has a gradient of zero and tests nothing.
    for position in np.argsort(-np.abs(gradient), axis=None)[:5]:
        index = np.unravel_index(position, gradient.shape)
        step, original = 1e-6, weights[name][index]
        weights[name][index] = original + step
        above = loss()
        weights[name][index] = original - step
        slope = (above - loss()) / (2 * step)
        weights[name][index] = original
        assert gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_shift_moves_each_image_by_at_most_one_pixel(script: ModuleType) -> None:
    image = np.zeros((1, 1, 8, 8), dtype=np.float32)
    image[0, 0, 3, 4] = 1
    image[0, 0, 0, 0] = 0.5
    shifted = script.shifted_by_one(np.repeat(image, 200, axis=0), np.random.default_rng(0))
    assert shifted.shape == (200, 1, 8, 8)
    bright = {tuple(position[2:]) for position in np.argwhere(shifted == 1)}
    assert bright == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
    corner = {tuple(position[2:]) for position in np.argwhere(shifted == 0.5)}
    assert corner == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_equal_seeds_write_equal_files(
    digits: Digits, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = Digits(digits.train_images[:90], digits.train_labels[:90], digits.test_images, digits.test_labels)
    for name, seed in (("first", 5), ("second", 5), ("third", 6)):
        assert script.train_and_write(tmp_path / name, few, seed, 2) == 0
    output = capsys.readouterr().out
    assert output.count("epoch   2/2  loss ") == 3 and output.count("held-out accuracy ") == 3
    first, second, third = ((tmp_path / name).read_bytes() for name in ("first", "second", "third"))
    assert first == second and first != third
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "third"]


def test_check_passes_for_the_weights_of_the_demo(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--check"]) == 0
    assert "on 364 digits, at least 0.97" in capsys.readouterr().out


def test_check_fails_for_bad_weights(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zeros.safetensors"
    save_file({name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}, path)
    assert script.main(["--check", "--weights", str(path)]) == 1
    assert "below 0.97" in capsys.readouterr().out


def test_check_says_what_is_wrong_with_a_weight_file(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(OpyardError, match=r"cannot be read from .*absent.*python tools/train_demo\.py"):
        script.read_weights(tmp_path / "absent")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(OpyardError, match=r"cannot be read from .*text.*python tools/train_demo\.py"):
        script.read_weights(tmp_path / "text")
    save_file({"conv1.weight": np.zeros(3, dtype=np.float32)}, tmp_path / "other")
    with pytest.raises(
        OpyardError, match=r"do not fit the network: .*found \{'conv1\.weight': \(3,\)\}.*train_demo"
    ):
        script.read_weights(tmp_path / "other")


def test_output_that_cannot_be_written_is_refused_before_training(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.main(["--weights", str(tmp_path / "absent" / "weights")]) == 2
    captured = capsys.readouterr()
    assert "epoch" not in captured.out
    assert captured.err.startswith("error: The weights cannot be written to ")
    assert "there is no folder" in captured.err and "--weights PATH" in captured.err
    with pytest.raises(OpyardError, match=r"go to a file, but .* is a folder\. Name a file"):
        script.check_writable(tmp_path)
    monkeypatch.setattr(script.os, "access", lambda *_: False)
    with pytest.raises(OpyardError, match=r"no permission for .*--weights PATH"):
        script.check_writable(tmp_path / "weights")


def test_failure_while_writing_leaves_no_part_behind(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OpyardError, match=r"could not be written to .*no space left.*--weights PATH"):
        script.write_weights(tmp_path / "weights", {"a": np.zeros(1, dtype=np.float32)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [("--epochs", "0", "--epochs is 1 or more; found 0"), ("--seed", "-1", "--seed is 0 or more; found -1")],
)
def test_impossible_options(
    script: ModuleType, capsys: pytest.CaptureFixture[str], option: str, value: str, text: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main([option, value])
    assert text in capsys.readouterr().err
