"""The multiscale DEQ classifier of the papers: injection, cell, readout and presets (MDEQ; P23 sec. 4).

Legend: S scales, finest first; C_i channels of scale i; u enters scale 0 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..checks import Count, Counts, Decay, ImageShape, check_dtype
from ..dynamics import SOLVERS
from ..gradients import GRADIENTS
from ..options import OneOf, checked
from ..text import shown
from .cell import Cell
from .deq import DEQClassifier, StateLayout
from .fit import check_sides
from .layers import ACTIVATIONS, ConvNorm, GroupNorm, WNConv2d, normalised
from .zoo import architecture

Activation = type[nn.Module]
GROUPS = 8
POST_GROUPS = 4


@checked
@dataclass(frozen=True, kw_only=True)
class MDEQConfig:
    """Everything that makes an MDEQ classifier.

    image_shape: (C, H, W). channels: C_i of every scale. head_channels: h_i of the readout's bottlenecks.
    features: F, channels before the classifier. stem_stride: stride of the injection's second convolution; scale i has
    the resolution H / stem_stride / 2^i. expansion: width of a branch's hidden layer over C_i. dropout: probability of
    dropping a channel in the cell, one mask for all steps of a forward. activation: in ``ACTIVATIONS``; the papers'
    have ReLU. solver, steps, gradient: see DEQClassifier.
    """

    image_shape: ImageShape = (3, 32, 32)
    num_classes: Count = 10
    channels: Counts = (32, 64, 128, 256)
    head_channels: Counts = (14, 28, 56, 112)
    features: Count = 1680
    stem_stride: Count = 1
    expansion: Count = 5
    dropout: Decay = 0.22
    activation: Annotated[str, OneOf("activation", ACTIVATIONS)] = "relu"
    solver: Annotated[Any, SOLVERS] = "broyden"
    steps: Count = 8
    gradient: Annotated[Any, GRADIENTS] = "unrolled"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.head_channels):
            widths = f"channels={shown(self.channels)}, head_channels={shown(self.head_channels)}"
            raise ValueError(f"mdeq: {widths}; allowed: one of each a scale.")
        if any(c % GROUPS for c in self.channels):
            raise ValueError(f"mdeq: channels={shown(self.channels)}; allowed: multiples of {GROUPS}, for its groups.")
        check_sides("mdeq", self.image_shape, self.stem_stride * 2 ** (len(self.channels) - 1))

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(C_i, H_i, W_i) of every scale, finest first."""
        _, height, width = self.image_shape
        scales = [(c, self.stem_stride * 2**i) for i, c in enumerate(self.channels)]
        return [(c, height // by, width // by) for c, by in scales]


PRESETS: dict[str, dict[str, Any]] = {
    "mdeq-nano": dict(
        image_shape=(1, 8, 8), channels=(16, 32), head_channels=(8, 16), features=64, stem_stride=2, expansion=2,
        dropout=0.0, solver={"name": "picard", "damping": 0.5},
    ),
    "mdeq-small": dict(
        channels=(16, 32, 64), head_channels=(8, 16, 32), features=256, stem_stride=2, expansion=2, dropout=0.0,
        solver={"name": "picard", "damping": 0.5},
    ),
    "mdeq-large": dict(),
    "mdeq-xl": dict(channels=(72, 144, 288, 576), head_channels=(20, 40, 80, 160), features=1800),
}  # fmt: skip


@architecture(MDEQConfig, PRESETS)
def build_mdeq(config: MDEQConfig) -> DEQClassifier:
    """With fresh weights from torch's global generator."""
    layout, act = StateLayout(config.state_shapes), ACTIVATIONS[config.activation]
    return DEQClassifier(
        Injection(config.image_shape[0], config.channels[0], config.stem_stride, act),
        MDEQCell(layout, config.expansion, config.dropout, act),
        MDEQReadout(layout, config.head_channels, config.features, config.num_classes, act),
        config.state_shapes, solver=config.solver, steps=config.steps, gradient=config.gradient,
        image_shape=config.image_shape,
    )  # fmt: skip


class Injection(nn.Sequential):
    """u = inject(x): convolutions 3x3, 3x3, 1x1, each with BatchNorm and ReLU (``act``). (B, C, H, W) to (B, C_0, H/s,
    W/s)."""

    def __init__(self, channels_in: int, channels: int, stride: int, act: Activation = nn.ReLU) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), act(),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), act(),
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), act(),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        check_dtype(input, cast(Tensor, self[0].weight))
        for i in range(0, len(self), 3):
            input = self[i + 2](normalised(self[i], self[i + 1], input))
        return input


