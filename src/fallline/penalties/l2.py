"""L2 penalty (ridge): a price for the square of every weight, which keeps all of them small.

    l2 = Σ w²          slope 2 w

When to use: few rows for many weights; the support vector machine's λ Σ W².
When not: with Adam and its kin prefer AdamW's decay: their step divides the penalty's gradient away.
Source: Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", Technometrics 12, 1970.
https://doi.org/10.2307/1267351
Departs from the source: no factor one half, so that λ here is half of torch's weight_decay for the same step of SGD.
"""

from torch import Tensor

from fallline.penalties._chosen import Choice, NamedParams, total


def l2(named_params: NamedParams, *, only: Choice | None = None) -> Tensor:
    """Sum of the squared weights (no half), a 0-d tensor. `only(name, parameter)` chooses; by default whatever has two axes or more.

    >>> import torch
    >>> l2({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items()).item()
    5.0
    """
    return total(named_params, only, lambda p: p.square().sum())
