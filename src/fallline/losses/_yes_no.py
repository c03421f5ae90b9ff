"""Losses of a yes and a no, one for each label: what both sides share where logits or probabilities end."""

import torch
from torch import Tensor


def by_label(target: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` where the label is 1 and `no` where it is 0; y yes + (1 − y) no for labels between, where 0 · ∞ = 0.

    A floating-point label has the derivative yes − no, at 0 and 1 too.
    """
    if not target.is_floating_point():
        return torch.where(target > 0, yes, no)
    yes = torch.where((target == 0) & (yes == torch.inf), 0.0, yes)
    no = torch.where((target == 1) & (no == torch.inf), 0.0, no)
    return target * yes + (1 - target) * no


def faded(log_p: Tensor, log_rest: Tensor, gamma: float) -> Tensor:
    """−(1 − p)^γ log p, from log p and log(1 − p); where p = 0 the factor is 1 and has no slope, so that ∞ · 0 arises nowhere."""
    if not gamma:
        return -log_p
    return -torch.exp(gamma * torch.where(log_p == -torch.inf, 0.0, log_rest)) * log_p
