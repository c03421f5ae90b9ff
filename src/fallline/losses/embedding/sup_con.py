"""Supervised contrastive loss: every example of the anchor's class pulls, everything else in the batch pushes.

    ℓ_i = −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ) )        z = x / ‖x‖, P(i) the others of i's class

When to use: embeddings from class labels, several examples of each class in a batch; often before a linear classifier.
When not: classes that rarely occur twice in a batch: those anchors give nothing. Two views without labels: info_nce.
Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2 (L_out). https://arxiv.org/abs/2004.11362
Departs from the source: an anchor whose class has no other example is left out of the mean (the paper's sum over P(i) is empty there), as
in pytorch-metric-learning; a batch without any is 0, with a warning the first time. Memory is that of a block of anchors.
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._among import Among, Pairs
from fallline.losses._fields import flag, number
from fallline.losses.embedding._laws import Mean
from fallline.losses.embedding._positives import count_positives, warn_if_none
from fallline.losses.embedding._stream import stream_among


class SupCon(Among):
    """Supervised contrastive loss of each anchor, in nats. Input (N, D) embeddings; target (N,) class labels.

    Or input (N, V, D), V views of each example: every view is an anchor of the example's class, as in the paper ("none" gives (N V,)).

    >>> import torch
    >>> SupCon(temperature=1.0)(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    tensor(0.5514)
    """

    name = "sup_con"
    also = ("supcon", "supervised_contrastive")
    viewed = True

    temperature: float = number(0.1, low=1e-6, doc="τ: the lower, the more the nearest examples count")
    unit: bool = flag(True, doc="compare directions (cosine), not lengths (dot product)")

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        found = count_positives(pairs)
        if self.validate:
            warn_if_none(self.name, pairs, found)
        total = stream_among(Mean(), pairs, x, others, scale=1 / self.temperature, directions=self.unit)
        return total, (found > 0).to(total.dtype)
