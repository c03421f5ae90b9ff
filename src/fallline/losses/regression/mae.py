"""Mean absolute error: the size of the miss.

    ℓ = |y − x|          slope −1, 0 or +1; 0 where y = x

When to use: regression with outliers, or where every unit of miss costs the same; the minimiser is the conditional median.
When not: the last steps need a slope that shrinks near the target: then huber or log_cosh.
Source: Boscovich, 1757; Bloomfield and Steiger, "Least Absolute Deviations", Birkhäuser 1983.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._kinds import Regression

_FUSED = torch.ops.aten.l1_loss.default


class MAE(Regression):
    """Absolute error of each element, in the target's unit. Input and target: equal shapes.

    >>> import torch
    >>> MAE()(torch.tensor([0.5, 3.0]), torch.tensor([1.0, 3.0]))
    tensor(0.2500)
    """

    name = "mae"

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return (input - target).abs()

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        return _FUSED(input, target, REDUCE[self.reduction]) if alike(input, target) else None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(wide(input), wide(target))
