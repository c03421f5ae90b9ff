"""Losses of overlap: one ratio for all elements that belong together, an example's or the batch's, instead of a value for each.

    loss = Σ_e E_e / (Σ_e W_e + s)          e an element (a pixel), E its error, W what it adds to the whole, s the smoothing

Written so, and not as 1 minus the overlap, a loss near 0 keeps its digits, an empty mask that is predicted empty costs 0, and the share of
each example in the ratio of a batch is its own part of the sum above.

What belongs together (`over`): the elements of an example, and the loss is the mean of the examples' ratios; or those of the whole batch,
and the loss is the one ratio. With several classes each has a ratio of its own, and their mean (weighted by `class_weight`) is taken.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._checks import distribution, in_range, within, zero_or_one
from fallline.losses._either import Either
from fallline.losses._fields import choice, flag, number
from fallline.losses._kinds import class_last


class Overlap(Either):
    """Elements (N, ...) against labels 0/1 of the same shape, or scores (N, C, ...) against class indices (N, ...).

    "none" gives (N,): each example's ratio, or each one's part of the ratio of the batch; then "mean" and "sum" are both that ratio.
    `mask` (N,) or of the target's shape leaves out examples or elements; `sample_weight` (N,) weighs examples.
    """

    separate = False
    input_from: str = choice("logits", "probabilities", doc="what the input is")
    over: str = choice(
        "auto",
        "example",
        "batch",
        doc="whose elements share a ratio; auto: an example's where it has an axis beyond batch and class, other than a lone one of size 1",
    )
    channels: bool = flag(False, doc="labels 0/1 of shape (N, C, ...): a ratio for each of the C kinds of labels, then their mean")
    smooth: float = number(1.0, low=0, doc="s: what the denominator has in advance, in elements")

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def parts(self, p: Tensor, q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """E and W of each element, from its probability, 1 minus that, and its label in 0..1; q is exact where y is not 0."""
        raise NotImplementedError

    def lift(self, ratio: Tensor) -> Tensor | None:
        """By what each ratio is multiplied, or None for 1."""
        return None

    # -- the rest holds for all --------------------------------------------------------------------------------------------------------

    @override
    def adapt(self) -> None:
        if self.input_from == "probabilities":
            self.become(output="probability")

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        shape = super().shape(input, target)
        got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
        must(target.ndim >= 1, "the first axis is the batch", got, "write .unsqueeze(0) on both", where=self.name)
        if self.channels:
            alone = self.apart(input, target) and input.ndim >= 2
            must(alone, "with channels=True input and target have one shape (N, C, ...)", got, "classes need no channels", where=self.name)
        return shape

    @override
    def check_weights(self, input: Tensor) -> None:
        given = tuple(self.class_weight.shape) if self.class_weight is not None else ()
        if not self.channels:
            refuse("class_weight is left out for labels 0/1", given, "or set channels=True, to weigh the C of (N, C, ...)", where=self.name)
        if input.ndim >= 2:
            law = f"class_weight has the shape ({input.shape[1]},)"
            must(given == (input.shape[1],), law, given, "one weight a channel", where=self.name)

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        apart = self.apart(input, target)
        blank, target = super().blank(input, target, keep)
        if self.input_from == "probabilities" and not apart:
            blank = torch.where(keep.unsqueeze(1), input, 1 / max(input.shape[1], 1))
        return blank, target

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if self.input_from == "logits":
            return super().check_values(input, target)
        if self.apart(input, target):
            zero_or_one(target, self.name)
            if not within(input, 0, 1):
                span = f"values from {input.min().item():g} to {input.max().item():g}"
                refuse("every probability lies in 0..1", span, "for logits use input_from='logits'", where=self.name)
        else:
            in_range(target, self.width(input), self.name)
            distribution(class_last(input), "input", self.name)

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        return None

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        there = torch.ones(target.shape[:1], dtype=torch.bool, device=target.device) if keep is None else _any(keep)
        each = there.to(input.dtype) if own is None else torch.where(there, own.flatten(1)[:, :1].sum(1) if own.ndim > 1 else own, 0)
        error, whole = self._sums(input, target, keep)
        together = self._together(input, target)
        ratio = error / _not_zero((each[:, None] * whole).sum(0) + self.smooth if together else whole + self.smooth)
        lift = self.lift((each[:, None] * ratio).sum(0) if together else ratio)
        values = self._over_classes(ratio if lift is None else ratio * lift)
        if not together:
            return values, each
        total = each.sum()
        return values * total, each / _not_zero(total)

    def _sums(self, input: Tensor, target: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """ΣE and ΣW of each example and class, (N, C); C is 1 where there are no classes."""
        if self.apart(input, target):
            p, q = (input, 1 - input) if self.input_from == "probabilities" else _yes_and_no(input)
            y, axis = target.to(p.dtype), 1
            if not self.channels:
                p, q, y = p.unsqueeze(1), q.unsqueeze(1), y.unsqueeze(1)
                keep = None if keep is None else keep.unsqueeze(1)
        else:
            p, axis = input if self.input_from == "probabilities" else F.softmax(input, dim=1), 1
            classes = torch.arange(p.shape[1], device=p.device).reshape(-1, *[1] * (p.ndim - 2))
            y = (target.unsqueeze(1) == classes).to(p.dtype)
            q = ((1 - y) * p).sum(1, keepdim=True)  # 1 − p_y as the sum of the others, exact where p_y rounds to 1
            keep = None if keep is None else keep.unsqueeze(1)
        found = self.parts(p, q, y)
        if keep is not None:
            found = tuple(torch.where(keep, x, 0) for x in found)
        error, whole = (x.flatten(axis + 1).sum(-1) if x.ndim > axis + 1 else x for x in found)
        return error, whole

    def _over_classes(self, each: Tensor) -> Tensor:
        """The mean over the classes, (N, C) to (N,)."""
        if self.class_weight is None:
            return each.mean(1)
        w = self.class_weight.to(each)
        return (each * w).sum(1) / _not_zero(w.sum())

    def _together(self, input: Tensor, target: Tensor) -> bool:
        """Whether the batch has one ratio; for auto (N, 1) is (N,), as models of one output give it."""
        rest = tuple(target.shape[2 if self.channels else 1 :])
        return self.over == "batch" or (self.over == "auto" and (not rest or rest == (1,)))

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._mean(*self._terms(input, target, None, None))

    @override
    def _terms(
        self, input: Tensor, target: Tensor, sample_weight: Tensor | None, mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if isinstance(sample_weight, Tensor) and isinstance(target, Tensor) and sample_weight.shape != target.shape[:1]:
            law, came = f"sample_weight has the shape ({target.shape[0] if target.ndim else 1},)", tuple(sample_weight.shape)
            refuse(law, came, "elements are left out by mask", where=self.name)
        values, weights, keep = super()._terms(input, target, sample_weight, mask, **given)
        there = None if keep is None else _any(keep)
        if self._together(input, target):  # one ratio, however many examples it is of
            there = torch.ones(1, dtype=torch.bool, device=target.device) if there is None else there.any().reshape(1)
        return values, weights, there


def _yes_and_no(x: Tensor) -> tuple[Tensor, Tensor]:
    """σ(x) and σ(−x), both from the smaller: the slope of the larger does not vanish where it rounds to 1."""
    above = x > 0
    small = torch.sigmoid(torch.where(above, -x, x))
    return torch.where(above, 1 - small, small), torch.where(above, small, 1 - small)


def _any(keep: Tensor) -> Tensor:
    return keep.flatten(1).any(1) if keep.ndim > 1 else keep


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1, x)
