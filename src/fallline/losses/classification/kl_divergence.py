"""Kullback-Leibler divergence: how far the predicted distribution Q is from the target P.

    ℓ = Σ_c P_c (log P_c − log Q_c)          0 log 0 = 0

When to use: the target is a distribution (distillation, soft labels) and the value should be 0 at a perfect match.
When not: the target is a class: then cross_entropy, which differs only by the target's own entropy.
Source: Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22, 1951.
https://doi.org/10.1214/aoms/1177729694
Departs from the source: torch takes log-probabilities without looking and its mean divides by every element; here what the two sides are
is said by name and checked,
the sum runs over the classes and the mean over the rest.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss, alike
from fallline.losses._checks import distribution, looks_like_probabilities, warn_once
from fallline.losses._fields import choice, whole
from fallline.losses._tracing import finite, readable


class KLDivergence(Loss):
    """KL(P || Q) of each example, in nats. Input (Q) and target (P): equal shapes, the classes on `axis`.

    >>> KLDivergence(input_from="probabilities")(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """

    name = "kl_divergence"
    tasks = frozenset()
    needs = "a distribution for each example as its target"
    target_kind = "distribution"
    output = "logits"
    input_from: str = choice("logits", "probabilities", "log_probabilities", doc="what the input is")
    target_from: str = choice("probabilities", "logits", "log_probabilities", doc="what the target is")
    axis: int = whole(-1, doc="the axis of the classes")

    @classmethod
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: one output a class."""
        must(n_classes is not None and n_classes >= 2, "n_classes >= 2", n_classes, where=cls.name)
        return int(n_classes or 0)

    @override
    def adapt(self) -> None:
        if self.input_from == "probabilities":
            self.become(output="probability")

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(
            target.is_floating_point(), "the target is a distribution", target.dtype, "for class indices use cross_entropy", where=self.name
        )
        got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
        must(input.shape == target.shape and input.ndim >= 1, "input and target have the same shape", got, where=self.name)
        must(-input.ndim <= self.axis < input.ndim, f"the axis is one of the {input.ndim} axes", self.axis, where=self.name)
        return input.movedim(self.axis, -1).shape[:-1]

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        there, classes = keep.unsqueeze(-1).movedim(-1, self.axis), max(input.shape[self.axis], 1)
        even = {"logits": 0.0, "probabilities": 1 / classes, "log_probabilities": -math.log(classes)}
        return torch.where(there, input, even[self.input_from]), torch.where(there, target, even[self.target_from])

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        usual = self.target_from == "probabilities" and self.input_from != "probabilities" and not target.requires_grad
        if not (usual and self.validate and alike(input, target) and readable(input, target) and -input.ndim <= self.axis < input.ndim):
            return None
        self.check_values(input.detach(), target.detach())
        log_q = torch.log_softmax(input, self.axis) if self.input_from == "logits" else input
        if self.reduction == "none":
            value = F.kl_div(log_q, target, reduction="none").sum(self.axis)
        else:
            value = F.kl_div(log_q, target, reduction="sum")
            value = value if self.reduction == "sum" else value * (input.shape[self.axis] / input.numel())
        return value if finite(value) else None

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        if self.target_from == "probabilities":
            p = target
            log_p = torch.log(torch.where(p == 0, 1.0, p))
        else:
            log_p = F.log_softmax(target, dim=self.axis) if self.target_from == "logits" else target
            p = log_p.exp()
            log_p = torch.where(p == 0, 0.0, log_p)
        if self.input_from == "probabilities":
            log_q = torch.log(torch.where(p == 0, 1.0, input))
        else:
            log_q = torch.where(p == 0, 0.0, F.log_softmax(input, dim=self.axis) if self.input_from == "logits" else input)
        return (p * (log_p - log_q)).sum(self.axis)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        for what, x, form in (("input", input, self.input_from), ("target", target, self.target_from)):
            if form == "logits":
                if self.curious() and x.numel() > x.shape[self.axis] and looks_like_probabilities(x.movedim(self.axis, -1)):
                    warn_once(
                        f"{self.name} {what} probabilities",
                        f"{self.name} takes logits as its {what}, but every row sums to 1, as probabilities do: say "
                        f"{what}_from='probabilities'.",
                    )
                continue
            if form == "log_probabilities" and bool((x > 1e-6).any()):
                advice = f"say {what}_from='probabilities' or 'logits'"
                refuse(f"every log-probability of the {what} is <= 0", f"{float(x.max()):g}", advice, where=self.name)
            rows = x.movedim(self.axis, -1)
            distribution(rows if form == "probabilities" else rows.exp(), what, self.name)

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        must(
            target.is_floating_point(), "the target is a distribution", target.dtype, "for class indices use cross_entropy", where=self.name
        )
        if self.target_from != "logits":
            rows = target.movedim(self.axis, -1)
            distribution(rows if self.target_from == "probabilities" else rows.exp(), "target", self.name)
