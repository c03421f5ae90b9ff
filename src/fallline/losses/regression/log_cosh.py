"""Log-cosh: the logarithm of the hyperbolic cosine of the miss, a Huber loss without a seam.

    ℓ = log cosh e = log(1 + 2 sinh²(e / 2))          e = y − x          slope tanh e
    ℓ = |e| − log 2                                   where |e| is so large that exp(−2|e|) rounds to 0

When to use: regression with outliers where second derivatives matter (Newton's method, boosting).
When not: the turn from square to line must stand elsewhere than at a miss of about 1: then huber with its δ.
Source: Saleh and Saleh, "Statistical Properties of the log-cosh Loss Function Used in Machine Learning", 2022.
https://arxiv.org/abs/2208.04564
Departs from the source: some texts sum over the examples; here `reduction` says. The first form loses no digits at small misses.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._kinds import Regression

_FAR = 40.0
"""exp(-80) is nothing beside 1, in float64 too; sinh(20) squared is far from overflow in float32."""


class LogCosh(Regression):
    """Log-cosh of each element. Input and target: equal shapes; finite for every finite miss, in half precision too.

    >>> LogCosh()(torch.tensor([0.0]), torch.tensor([100.0]))
    tensor(99.3069)
    """

    name = "log_cosh"

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        e = target - input
        near = torch.log1p(2 * torch.sinh(0.5 * e.clamp(-_FAR, _FAR)).square())
        return near + F.softshrink(e, _FAR).abs()
