"""Batch-hard mining: for each anchor the farthest of its class and the nearest of the others.

    p(a) = argmax_{y_p = y_a, p ≠ a} D_ap          n(a) = argmin_{y_n ≠ y_a} D_an

When to use: clean labels, several examples of each class in a batch (P classes × K examples).
When not: noisy labels or the first steps of training: the hardest are then the mislabelled, and embeddings may collapse.
Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5.
https://arxiv.org/abs/1703.07737
"""

import torch
from torch import Tensor

from fallline.mining.triplets import Reference, Triplets, relations


def batch_hard(embeddings: Tensor, labels: Tensor, *, reference: Reference | None = None, distance: str = "euclidean") -> Triplets:
    """One triplet an anchor, (N,): its farthest positive and its nearest negative. Time and memory O(N M).

    Args:
        embeddings: (N, D); no gradient goes through the choice.
        labels: (N,) classes.
        reference: further embeddings (M, D) and labels (M,), to be positives and negatives but no anchors.
        distance: "euclidean", "squared" or "cosine".

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [4.0]])
    >>> found = batch_hard(x, torch.tensor([0, 0, 0, 1]))
    >>> found.positive.tolist(), found.negative.tolist(), found.valid.tolist()
    ([2, 2, 0, 0], [3, 3, 3, 2], [True, True, True, False])
    """
    d, same, other = relations(embeddings, labels, reference, distance)
    positive, negative, valid = hardest(d, same, other)
    return Triplets(torch.arange(d.shape[0], device=d.device), positive, negative, valid)


def hardest(d: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column of the farthest positive and of the nearest negative of each row of distances, and whether there are both.

    >>> hardest(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
    (tensor([1]), tensor([2]), tensor([True]))
    """
    if not d.shape[-1]:
        nothing = d.new_zeros(d.shape[:-1], dtype=torch.int64)
        return nothing, nothing, nothing.bool()
    positive = torch.where(same, d, -torch.inf).argmax(-1)
    negative = torch.where(other, d, torch.inf).argmin(-1)
    return positive, negative, same.any(-1) & other.any(-1)
