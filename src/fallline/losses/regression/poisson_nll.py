"""Poisson negative log-likelihood: for counts, with the logarithm of the rate predicted.

    ℓ = exp(x) − y x   [+ log y!]          from log-rates
    ℓ = x − y log(x + 10⁻⁸)  [+ log y!]    from rates

When to use: the target counts events (calls, clicks, defects) whose variance is about their mean.
When not: the target has negative values, or counts vary far more than their mean.
Source: Nelder and Wedderburn, "Generalized Linear Models", JRSS A 135, 1972. https://doi.org/10.2307/2344614
Departs from the source: `full=True` adds log y! exactly; torch adds Stirling's approximation of it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline.losses._base import REDUCE, alike, wide
from fallline.losses._checks import nonnegative, warn_once
from fallline.losses._fields import choice, flag
from fallline.losses._kinds import Regression
from fallline.losses._tracing import finite, readable


class PoissonNLL(Regression):
    """Poisson likelihood of each element, in nats. Input and target: equal shapes; target >= 0, FalllineError elsewhere.

    >>> PoissonNLL()(torch.tensor([0.0]), torch.tensor([2.0]))
    tensor(1.)
    """

    name = "poisson_nll"
    target_kind = "count"
    output = "log_rate"
    input_from: str = choice("log_rate", "rate", doc="what the input is")
    full: bool = flag(False, doc="add log y!, which does not depend on the input")

    @override
    def adapt(self) -> None:
        if self.input_from == "rate":
            self.become(output="rate", fill=(1.0, 0.0))

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        if self.input_from == "log_rate":
            loss = torch.exp(input) - target * torch.where((target == 0) & (input == -torch.inf), 0.0, input)
        else:
            loss = F.poisson_nll_loss(input, target, log_input=False, reduction="none")
        return loss + torch.lgamma(target + 1) if self.full else loss

    @override
    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        if self.full or self.input_from == "rate" or not (self.validate and alike(input, target) and readable(input, target)):
            return None
        if not target.detach().min().item() >= 0:
            return None
        value = torch.poisson_nll_loss(input, target, True, False, 1e-8, REDUCE[self.reduction])
        return value if finite(value) else None

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        if self.full:
            return self.values(wide(input), wide(target)).mean()
        return F.poisson_nll_loss(wide(input), wide(target), log_input=self.input_from == "log_rate")

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        self.check_targets(target, None)
        if self.input_from == "rate":
            nonnegative(input, "rate", self.name, "let the model predict log-rates and use input_from='log_rate'")
        elif input.numel() and float(input.max()) > 88 and input.dtype == torch.float32:
            most = f"{float(input.max()):g}"
            warn_once("poisson overflow", f"a log-rate of {most} overflows float32 (the most is 88): standardise the inputs.")

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        nonnegative(target, "count", self.name, "counts are never negative: use mse or huber")
