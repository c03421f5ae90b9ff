"""ArcFace: softmax over class directions, the angle to the true class counted larger by a margin.

    ℓ = −log( e^{s φ} / (e^{s φ} + Σ_{j≠y} e^{s cos θ_j}) )        φ = cos(θ_y + m) = cos θ_y cos m − sin θ_y sin m
    φ = cos θ_y − m sin m                                          where θ_y > π − m

When to use: embeddings for faces, products, anything recognised by nearest direction, from labels of a fixed set of classes.
When not: classes that come and go, or too many for a vector each: triplet, sup_con. Wrong labels: begin with a small margin.
Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, eq. 3. https://arxiv.org/abs/1801.07698
Departs from the source: beyond θ_y = π − m, where cos(θ + m) would rise again, the authors' code goes on with cos θ − m sin m, which falls
(with a step at π − m); so here. sin θ is the length of what the class vector leaves of the embedding, not √(1 − c²) after rounding, so
that the gradient is finite where the two point the same way (pytorch-metric-learning gives NaN). Class vectors start evenly on the sphere.
"""

import math

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses.embedding._margin import Margin


class ArcFace(Margin):
    """Additive angular margin of each example, in nats. Input (N, D) embeddings; target (N,) class indices.

    Without `classes` and `dim` (or `weight` in the call) the input is cosines (N, C) already.

    >>> ArcFace(margin=0.0, scale=1.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    tensor(0.3133)
    >>> ArcFace(classes=10, dim=64).weight.shape
    torch.Size([10, 64])
    """

    name = "arc_face"
    also = ("arcface",)
    jumps = True  # so that check_loss takes the step at π − m for meant
    margin: float = number(0.5, low=0, high=math.pi / 2, doc="m: radians added to the angle")

    @override
    def raised(self, c: Tensor, sine: Tensor) -> Tensor:
        m = self.margin
        return torch.where(c > -math.cos(m), c * math.cos(m) - sine * math.sin(m), c - m * math.sin(m))
