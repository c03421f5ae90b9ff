"""Quantile (pinball) loss: a miss below costs q, a miss above costs 1 − q.

    ℓ = max(q e, (q − 1) e)          e = y − x

When to use: an upper or lower bound is wanted rather than a mean: q = 0.9 is exceeded by one target in ten. Two models (0.05, 0.95) give
an interval.
When not: a mean is wanted: then mse. q = 0.5 is half of mae.
Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46, 1978. https://doi.org/10.2307/1913643
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses._kinds import Regression


class Quantile(Regression):
    """Pinball loss of each element, in the target's unit. Input and target: equal shapes.

    >>> Quantile(q=0.9)(torch.tensor([0.0]), torch.tensor([10.0]))
    tensor(9.)
    """

    name = "quantile"
    q: float = number(0.5, low=0, high=1, open_low=True, open_high=True, doc="the quantile to predict")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        e = target - input
        return torch.maximum(self.q * e, (self.q - 1) * e)
