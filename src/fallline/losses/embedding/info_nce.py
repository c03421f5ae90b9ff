"""InfoNCE: tell each row's partner from all other rows, by cross-entropy over similarities (CLIP, SimCLR's NT-Xent).

    ℓ = −log( exp(s_p / τ) / (exp(s_p / τ) + Σ_n exp(s_n / τ)) )        s = cosine similarity to the partner p, to the negatives n

When to use: two views of one example, or two kinds of data that describe it (target: the other embeddings), or classes (target: labels).
`views="cross"` compares the two sides (CLIP); `views="both"` also holds rows of one's own side as negatives (SimCLR: 2N rows).
When not: small batches: few negatives; then triplet, or sig_lip, which does not normalise over the batch. Many positives a class: sup_con.
Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, eq. 4. https://arxiv.org/abs/1807.03748
NT-Xent: Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020, eq. 1. https://arxiv.org/abs/2002.05709
CLIP: Radford et al., ICML 2021, figure 3. https://arxiv.org/abs/2103.00020
Departs from the source: written log(1 + exp(L − s_p/τ)), L the log-sum-exp of the negatives alone, so that it is never below 0 and keeps
its digits at τ = 0.01. With labels every pair of a class is a positive against all negatives of its anchor, as pytorch-metric-learning's
NTXentLoss, by memory for a block of anchors. A learned scale is e^g / τ, g = 0 at first, and is not clipped at 100 as CLIP's.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must
from fallline.losses._across import Across, Sides
from fallline.losses._among import Among, Pairs
from fallline.losses._fields import choice, flag, number
from fallline.losses.embedding._laws import NONE, Each, LogSum, softplus
from fallline.losses.embedding._positives import count_positives, warn_if_alone, warn_if_none
from fallline.losses.embedding._stream import both_ways, stream, stream_among
from fallline.mining.distances import unit


class InfoNCE(Across, Among):
    """InfoNCE, in nats. Input (N, D) embeddings; target (N, D), row against row, or (N,) class labels.

    Or input (N, V, D), V views of each example, with labels (N,): every view is an example of its class.

    "none" gives the sum of each row's terms: two with `symmetric` or `views="both"`, one without; with labels one a positive pair.

    >>> InfoNCE(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.3133)
    """

    name = "info_nce"
    tasks = frozenset({"binary", "multiclass"})
    target_kind = "index"
    also = ("infonce", "nt_xent", "ntxent", "clip", "simclr")
    viewed = True
    needs = "class labels, or two embeddings for each example, row against row"

    temperature: float = number(0.07, low=1e-6, doc="τ: the lower, the more the nearest negatives count")
    views: str = choice("cross", "both", doc="negatives from the other side (CLIP), or from both (SimCLR); for rows against rows")
    symmetric: bool = flag(True, doc='with views="cross": also tell each target from all inputs, and take both')
    unit: bool = flag(True, doc="compare directions (cosine), not lengths (dot product)")
    learn: bool = flag(False, doc="learn the scale 1/τ, as CLIP: the module gets a parameter `growth`")

    lasting = ("learn",)

    @override
    def setup(self) -> None:
        if self.learn:
            self.growth = nn.Parameter(torch.zeros(()))

    def scale(self, x: Tensor) -> Tensor | float:
        """What similarities are multiplied by: 1/τ, as learned so far."""
        return self.growth.exp().to(x.dtype) / self.temperature if self.learn else 1 / self.temperature

    # -- which of the two forms --------------------------------------------------------------------------------------------------------

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        rows = target.is_floating_point() and target.ndim != 1
        return Across.shape(self, input, target) if rows else Among.shape(self, input, target)

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return (Across if target.is_floating_point() else Among).blank(self, input, target, keep)

    @override
    def terms(
        self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if target.is_floating_point():
            return Across.terms(self, input, target, keep, own, **given)
        law = "labels go with a target of embeddings"
        must(given.get("labels") is None, law, "labels twice", "give the labels as the target only", where=self.name)
        return Among.terms(self, input, target, keep, own, reference=given.get("reference"))

    # -- classes -----------------------------------------------------------------------------------------------------------------------

    @override
    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        found = count_positives(pairs)
        if self.validate:
            warn_if_none(self.name, pairs, found, negatives=True)
        return stream_among(Each(), pairs, x, others, scale=self.scale(x), directions=self.unit), found

    # -- rows against rows -------------------------------------------------------------------------------------------------------------

    @override
    def across(self, sides: Sides) -> tuple[Tensor, Tensor | int]:
        x, y, here, more = sides.each(unit) if self.unit else sides
        if self.validate and more is None:
            warn_if_alone(self.name, here)
        scale = self.scale(x)
        near = (x * y).sum(-1) * scale
        if self.views == "both":
            root = scale**0.5
            z = torch.cat([x, y]) * root
            logs = stream(LogSum(), here.twice(), z)
            if more is not None:
                more_x, more_y, there = more
                logs = _join(logs, stream(LogSum(), there.twice(), z, torch.cat([more_x, more_y]) * root))
            far_x, far_y = logs[: x.shape[0]], logs[x.shape[0] :]
            return _against(far_x, near) + _against(far_y, near), 2
        far_y = None
        if self.symmetric:
            far_x, far_y = both_ways(here, x * scale, y)
        else:
            far_x = stream(LogSum(), here, x * scale, y)
        if more is not None:
            more_x, more_y, there = more
            far_x = _join(far_x, stream(LogSum(), there, x * scale, more_y))
            far_y = far_y if far_y is None else _join(far_y, stream(LogSum(), there, y * scale, more_x))
        total = _against(far_x, near)
        return (total, 1) if far_y is None else (total + _against(far_y, near), 2)


def _against(far: Tensor, near: Tensor) -> Tensor:
    """−log of the partner's share: log(1 + exp(far − near)), 0 where there is no negative."""
    none = far == NONE
    return torch.where(none, 0, softplus(torch.where(none, 0, far - near)))


def _join(a: Tensor, b: Tensor) -> Tensor:
    """Log(exp a + exp b), with a gradient where one is −∞."""
    empty = (a == NONE) | (b == NONE)
    return torch.where(empty, torch.maximum(a, b), torch.logaddexp(torch.where(empty, 0, a), torch.where(empty, 0, b)))
