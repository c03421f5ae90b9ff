"""Early stopping: remember the best validation loss, and say when waiting is over."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Patience:
    """Counts epochs since the last better loss.

    Better is lower by more than `min_change`. `epochs` None never stops. NaN is never better.

    >>> p = Patience(epochs=2)
    >>> [p.better(v) for v in (1.0, 0.5, 0.6, 0.7)], p.over
    ([True, True, False, False], True)
    """

    epochs: int | None = None
    min_change: float = 0.0
    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    seen: int = 0

    def better(self, loss: float) -> bool:
        """Take in the loss of one more epoch; whether it is the best so far."""
        self.seen += 1
        if loss < self.best - (self.min_change if math.isfinite(self.best) else 0.0):
            self.best, self.best_epoch, self.waited = loss, self.seen, 0
            return True
        self.waited += 1
        return False

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.epochs is not None and self.waited >= self.epochs

    def state(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return asdict(self)
