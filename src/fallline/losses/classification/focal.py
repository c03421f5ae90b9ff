"""Focal loss: cross-entropy that fades on examples already classified well.

    ℓ = −(1 − p_y)^γ log p_y          p = softmax(x)

When to use: a flood of easy examples drowns the few hard ones (detection, rare classes). γ = 2 is usual; γ = 0 is cross_entropy.
When not: labels are noisy: it works hardest on the wrong ones. Its probabilities are not calibrated.
Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4. https://arxiv.org/abs/1708.02002
Departs from the source: written for several classes through softmax; α is `class_weight`, which the mean divides by. 1 − p is the sum of
the other classes, in log space, so that
γ < 1 has a gradient where p rounds to 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses._kinds import Classwise, class_last


class Focal(Classwise):
    """Focal loss of each example, in nats. Input (N, C, ...) logits or (C,); target (N, ...) class indices.

    >>> Focal(gamma=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.1733)
    """

    name = "focal"
    gamma: float = number(2.0, low=0, doc="how fast easy examples fade")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        log_p, y = F.log_softmax(class_last(input), dim=-1), target.long().unsqueeze(-1)
        own = torch.arange(log_p.shape[-1], device=log_p.device) == y
        log_rest = torch.logsumexp(torch.where(own, -torch.inf, log_p), dim=-1)
        return -torch.exp(self.gamma * log_rest) * log_p.gather(-1, y).squeeze(-1)
