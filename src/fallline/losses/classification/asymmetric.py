"""Asymmetric loss: binary cross-entropy whose negatives fade faster than its positives, and vanish below a margin.

    ℓ = −(1 − p)^γ₊ log p                 where y = 1          p = σ(x)
    ℓ = −p_m^γ₋ log(1 − p_m)              where y = 0          p_m = max(p − m, 0)

When to use: many labels of which few hold for any example (multi-label pictures).
When not: positives and negatives are balanced: then binary_cross_entropy, which is γ₊ = γ₋ = m = 0.
Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, eq. 7. https://arxiv.org/abs/2009.14119
Departs from the source: its code stops the gradient through the fading factors; here the loss has its own gradient. Both sides are
computed through log σ, so that a positive at logit -100
keeps its slope. A negative below the margin has a gradient of 0 by definition.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses._kinds import Binary
from fallline.losses._yes_no import by_label, faded


class Asymmetric(Binary):
    """Asymmetric loss of each element, in nats. Input (logits) and target (0/1): equal shapes.

    >>> Asymmetric(gamma_positive=0.0)(torch.tensor([0.0]), torch.tensor([1]))
    tensor(0.6931)
    """

    name = "asymmetric"
    gamma_positive: float = number(0.0, low=0, doc="how fast easy positives fade")
    gamma_negative: float = number(4.0, low=0, doc="how fast easy negatives fade")
    margin: float = number(0.05, low=0, high=1, open_high=True, doc="negatives below this probability cost nothing")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        log_p, log_not = F.logsigmoid(input), F.logsigmoid(-input)
        no = self._past_margin(input) if self.margin else faded(log_not, log_p, self.gamma_negative)
        return by_label(target, faded(log_p, log_not, self.gamma_positive), no)

    def _past_margin(self, input: Tensor) -> Tensor:
        """−p_m^γ₋ log(1 − p_m), with 1 − p_m = σ(−x) + m where that is the smaller: it never rounds to 0."""
        rest = torch.sigmoid(-input)
        p = torch.where(input > 0, (1 - self.margin) - rest, input.sigmoid() - self.margin)
        shown = ~(p <= 0)  # a NaN is no low probability
        p, small = torch.where(shown, p, 0.5), p < 0.5
        log_rest = torch.where(small, torch.log1p(-torch.where(small, p, 0.0)), torch.log(torch.where(small, 1.0, rest + self.margin)))
        return torch.where(shown, -p.pow(self.gamma_negative) * log_rest, 0.0)
