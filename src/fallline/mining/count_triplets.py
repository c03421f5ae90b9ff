"""How many triplets a batch holds, without listing them.

    n_a = (#{p ≠ a : y_p = y_a}) · (#{n : y_n ≠ y_a})

When to use: to see before training whether a batch holds any (64 labels, 64 distinct: none), and how many a loss is the mean over.
When not: you want the triplets: they are N³ and seldom needed; the triplet loss sums over all of them without a list.
Source: counting.
"""

import torch
from torch import Tensor

from fallline.mining.triplets import whole


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
    ordered = columns.sort().values
    alike = torch.searchsorted(ordered, labels.contiguous(), right=True) - torch.searchsorted(ordered, labels.contiguous())
    return (alike - 1) * (columns.shape[0] - alike)
