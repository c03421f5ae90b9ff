"""Squared hinge loss: the square of the hinge, smooth at the margin.

    ℓ = max(0, 1 − y x)²          y = −1 or +1

When to use: as hinge, where a smooth slope helps the optimizer and a large violation should cost more.
When not: mislabelled examples: each one's pull grows without bound, where the hinge's stays 1.
Source: Rennie and Srebro, "Loss Functions for Preference Levels", IJCAI Workshop 2005; Lee and Mangasarian, "SSVM", 2001.
https://doi.org/10.1023/A:1011215321374
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._kinds import Signed


class SquaredHinge(Signed):
    """Squared hinge of each element. Input and target: equal shapes; target -1/+1, FalllineError elsewhere.

    >>> import torch
    >>> SquaredHinge()(torch.tensor([0.5, -2.0]), torch.tensor([1, -1]))
    tensor(0.1250)
    """

    name = "squared_hinge"

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return (1 - target * input).relu().square()
