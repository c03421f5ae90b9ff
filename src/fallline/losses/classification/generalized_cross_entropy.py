"""Generalised cross-entropy: between cross-entropy (q to 0) and the plain miss of probability (q = 1).

    ℓ = (1 − p_y^q) / q          p = softmax(x), 0 < q ≤ 1

When to use: some labels are wrong: the pull of an example that the model contradicts stays bounded by p^q.
When not: labels are clean: cross_entropy learns faster.
Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018, eq. 6.
https://arxiv.org/abs/1805.07836
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses._kinds import Classwise, class_last


class GeneralizedCrossEntropy(Classwise):
    """Generalised cross-entropy of each example. Input (N, C, ...) logits or (C,); target (N, ...) class indices.

    >>> GeneralizedCrossEntropy(q=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.5000)
    """

    name = "generalized_cross_entropy"
    q: float = number(0.7, low=0, high=1, open_low=True, doc="0 is near cross-entropy, 1 the plain miss of probability")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        log_p = F.log_softmax(class_last(input), dim=-1).gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        return -torch.expm1(self.q * log_p) / self.q
