"""Dice loss: 1 minus the overlap of prediction and mask, twice their common part over the sum of both.

    ℓ = 1 − (2 Σ p y + s) / (Σ p + Σ y + s)            p = σ(x), or softmax(x) with a ratio for each class
    ℓ = 1 − (2 Σ p y + s) / (Σ p² + Σ y² + s)          with squared=True

When to use: masks that cover little of the picture, where a value for each pixel would drown in background; often with cross-entropy added.
When not: single labels of single examples (cross_entropy, focal); calibrated probabilities. Soft labels: it is least at a hard answer.
Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016, section 3 (squared). https://arxiv.org/abs/1606.04797 Sudre et al., "Generalised
Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced Segmentations", 2017, section 2.1, DL₂ (plain).
https://arxiv.org/abs/1707.03237
Departs from the source: s stands above and below, so that an empty mask predicted empty costs 0, not 1 (the V-Net divides 0 by 0 there);
DL₂ adds the same ratio of the background, and Sudre's generalised form weighs the classes by the inverse of their squared size inside both
sums, where `class_weight` here weighs the ratios.
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import flag
from fallline.losses.overlap._overlap import Overlap


class Dice(Overlap):
    """Dice loss. Input and target: equal shapes (N, ...), target 0/1; or input (N, C, ...), target class indices (N, ...).

    >>> import torch
    >>> Dice(smooth=0)(torch.tensor([[30.0, 30.0, -30.0, -30.0]]), torch.tensor([[1, 0, 0, 0]]))
    tensor(0.3333)
    """

    name = "dice"
    squared: bool = flag(False, doc="squares in the denominator, as the V-Net has them")

    @override
    def parts(self, p: Tensor, q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        over, under = (1 - y) * p, y * q
        if self.squared:
            return (over - under).square(), p.square() + y.square()  # p − y = (1 − y) p − y (1 − p)
        return over + under, p + y
