"""Poly-1: cross-entropy with the first coefficient of its polynomial expansion changed.

    ℓ = −log p_y + ε (1 − p_y)          p = softmax(x)

When to use: cross-entropy works and a cheap knob may add a little: ε > 0 pushes confidence up (balanced sets), ε < 0 holds it back (rare
classes).
When not: calibrated probabilities matter: ε = 0, that is cross_entropy.
Source: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", ICLR 2022, eq. 6.
https://arxiv.org/abs/2204.12511
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses._kinds import Classwise, class_last


class Poly1(Classwise):
    """Poly-1 loss of each example. Input (N, C, ...) logits or (C,); target (N, ...) class indices.

    >>> Poly1(epsilon=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(1.1931)
    """

    name = "poly1"
    epsilon: float = number(1.0, low=-1, doc="what is added to the first coefficient, which is 1")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        log_p = F.log_softmax(class_last(input), dim=-1).gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        return -log_p - self.epsilon * torch.expm1(log_p)
