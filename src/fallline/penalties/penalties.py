"""Penalties on the weights: a price for being large, added to the loss.

    l1 = Σ |w|          l2 = Σ w²          elastic = r Σ |w| + (1 − r) Σ w²

When to use: few rows for many weights; l1 also drives weights to exactly nought in the limit and so selects; elastic keeps groups of
alike inputs together.
When not: with Adam and its kin prefer AdamW's decay to l2: the adaptive step divides the penalty's gradient away.
Source: Hoerl and Kennard, "Ridge Regression", Technometrics 12, 1970; Tibshirani, "Regression Shrinkage and Selection via the Lasso",
JRSS B 58, 1996;
Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", JRSS B 67, 2005.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fallline._core.errors import refuse
from fallline._core.number import Number

NamedParams = Iterable[tuple[str, Tensor]]
_RATIO = Number("ratio", 0, 1, usual="0.5")


def _matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is penalised by default: biases and the scales of norm layers are vectors, and are left out."""
    return parameter.ndim > 1


def _kept(named: NamedParams, only: Callable[[str, Tensor], bool] | None) -> list[Tensor]:
    chosen = []
    for item in named:
        if isinstance(item, Tensor):
            refuse("parameters come with their names", "tensors alone", "write model.named_parameters()", where="a penalty")
        name, parameter = item
        if parameter.requires_grad and (only or _matrix)(name, parameter):
            chosen.append(parameter)
    return chosen


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum() if parts else torch.zeros(())


def l1(named_params: NamedParams, *, only: Callable[[str, Tensor], bool] | None = None) -> Tensor:
    """Sum of the absolute weights, a 0-d tensor. `only(name, parameter)` chooses; by default whatever has two axes or more.

    >>> l1({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items()).item()
    3.0
    """
    return _total([p.abs().sum() for p in _kept(named_params, only)])


def l2(named_params: NamedParams, *, only: Callable[[str, Tensor], bool] | None = None) -> Tensor:
    """Sum of the squared weights (no half), a 0-d tensor. `only` as in `l1`.

    >>> l2({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items()).item()
    5.0
    """
    return _total([p.square().sum() for p in _kept(named_params, only)])


def elastic(named_params: NamedParams, *, ratio: float = 0.5, only: Callable[[str, Tensor], bool] | None = None) -> Tensor:
    """`ratio` times l1 plus (1 - `ratio`) times l2, a 0-d tensor. Raises FalllineError unless 0 <= ratio <= 1.

    >>> elastic({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items(), ratio=0.5).item()
    4.0
    """
    _RATIO.check(ratio, where="elastic")
    return _total([ratio * p.abs().sum() + (1 - ratio) * p.square().sum() for p in _kept(named_params, only)])
