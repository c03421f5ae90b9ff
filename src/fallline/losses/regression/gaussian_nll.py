"""Gaussian negative log-likelihood: a mean and a variance predicted for each example.

    ℓ = ½ (log v + (y − m)² / v)   [+ ½ log 2π]          v = softplus(raw) + ε, or exp(raw) + ε, or max(raw, ε)

When to use: the noise differs from example to example and its size is wanted beside the mean.
When not: one noise level for all: mse gives the same mean with less trouble. A model that fits exactly drives v to its floor.
Source: Nix and Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994.
https://doi.org/10.1109/ICNN.1994.374138
Departs from the source: the variance comes from the second output through softplus by default, so that it is positive and always has a
gradient. With
`variance_from="variance"` values below ε are floored, with a warning and no gradient (torch hides the floor from autograd: slopes of
-5e11).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must
from fallline.losses._base import Loss
from fallline.losses._checks import warn_once
from fallline.losses._fields import choice, flag, number


class GaussianNLL(Loss):
    """Gaussian likelihood of each example, in nats. Input (..., 2): mean and what the variance is made of; target (...).

    >>> GaussianNLL(variance_from="variance")(torch.tensor([[0.0, 1.0]]), torch.tensor([2.0]))
    tensor(2.)
    """

    name = "gaussian_nll"
    tasks = frozenset({"regression"})
    target_kind = "real"
    output = "mean_and_variance"
    variance_from: str = choice("softplus", "log_variance", "variance", doc="how the second output becomes the variance")
    eps: float = number(1e-6, low=0, open_low=True, doc="the smallest variance, in the target's unit squared")
    full: bool = flag(False, doc="add ½ log 2π")

    @classmethod
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: a mean and a variance."""
        return 2

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        fits = input.ndim >= 1 and input.shape[-1] == 2 and input.shape[:-1] == target.shape
        got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
        advice = "write torch.stack([mean, variance], -1), with what variance_from says; a model gives both by two outputs"
        must(fits, "the input has the target's shape and a last axis of 2 (mean, variance)", got, advice, where=self.name)
        return target.shape

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep.unsqueeze(-1), input, 1.0), torch.where(keep, target, 1.0)

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        mean, raw = input.unbind(-1)
        miss = target - mean
        eps = max(self.eps, torch.finfo(input.dtype).tiny)
        if self.variance_from == "log_variance":
            floor = math.log(eps)
            log_v = floor - F.logsigmoid(floor - raw)
            loss = 0.5 * (log_v + miss.square() * torch.exp(-log_v))
        else:
            v = F.softplus(raw) + eps if self.variance_from == "softplus" else raw.clamp(min=eps)
            loss = 0.5 * (torch.log(v) + miss.square() / v)
        return loss + 0.5 * math.log(2 * math.pi) if self.full else loss

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if self.variance_from == "variance" and input.numel() and (low := input[..., 1].min().item()) < self.eps:
            warn_once(
                "gaussian floor",
                f"gaussian_nll raised variances (the least is {low:g}) to eps={self.eps:g}, where they have no gradient: "
                "use variance_from='softplus'.",
            )
