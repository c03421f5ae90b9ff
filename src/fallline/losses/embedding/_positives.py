"""How many examples of its own class each anchor has, by sorting."""

import torch
from torch import Tensor

from fallline.losses._among import Pairs
from fallline.losses._checks import warn_once
from fallline.losses._tracing import readable


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


def count_positives(pairs: Pairs) -> Tensor:
    """(N,) the number of columns of each anchor's own class, itself left out; 0 for an anchor that does not count.

    >>> count_positives(Pairs(torch.tensor([3, 1, 3]), torch.tensor([3, 1, 3, 1, 1])))
    tensor([1, 2, 1])
    """
    found = count_same(pairs.labels, pairs.columns, pairs.keep_columns) - 1
    return found if pairs.keep is None else torch.where(pairs.keep, found, 0)


def count_negatives(pairs: Pairs) -> Tensor:
    """(N,) the number of columns of another class than each anchor's."""
    columns = pairs.columns
    there = torch.ones_like(columns, dtype=torch.bool) if pairs.keep_columns is None else pairs.keep_columns
    found = there.sum() - count_same(pairs.labels, columns, pairs.keep_columns)
    return found if pairs.keep is None else torch.where(pairs.keep, found, 0)


def warn_if_none(name: str, pairs: Pairs, found: Tensor) -> None:
    """Say once where no class occurs twice, so that nothing pulls together and the loss is 0."""
    if not readable(found) or found.shape[0] < 2 or bool(found.any()):
        return
    kept = pairs.labels if pairs.keep is None else pairs.labels[pairs.keep]
    if kept.shape[0] >= 2:
        warn_once(
            f"{name} no positive",
            f"{name} is 0: no class occurs twice in the batch ({kept.shape[0]} labels, {kept.unique().shape[0]} distinct); "
            "draw several examples of each class, or give two views of each.",
        )
