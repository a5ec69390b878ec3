"""What can be attacked and defended: DEQ classifiers, the deep baselines, and how they are made, saved and loaded."""

from .checks import check_images, check_range
from .classifier import Cell, CellMap, DEQClassifier, PlainCell, StateLayout
from .explicit import ExplicitConfig, PreActResNet
from .hub import HubModule
from .mdeq import MDEQConfig
from .official import load_official, to_official
from .zoo import NAMES, create_model, load_model, load_strictly, save_model

__all__ = [
    "NAMES",
    "Cell",
    "CellMap",
    "DEQClassifier",
    "ExplicitConfig",
    "HubModule",
    "MDEQConfig",
    "PlainCell",
    "PreActResNet",
    "StateLayout",
    "check_images",
    "check_range",
    "create_model",
    "load_model",
    "load_official",
    "load_strictly",
    "save_model",
    "to_official",
]
