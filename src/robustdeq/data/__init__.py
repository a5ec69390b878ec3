"""Image sets, their splits, batches and augmentation."""

from .sets import ImageSet, Splits, crop_and_flip, cut, digits
from .sources import load
from .streams import StreamedSet

__all__ = ["ImageSet", "Splits", "StreamedSet", "crop_and_flip", "cut", "digits", "load"]
