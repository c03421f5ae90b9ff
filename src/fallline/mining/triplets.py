"""What the miners give: an anchor, an example of its class, one of another class, and whether there are such.

Shapes never depend on the labels: where an anchor has no positive or no negative, its indices are any and `valid` is False. So the miners
run inside `torch.compile` and `vmap`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fallline._core.errors import must, refuse
from fallline.mining.distances import DISTANCES

Reference = tuple[Tensor, Tensor]


class Triplets(NamedTuple):
    """Indices of triplets, all of one shape: (N,) for one an anchor, (N, M) for one an anchor and column.

    Attributes:
        anchor: which row of the embeddings.
        positive: an example of the anchor's class, counted over the embeddings and then the reference.
        negative: an example of another class, counted alike.
        valid: whether the triplet exists.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    valid: Tensor


class Relations(NamedTuple):
    """A batch as the miners see it.

    Attributes:
        distances: (N, M) from each embedding to all embeddings and then to the reference, without a graph.
        same: (N, M) another example of the anchor's class.
        other: (N, M) an example of another class.
    """

    distances: Tensor
    same: Tensor
    other: Tensor


def whole(labels: Tensor, what: str = "labels", where: str = "") -> Tensor:
    """Class labels as int64, so that those of two sources compare as the numbers that they are.

    >>> whole(torch.tensor([True, False]))
    tensor([1, 0])
    """
    if labels.is_floating_point() or labels.is_complex():
        refuse(f"{what} are whole numbers", labels.dtype, "write labels.long()", where=where)
    return labels.long()


def relations(embeddings: Tensor, labels: Tensor, reference: Reference | None, distance: str) -> Relations:
    """Distances and classes of every anchor against every column.

    >>> relations(torch.tensor([[0.0], [1.0]]), torch.tensor([5, 5]), None, "euclidean").same
    tensor([[False,  True],
            [ True, False]])
    """
    if distance not in DISTANCES:
        refuse(f"distance is one of {', '.join(DISTANCES)}", repr(distance))
    must(labels.shape == embeddings.shape[:1], f"the labels have the shape ({embeddings.shape[0]},)", tuple(labels.shape))
    labels = whole(labels)
    embeddings, columns, others = embeddings.detach(), labels, embeddings.detach()
    if reference is not None:
        if not isinstance(reference, (tuple, list)):
            advice = "write reference=memory.reference" if hasattr(reference, "reference") else "write reference=(embeddings, labels)"
            refuse("reference is embeddings (M, D) and labels (M,)", f"a {type(reference).__name__}", advice)
        others = torch.cat([embeddings, reference[0].detach().to(embeddings.dtype)])
        columns = torch.cat([labels, whole(reference[1], "reference labels")])
    alike = labels[:, None] == columns
    itself = torch.arange(columns.shape[0], device=labels.device) == torch.arange(labels.shape[0], device=labels.device)[:, None]
    return Relations(DISTANCES[distance](embeddings, others), alike & ~itself, ~alike)


def each_pair(shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """The row and the column of every entry of a matrix.

    >>> each_pair(torch.Size([1, 2]), torch.device("cpu"))
    (tensor([[0, 0]]), tensor([[0, 1]]))
    """
    rows, columns = (torch.arange(n, device=device) for n in shape)
    return rows[:, None].expand(shape), columns.expand(shape)
