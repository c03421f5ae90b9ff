"""Inputs and targets that each loss takes; a loss of an unusual form has an entry in `_OWN`."""

import torch

from fallline.losses import LOSSES

D = torch.float64
C = 5
NAMES = list(LOSSES)
SEPARATE = [name for name in NAMES if LOSSES[name].separate]
TOGETHER = [name for name in NAMES if not LOSSES[name].separate]

_OWN = {}
"""name -> function(n, generator) giving float64 input and target."""


def own(name):
    """Register how the examples of a loss are made."""
    return lambda make: _OWN.setdefault(name, make)


def example(name, n=12, dtype=D, seed=0):
    """Inputs (away from kinks, by chance) and targets that the loss takes."""
    g = torch.Generator().manual_seed(seed)
    x, y = _OWN[name](n, g) if name in _OWN else _usual(LOSSES[name], n, g)
    return x.to(dtype), y.to(dtype) if y.is_floating_point() else y


def _usual(cls, n, g):
    kind = cls.target_kind
    x = torch.randn(n, generator=g, dtype=D) * 1.5
    if kind == "index" and cls.output == "embedding":
        return torch.randn(n, 4, generator=g, dtype=D), torch.randint(0, 3, (n,), generator=g)
    if kind == "index":
        return torch.randn(n, C, generator=g, dtype=D) * 2, torch.randint(0, C, (n,), generator=g)
    if kind == "pair":
        return torch.randn(n, 4, generator=g, dtype=D), torch.randn(n, 4, generator=g, dtype=D)
    if kind == "distribution":
        return torch.randn(n, C, generator=g, dtype=D), torch.rand(n, C, generator=g, dtype=D).softmax(-1)
    if kind == "binary":
        return x, torch.randint(0, 2, (n,), generator=g)
    if kind == "signed":
        return x, torch.randint(0, 2, (n,), generator=g) * 2 - 1
    y = torch.randn(n, generator=g, dtype=D) * 2
    if kind == "above_minus_one":
        x, y = x.abs() - 0.5, y.abs()
    if kind == "count":
        y = torch.randint(0, 6, (n,), generator=g).to(D)
    return x, y


@own("gaussian_nll")
def _gaussian_nll(n, g):
    return torch.randn(n, 2, generator=g, dtype=D) * 1.5, torch.randn(n, generator=g, dtype=D) * 2


@own("pairwise_auc")
def _pairwise_auc(n, g):
    return torch.randn(n, generator=g, dtype=D) * 1.5, (torch.arange(n) % 2)[torch.randperm(n, generator=g)]


def _twos(n, g):
    """Classes of two examples at least, for losses that need positives."""
    return torch.randn(n, 4, generator=g, dtype=D), torch.arange(n) // 2 % 3


own("info_nce")(_twos)
own("sup_con")(_twos)
own("triplet")(_twos)


def _cosines(n, g):
    return torch.rand(n, C, generator=g, dtype=D) * 1.8 - 0.9, torch.randint(0, C, (n,), generator=g)


own("arc_face")(_cosines)
own("cos_face")(_cosines)


@own("coral")
def _coral(n, g):
    return torch.randn(n, C - 1, generator=g, dtype=D) * 2, torch.randint(0, C, (n,), generator=g)


@own("tversky")
def _tversky(n, g):
    return torch.randn(n, generator=g, dtype=D) * 1.5, torch.randint(0, 2, (n,), generator=g)
