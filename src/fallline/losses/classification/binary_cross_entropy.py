"""Binary cross-entropy: minus the log of the probability given to what happened.

    ℓ = −[w₁ π y log p + w₀ (1 − y) log(1 − p)]          p = σ(x) from logits

When to use: two classes, or several labels that may hold at once; y may be a probability between 0 and 1. Logits are the default: stable
at any size.
When not: more than two classes of which one holds: then cross_entropy. Probabilities that a sigmoid rounded to 0 or 1 have lost their
gradient: give logits.
Source: Good, "Rational Decisions", Journal of the Royal Statistical Society B 14, 1952. Weights as in King and Zeng, "Logistic Regression
in Rare Events Data", 2001.
Departs from the source: torch.nn.functional.binary_cross_entropy takes probabilities, this one logits, as torch's
binary_cross_entropy_with_logits does: in a call that is ported write `input_from="probabilities"`, or drop the sigmoid. From probabilities,
log p goes on as its tangent below p = 1e-12, so that p = 0 has a finite value and a gradient that is not zero (torch clamps the logarithm
at -100). Infinite logits give the right limit, where torch gives NaN.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import refuse
from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._checks import warn_once, within
from fallline.losses._fields import choice, number, pair
from fallline.losses._kinds import Binary
from fallline.losses._tracing import finite, readable
from fallline.losses._yes_no import by_label

_FLOOR = 1e-12


class BinaryCrossEntropy(Binary):
    """Cross-entropy of each element, in nats. Input and target: equal shapes; target 0/1 of any dtype, or probabilities.

    The weights multiply the value: the mean still divides by the number of elements.

    >>> BinaryCrossEntropy(input_from="probabilities")(torch.tensor([0.748]), torch.tensor([1]))
    tensor(0.2904)
    """

    name = "binary_cross_entropy"
    input_from: str = choice("logits", "probabilities", doc="what the input is")
    pos_weight: float = number(1.0, low=0, open_low=True, doc="π: how much more a positive example counts")
    class_weight: tuple[float, float] | None = pair(doc="(w0, w1): how much examples of class 0 and of class 1 count")

    @override
    def adapt(self) -> None:
        if self.input_from == "probabilities":
            self.become(output="probability", fill=(0.5, 0.0))
        zero, one = self.class_weight or (1.0, 1.0)
        self._zero, self._one = zero, one * self.pos_weight
        self._plain = self._zero == 1 and self._one == 1

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        if self.input_from == "logits" and self._plain and not target.is_floating_point():
            return -F.logsigmoid(torch.where(target > 0, input, -input))
        for weight, label in ((self._zero, 0), (self._one, 1)):
            if not weight:  # such examples cost nothing, whatever the input
                input = torch.where(target == label, self.fill[0], input)
        if self.input_from == "logits":
            yes, no = -F.logsigmoid(input), -F.logsigmoid(-input)
        else:
            yes, no = _minus_log(input), _minus_log_rest(input)
        if not self._plain:
            yes, no = self._one * yes, self._zero * no
        return by_label(target, yes, no)

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        if not (self._plain and self.validate and alike(input, target) and readable(input, target)):
            return None
        reduction = REDUCE[self.reduction]
        if self.input_from == "logits":
            if self._looks or not within(target.detach(), 0, 1):
                self.check_values(input.detach(), target.detach())
            value = torch.binary_cross_entropy_with_logits(input, target, None, None, reduction)
            return value if finite(value) else None
        if torch.is_autocast_enabled(input.device.type):
            return None  # where torch refuses its own form
        if within(input.detach(), _FLOOR, 1 - _FLOOR) and within(target.detach(), 0, 1):
            return torch.ops.aten.binary_cross_entropy(input, target, None, reduction)
        return None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        if self._plain and self.input_from == "logits":
            input = wide(input)
            return F.binary_cross_entropy_with_logits(input, target if target.dtype == input.dtype else target.to(input.dtype))
        return self.values(wide(input), target).mean()

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        super().check_values(input, target)
        if self.input_from == "probabilities" and input.numel():
            low, high = (float(v) for v in torch.aminmax(input))
            if low > 0 and high < 1:
                return
            if low < 0 or high > 1:
                refuse(
                    "every probability lies in 0..1",
                    f"values from {low:g} to {high:g}",
                    "for logits use input_from='logits'",
                    where=self.name,
                )
            share = float(((input == 0) | (input == 1)).float().mean())
            if share > 0.01 and input.numel() >= 16:
                warn_once(
                    f"{self.name} saturated",
                    f"{share:.0%} of the probabilities are exactly 0 or 1, where a sigmoid has no gradient: give logits instead.",
                )


def _minus_log(p: Tensor) -> Tensor:
    """-log p, and below the floor its tangent: finite at 0, with a gradient."""
    low = p < _FLOOR
    return torch.where(low, _tangent(p), -torch.log(torch.where(low, 1.0, p)))


def _minus_log_rest(p: Tensor) -> Tensor:
    """-log(1 - p) in the same way; every digit of a small p counts."""
    low = 1 - p < _FLOOR
    return torch.where(low, _tangent(1 - p), -torch.log1p(-torch.where(low, 0.0, p)))


def _tangent(p: Tensor) -> Tensor:
    return -math.log(_FLOOR) - (p - _FLOOR) / _FLOOR
