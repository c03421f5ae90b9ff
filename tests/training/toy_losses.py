"""Small losses of the kinds that training treats apart: between embeddings, with class vectors, of differences of scores."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline.losses import Loss
from fallline.losses._among import Among, Pairs
from fallline.losses._fields import whole


class Spread(Among):
    """d² to those of one's class, max(0, 2 − d)² to the others."""

    name = "spread"

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        square = (x[:, None] - others[None]).square().sum(-1)
        near, far = pairs.same(), pairs.other()
        away = (2 - (square + 1e-6).sqrt()).clamp_min(0).square()
        total = torch.where(near, square, 0).sum(1) + torch.where(far, away, 0).sum(1)
        return total, (near | far).sum(1)


class Vectors(Loss):
    """Cross-entropy of 8 cos(z, w_c), w_c its own."""

    name = "vectors"
    tasks = frozenset({"binary", "multiclass"})
    target_kind = "index"
    output = "embedding"
    scale = 8.0
    classes: int = whole(3, doc="how many classes")
    dim: int = whole(8, doc="numbers of an embedding")

    @override
    def setup(self) -> None:
        self.weight = nn.Parameter(torch.randn(self.classes, self.dim))

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        return target.shape

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        unit = nn.functional.normalize
        return nn.functional.cross_entropy(self.scale * unit(input, dim=1) @ unit(self.weight, dim=1).T, target.long(), reduction="none")
