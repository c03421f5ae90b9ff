"""Mean squared error: the square of the miss.

    ℓ = (y − x)²

When to use: regression whose misses are roughly bell-shaped; the minimiser is the conditional mean.
When not: a few wild targets rule the fit, as a miss of 10 counts 100 times a miss of 1: then huber or mae.
Source: Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._kinds import Regression

_FUSED = torch.ops.aten.mse_loss.default


class MSE(Regression):
    """Squared error of each element.

    Input and target: equal shapes, any; real numbers in the same unit. The value has that unit squared.

    >>> import torch
    >>> MSE()(torch.tensor([0.8]), torch.tensor([1.0]))
    tensor(0.0400)
    """

    name = "mse"

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return (input - target).square()

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        return _FUSED(input, target, REDUCE[self.reduction]) if alike(input, target) else None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(wide(input), wide(target))
