"""Cross-entropy over classes: minus the log of the probability given to the true class.

    ℓ = −log p_y                       p = softmax(x), the maximum subtracted first
    ℓ = −Σ t_c log p_c                 target a distribution (one-hot, soft)
    t ← (1 − ε) t + ε / C              label smoothing ε
    mean = Σ w ℓ / Σ w                 w = class weight of the target: w_y, or Σ t_c w_c before smoothing

When to use: one class of several holds. Integer targets cost no memory; one-hot and soft targets give the same for the same distribution.
When not: several labels may hold at once: then binary_cross_entropy. Outputs that went through a softmax already: give the logits.
Source: Good, "Rational Decisions", 1952; label smoothing: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7.
https://arxiv.org/abs/1512.00567
Departs from the source: with label smoothing, torch weighs each smoothed class by its own weight, so that a heavy class draws mass from
every example
(pytorch#104776); here the weight is the target's own. With soft targets and weights torch divides by N; here by the sum of the weights,
so that one-hot equals sparse.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, WIDE, alike, wide
from fallline.losses._checks import distribution
from fallline.losses._fields import number
from fallline.losses._kinds import Classwise, class_last
from fallline.losses._tracing import finite, readable


class CrossEntropy(Classwise):
    """Cross-entropy of each example, in nats.

    Input (N, C, ...) logits, classes on axis 1, or (C,). Target (N, ...) class indices, or floating point of the input's shape: a
    distribution.

    >>> CrossEntropy()(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """

    name = "cross_entropy"
    label_smoothing: float = number(0.0, low=0, high=1, open_high=True, usual="0.1", doc="mass spread evenly over all classes")

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        if target.is_floating_point() and target.shape == input.shape and input.ndim:
            return input.shape[:1] + input.shape[2:] if input.ndim > 1 else input.shape[1:]
        return super().shape(input, target)

    _soft_advice = "for one-hot targets write target.argmax(1), or target.float() for a distribution of the input's shape"

    @override
    def kept(self, input: Tensor, target: Tensor) -> Tensor | None:
        return None if target.is_floating_point() else super().kept(input, target)

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        if not target.is_floating_point():
            return super().blank(input, target, keep)
        axis = 1 if input.ndim > 1 else 0
        return torch.where(keep.unsqueeze(axis), input, 0.0), torch.where(keep.unsqueeze(axis), target, 1.0 / max(input.shape[axis], 1))

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        hard = not target.is_floating_point()
        if hard and not self.label_smoothing:
            return F.cross_entropy(input, target.long(), reduction="none", ignore_index=self.ignore_index)
        log_p = F.log_softmax(class_last(input), dim=-1)
        if hard:
            loss = -log_p.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        else:
            t = class_last(target)
            loss = -(t * torch.where((t == 0) & (log_p == -torch.inf), 0.0, log_p)).sum(-1)  # 0 log 0 = 0
        if not self.label_smoothing:
            return loss
        possible = log_p > -torch.inf
        even = -torch.where(possible, log_p, 0.0).sum(-1) / possible.sum(-1)
        return (1 - self.label_smoothing) * loss + self.label_smoothing * even

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        if self.class_weight is None or not target.is_floating_point():
            return super().weights(input, target)
        return (class_last(target) * self.class_weight.to(input)).sum(-1)  # no product of matrices, which autocast would round

    all_count = Classwise.all_count

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        if not (self.validate and isinstance(input, Tensor) and isinstance(target, Tensor) and readable(input, target)):
            return None
        weight = self._buffers["class_weight"] if "class_weight" in self._buffers else self.class_weight  # noqa: SIM401 - quicker
        reduction = REDUCE[self.reduction]
        if target.dtype == torch.int64:
            if input.ndim < 2 or input.dtype not in WIDE or target.device != input.device or not target.numel():
                return None
            if target.shape != input.shape[:1] + input.shape[2:] or (weight is not None and not self._weight_suits(weight, input)):
                return None
            low, high = (bound.item() for bound in torch.aminmax(target))
            if low < 0 or high >= input.shape[1] or low <= self.ignore_index <= high:
                return None
        elif weight is None and input.ndim >= 2 and alike(input, target):
            distribution(class_last(target.detach()), "target", self.name)
        else:
            return None
        self.glance(input.detach())
        ignored = -100 if target.is_floating_point() else self.ignore_index  # torch knows no other beside soft targets
        value = torch.ops.aten.cross_entropy_loss(input, target, weight, reduction, ignored, self.label_smoothing)
        return value if finite(value) else None

    def _weight_suits(self, weight: Tensor, input: Tensor) -> bool:
        """Whether torch's mean with these class weights is ours."""
        if weight.requires_grad:  # torch has no derivative by it
            return False
        same_mean = self.reduction != "mean" or self.normalize == "weight"
        fits = weight.dtype == input.dtype and weight.device == input.device and weight.shape == input.shape[1:2]
        return same_mean and fits and not self.label_smoothing

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        soft, weight = target.is_floating_point(), self.class_weight
        if weight is None and soft:
            return F.cross_entropy(wide(input), target, label_smoothing=self.label_smoothing)
        if self._all_count and weight is None:
            return F.cross_entropy(wide(input), target, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing)
        usual = not (soft or self.label_smoothing)
        if self._all_count and weight is not None and usual and self.normalize == "weight" and not weight.requires_grad:
            input = wide(input)
            return F.cross_entropy(input, target, weight.to(input.dtype), ignore_index=self.ignore_index)
        if weight is None and usual:
            value = F.cross_entropy(wide(input), target, ignore_index=self.ignore_index)
            return torch.where((target != self.ignore_index).any(), value, 0.0)
        return super().quick(input, target)

    @override
    def quick_slope(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(softmax − one-hot) / N, without autograd's bookkeeping."""
        unusual = self.class_weight is not None or self.label_smoothing or not self._all_count
        if unusual or target.is_floating_point() or input.ndim != 2 or input.dtype not in {torch.float32, torch.float64}:
            return super().quick_slope(input, target)
        value, slope = self.quick_slopes(input.unsqueeze(0), target.unsqueeze(0))  # the very same numbers as of many members
        return value[0], slope[0]

    @override
    def quick_slopes(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """As `quick_slope`, for input (R, N, classes)."""
        unusual = self.class_weight is not None or self.label_smoothing or not self._all_count
        if unusual or target.is_floating_point() or input.ndim != 3 or input.dtype not in {torch.float32, torch.float64}:
            return super().quick_slopes(input, target)
        with torch.no_grad():  # a row's numbers depend on no other row, so that a member's are those of the run alone to the bit
            chosen = target.unsqueeze(2)
            shifted = input - input.amax(2, keepdim=True)
            picked = shifted.gather(2, chosen)
            slope = shifted.exp_()
            total = slope.sum(2, keepdim=True)
            value = total.log().sub_(picked).mean((1, 2))
            slope.div_(total).scatter_add_(2, chosen, slope.new_full((1, 1, 1), -1.0).expand_as(chosen)).div_(input.shape[1])
            return value, slope

    @override
    def quick_each(self, input: Tensor, target: Tensor) -> Tensor:
        """As `quick`, for input (R, N, classes)."""
        unusual = self.class_weight is not None or self.label_smoothing or not self._all_count
        if unusual or target.is_floating_point() or input.ndim != 3 or input.requires_grad:
            return super().quick_each(input, target)
        log_p = torch.log_softmax(wide(input).permute(2, 0, 1).contiguous(), 0)
        return -log_p.gather(0, target.unsqueeze(0))[0].mean(1)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        soft = target.is_floating_point()
        if soft:
            distribution(class_last(target), "target", self.name)
            self.glance(input)
        else:
            super().check_values(input, target)

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        if target.is_floating_point() and target.ndim > 1 and target.shape[-1] == n_classes:
            return distribution(target, "target", self.name)
        return super().check_targets(target, n_classes)
