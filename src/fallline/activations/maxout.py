"""Maxout: the largest of each group of k neighbours.

    maxout x = max(x_1, .., x_k) of each group          slope 1 at the largest, 0 at the rest

When to use: with dropout; it learns its own convex activation. maxout(0, x) is ReLU and maxout(-x, x) is |x|.
When not: k times the weights are too many.
Source: Goodfellow et al., "Maxout Networks", ICML 2013. https://arxiv.org/abs/1302.4389
"""

from torch import Tensor

from fallline._core.errors import must
from fallline.activations._base import Activation


def maxout(x: Tensor, pieces: int = 2) -> Tensor:
    """The largest of each `pieces` neighbours on the last axis: (..., C) becomes (..., C / pieces).

    Raises FalllineError where the width does not divide.

    >>> import torch
    >>> maxout(torch.tensor([1.0, 5.0, -2.0, -3.0]))
    tensor([ 5., -2.])
    """
    return _grouped(x, pieces).amax(dim=-1)


def maxout_slope(x: Tensor, pieces: int = 2) -> Tensor:
    """The slope of each group's output against each of its inputs, in the shape of x; equal inputs share it, as in torch.

    >>> import torch
    >>> maxout_slope(torch.tensor([1.0, 5.0, -2.0, -3.0]))
    tensor([0., 1., 1., 0.])
    """
    groups = _grouped(x, pieces)
    won = (groups == groups.amax(dim=-1, keepdim=True)).to(x.dtype)
    return (won / won.sum(dim=-1, keepdim=True)).reshape(x.shape)


def _grouped(x: Tensor, pieces: int) -> Tensor:
    must(pieces >= 1, "pieces >= 1", pieces, "2 is usual", where="maxout")
    must(x.ndim >= 1 and x.shape[-1] % pieces == 0, f"the last axis is a multiple of pieces={pieces}", tuple(x.shape), where="maxout")
    return x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)


MAXOUT = Activation("maxout", maxout, maxout_slope, doc=__doc__, shape_note="halves the last axis", elementwise=False)
