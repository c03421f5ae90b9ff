"""How many examples of its own class each anchor has, by sorting."""

import torch
from torch import Tensor

from fallline.losses._among import Pairs
from fallline.losses._checks import warn_once
from fallline.losses._tracing import readable
from fallline.mining.count_triplets import count_same


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


def warn_if_none(name: str, pairs: Pairs, found: Tensor, *, negatives: bool = False) -> None:
    """Say once, for each cause, why a batch teaches nothing: one example alone, no class twice, or with `negatives` one class alone."""
    if not readable(found) or not found.shape[0]:
        return
    kept = pairs.labels if pairs.keep is None else pairs.labels[pairs.keep]
    columns = pairs.columns if pairs.keep_columns is None else pairs.columns[pairs.keep_columns]
    if not kept.shape[0]:
        return
    if columns.shape[0] == 1:
        _warn_alone(name)
    elif not bool(found.any()):
        warn_once(
            f"{name} no positive",
            f"{name} is 0: no class occurs twice in the batch ({columns.shape[0]} labels, {columns.unique().shape[0]} distinct); "
            "draw several examples of each class, or give two views of each.",
        )
    elif negatives and bool((columns == columns[0]).all()):
        warn_once(
            f"{name} no negative",
            f"{name} is 0: all {columns.shape[0]} labels of the batch are the same, so there is nothing to tell apart; "
            "draw several classes into a batch.",
        )


def warn_if_alone(name: str, pairs: Pairs) -> None:
    """Say once where one example stands alone, so that there is nothing to compare it with and the loss is 0."""
    keep = pairs.keep_columns
    if pairs.labels.shape[0] and readable(pairs.labels, keep) and (pairs.columns.shape[0] if keep is None else int(keep.sum())) == 1:
        _warn_alone(name)


def _warn_alone(name: str) -> None:
    warn_once(
        f"{name} one row",
        f"{name} is 0: the batch holds one example, and there is no other to compare it with; "
        "give larger batches (drop_last=True where the last one is short), or further examples as reference.",
    )
