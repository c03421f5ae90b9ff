"""How many triplets a batch holds, without listing them.

    n_a = (#{p ≠ a : y_p = y_a}) · (#{n : y_n ≠ y_a})

When to use: to see before training whether a batch holds any (64 labels, 64 distinct: none), and how many a loss is the mean over.
When not: you want the triplets: they are N³ and seldom needed; the triplet loss sums over all of them without a list.
Source: counting.
"""

import torch
from torch import Tensor

from fallline.mining.triplets import whole


def count_same(labels: Tensor, columns: Tensor, keep_columns: Tensor | None = None) -> Tensor:
    """How many of the columns that count bear each of the labels.

    >>> count_same(torch.tensor([3, 1]), torch.tensor([3, 1, 3, 1, 1]))
    tensor([2, 3])
    """
    ranked, order = columns.sort()
    here = torch.ones_like(order) if keep_columns is None else keep_columns[order].to(order.dtype)
    before = torch.cat([here.new_zeros(1), here.cumsum(0)])
    mine = labels.contiguous()
    return before[torch.searchsorted(ranked, mine, right=True)] - before[torch.searchsorted(ranked, mine)]


def count_triplets(labels: Tensor, reference_labels: Tensor | None = None) -> Tensor:
    """Triplets of each anchor, (N,). Time O((N + M) log (N + M)).

    Args:
        labels: (N,) classes of the anchors.
        reference_labels: (M,) classes of further examples, to be positives and negatives but no anchors.

    >>> count_triplets(torch.tensor([0, 0, 1]))
    tensor([1, 1, 0])
    """
    labels = whole(labels)
    columns = labels if reference_labels is None else torch.cat([labels, whole(reference_labels, "reference_labels")])
    alike = count_same(labels, columns)
    return (alike - 1) * (columns.shape[0] - alike)
