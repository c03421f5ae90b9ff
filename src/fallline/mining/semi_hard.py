"""Semi-hard mining: for each pair of a class, the nearest stranger that is farther away than the positive.

    n(a, p) = argmin { D_an : y_n ≠ y_a, D_an > D_ap }          or, where there is none, argmax { D_an : y_n ≠ y_a }

When to use: the usual choice where batch-hard collapses: negatives that are hard, but not harder than the positive.
When not: few negatives in a batch: most pairs then take the farthest one.
Source: Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, section 3.2 and equation 4. https://arxiv.org/abs/1503.03832
Departs from the source: the paper says nothing of pairs without such a negative; the farthest is taken, as TensorFlow's
`triplet_semihard_loss` does. pytorch-metric-learning's `TripletMarginMiner("semihard")` is another thing: every negative with
D_ap < D_an < D_ap + margin; that is `mining="all_semi_hard"` of the triplet loss.
"""

import torch
from torch import Tensor

from fallline.mining.triplets import Reference, Triplets, each_pair, relations


def semi_hard(embeddings: Tensor, labels: Tensor, *, reference: Reference | None = None, distance: str = "euclidean") -> Triplets:
    """One triplet a pair, (N, M), valid where the column is a positive of the row. Time O(N M log M), memory O(N M).

    Args:
        embeddings: (N, D); no gradient goes through the choice.
        labels: (N,) classes.
        reference: further embeddings (M, D) and labels (M,), to be positives and negatives but no anchors.
        distance: "euclidean", "squared" or "cosine".

    >>> x = torch.tensor([[0.0], [2.0], [1.2], [3.0]])
    >>> found = semi_hard(x, torch.tensor([0, 0, 1, 1]))
    >>> found.negative[found.valid].tolist()
    [3, 3, 0, 0]
    """
    d, same, other = relations(embeddings, labels, reference, distance)
    negative, valid = next_farther(d, same, other)
    return Triplets(*each_pair(d.shape, d.device), negative, valid)


def next_farther(d: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Column of the nearest negative farther than each entry (else the farthest), and whether the entry is a pair with one.

    >>> d = torch.tensor([[1.0, 0.5, 2.0, 4.0]])
    >>> next_farther(d, torch.tensor([[True, False, False, False]]), torch.tensor([[False, True, True, True]]))[0]
    tensor([[2, 2, 3, 3]])
    """
    if not d.shape[-1]:
        return torch.zeros_like(d, dtype=torch.int64), same
    ordered, order = torch.where(other, d, torch.inf).sort(stable=True, dim=-1)
    there = other.sum(-1, keepdim=True)
    place = torch.searchsorted(ordered.contiguous(), d.contiguous(), right=True)
    negative = order.gather(-1, torch.minimum(place, there - 1).clamp(min=0))
    return negative, same & (there > 0)
