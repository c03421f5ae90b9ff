"""Triplet loss: a positive nearer to its anchor than a negative, by a margin.

    ℓ = max(0, γ + D(a, p) − D(a, n))          squared hinge: max(0, γ + D(a, p) − D(a, n))²

With class labels, over the triplets that `mining` takes of the batch: `all`, exactly, by sorting each anchor's distances (O(N² log N) time,
O(N²) memory, against N³); `batch_hard`; `semi_hard`; `all_semi_hard`; `distance_weighted`.

When to use: embeddings for search, re-identification and verification, where only the order of distances matters.
When not: batches in which hardly a class occurs twice (draw P classes × K examples), or classes few and known: cross_entropy.
Source: Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015, equation 3.
https://arxiv.org/abs/1503.03832
Departs from the source: FaceNet squares the distances, as `distance="squared"`; the default is Euclidean, which collapses less (Hermans et
al. 2017). The mean is over all triplets mined; `average="active"` takes those above 0, as pytorch-metric-learning does.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import refuse
from fallline.losses._among import Pairs
from fallline.losses._checks import warn_once
from fallline.losses._fields import choice, flag, number
from fallline.losses._tracing import readable
from fallline.losses.embedding._forms import Formed, blocks
from fallline.losses.embedding._positives import warn_if_alone
from fallline.losses.embedding._triplet_sums import Sums, triplet_sums
from fallline.mining.batch_hard import hardest
from fallline.mining.count_triplets import count_triplets
from fallline.mining.distance_weighted import drawn
from fallline.mining.distances import DISTANCES, euclidean, length, unit
from fallline.mining.semi_hard import next_farther


class Triplet(Formed):
    """Embeddings (N, D) with labels (N,), or given triplets: `loss(anchor, positive, negative)`, each (N, D), or `loss(x)`, x (N, 3, D).

    `mining`, with class labels:

    - `all`: every triplet of the batch;
    - `batch_hard`: for each anchor its farthest positive and its nearest negative;
    - `semi_hard`: for each pair the nearest negative farther than the positive, or else the farthest of all;
    - `all_semi_hard`: every triplet with D(a, p) < D(a, n) < D(a, p) + γ, as pytorch-metric-learning's miner "semihard";
    - `distance_weighted`: for each pair one negative drawn by its distance (from `self.generator`, or torch's own).

    With `reduction="none"`, one value an anchor: the sum of its terms.

    >>> x = torch.tensor([[0.0], [1.0], [1.5]])
    >>> Triplet(margin=1.0)(x, torch.tensor([0, 0, 1]))
    tensor(1.)
    >>> Triplet(margin=1.0)(torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[1.5]]))
    tensor(0.5000)
    """

    name = "triplet"
    also = ("triplet_margin",)
    parts = 3
    margin: float = number(0.2, low=0, open_low=True, doc="γ: by how much the negative is to be farther than the positive")
    distance: str = choice("euclidean", "squared", "cosine", doc="D: |x − y|, |x − y|², or 1 − cosine")
    mining: str = choice("all", "batch_hard", "semi_hard", "all_semi_hard", "distance_weighted", doc="which triplets of a batch count")
    squared: bool = flag(False, doc="the square of the hinge")
    average: str = choice("all", "active", doc="the mean is over all triplets mined, or over those that cost anything")
    unit: bool = flag(False, doc="bring every embedding to length 1 first")

    @override
    def setup(self) -> None:
        self.generator: torch.Generator | None = None

    # -- given triplets ----------------------------------------------------------------------------------------------------------------

    @override
    def form(self, input: Tensor, target: Tensor | None, third: Tensor | None) -> tuple[Tensor, Tensor]:
        if third is not None and target is not None:
            input = self.together(input, target, third)
        elif input.ndim == 2 and target is not None:
            if self.a_side(input, target):
                law = "there are three tensors, anchor, positive and negative, or embeddings (N, D) with labels (N,)"
                refuse(law, f"two of {tuple(input.shape)}", "write loss(anchor, positive, negative)", where=self.name)
            return input, target
        elif input.ndim != 3 or target is not None:
            self.unknown(input, "embeddings (N, D) with labels (N,), or three of (N, D), or triplets (N, 3, D) without a target")
        return input, torch.zeros(input.shape[0], dtype=torch.int64, device=input.device)

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        a, p, n = (unit(input) if self.unit or self.distance == "cosine" else input).unbind(1)
        return self._hinge(self.margin + self._between(a, p) - self._between(a, n))

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        return None if self.average == "all" else (~(self.values(input, target) <= 0)).to(input.dtype)

    def _between(self, a: Tensor, b: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - (a * b).sum(-1)
        return (a - b).square().sum(-1) if self.distance == "squared" else length(a - b)

    def _hinge(self, over: Tensor) -> Tensor:
        return over.relu().square() if self.squared else over.relu()

    # -- triplets of a batch -----------------------------------------------------------------------------------------------------------

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if self.unit or self.distance == "cosine":
            x, others = (unit(x),) * 2 if others is x else (unit(x), unit(others))
        total, count, active = self._sums(x, others, pairs)
        if self.validate and readable(x, count) and not count.any():
            _explain(pairs, self.name)
        return total.to(x.dtype), count if self.average == "all" else active

    def _sums(self, x: Tensor, others: Tensor, pairs: Pairs) -> Sums:
        from fallline.losses.embedding._triplet_fast import Problem, fast_sums, serves

        if not serves(x, others, self.mining):
            return self._plain(x, others, pairs)
        options = {key: getattr(self, key) for key in ("margin", "mining", "squared", "distance")}
        return fast_sums(x, others, Problem(pairs, **options), lambda x, others: self._plain(x, others, pairs))

    def _plain(self, x: Tensor, others: Tensor, pairs: Pairs) -> Sums:
        """The same in torch operations, a block of anchors at a time."""
        pieces = [self._block(x[i:j], others, pairs.same(i, j), pairs.other(i, j)) for i, j in blocks(x.shape[0], others.shape[0])]
        if not pieces:
            return Sums(x.sum(-1), *(pairs.labels.new_zeros(0, dtype=torch.int64),) * 2)
        return Sums(*(torch.cat(part) for part in zip(*pieces, strict=True)))

    def _block(self, x: Tensor, others: Tensor, same: Tensor, other: Tensor) -> Sums:
        d = 1 - x @ others.T if self.distance == "cosine" else DISTANCES[self.distance](x, others)
        if self.mining in ("all", "all_semi_hard"):
            return triplet_sums(d, same, other, self.margin, squared=self.squared, above=self.mining == "all_semi_hard")
        near, far, valid = self._mined(d, same, other, x, others)
        each = torch.where(valid, self._hinge(self.margin + near - far), 0)
        return Sums(each.sum(-1), valid.sum(-1), (valid & (each > 0)).sum(-1))

    def _mined(self, d: Tensor, same: Tensor, other: Tensor, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the positives and negatives mined, and which of them are."""
        if self.mining == "batch_hard":
            positive, negative, valid = (part[:, None] for part in hardest(d.detach(), same, other))
            return d.gather(-1, positive), d.gather(-1, negative), valid
        if self.mining == "semi_hard":
            negative, valid = next_farther(d.detach(), same, other)
        else:
            apart = euclidean(unit(x.detach()), unit(others.detach()))
            negative, valid = drawn(apart, same, other, x.shape[-1], generator=self.generator)
        return d, d.gather(-1, negative), valid


def _explain(pairs: Pairs, name: str) -> None:
    """Say once, for each cause, why a batch holds no triplet, where its labels are the cause."""
    mine = pairs.labels if pairs.keep is None else pairs.labels[pairs.keep]
    columns = pairs.columns if pairs.keep_columns is None else pairs.columns[pairs.keep_columns]
    if len(mine) and len(columns) == 1:
        return warn_if_alone(name, pairs)
    if not len(mine) or bool(count_triplets(mine, columns[len(mine) :]).any()):
        return
    many, distinct = len(columns), len(torch.unique(columns))
    cause, why, cure = (
        ("no positive", f"no class occurs twice: {many} labels, {distinct} distinct", "draw several examples of each class into a batch")
        if distinct > 1
        else ("no negative", f"all {many} labels are the same", "draw several classes into a batch")
    )
    warn_once(f"{name} {cause}", f"{name} finds no triplet in this batch ({why}), so the loss is 0 and teaches nothing; {cure}.")
