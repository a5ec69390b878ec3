"""Convolutions with what is normalised around them: their outputs by BatchNorm, or their weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
"""By name. SiLU is smooth, and with it the gradient that an attack follows (Xie et al. 2020, arXiv 2006.14536)."""


def normalised(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """norm(conv(x)); in eval mode one convolution, since the normalisation then is a multiply-add for each filter.

    Attacks and input entropy reduction run it in eval mode all the time, and every pass over a small map counts.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return norm(conv(x))
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (0 if conv.bias is None else conv.bias) - norm.running_mean
    bias = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)


class ConvNorm(nn.Sequential):
    """A convolution, its BatchNorm, and an activation where there is one."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), *([] if act is None else [act]))

    def forward(self, input: Tensor) -> Tensor:
        y = normalised(self[0], self[1], input)
        return self[2](y) if len(self) > 2 else y


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``; under autocast on a CUDA device in the dtype that it is given, where torch's own would write
    float32, twice the bytes. Means and variances are float32 in both."""

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_cuda or input.dtype is torch.float32:
            return super().forward(input)
        weight, bias = (None if a is None else a.to(input.dtype) for a in (self.weight, self.bias))
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class WNConv2d(nn.Module):
    """Convolution without bias; its weight g v / ||v||, the norm taken per output filter, is made by the caller."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.padding = kernel // 2
        self.weight_v = nn.Parameter(0.01 * torch.randn(channels_out, channels_in, kernel, kernel))
        self.weight_g = nn.Parameter(self.weight_v.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1))

    @property
    def weight(self) -> Tensor:
        # The fused kernel alone: torch's parametrisation would make the weight anew at every step of a solve.
        return torch._weight_norm(self.weight_v, self.weight_g, 0)  # pyright: ignore[reportPrivateImportUsage]

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.padding)
