"""A column of numbers: missing values become the median beside a flag, heavy tails are drawn in, then the column is scaled.

    x' = (t(x) − center) / spread        t(x) = x,  or  sign(x) log(1 + |x| / unit) where the training rows have heavy tails

`center` and `spread` are mean and standard deviation (zscore), smallest value and range (minmax), or 0 and 1 (none).

Where there are many training rows, a number also climbs a staircase between quantiles e₀ < e₁ < ... of the training rows, which lets a
small network bend sharply where the rows are dense:

    sₖ = clip((t(x) − eₖ₋₁) / (eₖ − eₖ₋₁), 0, 1)

Source of the staircase: Gorishniy, Rubachev & Babenko, "On embeddings for numerical features in tabular deep learning", NeurIPS 2022,
eq. 1 (piecewise linear encoding). https://arxiv.org/abs/2203.05556
Departs from the source: the scaled number itself is kept beside it, so that values beyond the training rows still count.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError

STEPS, STEP_ROWS, STEP_VALUES = 16, 2000, 64
"""Steps of the staircase, and how many training rows and distinct values it takes to have one."""

HEAVY = 1.5
"""A skewness beyond this counts as a heavy tail (a normal variable has 0, an exponential one 2)."""


@dataclass(frozen=True)
class Numeric:
    """One number a row, and a flag where the training rows have missing values."""

    kind: ClassVar[str] = "number"
    name: str
    fill: float
    center: float
    spread: float
    flag: bool
    unit: float = 0.0
    """Scale of the signed logarithm; 0 leaves the values as they are."""
    constant: bool = False
    """All training values that are there are the same: only the flag says anything."""
    edges: list[float] = field(default_factory=list)
    """Quantiles between which the staircase climbs; empty for none."""

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str, tails: bool = True, steps: bool = False) -> Self:
        """Learn from training rows; `tails` allows the logarithm, `steps` the staircase."""
        values = numbers(series)
        there = values[~np.isnan(values)]
        fill = float(np.median(there)) if len(there) else 0.0
        constant = len(there) == 0 or bool(there.min() == there.max())
        unit = _unit(there) if tails and scale != "none" and not constant else 0.0
        seen = _tail(there, unit)
        center, spread = 0.0, 1.0
        if len(seen) and scale == "zscore":
            center, spread = float(seen.mean()), float(seen.std())
        elif len(seen) and scale == "minmax":
            center, spread = float(seen.min()), float(seen.max() - seen.min())
        spread = spread if np.isfinite(spread) and spread > 1e-12 * np.abs(seen).max(initial=0.0) else 1.0
        edges = _edges(seen) if steps and scale != "none" else []
        return cls(series.name, fill, center, spread, bool(len(there) < len(values)), unit, constant, edges)

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        stairs = [f"{self.name} step {k}" for k in range(1, len(self.edges))]
        return [self.name, *stairs, f"{self.name} is missing"] if self.flag else [self.name, *stairs]

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features)."""
        values = numbers(series)
        missing = np.isnan(values)
        drawn = _tail(np.where(missing, self.fill, values), self.unit)
        low, high = np.array(self.edges[:-1]), np.array(self.edges[1:])
        stairs = np.clip((drawn[:, None] - low) / (high - low), 0, 1)
        return np.column_stack([(drawn - self.center) / self.spread, stairs, *([missing] if self.flag else [])]).astype(np.float32)

    def say(self) -> str:
        """How it is prepared, in words."""
        parts = ["signed logarithm (heavy tails)"] if self.unit else []
        if self.edges:
            parts.append(f"{len(self.edges) - 1} steps between quantiles")
        if self.flag:
            parts.append(f"missing becomes the median {self.fill:g}, with a flag")
        return "number" + (f": {'; '.join(parts)}" if parts else "")


def numbers(series: pl.Series) -> np.ndarray:
    """The column as float64 with NaN where a value is missing; refuses infinities, and words, by row.

    Raises:
        FalllineError: a value is infinite, or is no number.
    """
    if series.dtype == pl.Duration:
        values = series.dt.total_seconds(fractional=True).cast(pl.Float64)
    elif series.dtype == pl.Time:
        values = series.cast(pl.Int64).cast(pl.Float64) / 1e9
    elif series.dtype.is_temporal():
        raise FalllineError(f"column '{series.name}' held numbers in the training rows, but holds dates here.")
    elif series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String).str.strip_chars()
        values = text.cast(pl.Float64, strict=False)
        wrong = (values.is_null() & text.is_not_null() & (text != "")).arg_true()
        if len(wrong):
            row = int(wrong[0])
            raise FalllineError(
                f"column '{series.name}' must hold numbers, as in the training rows, but row {row} holds {str(series[row])[:40]!r}."
            )
    elif series.dtype == pl.Null:
        values = pl.Series(series.name, [None] * len(series), dtype=pl.Float64)
    else:
        values = series.cast(pl.Float64)
    out = values.fill_null(float("nan")).to_numpy().astype(np.float64)
    infinite = np.isinf(out)
    if infinite.any():
        row = int(infinite.argmax())
        raise FalllineError(
            f"column '{series.name}' holds {int(infinite.sum())} infinite value(s), the first ({out[row]}) in row {row}; "
            "replace it by a number, or leave it empty if it is missing."
        )
    return out


def skewness(values: np.ndarray) -> float:
    """Third standardised moment; 0 for fewer than three values or no spread."""
    if len(values) < 3:
        return 0.0
    centred = values - values.mean()
    spread = centred.std()
    return float((centred**3).mean() / spread**3) if spread > 0 else 0.0


def _unit(values: np.ndarray) -> float:
    """Scale of the logarithm where it at least halves a heavy skewness, else 0."""
    skew = abs(skewness(values))
    size = np.abs(values)
    if len(values) < 20 or skew <= HEAVY or len(np.unique(values)) < 5 or not size.any():
        return 0.0
    unit = float(np.median(size[size > 0]))
    return unit if abs(skewness(_tail(values, unit))) < 0.5 * skew else 0.0


def _edges(values: np.ndarray) -> list[float]:
    """Quantiles for the staircase, where the values are enough to tell them."""
    if len(values) < STEP_ROWS or len(np.unique(values)) < STEP_VALUES:
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, STEPS + 1)))
    return [float(v) for v in edges] if len(edges) > 3 else []


def _tail(values: np.ndarray, unit: float) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values) / unit) if unit else values
