"""A column of yes and no: 1 and 0, and a flag where the training rows have missing values (which count as 0)."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError

WORDS = {"true": 1.0, "yes": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "no": 0.0, "0": 0.0, "0.0": 0.0}


@dataclass(frozen=True)
class Boolean:
    """1, 0, and whether it is missing."""

    kind: ClassVar[str] = "yes or no"
    name: str
    flag: bool

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str) -> Self:
        """Learn whether values are missing."""
        del scale
        return cls(series.name, series.null_count() > 0)

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [self.name, f"{self.name} is missing"] if self.flag else [self.name]

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features)."""
        if series.dtype in (pl.Boolean, pl.Null):
            values = series.cast(pl.Float64)
        else:
            text = series.cast(pl.String).str.strip_chars().str.to_lowercase()
            values = text.replace_strict(WORDS, default=None, return_dtype=pl.Float64)
            wrong = (values.is_null() & text.is_not_null()).arg_true()
            if len(wrong):
                raise FalllineError(
                    f"column '{self.name}' must hold yes or no (true or false), but row {wrong[0]} holds {series[wrong[0]]!r}."
                )
        filled = values.fill_null(0.0).to_numpy()
        return np.stack([filled, series.is_null().to_numpy()] if self.flag else [filled], axis=1).astype(np.float32)

    def say(self) -> str:
        """How it is prepared, in words."""
        return "yes or no" + (": missing counts as no, with a flag" if self.flag else "")
