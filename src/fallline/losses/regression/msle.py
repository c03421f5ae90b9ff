"""Mean squared logarithmic error: the squared miss of log(1 + value), so that ratios count, not differences.

    ℓ = (log(1 + y) − log(1 + x))²          natural logarithm; x > −1 and y > −1
    ℓ = (log(1 + y) − x)²                   from logarithms: x is log(1 + prediction), and may be any number

When to use: targets that span orders of magnitude (prices, counts), where 10 percent off costs the same everywhere.
When not: targets at or below -1, or a model whose output may fall there: use mse on a log-scaled target. It punishes predictions below
the target more than above.
Source: scikit-learn, user guide, section "Mean squared logarithmic error". https://scikit-learn.org/stable/modules/model_evaluation.html
Departs from the source: some teaching texts print tables with the logarithm to base 10; the natural one is (ln 10)² = 5.3019 times that.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline.losses._base import wide
from fallline.losses._checks import above_minus_one
from fallline.losses._fields import choice
from fallline.losses._kinds import Regression
from fallline.losses._tracing import readable

_OUTPUT = "let the model end in softplus, or predict log(1 + value) with input_from='logarithms'"


class MSLE(Regression):
    """Squared logarithmic error of each element. Input and target: equal shapes, every value above -1; FalllineError elsewhere.

    >>> MSLE()(torch.tensor([20.0]), torch.tensor([30.0]))
    tensor(0.1517)
    """

    name = "msle"
    target_kind = "above_minus_one"
    input_from: str = choice("values", "logarithms", doc="what the input is: predictions, or log(1 + prediction)")

    @override
    def adapt(self) -> None:
        if self.input_from == "logarithms":
            self.become(output="log1p")

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        x = input if self.input_from == "logarithms" else torch.log1p(input)
        return (torch.log1p(target) - x).square()

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        """The mean; the one check kept is that every prediction is above -1, as the alternative is NaN."""
        input, target = wide(input), wide(target)
        if self.input_from == "values" and readable(input):
            above_minus_one(input, "prediction", self.name, _OUTPUT)
        return self.values(input, target).mean()

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        self.check_targets(target, None)
        if self.input_from == "values":
            above_minus_one(input, "prediction", self.name, _OUTPUT)

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        above_minus_one(target, "target", self.name, "use mse")
