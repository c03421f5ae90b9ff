"""Cross-batch memory: the embeddings of the last batches, as further examples to compare with.

    memory ← the last `size` pairs (embedding, label), oldest first to go

Embeddings drift slowly once training has settled, so those of some batches ago still serve as positives and negatives, at no cost of
gradients.

When to use: batches too small to hold hard negatives.
When not: the first hundreds of steps, while embeddings still move fast: train without it first, then give `reference`.
Source: Wang, Zhang, Huang and Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020. https://arxiv.org/abs/1912.06798
Departs from the source: the current batch enters the memory after the loss, not before; it stands in the loss anyway, with its gradient.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must
from fallline.mining.triplets import whole

Reference = tuple[Tensor, Tensor]


class CrossBatchMemory(nn.Module):
    """A ring of `size` embeddings of dimension `dim`, to be given to a loss as `reference`.

    All of it is in `state_dict`, its place and how full it is as well: a stopped run goes on as if it had not stopped.
    Keep it outside a model under DistributedDataParallel, which would overwrite each rank's memory with that of rank 0.

    Args:
        size: how many embeddings it holds at most.
        dim: the length of each.

    >>> from fallline.losses import Triplet
    >>> memory, loss = CrossBatchMemory(size=1024, dim=4), Triplet()
    >>> for _ in range(2):
    ...     x, y = torch.eye(4, requires_grad=True), torch.tensor([0, 0, 1, 1])
    ...     value = loss(x, y, reference=memory.reference)
    ...     memory.add(x, y)
    >>> value.detach(), len(memory)
    (tensor(0.1333), 8)
    """

    embeddings: Tensor
    labels: Tensor
    place: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        must(size >= 1 and dim >= 1, "size and dim >= 1", f"{size} and {dim}", where="CrossBatchMemory")
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many embeddings it holds."""
        return int(self.filled)

    def __bool__(self) -> bool:
        """True, as for any module: an empty memory is there all the same."""
        return True

    @property
    def reference(self) -> Reference:
        """Copies of the embeddings (M, dim) and labels (M,) that it holds, M <= size; without a graph."""
        filled = len(self)
        return self.embeddings[:filled].clone(), self.labels[:filled].clone()

    @torch.no_grad()
    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Remember a batch; the oldest make room. Rows that are not finite are not remembered: they would spoil many steps."""
        size, dim = self.embeddings.shape
        law = f"a batch is embeddings (N, {dim}) and labels (N,)"
        fits = embeddings.ndim == 2 and embeddings.shape[1] == dim and labels.shape == embeddings.shape[:1]
        must(fits, law, f"{tuple(embeddings.shape)} and {tuple(labels.shape)}", where="CrossBatchMemory")
        labels = whole(labels, where="CrossBatchMemory").to(self.labels.device)
        embeddings = embeddings.detach().to(self.embeddings)  # before the look at what is finite: float16 holds less than float32
        finite = torch.isfinite(embeddings).all(-1)
        embeddings, labels = embeddings[finite][-size:], labels[finite][-size:]
        rows = (self.place + torch.arange(embeddings.shape[0], device=self.place.device)) % size
        self.embeddings[rows], self.labels[rows] = embeddings, labels
        self.place.copy_((self.place + rows.shape[0]) % size)
        self.filled.copy_((self.filled + rows.shape[0]).clamp(max=size))

    def clear(self) -> None:
        """Forget everything."""
        self.place.zero_()
        self.filled.zero_()

    @override
    def forward(self, embeddings: Tensor, labels: Tensor) -> Reference:
        """What it held before this batch; then it remembers the batch."""
        before = self.reference
        self.add(embeddings, labels)
        return before

    @override
    def extra_repr(self) -> str:
        return f"size={self.embeddings.shape[0]}, dim={self.embeddings.shape[1]}"
