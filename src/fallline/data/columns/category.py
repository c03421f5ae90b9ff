"""A column of categories: one 0/1 feature for each level of the training rows. Missing is a level; unseen levels give zeros."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

MOST = 32
"""Levels that get a feature of their own, by how often they occur; rarer ones are treated as unseen."""


@dataclass(frozen=True)
class Category:
    """One-hot over the levels of the training rows."""

    kind: ClassVar[str] = "category"
    name: str
    levels: list[str]
    missing: bool
    rare: int = 0
    """Levels of the training rows that have no feature."""

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str) -> Self:
        """Learn the levels; ties are broken by name, so that the order of rows does not matter."""
        del scale
        counts = (
            texts(series)
            .drop_nulls()
            .value_counts(sort=False)
            .rename({series.name: "level"})
            .sort(["count", "level"], descending=[True, False])
        )
        levels = counts["level"].to_list()
        return cls(series.name, sorted(levels[:MOST]), series.null_count() > 0, max(0, len(levels) - MOST))

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [f"{self.name}={level}" for level in self.levels] + ([f"{self.name} is missing"] if self.missing else [])

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features)."""
        index = self._places(series).fill_null(-1).to_numpy()
        out = np.zeros((len(series), len(self.features)), np.float32)
        rows = np.flatnonzero(index >= 0)
        out[rows, index[rows]] = 1
        if self.missing:
            out[:, -1] = series.is_null().to_numpy()
        return out

    def _places(self, series: pl.Series) -> pl.Series:
        """The level of each row, null where there is none. Numbers and truth values are the levels that were written so (1.0 is "01")."""
        known = {level: i for i, level in enumerate(self.levels)}
        found = texts(series).replace_strict(known, default=None, return_dtype=pl.Int64)
        if series.dtype.is_numeric():
            return found.fill_null(series.cast(pl.Float64).replace_strict(self._by(_number), default=None, return_dtype=pl.Int64))
        if series.dtype == pl.Boolean:
            return found.fill_null(texts(series).replace_strict(self._by(str.lower), default=None, return_dtype=pl.Int64))
        return found

    def _by(self, read: Callable[[str], Any]) -> dict[Any, int]:
        """Levels by what they read as, those that only one level reads as."""
        seen = [read(level) for level in self.levels]
        return {key: i for i, key in enumerate(seen) if key is not None and seen.count(key) == 1}

    def say(self) -> str:
        """How it is prepared, in words."""
        more = f", {self.rare} rarer ones are treated as unseen" if self.rare else ""
        return f"category: {len(self.levels)} levels{', missing is one more' if self.missing else ''}{more}"


def texts(series: pl.Series) -> pl.Series:
    """The column as text without blanks at the ends; null where a value is missing."""
    return series.cast(pl.String).str.strip_chars()


def _number(level: str) -> float | None:
    try:
        number = float(level)
    except ValueError:
        return None
    return None if math.isnan(number) else number
