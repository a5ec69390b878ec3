"""Threat models, attacks, and the views an attack looks through."""

from .apgd import APGD as APGD
from .autoattack import AutoAttack as AutoAttack
from .joint import JointOptimisation as JointOptimisation
from .libraries import ART as ART
from .libraries import Foolbox as Foolbox
from .losses import LOSSES as LOSSES
from .losses import predictions as predictions
from .pgd import PGD as PGD
from .starts import Calls as Calls
from .threat import L2 as L2
from .threat import THREATS as THREATS
from .threat import Linf as Linf
from .threat import Threat as Threat
from .views import EndToEnd as EndToEnd
from .views import Frozen as Frozen
from .views import IntermediateState as IntermediateState
from .views import Static as Static
from .views import Summed as Summed
from .views import ThroughGradient as ThroughGradient
from .views import View as View
