"""The deep baselines: residual networks with pre-activation, PreActResNet-18 and WideResNet-34-10.

He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks (2016, arXiv 1603.05027); Zagoruyko, Komodakis, Wide
Residual Networks (2016, arXiv 1605.07146). Images in [0, 1] are not normalised, as adversarial training has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Count, Counts, ImageShape, check_dtype, check_images
from ..options import checked
from .modes import trackable
from .zoo import HubModule, architecture


@checked
@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Everything that makes a pre-activation residual network.

    image_shape: (C, H, W). stem: channels of the first convolution. channels: of every stage; each stage after the
    first halves the resolution. units: residual units a stage, of two 3x3 convolutions each.
    """

    image_shape: ImageShape = (3, 32, 32)
    num_classes: Count = 10
    stem: Count = 64
    channels: Counts = (64, 128, 256, 512)
    units: Count = 2


PRESETS: dict[str, dict[str, Any]] = {"resnet18": dict(), "wrn34-10": dict(stem=16, channels=(160, 320, 640), units=5)}


class PreActUnit(nn.Module):
    """x + conv(ReLU(BN(conv(ReLU(BN(x)))))).

    Where the shape changes, and in the network's first unit, the first activation comes before the two paths part.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels_in), _conv(channels_in, channels, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), _conv(channels, channels, 3)
        changes = stride != 1 or channels_in != channels
        self.activate_both = first or changes
        self.shortcut = _conv(channels_in, channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        kept = self.shortcut(h if self.activate_both else x)
        h = F.relu(self.bn2(self.conv1(h)))
        return self.conv2(h) + kept


@architecture(ResNetConfig, PRESETS)
class PreActResNet(HubModule):
    """Images (B, C, H, W) in [0, 1] to logits (B, K): stem, stages of units, BN, ReLU, global average, linear.

    The final BN and ReLU are the paper's: PreActResNet-18 has 11,172,170 parameters for 10 classes (1,024 more than the
    widespread variant without them), WRN-34-10 has 46,160,474.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.image_shape = config.image_shape
        units: list[nn.Module] = []
        width = config.stem
        for stage, channels in enumerate(config.channels):
            for unit in range(config.units):
                stride = 2 if stage and not unit else 1
                units.append(PreActUnit(width, channels, stride, first=not units))
                width = channels
        self.stem = _conv(config.image_shape[0], config.stem, 3)
        self.units = nn.Sequential(*units)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, config.num_classes)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W) in [0, 1]."""
        check_images(x, self.image_shape)
        check_dtype(x, self.stem.weight)
        h = F.relu(self.norm(self.units(self.stem(trackable(x)))))
        return self.classifier(h.mean(dim=(2, 3)))


def _conv(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
