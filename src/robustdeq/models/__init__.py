"""What can be attacked and defended: DEQ classifiers, the deep baselines, and how they are made, saved and loaded."""

from .deq import Cell as Cell
from .deq import CellMap as CellMap
from .deq import ClassifierTrajectory as ClassifierTrajectory
from .deq import DEQClassifier as DEQClassifier
from .deq import PlainCell as PlainCell
from .deq import StateLayout as StateLayout
from .mdeq import MDEQConfig as MDEQConfig
from .official import load_official as load_official
from .official import to_official as to_official
from .resnet import PreActResNet as PreActResNet
from .resnet import ResNetConfig as ResNetConfig
from .structure import Structure as Structure
from .structure import Wrapper as Wrapper
from .structure import structure as structure
from .zoo import ARCHITECTURES as ARCHITECTURES
from .zoo import HubModule as HubModule
from .zoo import create_model as create_model
from .zoo import load_model as load_model
from .zoo import load_strictly as load_strictly
from .zoo import save_model as save_model
