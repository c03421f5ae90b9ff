"""Sigmoid pair loss: each pair of rows is a yes-or-no question of its own, no softmax over the batch.

    ℓ = −1/N Σ_i Σ_j log σ( z_ij (t x_i·y_j + b) )        z = +1 for a pair that belongs together, −1 otherwise;  t = e^t′

When to use: pictures and texts, or two views, in batches of any size: no term depends on the other rows' sum, so it splits over devices.
When not: small data sets with few negatives a batch: info_nce uses each negative harder.
Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, eq. 2 and algorithm 1. https://arxiv.org/abs/2303.15343
Departs from the source: t = `scale` · e^g and b = `bias` + h, where the learned g and h start at 0: the same start (10, −10) and the same
slopes, exact in every precision, and weight decay pulls to the start instead of to 1 and 0. The mean divides by the number of rows, as
the paper does, not by that of the pairs: a row counts once.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline.losses._across import Across, Rows, Sides
from fallline.losses._base import Reduction
from fallline.losses._fields import flag, number
from fallline.losses.embedding._laws import Soft, softplus
from fallline.losses.embedding._stream import stream
from fallline.mining.distances import unit


class SigLIP(Across):
    """Sigmoid loss over all pairs, in nats a row. Input (N, D) and target (N, D) embeddings, row against row.

    The module learns its parameters `growth` (g) and `shift` (h); the function takes `scale` and `bias` as they are, numbers or tensors.

    >>> SigLIP()(torch.eye(2), torch.eye(2)).detach()
    tensor(0.6932)
    """

    name = "sig_lip"
    also = ("siglip", "sigmoid_pairs")

    scale: float = number(10.0, low=0, open_low=True, doc="t at the start: what similarities are multiplied by")
    bias: float = number(-10.0, doc="b at the start: what is added, so that at first nearly every pair counts as apart")
    unit: bool = flag(True, doc="compare directions (cosine), not lengths (dot product)")

    def __init__(self, *places: Any, fixed: tuple[Tensor | float, Tensor | float] | None = None, **options: Any) -> None:
        self.fixed = fixed
        super().__init__(*places, **options)

    @override
    def setup(self) -> None:
        if self.fixed is None:
            self.growth = nn.Parameter(torch.zeros(()))
            self.shift = nn.Parameter(torch.zeros(()))

    def line(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale t and bias b, as learned so far."""
        if self.fixed is not None:
            t, b = (torch.as_tensor(v, device=x.device).to(x.dtype) for v in self.fixed)
            return t, b
        return self.scale * self.growth.to(x.dtype).exp(), self.bias + self.shift.to(x.dtype)

    @override
    def across(self, sides: Sides) -> tuple[Tensor, int]:
        return _pairs(sides, *self.line(sides.x), directions=self.unit), 1


def sig_lip(
    input: Tensor,
    target: Tensor,
    *,
    scale: Tensor | float = 10.0,
    bias: Tensor | float = -10.0,
    unit: bool = True,
    reduction: Reduction = "mean",
    normalize: Literal["weight", "count"] = "weight",
    validate: bool = True,
    reference: Rows | None = None,
    labels: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The function form of `SigLIP`: t and b are `scale` and `bias` themselves, so that a model may hold them as parameters of its own.

    >>> sig_lip(torch.eye(2), torch.eye(2), scale=torch.tensor(10.0))
    tensor(0.6932)
    """
    options: dict[str, Any] = {"reduction": reduction, "normalize": normalize, "validate": validate, "unit": unit}
    options |= {key: number for key, number in (("scale", scale), ("bias", bias)) if not isinstance(number, Tensor)}
    loss = SigLIP(fixed=(scale, bias), **options)
    return loss.forward(input, target, reference=reference, labels=labels, sample_weight=sample_weight, mask=mask)


def _pairs(sides: Sides, t: Tensor, b: Tensor, *, directions: bool) -> Tensor:
    """The sum over j of each row i; b rides along as one more coordinate."""
    x, y, here, more = sides.each(unit) if directions else sides
    near = softplus(-(t * (x * y).sum(-1) + b))
    x = torch.cat([t * x, b.expand(x.shape[0], 1)], 1)
    total = near + stream(Soft(), here, x, _one_more(y))
    return total if more is None else total + stream(Soft(), more[2], x, _one_more(more[1]))


def _one_more(y: Tensor) -> Tensor:
    return torch.cat([y, torch.ones_like(y[:, :1])], 1)
