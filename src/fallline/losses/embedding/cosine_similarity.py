"""Cosine distance to a target vector: only the direction counts.

    ℓ = 1 − x · y / (|x| |y|)

When to use: regression of a direction or of an embedding (distillation of features, word vectors).
When not: lengths matter: mse.
Source: Salton, Wong and Yang, "A Vector Space Model for Automatic Indexing", Communications of the ACM 18, 1975.
https://doi.org/10.1145/361219.361220
Departs from the source: one minus the similarity, so that 0 is a perfect match; keras' CosineSimilarity is the similarity's negative,
1 less than this. A zero vector has the cosine 0 with a gradient of 0.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss
from fallline.mining.distances import unit


class CosineSimilarity(Loss):
    """One minus the cosine along the last axis. Input and target: equal shapes (..., D).

    >>> CosineSimilarity()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(1.)
    """

    name = "cosine_similarity"
    tasks = frozenset()
    needs = "a vector for each example as its target"
    target_kind = "pair"
    output = "embedding"

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(target.is_floating_point(), "the target is vectors of floating point", target.dtype, "write target.float()", where=self.name)
        if input.shape != target.shape or input.ndim < 1:
            got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
            refuse("input and target have the same shape (..., D)", got, where=self.name)
        return target.shape[:-1]

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep.unsqueeze(-1), input, 1.0), torch.where(keep.unsqueeze(-1), target, 1.0)

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return 1 - (unit(input) * unit(target)).sum(-1)
