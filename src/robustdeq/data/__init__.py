"""Image sets, their splits, batches and augmentation."""

from .augment import crop_and_flip
from .images import ImageSet, Splits, cut, digits
from .sources import load
from .streams import StreamedSet

__all__ = ["ImageSet", "Splits", "StreamedSet", "crop_and_flip", "cut", "digits", "load"]
