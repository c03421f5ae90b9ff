"""Concatenated ReLU: the positive and the negative part side by side.

    crelu x = [max(0, x), max(0, −x)]          slope [1[x > 0], −1[x < 0]]          joined on the last axis, or another

When to use: early convolution layers, whose filters come in pairs of opposite sign: half the filters do.
When not: the next layer's width cannot double.
Source: Shang et al., "Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear Units", ICML 2016.
https://arxiv.org/abs/1603.05201
"""

import torch
from torch import Tensor

from fallline.activations._base import Activation


def crelu(x: Tensor, dim: int = -1) -> Tensor:
    """ReLU of x and of -x joined on `dim`: (..., C) becomes (..., 2 C).

    >>> crelu(torch.tensor([1.0, -2.0]))
    tensor([1., 0., 0., 2.])
    """
    return torch.cat([torch.relu(x), torch.relu(-x)], dim=dim)


def crelu_slope(x: Tensor, dim: int = -1) -> Tensor:
    """The slope of each output against its own input, shape as `crelu` gives it.

    >>> crelu_slope(torch.tensor([1.0, -2.0]))
    tensor([ 1.,  0.,  0., -1.])
    """
    return torch.cat([(x > 0).to(x.dtype), 0 - (x < 0).to(x.dtype)], dim=dim)


CRELU = Activation("crelu", crelu, crelu_slope, doc=__doc__, shape_note="doubles the last axis", kinks=(0.0,))