class Branch(nn.Module):
    """One residual block of a scale: h = drop(conv2(ReLU(GN(conv1(z))))) + u;  b = GN(ReLU(GN(h) + z))."""

    def __init__(self, channels: int, expansion: int, act: Activation) -> None:
        super().__init__()
        hidden, self.act = expansion * channels, act()
        self.conv1, self.gn1 = WNConv2d(channels, hidden, 3), GroupNorm(GROUPS, hidden)
        self.conv2, self.gn2 = WNConv2d(hidden, channels, 3), GroupNorm(GROUPS, channels)
        self.gn3 = nn.GroupNorm(GROUPS, channels)

    def before_injection(self, z: Tensor, weight1: Tensor, weight2: Tensor, mask: Tensor | None) -> Tensor:
        h = self.conv2(self.act(self.gn1(self.conv1(z, weight1))), weight2)
        return h if mask is None else h * mask

    def after_injection(self, h: Tensor, z: Tensor) -> Tensor:
        return self.gn3(self.act(self.gn2(h) + z))


class Upsample(nn.Module):
    """Every pixel ``factor`` times along both sides, (B, C, H, W): ``nn.Upsample``'s nearest ones, copied row by row,
    which a CPU does faster."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        *outer, height, width = x.shape
        wide = torch.stack([x] * self.factor, dim=-1).view(*outer, height, 1, width * self.factor)
        tall = wide.expand(*outer, height, self.factor, width * self.factor)
        return tall.reshape(*outer, height * self.factor, width * self.factor)


class Transfer(nn.Sequential):
    """T_ji: the output of branch j brought to the channels and the resolution of scale i."""

    def __init__(self, channels: Sequence[int], source: int, target: int, act: Activation) -> None:
        layers: list[nn.Module] = []
        widths = [channels[source]] * (target - source) + [channels[target]]
        for before, after in pairwise(widths):  # a stage halves the resolution; none where source >= target
            conv = nn.Conv2d(before, after, 3, 2, padding=1, bias=False)
            layers += [*([act()] if layers else []), conv, GroupNorm(GROUPS, after)]
        if source > target:
            conv = nn.Conv2d(channels[source], channels[target], 1, bias=False)
            layers = [conv, GroupNorm(GROUPS, channels[target]), Upsample(2 ** (source - target))]
        super().__init__(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)


class Prepared(NamedTuple):
    """What f knows of z before u arrives: branch 0 up to the injection; z_0; every scale's sum over branches j >= 1."""

    h: Tensor
    z: Tensor
    sums: list[Tensor | None]


