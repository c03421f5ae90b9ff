"""Cross-modal ranking: a picture's own text above every other text by a margin, and a text's own picture above every other picture.

    ℓ_i = Σ_j max(0, α − s(x_i, y_i) + s(x_i, y_j)) + Σ_j max(0, α − s(x_i, y_i) + s(x_j, y_i))           j ≠ i: all negatives (VSE)
    ℓ_i = max_j max(0, α − s(x_i, y_i) + s(x_i, y_j)) + max_j max(0, α − s(x_i, y_i) + s(x_j, y_i))       the hardest (VSE++)

When to use: retrieval across two kinds of data (text to image, image to text). The hardest negative gives the better ranking once training
is under way; all negatives start more surely.
When not: wrongly paired rows: the hardest negative is then often right. Large batches: info_nce.
Source: Kiros et al., "Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models", 2014, section 2.2.
https://arxiv.org/abs/1411.2539
Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018, eq. 5 and 6. https://arxiv.org/abs/1707.05612
One direction alone (`symmetric=False`): Frome et al., "DeViSE", NeurIPS 2013, eq. 1.
Departs from the source: "mean" divides by the number of terms (the papers sum: `reduction="sum"`), so that the value does not grow with the
batch. Negatives that are equally high share the gradient.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses._across import Across, Sides
from fallline.losses._among import Pairs
from fallline.losses._fields import choice, flag, number
from fallline.losses.embedding._laws import Hardest, Hinge
from fallline.losses.embedding._positives import count_negatives, warn_if_alone
from fallline.losses.embedding._stream import stream
from fallline.mining.distances import unit


class CrossModalRanking(Across):
    """Hinge over the negatives of both directions. Input (N, D) and target (N, D) embeddings, row against row.

    "none" gives the sum of each row's terms; a row has a term for each negative, or one a direction with `negatives="hardest"`.

    >>> CrossModalRanking(margin=0.2)(torch.eye(2), torch.eye(2).flip(0))
    tensor(1.2000)
    """

    name = "cross_modal_ranking"
    also = ("vse", "devise")

    margin: float = number(0.2, low=0, doc="α: how far above its negatives a pair should stand")
    negatives: str = choice("all", "hardest", doc="sum over all negatives (VSE), or the hardest alone (VSE++)")
    symmetric: bool = flag(True, doc="both directions; False: only each input against all targets (DeViSE)")
    unit: bool = flag(True, doc="compare directions (cosine), not lengths (dot product)")

    @override
    def across(self, sides: Sides) -> tuple[Tensor, Tensor | int]:
        x, y, here, more = sides.each(unit) if self.unit else sides
        if self.validate and more is None:
            warn_if_alone(self.name, here)
        more_x, more_y, there = more or (None, None, None)
        behind = self.margin - (x * y).sum(-1, keepdim=True)
        total = self._one_way(x, y, behind, here, there, more_y)
        if self.symmetric:
            total = total + self._one_way(y, x, behind, here, there, more_x)
        count = count_negatives(here)
        if there is not None:
            count = count + count_negatives(there)
        if self.negatives == "hardest":
            count = (count > 0).to(count.dtype)
        return total, count * (2 if self.symmetric else 1)

    def _one_way(self, x: Tensor, y: Tensor, behind: Tensor, here: Pairs, there: Pairs | None, more: Tensor | None) -> Tensor:
        """What each row of x owes to the negatives in y and `more`; `behind` rides along as one more coordinate."""
        hardest = self.negatives == "hardest"
        law = Hardest() if hardest else Hinge()
        x = torch.cat([x, behind], 1)
        total = stream(law, here, x, _one_more(y))
        if there is None or more is None:
            return total
        further = stream(law, there, x, _one_more(more))
        return torch.maximum(total, further) if hardest else total + further


def _one_more(y: Tensor) -> Tensor:
    return torch.cat([y, torch.ones_like(y[:, :1])], 1)
