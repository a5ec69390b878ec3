"""BatchNorm that is one multiply-add in eval mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with fixed statistics written as scale x + shift, (B, C, H, W) to the same.

    The general kernel's backward pass also serves the training of its parameters and is slow on small maps; attacks and
    input entropy reduction run it in eval mode all the time.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
