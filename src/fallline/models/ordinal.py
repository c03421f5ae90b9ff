"""The last layer for classes in an order: one weight vector shared by all levels, and a bias for each.

    f_k = w·x + b_k          k = 0 .. C−2, the logit of "y is above class k"

As all levels share w, f_k falls from k to k + 1 for every x or for none: the biases alone decide. Biases that minimise the loss `coral`
fall (theorem 1 of the source, for any importance of the levels), so the answers of the levels never contradict each other.

Source: Cao, Mirjalili and Raschka, "Rank Consistent Ordinal Regression for Neural Networks with Application to Age Estimation", Pattern
Recognition Letters 140, 2020. https://arxiv.org/abs/1901.07884
Departs from the source: the biases start evenly spaced and falling, where all classes are about as likely, not at 0.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must


class OrdinalHead(nn.Module):
    """From features (N, ..., in_features) to logits (N, n_classes - 1, ...), levels on axis 1 as `fallline.losses.Coral` reads them.

    >>> OrdinalHead(8, 5)(torch.zeros(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__()
        must(n_classes >= 2, "n_classes >= 2", n_classes, where="OrdinalHead")
        must(in_features >= 1, "in_features >= 1", in_features, where="OrdinalHead")
        self.in_features, self.n_classes = in_features, n_classes
        self.weight = nn.Linear(in_features, 1, bias=False)
        self.bias = nn.Parameter(torch.empty(n_classes - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew; the biases are those of classes that are all as likely."""
        self.weight.reset_parameters()
        share = torch.arange(1, self.n_classes) / self.n_classes
        with torch.no_grad():
            self.bias.copy_(torch.logit(1 - share))

    @override
    def forward(self, x: Tensor) -> Tensor:
        levels = self.weight(x) + self.bias
        return levels.movedim(-1, 1) if levels.ndim > 2 else levels

    @override
    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, n_classes={self.n_classes}"
