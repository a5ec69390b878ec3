"""Image sets, their splits, batches and augmentation."""

from .augment import crop_and_flip
from .digits import digits
from .images import ImageSet, Splits, cut
from .sources import load
from .streamed import StreamedSet

__all__ = ["ImageSet", "Splits", "StreamedSet", "crop_and_flip", "cut", "digits", "load"]
