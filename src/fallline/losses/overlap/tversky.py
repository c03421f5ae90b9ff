"""Tversky loss: the Dice loss with separate prices for what is marked too much and what is missed.

    T = (TP + s) / (TP + α FP + β FN + s)          TP = Σ p y, FP = Σ p (1 − y), FN = Σ (1 − p) y
    ℓ = (1 − T)^γ

When to use: small masks of which no pixel should be missed: β above α (0.3 and 0.7 are the source's). γ = 0.75 keeps up the pull of
examples that are nearly right.
When not: misses and false alarms cost the same: then dice, which is α = β = 0.5 (with s / 2).
Source: Salehi, Erdogmus and Gholipour, "Tversky Loss Function for Image Segmentation using 3D Fully Convolutional Deep Networks",
MLMI 2017, eq. 4; γ: Abraham and Khan, "A Novel Focal Tversky Loss Function", ISBI 2019, eq. 4. https://arxiv.org/abs/1706.05721
https://arxiv.org/abs/1810.07842
Departs from the source: s, so that an empty mask predicted empty costs 0. The exponent is γ itself (Abraham and Khan write 1/γ with 4/3;
their code has 0.75), and below 1 − T = 1e-6 the power goes on as a straight line to 0, so that γ < 1 has a finite slope at a perfect match.
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses.overlap._overlap import Overlap

_LEAST = 1e-6


class Tversky(Overlap):
    """Tversky loss. Input and target: equal shapes (N, ...), target 0/1; or input (N, C, ...), target class indices (N, ...).

    >>> import torch
    >>> Tversky(alpha=0.0, beta=1.0, smooth=0)(torch.tensor([[30.0, 30.0, -30.0, -30.0]]), torch.tensor([[1, 0, 0, 1]]))
    tensor(0.5000)
    """

    name = "tversky"
    alpha: float = number(0.3, low=0, doc="α: what marking an element too much costs")
    beta: float = number(0.7, low=0, doc="β: what missing an element costs")
    gamma: float = number(1.0, low=0, open_low=True, usual="0.75", doc="γ: below 1 examples nearly right pull more, above 1 less")

    @override
    def parts(self, p: Tensor, q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        error = self.alpha * (1 - y) * p + self.beta * y * q
        return error, y * p + error

    @override
    def lift(self, ratio: Tensor) -> Tensor | None:
        return None if self.gamma == 1 else ratio.clamp_min(_LEAST).pow(self.gamma - 1)
