"""The 1,797 real handwritten digits of 8x8 pixels that ship with scikit-learn (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from .images import ImageSet, Splits, cut

SOURCE = "scikit-learn digits (8x8, 17 grey levels)"


def digits(*, test: int = 360, validation: int = 100, seed: int = 0) -> Splits:
    """Splits of grey images (N, 1, 8, 8), cut at random with ``seed``."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
    whole = ImageSet(images, torch.as_tensor(labels).long(), tuple("0123456789"), SOURCE, white=16)
    test_part, validation_part, train_part = cut(whole, (test, validation), seed)
    return Splits(train_part, validation_part, test_part, seed)
