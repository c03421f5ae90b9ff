"""One recorded quantity over the steps of a run."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Series(NamedTuple):
    """Four arrays of the same length (points,): step, epoch, seconds since the run began, value (NaN where it was not a number)."""

    step: NDArray[np.int64]
    epoch: NDArray[np.float64]
    seconds: NDArray[np.float64]
    value: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The last value, NaN where there is none."""
        return float(self.value[-1]) if len(self.value) else float("nan")
