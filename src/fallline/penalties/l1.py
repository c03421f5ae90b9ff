"""L1 penalty (lasso): a price for every unit of weight, which drives small weights towards nought.

    l1 = Σ |w|          slope sign(w), 0 at 0

When to use: few rows, many inputs of which few matter: it selects.
When not: inputs come in groups that say the same: it keeps one of each at random; then elastic.
Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 58, 1996. https://doi.org/10.1111/j.2517-6161.1996.tb02080.x
"""

from torch import Tensor

from fallline.penalties._chosen import Choice, NamedParams, total


def l1(named_params: NamedParams, *, only: Choice | None = None) -> Tensor:
    """Sum of the absolute weights, a 0-d tensor. `only(name, parameter)` chooses; by default whatever has two axes or more.

    >>> import torch
    >>> l1({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items()).item()
    3.0
    """
    return total(named_params, only, lambda p: p.abs().sum())