class MDEQCell(Cell):
    """f(z; u): a branch at every scale, then fusion of all scales. Packed (B, D) to packed (B, D).

    u, (B, C_0, H_0, W_0), enters scale 0 only; so the branches of all other scales, and their share of the fusion,
    belong to ``prepare``.
    """

    one_for_all = True

    def __init__(self, layout: StateLayout, expansion: int, dropout: float, act: Activation = nn.ReLU) -> None:
        super().__init__()
        channels = [shape[0] for shape in layout.shapes]
        scales = range(len(channels))
        self.layout, self.dropout, self.act = layout, dropout, act()
        # Any, since a ModuleList does not tell a type checker what is in it
        self.branches: Any = nn.ModuleList(Branch(c, expansion, act) for c in channels)
        self.fusion: Any = nn.ModuleList(nn.ModuleList(Transfer(channels, j, i, act) for j in scales) for i in scales)
        self.post: Any = nn.ModuleList(WNConv2d(c, c, 1) for c in channels)
        self.post_norm: Any = nn.ModuleList(nn.GroupNorm(POST_GROUPS, c, affine=False) for c in channels)

    def constants(self, z: Tensor) -> tuple[Tensor | None, ...]:
        """Per scale, in order: both branch weights, the weight of the post-fusion convolution, the dropout mask."""
        constants: list[Tensor | None] = []
        for branch, post in zip(self.branches, self.post):
            mask, keep = None, 1 - self.dropout
            if self.training and self.dropout:
                mask = torch.bernoulli(z.new_full((len(z), branch.gn2.num_channels, 1, 1), keep)) / keep
            constants += [branch.conv1.weight, branch.conv2.weight, post.weight, mask]
        return tuple(constants)

    def prepare(self, z: Tensor, constants: Any = None) -> Prepared:
        constants = self.constants(z) if constants is None else constants
        scales = self.layout.unpack(z)
        hidden = [
            branch.before_injection(z_i, constants[4 * i], constants[4 * i + 1], constants[4 * i + 3])
            for i, (branch, z_i) in enumerate(zip(self.branches, scales))
        ]
        outputs = [self.branches[j].after_injection(hidden[j], scales[j]) for j in range(1, len(scales))]
        sums: list[Tensor | None] = []
        for row in self.fusion:
            terms = [row[j](b) for j, b in enumerate(outputs, start=1)]
            sums.append(reduce(torch.add, terms) if terms else None)
        return Prepared(hidden[0], scales[0], sums)

    def finish(self, prepared: Prepared, u: Tensor, constants: Any = None) -> Tensor:
        constants = self.constants(prepared.z) if constants is None else constants
        b = self.branches[0].after_injection(prepared.h + u, prepared.z)
        scales = []
        for i, (row, rest) in enumerate(zip(self.fusion, prepared.sums)):
            y = row[0](b) if rest is None else row[0](b) + rest
            scales.append(self.post_norm[i](self.post[i](self.act(y), constants[4 * i + 2])))
        return self.layout.pack(scales)


class Bottleneck(nn.Module):
    """Readout block of one scale: (B, C_i, H_i, W_i) to (B, 4 h_i, H_i, W_i)."""

    def __init__(self, channels: int, hidden: int, act: Activation) -> None:
        super().__init__()
        self.act = act()
        norm = lambda channels: nn.BatchNorm2d(channels, affine=False)  # noqa: E731
        self.conv1, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), norm(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), norm(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, 4 * hidden, 1, bias=False), norm(4 * hidden)
        self.shortcut = ConvNorm(nn.Conv2d(channels, 4 * hidden, 1, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        h = self.act(normalised(self.conv1, self.bn1, z))
        h = self.act(normalised(self.conv2, self.bn2, h))
        return self.act(normalised(self.conv3, self.bn3, h) + self.shortcut(z))


class MDEQReadout(nn.Module):
    """Packed state (B, D) to logits (B, K): a bottleneck a scale, joined from fine to coarse, then a classifier."""

    def __init__(
        self, layout: StateLayout, hidden: Sequence[int], features: int, num_classes: int, act: Activation = nn.ReLU
    ) -> None:
        super().__init__()
        self.layout = layout
        self.blocks = nn.ModuleList(Bottleneck(shape[0], h, act) for shape, h in zip(layout.shapes, hidden))
        convs = (nn.Conv2d(4 * a, 4 * b, 3, 2, padding=1) for a, b in pairwise(hidden))
        self.down = nn.ModuleList(ConvNorm(conv, act()) for conv in convs)
        self.final = ConvNorm(nn.Conv2d(4 * hidden[-1], features, 1), act())
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, z: Tensor) -> Tensor:
        finest, *coarser = self.layout.unpack(z)
        y = self.blocks[0](finest)
        for block, down, z_i in zip(list(self.blocks)[1:], self.down, coarser):
            y = block(z_i) + down(y)
        return self.classifier(self.final(y).mean(dim=(2, 3)))
