"""What can be attacked and defended: DEQ classifiers, the deep baselines, and how they are made, saved and loaded."""

from .cell import Cell, CellMap, PlainCell
from .deq import ClassifierTrajectory, DEQClassifier, StateLayout
from .mdeq import MDEQConfig
from .monotone import MonDEQ, MonDEQConfig
from .official import load_official, to_official
from .resnet import PreActResNet, ResNetConfig
from .structure import Structure, Wrapper, structure
from .zoo import ARCHITECTURES, HubModule, create_model, load_model, save_model

__all__ = [
    "ARCHITECTURES", "Cell", "CellMap", "ClassifierTrajectory", "DEQClassifier", "HubModule", "MDEQConfig", "MonDEQ",
    "MonDEQConfig",
    "PlainCell", "PreActResNet", "ResNetConfig", "StateLayout", "Structure", "Wrapper", "create_model", "load_model",
    "load_official", "save_model", "structure", "to_official",
]  # fmt: skip
