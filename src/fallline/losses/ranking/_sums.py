"""What each positive score owes to all negative ones, by one sort: the sum of hinges over pairs in O(n log n) time and O(n) memory.

Every score becomes a point z: s_j for a negative, s_i − m for a positive. Going down the points in order, three numbers tell all that
lies above: how many negatives (A), the sum of their distances (S₁) and of the squares (S₂). A step down by δ changes them by

    S₂ ← S₂ + 2 δ S₁ + δ² A          S₁ ← S₁ + δ A

and S₁ or S₂ at a positive's point is its sum of hinges or of their squares. Nothing is ever subtracted, so no digits are lost, however
far the scores lie from zero or from each other.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from fallline.losses._tracing import batched, readable

_WORTH = 2048


def hinge_sums(s: Tensor, positive: Tensor, weight: Tensor, margin: float, squared: bool) -> Tensor:
    """Σ_j w_j max(0, m − (s_i − s_j)) over the negatives j, or with squares, for each positive i; 0 for negatives. (N,), float64.

    Args:
        s: scores (N,).
        positive: (N,) boolean.
        weight: (N,) float64, 0 where an example is gone.
        margin: m > 0.
        squared: whether each hinge is squared.
    """
    if _compiled(s, positive, weight):
        return cast(Tensor, _Swept.apply(s, positive, weight, margin, squared))
    return _by_prefix_sums(s, positive, weight, margin, squared)


def precise(x: Tensor) -> torch.dtype:
    """float64, or float32 where the device has no more."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _compiled(s: Tensor, positive: Tensor, weight: Tensor) -> bool:
    """Whether the compiled sweep serves: plain float32 numbers on a CPU, differentiated by the scores alone, and not forward."""
    if not readable(s, positive, weight) or s.device.type != "cpu" or s.dtype != torch.float32 or not _WORTH <= s.numel() < 1 << 31:
        return False
    return not weight.requires_grad and forward_ad._current_level < 0


def _by_prefix_sums(s: Tensor, positive: Tensor, weight: Tensor, margin: float, squared: bool) -> Tensor:
    s = s.to(precise(s))
    off = margin * positive.to(s.dtype)
    z = (s - off).detach()
    # a pair just at the margin is not above it, so that its slope is 0: of equal points the positive comes first
    order = torch.argsort(torch.nextafter(z, torch.where(positive, torch.inf, z)), descending=True)
    s, off = s.gather(-1, order), off.gather(-1, order)
    above = _before(torch.cumsum(torch.where(positive, 0, weight).gather(-1, order), -1))
    # the first step has nothing above it: whatever roll puts there counts 0 times
    step = (s.roll(1) - s) - (off.roll(1) - off)  # of the scores themselves, as s − m rounds far from 0
    sums = torch.cumsum(step * above, -1)
    if squared:
        sums = torch.cumsum(step * (2 * _before(sums) + step * above), -1)
    return torch.where(positive, torch.zeros_like(sums).scatter(-1, order, sums), 0)


def _before(running: Tensor) -> Tensor:
    """Running sums without the last term."""
    return F.pad(running, (1, 0))[..., :-1]


class _Swept(torch.autograd.Function):
    """The same by a compiled sweep; differentiated twice, it hands over to the form above."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, positive: Tensor, weight: Tensor, margin: float, squared: bool) -> Tensor:
        from fallline.losses.ranking._kernels import down, ordered

        x, w = s.detach().contiguous().numpy(), weight.contiguous().numpy()
        rising, order = ordered(x, positive.contiguous().numpy())
        sums, slopes = down(rising, order, w, margin, squared)
        ctx.save_for_backward(s, positive, weight)
        ctx.swept, ctx.margin, ctx.squared = (rising, order, slopes), margin, squared
        return torch.from_numpy(sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        from fallline.losses.ranking._kernels import up

        s, positive, weight = ctx.saved_tensors
        if torch.is_grad_enabled() or not readable(grad) or batched(grad):
            with torch.enable_grad():
                sums = _by_prefix_sums(s, positive, weight, ctx.margin, ctx.squared)
                (by_s,) = torch.autograd.grad(sums, s, grad, create_graph=True)
        else:
            rising, order, slopes = ctx.swept
            found = up(rising, order, weight.contiguous().numpy(), slopes, grad.contiguous().numpy(), ctx.margin, ctx.squared)
            by_s = torch.from_numpy(found)
        return by_s, None, None, None, None
