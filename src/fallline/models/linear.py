"""A linear model: linear, logistic or softmax regression, by the loss it is trained with."""

import math

from torch import nn


def linear(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """One layer from all inputs to (rows, outputs).

    >>> linear((1, 8, 8), 10)[1]
    Linear(in_features=64, out_features=10, bias=True)
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs))
