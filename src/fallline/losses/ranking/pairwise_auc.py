"""Pairwise AUC hinge: every positive should score higher than every negative by a margin; each pair that does not is paid for.

    ℓ_ij = max(0, m − (s_i − s_j))²          or without the square; i a positive, j a negative
    mean = Σ_ij w_i w_j ℓ_ij / Σ_ij w_i w_j

When to use: the order of the scores is what counts (ROC AUC, rare positives), not a probability or a threshold.
When not: probabilities are wanted: then binary_cross_entropy. Small batches of rare positives: a batch of one class has no pair and
teaches nothing. The scores have no natural threshold: 0 means nothing, choose one on held-out rows.
Source: Rust and Hocking, "A Log-linear Gradient Descent Algorithm for Unbalanced Binary Classification using the All Pairs Squared Hinge
Loss", 2023, eq. 2, algorithm 2. https://arxiv.org/abs/2302.11062
Departs from the source: it runs down the sorted scores with the coefficients of a polynomial in the score, which in float32 lose three
digits at scores near 1000; here the sums of distances themselves are carried, in float64. The mean over pairs is taken, not their sum. The
square is the default, as in the source: the plain hinge is not consistent with AUC (Gao and Zhou, "On the Consistency of AUC Pairwise
Optimization", IJCAI 2015). A pair counts by the product of its two weights.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._checks import at, warn_once, zero_or_one
from fallline.losses._fields import flag, number
from fallline.losses._kinds import Elementwise
from fallline.losses._tracing import readable
from fallline.losses.ranking._sums import hinge_sums, precise


class PairwiseAUC(Elementwise):
    """Mean over pairs of a positive and a negative of the (squared) hinge. Input: scores (N,); target: 0/1 (N,).

    The anchors are the positives: "none" gives each one's weighted sum over the negatives (0 for a negative), "sum" the sum over all pairs,
    and normalize="count" divides by the number of pairs whatever they weigh. No pair gives 0, and a warning once.

    >>> PairwiseAUC(squared=False)(torch.tensor([0.5, 0.0, 2.0]), torch.tensor([1, 0, 0]))
    tensor(1.5000)
    """

    name = "pairwise_auc"
    also = ("auc_hinge",)
    tasks = frozenset({"binary"})
    target_kind = "binary"
    output = "score"
    separate = False
    margin: float = number(1.0, low=0, open_low=True, doc="m: by how much a positive should score higher, in units of the score")
    squared: bool = flag(True, doc="square each hinge")

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        shape = super().shape(input, target)
        must(
            len(shape) == 1,
            "the input is scores (N,)",
            tuple(shape),
            "write .flatten() on both, or call it for each label",
            where=self.name,
        )
        return shape

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        weight = torch.ones_like(input) if own is None else own
        weight = (weight if keep is None else torch.where(keep, weight, 0)).to(precise(input))
        positive = target > 0
        ahead, rest = torch.where(positive, weight, 0), torch.where(positive, 0, weight).sum()
        if self.validate and readable(input, target, own):
            self._tell(positive, keep)
        sums = hinge_sums(input, positive, weight, self.margin, self.squared)
        values = sums / torch.where(rest == 0, 1, rest)
        pairs = ahead * rest
        if own is not None and given.get("shares"):
            total = pairs.sum()
            pairs = pairs / torch.where(total == 0, 1, total)
        return values.to(input.dtype), pairs.to(input.dtype)

    @override
    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The loss, reduced as `reduction` says; see `Loss.forward`. In the mean, no product of weights leaves its range."""
        if self.reduction == "mean" and self.normalize == "weight":
            return self._mean(*self._terms(input, target, sample_weight, mask, shares=True))
        return super().forward(input, target, sample_weight=sample_weight, mask=mask)

    def _tell(self, positive: Tensor, keep: Tensor | None) -> None:
        there = positive if keep is None else positive[keep]
        if there.numel() and (bool(there.all()) or not bool(there.any())):
            which = "positive" if bool(there[0]) else "negative"
            warn_once(
                f"{self.name} one class",
                f"{self.name} compares positives with negatives, but all {there.numel()} examples of this batch are {which}: it costs 0 "
                "and teaches nothing. Take larger batches, or batches with a share of both.",
            )

    @override
    def _count(self, values: Tensor, weights: Tensor | None, keep: Tensor | None) -> Tensor | int:
        if self.normalize != "count" or weights is None:
            return super()._count(values, weights, keep)
        examples = values.new_tensor(float(values.numel())) if keep is None else keep.sum().to(values.dtype)
        positives = (weights > 0).sum().to(values.dtype)
        return positives * (examples - positives)

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._mean(*self._terms(input, target, None, None))

    @override
    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.int64)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        self._one_of_two(target)

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        self._one_of_two(target)

    def _one_of_two(self, target: Tensor) -> None:
        zero_or_one(target, self.name)
        between = (target > 0) & (target < 1)
        if target.is_floating_point() and bool(between.any()):
            bad = torch.nonzero(between.flatten())
            refuse("every label is 0 or 1", at(target, bad), "for probabilities of 1 use binary_cross_entropy", where=self.name)
