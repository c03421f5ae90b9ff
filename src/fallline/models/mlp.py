"""A multi-layer perceptron: layers of ReLU units."""

import math
from collections.abc import Sequence

from torch import nn


def mlp(input_shape: tuple[int, ...], outputs: int, hidden: Sequence[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Hidden layers of the given widths, each with ReLU (and dropout), then a linear layer to (rows, outputs).

    >>> [type(layer).__name__ for layer in mlp((4,), 3, [16])]
    ['Flatten', 'Linear', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))
