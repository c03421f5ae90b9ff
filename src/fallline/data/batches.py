"""Batches drawn afresh each epoch: one permutation for (seed, epoch), cut into pieces.

A pure function of its arguments: epoch 7 has the same order whether or not epochs 1 to 6 ran in this process, so a resumed run sees
the batches that it would have seen. No worker, no queue: the rows are in memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline._core.errors import must
from fallline._core.seeds import stream
from fallline.data.dataset import Split


def order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The permutation of `n` row indices (int64, shape (n,)) that belongs to this seed and epoch."""
    generator = torch.Generator().manual_seed(stream(seed, "batches", epoch))
    return torch.randperm(n, generator=generator)


def batches(n: int, batch_size: int, *, seed: int, epoch: int, device: str | torch.device = "cpu") -> Iterator[Tensor]:
    """Row indices of each batch of one epoch, int64 of shape (batch_size,); the last batch may be shorter.

    Args:
        n: number of rows.
        batch_size: rows in a batch, from 1 to `n`.
        seed: of the run.
        epoch: which epoch; each has an order of its own.
        device: where the indices are wanted.

    Raises:
        FalllineError: `batch_size` is not in 1 .. n.

    >>> [len(rows) for rows in batches(10, 4, seed=0, epoch=1)]
    [4, 4, 2]
    """
    _check(n, batch_size)
    return iter(order(n, seed=seed, epoch=epoch).to(device).split(batch_size))


def minibatches(split: Split, batch_size: int, *, seed: int, epoch: int, block: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows themselves, in the order of `batches`: (x, y) of each batch.

    About `block` rows are gathered at a time and handed out as views, which costs less than a gather for each
    batch; much larger blocks would leave the cache.

    Raises:
        FalllineError: `batch_size` is not in 1 .. rows of the split.

    >>> from fallline.data import load
    >>> x, y = next(minibatches(load("iris").train, 32, seed=0, epoch=1))
    >>> x.shape, y.shape
    (torch.Size([32, 4]), torch.Size([32]))
    """
    _check(len(split), batch_size)
    rows = order(len(split), seed=seed, epoch=epoch).to(split.x.device)
    for piece in rows.split(max(1, block // batch_size) * batch_size):
        x, y = split.x.index_select(0, piece), split.y.index_select(0, piece)
        yield from zip(x.split(batch_size), y.split(batch_size), strict=True)


def _check(n: int, batch_size: int) -> None:
    must(n >= 1, "rows >= 1", n, where="batches")
    must(1 <= batch_size <= n, f"1 <= batch_size <= {n}, the number of rows,", batch_size, "use --batch-size full for all rows at once")
