"""The handwritten digits, and their one split into training and held-out digits.

The digits are the 1,797 of scikit-learn's `load_digits`, a copy of the test set of "Optical Recognition of
Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998). They carry no writer names, so
the same people wrote training and held-out digits: the accuracy says nothing about the hand of somebody new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opyard.errors import OpyardError

HELD_OUT_EVERY = 5
BRIGHTEST = 16.0


@dataclass(frozen=True)
class Digits:
    """Images `[n, 1, 8, 8]` float32 in 0..1 (background 0) with labels `[n]` int64 in 0..9."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


def every_nth_of_each_class(labels: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_]:
    """A mask `[len(labels)]` of the first, the n+1st, the 2n+1st, ... example of each class.

    Stratified, and without random numbers: NumPy's generators may change between versions, this cannot.
    """
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[::n]] = True
    return mask


def load_digits() -> Digits:
    """The digits in the order of scikit-learn; every fifth of each class, 364 (20 %), is held out.

    Raises OpyardError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_from_sklearn
    except ImportError as error:
        raise OpyardError(
            f"The handwritten digits come with scikit-learn, which cannot be imported here ({error}). Type: pip install opyard-demo (it brings scikit-learn), or pip install scikit-learn."
        ) from error
    bunch = load_from_sklearn()
    images = (bunch.images[:, np.newaxis] / BRIGHTEST).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    held_out = every_nth_of_each_class(labels, HELD_OUT_EVERY)
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])
