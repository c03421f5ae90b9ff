"""Contrastive loss of siamese networks: similar ones together, others at least a margin apart.

    ℓ = (1 − Y) ½ D² + Y ½ max(0, m − D)²          D = |a − b|, Y = 0 similar, Y = 1 not

When to use: pairs that are known to be alike or not (signatures, near-duplicates), with a distance that is to mean something by itself.
When not: only the order of distances matters (triplet), or pairs are plenty and batches large (info_nce, sup_con).
Source: Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.
https://doi.org/10.1109/CVPR.2006.100
Departs from the source: nothing for given pairs. With class labels, over every pair of the batch.

Others mean other things by the name. pytorch-metric-learning takes the distances themselves, without squares and without the ½, and the
mean over the pairs that cost anything, of similar and of other pairs apart. sentence_transformers has Y the other way round: 1 is similar.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import refuse
from fallline.losses._among import Pairs
from fallline.losses._checks import at
from fallline.losses._fields import choice, flag, number
from fallline.losses.embedding._forms import Formed, over_pairs
from fallline.losses.embedding._positives import warn_if_alone
from fallline.mining.distances import length, squares_and_roots, unit


class Contrastive(Formed):
    """Pairs `loss(a, b, y)`, a and b (N, D), or `loss(x, y)`, x (N, 2, D); y (N,) is 0 for similar, 1 for not.

    Or embeddings (N, D) with class labels (N,): every pair of the batch, each in both orders, which leaves the mean the same.
    Or `input_from="distances"`: D itself, (N,), with y (N,).

    >>> loss = Contrastive(margin=2.0)
    >>> loss(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
    tensor(0.5000)
    """

    name = "contrastive"
    also = ("siamese",)
    parts = 2
    margin: float = number(1.0, low=0, open_low=True, doc="m: pairs that are not similar and farther apart than this cost nothing")
    input_from: str = choice("embeddings", "distances", doc="what the input is")
    unit: bool = flag(False, doc="bring every embedding to length 1 first")

    @override
    def adapt(self) -> None:
        if self.input_from == "distances":
            self.become(output="score", target_kind="binary")

    @override
    def form(self, input: Tensor, target: Tensor | None, third: Tensor | None) -> tuple[Tensor, Tensor]:
        if target is not None and self.input_from == "distances":
            if input.ndim != 1 or third is not None:
                self.unknown(input, "distances (N,) with a target (N,)")
            return input, target
        return self.pairs_of(input, target, third, meaning="0 for similar pairs and 1 for others")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        if self.input_from == "distances":
            squares, d = input * input, input
        else:
            a, b = (unit(input) if self.unit else input).unbind(1)
            squares, d = (a - b).square().sum(-1), length(a - b)
        short = (self.margin - d).relu()
        return torch.where(target == 0, squares, short * short) / 2

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if self.validate:
            warn_if_alone(self.name, pairs)
        if self.unit:
            x, others = unit(x), unit(others)
        return over_pairs(x, others, pairs, self._costs)

    def _costs(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        squares, d = squares_and_roots(x, others)
        short = (self.margin - d).relu()
        return squares / 2, short * short / 2

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if input.ndim == 2:
            return
        bad = torch.nonzero((target != 0) & (target != 1))
        if len(bad):
            signed = bool((target.abs() == 1).all())
            advice = "+1 for similar and -1 for others: write (1 - target) / 2, or use cosine_embedding" if signed else "correct the labels"
            refuse("every target is 0 (similar) or 1 (not)", at(target, bad), advice, where=self.name)
        if input.ndim == 1 and bool((input < 0).any()):
            refuse("every distance is >= 0", f"{float(input.min()):g}", "give distances, not similarities", where=self.name)
