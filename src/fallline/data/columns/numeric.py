"""A column of numbers: missing values become the median beside a flag, heavy tails are drawn in, then the column is scaled.

    x' = (t(x) − center) / spread        t(x) = x,  or  sign(x) log(1 + |x| / unit) where the training rows have heavy tails

`center` and `spread` are mean and standard deviation (zscore), smallest value and range (minmax), or 0 and 1 (none).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError

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

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str, tails: bool = True) -> Self:
        """Learn fill, scale and tail from training rows; `tails=False` never takes the logarithm."""
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
        spread = spread if np.isfinite(spread) and spread > 1e-12 * max(1.0, abs(center)) else 1.0
        return cls(series.name, fill, center, spread, bool(len(there) < len(values)), unit, constant)

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [self.name, f"{self.name} is missing"] if self.flag else [self.name]

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features)."""
        values = numbers(series)
        missing = np.isnan(values)
        scaled = (_tail(np.where(missing, self.fill, values), self.unit) - self.center) / self.spread
        return np.stack([scaled, missing] if self.flag else [scaled], axis=1).astype(np.float32)

    def say(self) -> str:
        """How it is prepared, in words."""
        parts = ["signed logarithm (heavy tails)"] if self.unit else []
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


def _tail(values: np.ndarray, unit: float) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values) / unit) if unit else values
