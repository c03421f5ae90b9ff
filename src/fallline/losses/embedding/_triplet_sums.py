"""Sums over all triplets of each anchor without listing them: sort its negatives once, add up from the nearest, look up each positive.

    Σ_p Σ_n [u_p − d_n]₊ = Σ_p (k_p u_p − S[k_p])          u_p = d_p + γ, k_p = #{n : d_n < u_p}, S the running sums of the sorted d_n
    slope by d_p: k_p          slope by d_n: −#{p : u_p > d_n}

Time O(M log M) an anchor against M², and M numbers kept. With `above`, only triplets with d_n > d_p count: the sums then run from the first
such negative. Sums start at the nearest negative and are kept in double precision, so that nothing cancels that matters.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """What the triplets of each anchor come to, all (R,).

    Attributes:
        total: sum of the terms.
        many: how many triplets there are.
        active: how many of them cost anything.
    """

    total: Tensor
    many: Tensor
    active: Tensor


def triplet_sums(d: Tensor, same: Tensor, other: Tensor, margin: float, *, squared: bool, above: bool) -> Sums:
    """Sum over all triplets of each row of distances (R, M); `above`: over those with d_p < d_n < d_p + margin."""
    d = d if d.device.type == "mps" else d.double()
    ordered, order = torch.where(other, d.detach(), torch.inf).sort(stable=True, dim=-1)
    negatives = other.sum(-1, keepdim=True)
    there = torch.arange(d.shape[-1], device=d.device) < negatives
    nearest = torch.where(negatives > 0, ordered[..., :1], 0)
    start, stop = _reached(ordered, d.detach(), margin, negatives, above)
    k = torch.where(same, stop - start, 0)
    active = k.sum(-1)
    many = active if above else same.sum(-1) * negatives.squeeze(-1)
    reach = torch.where(same, d + (margin - nearest), 0)
    if squared:
        steps = torch.where(there, torch.where(other, d, 0).gather(-1, order) - nearest, 0)
        one, two = (_between(s.cumsum(-1), start, stop) for s in (steps, steps * steps))
        each = k * reach * reach - 2 * reach * one + two
        return Sums(torch.where(same, each, 0).sum(-1), many, active)
    depth = torch.where(other, d - nearest, 0)
    return Sums((k * reach - _covered(start, stop, k, order) * depth).sum(-1), many, active)


def _reached(ordered: Tensor, d: Tensor, margin: float, negatives: Tensor, above: bool) -> tuple[Tensor, Tensor]:
    """Which of the sorted negatives stand in a term with a positive at `d`: from the first to before the second."""
    ordered = ordered.contiguous()
    stop = torch.minimum(torch.searchsorted(ordered, (d + margin).contiguous()), negatives)
    if not above:
        return torch.zeros_like(stop), stop
    start = torch.minimum(torch.searchsorted(ordered, d.contiguous(), right=True), negatives)
    return start, torch.maximum(start, stop)


def _between(running: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Sums from `start` to before `stop`, of running sums."""
    running = torch.nn.functional.pad(running, (1, 0))
    return running.gather(-1, stop) - running.gather(-1, start)


def _covered(start: Tensor, stop: Tensor, k: Tensor, order: Tensor) -> Tensor:
    """In how many terms each column stands as the negative."""
    one = (k > 0).to(k.dtype)
    changes = k.new_zeros((*k.shape[:-1], k.shape[-1] + 1)) if k.ndim else k
    changes = changes.scatter_add(-1, start, one).scatter_add(-1, stop, -one)
    return torch.zeros_like(k).scatter(-1, order, changes.cumsum(-1)[..., :-1])
