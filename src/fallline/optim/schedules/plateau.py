"""Reduce on plateau: multiply the rate by a factor when the validation loss stops falling.

    η ← η · γ        after `patience` epochs without a loss below best · (1 − threshold)

When to use: you do not know how long training takes; the loss goes flat in stages.
When not: runs that must repeat exactly on other data: the rate then depends on the loss.
Source: torch.optim.lr_scheduler.ReduceLROnPlateau (mode min, relative threshold), whose rule this is.
"""

import math
from typing import Any

from fallline._core.errors import must
from fallline._core.number import Number

FACTOR = Number("factor", 0, 1, open_low=True, open_high=True, usual="0.5", doc="what the rate is multiplied by")
END = Number("end", 0, 1, usual="0.0001", doc="smallest multiplier")
THRESHOLD = Number("threshold", 0, 1, open_high=True, usual="0.0001", doc="relative fall that counts")


class Plateau:
    """The one schedule with a memory: call `update` once an epoch; `state()` and `load()` carry it over a stop.

    >>> p = Plateau(factor=0.5, patience=0)
    >>> [p.update(loss) for loss in (1.0, 0.5, 0.5, 0.4)]
    [1.0, 1.0, 0.5, 0.5]
    """

    name = "plateau"

    def __init__(self, *, factor: float = 0.5, patience: int = 3, threshold: float = 1e-4, end: float = 1e-4) -> None:
        FACTOR.check(factor, where="plateau")
        THRESHOLD.check(threshold, where="plateau")
        END.check(end, where="plateau")
        must(patience >= 0, "patience >= 0", patience, where="plateau")
        self.factor, self.patience, self.threshold, self.end = factor, int(patience), threshold, end
        self.multiplier, self.best, self.waited = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        """The multiplier now; it does not depend on the step."""
        del step
        return self.multiplier

    def update(self, loss: float) -> float:
        """Take in the validation loss of one more epoch; the multiplier from now on."""
        best = self.best
        if loss < (best - abs(best) * self.threshold if math.isfinite(best) else best):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.multiplier, self.waited = max(self.multiplier * self.factor, self.end), 0
        return self.multiplier

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"multiplier": self.multiplier, "best": self.best, "waited": self.waited}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.multiplier, self.best, self.waited = state["multiplier"], state["best"], state["waited"]
