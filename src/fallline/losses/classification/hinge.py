"""Hinge loss: nothing once the score stands on the right side by a margin of 1, linear before.

    ℓ = max(0, 1 − y x)          y = −1 or +1

When to use: two classes where only the decision matters, not the probability (support vector machines).
When not: probabilities are wanted: then binary_cross_entropy. Labels 0 and 1: map them to -1 and +1 first.
Source: Cortes and Vapnik, "Support-Vector Networks", Machine Learning 20, 1995. https://doi.org/10.1007/BF00994018
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._kinds import Signed


class Hinge(Signed):
    """Hinge of each element. Input and target: equal shapes; target -1/+1, FalllineError elsewhere.

    >>> import torch
    >>> Hinge()(torch.tensor([0.5, -2.0]), torch.tensor([1, -1]))
    tensor(0.2500)
    """

    name = "hinge"

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return (1 - target * input).relu()
