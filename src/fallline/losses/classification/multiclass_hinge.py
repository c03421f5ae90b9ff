"""Multi-class hinge (Weston-Watkins): every wrong class that comes within the margin of the true one is paid for.

    ℓ = Σ_{j≠y} max(0, s_j − s_y + δ)          or the square of each term

When to use: several classes where only the decision matters. With λ Σ W² of the weights (penalties.l2) it is the multi-class support
vector machine.
When not: probabilities are wanted: then cross_entropy.
Source: Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999, eq. 5.
Departs from the source: δ is free (the source has 2). torch's multi_margin_loss divides the sum by the number of classes, and keras'
categorical hinge takes the
largest term: neither is this loss.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses._fields import flag, number
from fallline.losses._kinds import Classwise, class_last
from fallline.losses._tracing import readable


class MulticlassHinge(Classwise):
    """Sum of margin violations of each example. Input (N, C, ...) scores or (C,); target (N, ...) class indices.

    >>> import torch
    >>> MulticlassHinge(delta=8)(torch.tensor([[-5.0, 15.0, 7.0]]), torch.tensor([0]))
    tensor(48.)
    """

    name = "multiclass_hinge"
    output = "scores"
    delta: float = number(1.0, low=0, open_low=True, doc="the margin, in units of the score")
    squared: bool = flag(False, doc="square each violation before the sum")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        s, y = class_last(input), target.long().unsqueeze(-1)
        miss = s - s.gather(-1, y) + self.delta
        if readable(miss, y):
            with torch.no_grad():  # autograd need not know: the hinge has no slope at 0
                miss.scatter_(-1, y, 0.0)
        else:
            miss = miss.scatter(-1, y, 0.0)
        miss = miss.relu()  # the true class has no term
        return (miss.square() if self.squared else miss).sum(-1)
