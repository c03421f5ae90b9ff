"""A column of dates: the time since the first one, the year, and where in year, week and day it falls, on circles.

    elapsed = (t − t₀) scaled        month, weekday, hour → sin 2πk/K, cos 2πk/K        K = 12, 7, 24

The circle makes December a neighbour of January. Parts that do not vary over the training rows are left out.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError

_DAYS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y")
_WORDED = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y")
_TIMES = (" %H:%M:%S", " %H:%M", "T%H:%M:%S", "T%H:%M", " %H:%M:%S%.f", "T%H:%M:%S%.f")
FORMATS = (*_DAYS, *(day + time for day in _DAYS for time in _TIMES), *_WORDED)
"""Layouts in which dates are looked for, in this order: day before month where both would do."""

_CIRCLES = {"month": 12, "weekday": 7, "hour": 24}
_YEAR = 365.2425 * 86400


@dataclass(frozen=True)
class Date:
    """Elapsed time, year, and the circles of the year, the week and the day."""

    kind: ClassVar[str] = "date"
    name: str
    format: str
    """How text is read; empty where the column has dates already."""
    start: float
    """Earliest training date, in seconds since 1970."""
    fill: float
    scales: dict[str, tuple[float, float]]
    """Center and spread of `elapsed` (years) and `year`."""
    circles: list[str]
    flag: bool

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str) -> Self:
        """Learn the start, the scales and which parts vary."""
        layout = "" if series.dtype.is_temporal() else (format_of(series) or "")
        stamps = _stamps(series, layout)
        there = np.sort(stamps[~np.isnan(stamps)])
        start = float(there[0]) if len(there) else 0.0
        fill = float(there[(len(there) - 1) // 2]) if len(there) else 0.0
        parts = _parts(there, start)
        scales: dict[str, tuple[float, float]] = {}
        for part in ("elapsed", "year"):
            values = parts[part]
            if not len(values) or values.min() == values.max():
                continue
            if scale == "zscore":
                scales[part] = (float(values.mean()), float(values.std()))
            else:
                scales[part] = (float(values.min()), float(values.max() - values.min())) if scale == "minmax" else (0.0, 1.0)
        circles = [name for name in _CIRCLES if len(there) and parts[name].min() != parts[name].max()]
        return cls(series.name, layout, start, fill, scales, circles, bool(len(there) < len(stamps)))

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        names = [f"{self.name} {part}" for part in self.scales]
        names += [f"{self.name} {part} ({wave})" for part in self.circles for wave in ("sin", "cos")]
        return [*names, f"{self.name} is missing"] if self.flag else names

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features); a missing date counts as the median one."""
        stamps = _stamps(series, self.format)
        missing = np.isnan(stamps)
        parts = _parts(np.where(missing, self.fill, stamps), self.start)
        out = [(parts[part] - center) / spread for part, (center, spread) in self.scales.items()]
        for part in self.circles:
            angle = 2 * np.pi * parts[part] / _CIRCLES[part]
            out += [np.sin(angle), np.cos(angle)]
        if self.flag:
            out.append(missing)
        return np.stack(out, axis=1).astype(np.float32) if out else np.zeros((len(series), 0), np.float32)

    def say(self) -> str:
        """How it is prepared, in words."""
        parts = [*self.scales, *self.circles]
        return f"date: {', '.join(parts)}{', with a flag for missing' if self.flag else ''}"


def format_of(series: pl.Series) -> str | None:
    """The first known layout that reads every value of a text column, or None.

    >>> format_of(pl.Series(["31.12.2024", "01.02.2025"]))
    '%d.%m.%Y'
    """
    text = series.drop_nulls().cast(pl.String).str.strip_chars()
    if not len(text) or not text.head(50).str.contains(r"\d").all():
        return None
    for layout in FORMATS:
        if not parse(text.head(50), layout).null_count() and not parse(text, layout).null_count():
            return layout
    return None


def parse(text: pl.Series, layout: str) -> pl.Series:
    """Text as dates and times without a zone; null where the layout does not fit."""
    timed = "%H" in layout
    parsed = text.str.strptime(pl.Datetime("us") if timed else pl.Date, layout, strict=False)
    return parsed.cast(pl.Datetime("us"))


def _stamps(series: pl.Series, layout: str) -> np.ndarray:
    """Seconds since 1970, NaN where missing."""
    if series.dtype == pl.Null:
        return np.full(len(series), np.nan)
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String).str.strip_chars()
        dates = parse(text, layout or format_of(series) or FORMATS[0])
        wrong = (dates.is_null() & text.is_not_null() & (text != "")).arg_true()
        if len(wrong):
            like = f" written like {layout}" if layout else ""
            raise FalllineError(f"column '{series.name}' must hold dates{like}, but row {wrong[0]} holds {text[int(wrong[0])]!r}.")
    elif series.dtype in (pl.Date, pl.Datetime):
        dates = series
        if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None:
            dates = dates.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        dates = dates.cast(pl.Datetime("us"))
    else:
        raise FalllineError(f"column '{series.name}' must hold dates, as in the training rows, but holds {series.dtype}.")
    return (dates.dt.epoch("us").cast(pl.Float64) / 1e6).fill_null(float("nan")).to_numpy()


def _parts(stamps: np.ndarray, start: float) -> dict[str, np.ndarray]:
    dates = pl.Series((stamps * 1e6).astype(np.int64)).cast(pl.Datetime("us"))
    return {
        "elapsed": (stamps - start) / _YEAR,
        "year": dates.dt.year().cast(pl.Float64).to_numpy(),
        "month": dates.dt.month().cast(pl.Float64).to_numpy() - 1,
        "weekday": dates.dt.weekday().cast(pl.Float64).to_numpy() - 1,
        "hour": dates.dt.hour().cast(pl.Float64).to_numpy(),
    }
