"""What the similarities of an anchor to everything else amount to: one number an anchor, and its slope by each similarity.

    LogSum     L_i = log Σ_n exp s_in                                  n negatives; −∞ where there are none
    Each       Σ_p log(1 + exp(L_i − s_ip))                            p positives, each against all negatives
    Mean       log Σ_a exp s_ia − 1/|P| Σ_p s_ip                       a everything else; 0 where there is no positive
    Soft       Σ_n log(1 + exp s_in)
    Hinge      Σ_n max(0, s_in)
    Hardest    max(0, max_n s_in)

The laws that read negatives alone find −∞ in the place of everything else. `terms` is written in differentiable operations and serves
every order of derivative; `slope` is its first derivative in closed form, for one block at a time. Anchors are rows. `slope` takes what
belongs to an anchor as a column (rows, 1), or as a row (1, M) where the columns of the block are the anchors: the similarities of a
batch with itself are symmetric, so one block serves both ways.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

NONE = -float("inf")


class Law:
    """One number an anchor from its similarities; see the module's docstring for each."""

    positives: ClassVar[bool] = False
    """Whether it reads which columns are of the anchor's own class."""

    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The number of each row (rows,), and what `slope` wants to know of it again."""
        raise NotImplementedError

    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        """The derivative by `s`, times `g`, of the shape of `s`; `known` are the further results of `terms`."""
        raise NotImplementedError


def log_sum(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of each row as (m, z), the sum being z exp(m), and the shifted scores s − m."""
    m = s.detach().amax(1)
    m = torch.where(m == NONE, 0, m)
    shifted = s - m[:, None]
    return m, shifted.exp().sum(1), shifted


def _log(m: Tensor, z: Tensor) -> Tensor:
    none = z == 0
    return torch.where(none, NONE, m + torch.where(none, 1, z).log())


def _share(s: Tensor, total: Tensor) -> Tensor:
    """The exponential of s − total; 0 where s is −∞."""
    return (s - torch.where(total == NONE, 0, total)).exp_()


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x), exact at both ends (torch's own goes over to x at 20)."""
    return -F.logsigmoid(-x)


class LogSum(Law):
    """Log-sum-exp over the negatives."""

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        m, z, _ = log_sum(s)
        total = _log(m, z)
        return total, (total,)

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        return _share(s, known[0]).mul_(g)


class Each(Law):
    """Each positive against all negatives."""

    positives = True

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert neg is not None
        assert pos is not None
        m, z, _ = log_sum(torch.where(neg, s, NONE))
        total = _log(m, z)
        there = pos & (total != NONE)[:, None]
        gap = torch.where(there, torch.where(total == NONE, 0, total)[:, None] - s, NONE)
        values = torch.where(there, softplus(torch.where(there, gap, 0)), 0).sum(1)
        return values, (total, gap.detach().sigmoid().sum(1))

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        assert neg is not None
        assert pos is not None
        total, pull = known
        push = _share(torch.where(neg, s, NONE), total).mul_(g * pull)
        return torch.where(pos, (total - s).sigmoid_().mul_(-g), push)


class Mean(Law):
    """The mean positive against everything else."""

    positives = True

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert neg is not None
        assert pos is not None
        m, z, shifted = log_sum(torch.where(neg | pos, s, NONE))
        n = pos.sum(1).to(s.dtype)
        mean = torch.where(pos, shifted, 0).sum(1) / n.clamp(min=1)
        alone = n == 0
        value = torch.where(alone, 0, torch.where(alone, 1, z).log() - mean)
        return value, (_log(m, z), n)

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        assert neg is not None
        assert pos is not None
        total, n = known
        g = torch.where(n == 0, 0, g)
        return _share(torch.where(neg | pos, s, NONE), total).mul_(g).sub_(torch.where(pos, g / n.clamp(min=1), 0))


class Soft(Law):
    """Log(1 + exp s) of every negative."""

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        return softplus(s).sum(1), ()

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        return s.sigmoid().mul_(g)


class Hinge(Law):
    """Every negative above 0."""

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        return s.relu().sum(1), ()

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        return torch.where(s > 0, g, 0)


class Hardest(Law):
    """The highest negative, if above 0; several that are equally high share the gradient."""

    @override
    def terms(self, s: Tensor, neg: Tensor | None, pos: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        top = s.amax(1)
        return top.relu(), (top.detach(), (s == top[:, None]).sum(1))

    @override
    def slope(self, s: Tensor, neg: Tensor | None, pos: Tensor | None, g: Tensor, *known: Tensor) -> Tensor:
        top, ties = known
        return torch.where((s == top) & (top > 0), g / ties, 0)
