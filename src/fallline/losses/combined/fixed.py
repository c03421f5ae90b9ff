"""Fixed weights: the weighted sum of the tasks' losses.

    total = Σᵢ wᵢ ℓᵢ

When to use: two or three tasks whose losses are of one size, or weights found by a search.
When not: losses of very different units, or that fall at very different rates, and no time for a search: then uncertainty or gradnorm.
Source: Caruana, "Multitask Learning", Machine Learning 28, 1997. https://doi.org/10.1023/A:1007379606734
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses.combined._weighting import Weighed, Weighting


class Fixed(Weighting):
    """Each task counts by a weight that stays."""

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        for task in self.tasks:
            self.register_buffer(f"weight_{task}", torch.tensor(weights[task]))

    @override
    def weight(self, task: str) -> Tensor:
        return self.get_buffer(f"weight_{task}")

    @override
    def weigh(self, task: str, raw: Tensor, present: Tensor) -> Weighed:
        weight = self.weight(task).to(raw.device, raw.dtype)
        return Weighed(weight, weight * raw, raw.new_zeros(()))
