"""Cosine embedding loss: similar ones point the same way, others apart by a margin of the cosine.

    ℓ = 1 − cos(a, b)                where y = +1 (similar)
    ℓ = max(0, cos(a, b) − m)        where y = −1 (not)

When to use: pairs of text or image embeddings of which only the direction counts.
When not: lengths matter (contrastive), or each row has one right partner among many (info_nce).
Source: torch.nn.CosineEmbeddingLoss. https://pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html
Departs from the source: labels other than −1 and +1 are refused (torch takes 0 and returns 0); a zero vector has the cosine 0 with a
gradient of 0; nothing is added to the lengths. With class labels, over every pair of the batch.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import refuse
from fallline.losses._among import Pairs
from fallline.losses._checks import at
from fallline.losses._fields import number
from fallline.losses.embedding._forms import Formed, over_pairs
from fallline.losses.embedding._positives import warn_if_alone
from fallline.mining.distances import unit


class CosineEmbedding(Formed):
    """Pairs `loss(a, b, y)`, a and b (N, D), or `loss(x, y)`, x (N, 2, D); y (N,) is +1 for similar, -1 for not.

    Or embeddings (N, D) with class labels (N,): every pair of the batch, each in both orders, which leaves the mean the same.

    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> CosineEmbedding()(a, b, torch.tensor([1]))
    tensor(1.)
    """

    name = "cosine_embedding"
    parts = 2
    fill = 1.0
    margin: float = number(0.0, low=-1, high=1, doc="m: the cosine below which pairs that are not similar cost nothing")

    @override
    def form(self, input: Tensor, target: Tensor | None, third: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.pairs_of(input, target, third, meaning="+1 for similar pairs and -1 for others")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        a, b = unit(input).unbind(1)
        cosine = (a * b).sum(-1)
        return torch.where(target > 0, 1 - cosine, (cosine - self.margin).relu())

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if self.validate:
            warn_if_alone(self.name, pairs)
        return over_pairs(unit(x), unit(others), pairs, self._costs)

    def _costs(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        cosine = x @ others.T
        return 1 - cosine, (cosine - self.margin).relu()

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if input.ndim == 2:
            return
        bad = torch.nonzero((target.long() if target.dtype == torch.bool else target).abs() != 1)
        if len(bad) or target.dtype == torch.bool:
            zero_one = bool(((target == 0) | (target == 1)).all())
            advice = "these are 0/1 labels: write 2 * target.long() - 1" if zero_one else "correct the labels"
            refuse("every target is -1 or +1", at(target, bad) if len(bad) else "booleans", advice, where=self.name)
