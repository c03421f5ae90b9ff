"""Smooth L1: squared near the target, linear with slope 1 far from it.

    ℓ = ½ e² / β              where |e| < β           e = y − x
    ℓ = |e| − ½ β             where |e| ≥ β

When to use: box regression and other places where the far slope must stay 1 whatever β is. Huber with δ = β is β times this loss.
When not: you mean Huber's δ in the unit of the target and want the near part to be ½ e²: then huber.
Source: Girshick, "Fast R-CNN", ICCV 2015, eq. 3. https://arxiv.org/abs/1504.08083
Departs from the source: β is free, as in torch; the paper has β = 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._fields import number
from fallline.losses._kinds import Regression

_FUSED = torch.ops.aten.smooth_l1_loss.default


class SmoothL1(Regression):
    """Smooth L1 of each element, in the target's unit. Input and target: equal shapes.

    >>> import torch
    >>> SmoothL1(beta=1.0)(torch.tensor([0.0]), torch.tensor([3.0]))
    tensor(2.5000)
    """

    name = "smooth_l1"
    beta: float = number(1.0, low=0, open_low=True, doc="the miss at which the square turns into a line, in the target's unit")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction="none", beta=self.beta)

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        return _FUSED(input, target, REDUCE[self.reduction], self.beta) if alike(input, target) else None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(wide(input), wide(target), beta=self.beta)
