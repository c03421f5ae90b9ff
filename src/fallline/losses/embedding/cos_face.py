"""CosFace: softmax over class directions, the cosine to the true class counted smaller by a margin.

    ℓ = −log( e^{s (cos θ_y − m)} / (e^{s (cos θ_y − m)} + Σ_{j≠y} e^{s cos θ_j}) )

When to use: as arc_face; its margin acts alike at every angle, and starts more surely.
When not: classes that come and go, or too many for a vector each: triplet, sup_con.
Source: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, eq. 4. https://arxiv.org/abs/1801.09414
Departs from the source: class vectors start evenly on the sphere.
"""

from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import number
from fallline.losses.embedding._margin import Margin


class CosFace(Margin):
    """Large margin cosine of each example, in nats. Input (N, D) embeddings; target (N,) class indices.

    Without `classes` and `dim` (or `weight` in the call) the input is cosines (N, C) already.

    >>> import torch
    >>> CosFace(margin=0.0, scale=1.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    tensor(0.3133)
    """

    name = "cos_face"
    also = ("cosface", "am_softmax")
    margin: float = number(0.35, low=0, high=2, doc="m: taken from the cosine")

    @override
    def raised(self, c: Tensor, sine: Tensor) -> Tensor:
        return c - self.margin
