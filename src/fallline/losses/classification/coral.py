"""CORAL: classes in an order, learnt as the questions "is y above class k?", one logit each.

    ℓ = −Σ_k λ_k [1{y > k} log σ(f_k) + 1{y ≤ k} log(1 − σ(f_k))]          k = 0 .. C−2
    predicted class = Σ_k 1{σ(f_k) > 1/2}

When to use: classes with an order but no distances (grades, stars, age groups): a miss by two classes costs more than a miss by one.
When not: classes without an order: cross_entropy. Numbers with meaningful distances: mse or mae.
Source: Cao, Mirjalili and Raschka, "Rank Consistent Ordinal Regression for Neural Networks with Application to Age Estimation", Pattern
Recognition Letters 140, 2020, eq. 4; the predicted class: eq. 1. https://arxiv.org/abs/1901.07884
Departs from the source: classes count from 0. The logits may come from any layer; that they fall from k to k + 1 (so that the answers never
contradict each other) is what one weight vector shared by all levels gives: `models.OrdinalHead`. Logits that do not fall are put in order
before probabilities are read from them, which leaves the predicted class as it is.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must
from fallline.losses._checks import in_range
from fallline.losses._fields import vector
from fallline.losses._kinds import Classwise, class_last


class Coral(Classwise):
    """Sum of the binary cross-entropies of all levels of each example, in nats. Input (N, C - 1, ...) logits; target (N, ...) 0..C-1.

    >>> Coral()(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(1.3863)
    """

    name = "coral"
    output = "ordinal"
    importance: Tensor | None = vector(doc="(C - 1,): λ, how much each level counts in the sum")

    @classmethod
    @override
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: one output for each class but the first."""
        return super().outputs(n_classes) - 1

    @override
    def width(self, input: Tensor) -> int:
        return super().width(input) + 1

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        shape = super().shape(input, target)
        if self.importance is not None:
            levels, given = self.width(input) - 1, tuple(self.importance.shape)
            must(given == (levels,), f"importance has the shape ({levels},)", given, "one weight a logit", where=self.name)
        return shape

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        f = class_last(input)
        above = target.unsqueeze(-1) > torch.arange(f.shape[-1], device=f.device)
        each = -torch.where(above, F.logsigmoid(f), F.logsigmoid(-f))
        return (each if self.importance is None else self.importance.to(f) * each).sum(-1)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        in_range(target, self.width(input), self.name, otherwise="give the model one output a class but the first, or correct the labels")
