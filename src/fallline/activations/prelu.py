"""Parametric ReLU: leaky ReLU whose leak is learned.

    x where x > 0, else a x          slope 1, else a          ∂/∂a = min(0, x)

When to use: deep convolutional networks with enough data for one more number a channel.
When not: small data: leaky_relu. Keep weight decay off `a`, as it pulls towards ReLU.
Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 1. https://arxiv.org/abs/1502.01852
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fallline.activations._base import Activation


def prelu(x: Tensor, a: Tensor | float = 0.25) -> Tensor:
    """Give x where positive, else a x; `a` a number or a tensor (C,), one for each channel on axis 1.

    >>> prelu(torch.tensor([-2.0, 3.0]))
    tensor([-0.5000,  3.0000])
    """
    leak = a if isinstance(a, Tensor) else torch.tensor([a], dtype=x.dtype, device=x.device)
    return F.prelu(x, leak)


def prelu_slope(x: Tensor, a: float = 0.25) -> Tensor:
    """The slope in x.

    >>> prelu_slope(torch.tensor([-2.0, 3.0]))
    tensor([0.2500, 1.0000])
    """
    return torch.where(x > 0, torch.ones_like(x), a)


PRELU = Activation("prelu", prelu, prelu_slope, doc=__doc__, kinks=(0.0,))
