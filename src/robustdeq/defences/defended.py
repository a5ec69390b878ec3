"""What every test-time defence is to an attacker: the interface of the four threat settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..models.structure import Wrapper
from ..options import describe


class Defended(Wrapper):
    """A classifier ``model`` behind a test-time defence. Subclass it, write ``forward``, and every suite attacks it
    under the four threat settings: static (``model`` is attacked), frozen, end-to-end, black-box.

    method: the defence's options, a dataclass; the record shows them. looks: the states z^[t] of a DEQ at which the
    defence first reads the prediction, which a static attack may aim at.
    """

    looks: tuple[int, ...] = ()

    def __init__(self, model: nn.Module, method: Any = None) -> None:
        super().__init__()
        self.model, self.method = model, method

    @property
    def settings(self) -> dict[str, Any]:
        return {} if self.method is None else describe(self.method)

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K) of images x (B, C, H, W) in [0, 1]. Their gradient is the frozen setting's: what
        autograd cannot pass is held constant (BPDA: ``x + (changed - x).detach()``)."""
        raise NotImplementedError

    def end_to_end(self, x: Tensor, sign: Callable[[Tensor], Tensor]) -> Tensor:
        """The same value, with a gradient through everything the defence does. sign: sign(g) with a smooth backward
        pass, for a defence that takes signed steps."""
        return self(x)
