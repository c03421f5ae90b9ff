"""Huber loss: squared near the target, linear far from it.

    ℓ = ½ e²                  where |e| ≤ δ          e = y − x
    ℓ = δ (|e| − ½ δ)         where |e| > δ

When to use: regression with some wild targets; δ is the size of a miss that still counts as ordinary, in the target's unit.
When not: the target's scale is unknown: standardise it first, or δ means nothing.
Source: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
https://doi.org/10.1214/aoms/1177703732
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._fields import number
from fallline.losses._kinds import Regression

_FUSED = torch.ops.aten.huber_loss.default


class Huber(Regression):
    """Huber's loss of each element. Input and target: equal shapes. Equals `delta` times SmoothL1 with `beta=delta`.

    >>> import torch
    >>> Huber(delta=1.0)(torch.tensor([0.0]), torch.tensor([3.0]))
    tensor(2.5000)
    """

    name = "huber"
    delta: float = number(1.0, low=0, open_low=True, doc="the miss at which the square turns into a line, in the target's unit")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(input, target, reduction="none", delta=self.delta)

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        return _FUSED(input, target, REDUCE[self.reduction], self.delta) if alike(input, target) else None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(wide(input), wide(target), delta=self.delta)
