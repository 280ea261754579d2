"""The data set: 1,797 images of handwritten digits, 8 by 8 pixels, as scikit-learn ships them.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

PIXELS = 64
CLASSES = 10

_VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class Digits:
    """Images with pixels in 0 … 1 and their digits, split once and for all."""

    images: Images
    labels: Labels
    validation_images: Images
    validation_labels: Labels


def load() -> Digits:
    """The data set from scikit-learn's package; nothing is downloaded."""
    # Imported here: it takes over a second, which each trainer saves by reading a file instead.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    images = (pixels[order] / 16).astype(np.float32)
    labels = labels[order].astype(np.int64)
    split = round(len(labels) * (1 - _VALIDATION_SHARE))
    return Digits(images[:split], labels[:split], images[split:], labels[split:])


def save(digits: Digits, path: Path) -> None:
    """Write the data set into an .npz file."""
    np.savez(
        path,
        images=digits.images,
        labels=digits.labels,
        validation_images=digits.validation_images,
        validation_labels=digits.validation_labels,
    )


def read(path: Path) -> Digits:
    """The data set that `save` wrote."""
    with np.load(path) as arrays:
        return Digits(**arrays)
