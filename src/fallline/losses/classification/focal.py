"""Focal loss: cross-entropy that fades on examples already classified well.

    ℓ = −(1 − p_y)^γ log p_y                     one class of several: p = softmax(x), y a class index
    ℓ = −α (1 − p)^γ log p                       where y = 1, each label by itself: p = σ(x)
    ℓ = −(1 − α) p^γ log(1 − p)                  where y = 0; without α both factors are 1

When to use: a flood of easy examples drowns the few hard ones (detection, rare classes). γ = 2 is usual, with α = 0.25 for rare positives;
γ = 0 is cross_entropy or binary_cross_entropy.
When not: labels are noisy: it works hardest on the wrong ones. Its probabilities are not calibrated.
Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4 and 5. https://arxiv.org/abs/1708.02002
Departs from the source: the form for several classes goes through softmax; its α is `class_weight`, which the mean divides by, while α
multiplies the value. The mean is over the labels, not over the positives. A label between 0 and 1 mixes the two lines. Every factor is
computed in log space, so that γ < 1 has a gradient where p rounds to 1, and a logit of 100 on the wrong side keeps its slope.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must
from fallline.losses._either import Either
from fallline.losses._fields import number
from fallline.losses._kinds import class_last
from fallline.losses._yes_no import by_label, faded


class Focal(Either):
    """Focal loss of each label, in nats.

    Input (N, C, ...) logits or (C,) with target (N, ...) class indices: one class of several. Input and target of equal shapes, target 0/1
    of any dtype or probabilities: each label by itself.

    >>> Focal(gamma=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.1733)
    >>> Focal(alpha=0.25)(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    tensor(0.0866)
    """

    name = "focal"
    gamma: float = number(2.0, low=0, doc="γ: how fast easy examples fade")
    alpha: float | None = number(None, low=0, high=1, usual="0.25", doc="α: share of the positives, for labels 0/1; None weighs both 1")

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        shape = super().shape(input, target)
        alone = self.alpha is None or self.apart(input, target)
        must(alone, "alpha is None for class indices", self.alpha, "class_weight weighs the classes", where=self.name)
        return shape

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        if self.apart(input, target):
            return self._binary(input, target)
        scores, y = class_last(input), target.long().unsqueeze(-1)
        least = torch.finfo(scores.dtype).min  # as good as -inf, and has a slope where every other class is impossible
        ahead = scores.gather(-1, y).squeeze(-1) - torch.logsumexp(scores.scatter(-1, y, least), dim=-1)  # p = σ(ahead)
        return faded(F.logsigmoid(ahead), F.logsigmoid(-ahead), self.gamma)

    def _binary(self, input: Tensor, target: Tensor) -> Tensor:
        log_p, log_not = F.logsigmoid(input), F.logsigmoid(-input)
        one, zero = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return by_label(target, one * faded(log_p, log_not, self.gamma), zero * faded(log_not, log_p, self.gamma))
