"""Elastic net penalty: some of l1, some of l2.

    elastic = r Σ |w| + (1 − r) Σ w²          0 ≤ r ≤ 1

When to use: selection is wanted, and inputs come in groups that say the same: it keeps or drops a group together.
When not: one of the two alone does: l1 selects, l2 shrinks.
Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", JRSS B 67, 2005.
https://doi.org/10.1111/j.1467-9868.2005.00503.x
Departs from the source: scikit-learn halves the square; here it is whole, as in l2.
"""

from torch import Tensor

from fallline._core.number import Number
from fallline.penalties._chosen import Choice, NamedParams, total

RATIO = Number("ratio", 0, 1, usual="0.5", doc="share of l1; the rest is l2")


def elastic(named_params: NamedParams, *, ratio: float = 0.5, only: Choice | None = None) -> Tensor:
    """`ratio` times l1 plus (1 - `ratio`) times l2, a 0-d tensor. Raises FalllineError unless 0 <= ratio <= 1.

    >>> import torch
    >>> elastic({"weight": torch.tensor([[1.0, -2.0]]).requires_grad_()}.items(), ratio=0.5).item()
    4.0
    """
    RATIO.check(ratio, where="elastic")
    return total(named_params, only, lambda p: ratio * p.abs().sum() + (1 - ratio) * p.square().sum())
