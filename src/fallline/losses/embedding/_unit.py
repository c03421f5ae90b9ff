"""Directions of vectors: x / ‖x‖, where a vector without a length has no direction and no gradient."""

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Each row divided by its length; a row of zeros stays zero, with a zero gradient.

    Measured in units of its largest entry, so that no square overflows or underflows.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    if not x.shape[-1]:
        return x
    top = x.detach().abs().amax(-1, keepdim=True)
    zero = top == 0
    x = x / torch.where(zero, 1, top)
    length = torch.where(zero, 1, x.square().sum(-1, keepdim=True)).sqrt()
    return torch.where(zero, 0, x / length)
