"""Image sets, their splits, batches and augmentation."""

from .augment import crop_and_flip
from .digits import digits
from .images import ImageSet, Splits, cut

__all__ = ["ImageSet", "Splits", "crop_and_flip", "cut", "digits"]
