"""Distance-weighted mining: negatives drawn so that every distance is as likely as any other.

    P(n | a) ∝ 1 / q(D_an)          q(d) ∝ d^(k−2) (1 − d²/4)^((k−3)/2)          k: dimension, points on the unit sphere

In many dimensions almost all points stand at √2 from each other; drawing evenly gives only those. q is their density.

When to use: a spread of easy and hard negatives without the noise of the hardest alone.
When not: the loss must be the same each time: draws are random (give a `generator` to repeat them).
Source: Wu, Manmatha, Smola and Krähenbühl, "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.
https://arxiv.org/abs/1706.07567
Departs from the source: nothing. As in the authors' code, distances below 0.5 count as 0.5, negatives beyond 1.4 are not drawn, and an
anchor that has no other draws evenly. Embeddings need not have length 1: their directions are used.
"""

import math

import torch
from torch import Tensor

from fallline.mining.distances import unit
from fallline.mining.triplets import Reference, Triplets, each_pair, relations


def distance_weighted(
    embeddings: Tensor,
    labels: Tensor,
    *,
    reference: Reference | None = None,
    cutoff: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
) -> Triplets:
    """One triplet a pair, (N, M), valid where the column is a positive of the row. Time O(N M log M), memory O(N M).

    Args:
        embeddings: (N, D); their directions are used, and no gradient goes through the choice.
        labels: (N,) classes.
        reference: further embeddings (M, D) and labels (M,), to be positives and negatives but no anchors.
        cutoff: distances below it are drawn as if they were it.
        farthest: negatives beyond it are not drawn, if there are others.
        generator: where the draws come from; torch's own unless given.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(6, 4, generator=g)
    >>> found = distance_weighted(x, torch.tensor([0, 0, 1, 1, 2, 2]), generator=g)
    >>> int(found.valid.sum())
    6
    """
    d, same, other = relations(unit(embeddings), labels, reference and (unit(reference[0]), reference[1]), "euclidean")
    negative, valid = drawn(d, same, other, embeddings.shape[1], cutoff=cutoff, farthest=farthest, generator=generator)
    return Triplets(*each_pair(d.shape, d.device), negative, valid)


def drawn(
    d: Tensor,
    same: Tensor,
    other: Tensor,
    dimension: int,
    *,
    cutoff: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """A negative's column for each entry, drawn by the distances `d` on the unit sphere, and whether the entry is a pair with one.

    >>> drawn(torch.tensor([[1.0, 1.2]]), torch.tensor([[True, False]]), torch.tensor([[False, True]]), 8)[0]
    tensor([[1, 1]])
    """
    if not d.shape[-1]:
        return torch.zeros_like(d, dtype=torch.int64), same
    weight = likelihood(d, other, dimension, cutoff, farthest)
    heights = weight.cumsum(-1)
    total = heights[..., -1:]
    at = torch.rand(d.shape, generator=generator, device=d.device, dtype=heights.dtype) * total
    place = torch.searchsorted(heights.contiguous(), at.contiguous(), right=True)
    index = torch.arange(d.shape[-1], device=d.device)
    last = torch.where(weight > 0, index, 0).amax(-1, keepdim=True)  # a draw of nearly 1 may be rounded past the end
    return torch.minimum(place, last), same & (total > 0)


def likelihood(d: Tensor, other: Tensor, dimension: int, cutoff: float = 0.5, farthest: float = 1.4) -> Tensor:
    """How likely each negative is drawn, up to a factor for each row; 0 for what is no negative.

    >>> likelihood(torch.tensor([[0.5, 1.0, 1.5]]), torch.ones(1, 3, dtype=torch.bool), 3)
    tensor([[1.0000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    wide = d if d.device.type == "mps" else d.double()
    near = wide.clamp(cutoff, min(farthest, 2 - 1e-6))
    log_weight = (2.0 - dimension) * near.log() - (dimension - 3) / 2 * torch.log1p(-near * near / 4)
    candidate = other & (wide < farthest)
    even = ~candidate.any(-1, keepdim=True)
    log_weight = torch.where(even, 0.0, log_weight)
    candidate = torch.where(even, other, candidate)
    log_weight = torch.where(candidate, log_weight, -math.inf)
    highest = log_weight.amax(-1, keepdim=True)
    return torch.where(candidate, (log_weight - torch.where(highest == -math.inf, 0.0, highest)).exp(), 0.0)
