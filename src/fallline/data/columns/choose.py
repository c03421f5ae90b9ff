"""Which kind of column it is, judged by the training rows alone."""

import re

import polars as pl

from fallline.data.columns.boolean import Boolean
from fallline.data.columns.category import MOST, Category
from fallline.data.columns.date import Date, format_of
from fallline.data.columns.numeric import Numeric
from fallline.data.columns.text import Text

Column = Numeric | Boolean | Category | Text | Date
KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Numeric, Boolean, Category, Text, Date)}

_ID_NAME = re.compile(r"(^|[\s_.-])(id|uuid|guid|index|rownames?|key)$|[a-z](Id|ID)$|^(id|unnamed: \d+|)$", re.IGNORECASE)
_ID_SUFFIX = re.compile(r"[a-z](Id|ID)$")


def choose(series: pl.Series, *, scale: str, plain: bool = False, steps: bool = False, words: bool = False) -> Column | str:
    """The prepared column, or the reason why it is left out.

    Args:
        series: the column over the training rows.
        scale: "zscore", "minmax" or "none", for numbers.
        plain: the column comes from an array: it is kept as a number whatever it holds.
        words: the column of text holds words in some row, training row or not: it is no column of numbers or dates.
        steps: numbers may climb a staircase beside their own value.
    """
    dtype = series.dtype
    if plain and (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        return Numeric.fit(series.cast(pl.Float64), scale=scale, tails=False)
    if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
        return f"it holds {dtype}, which is no number, category, text or date"
    there = series.drop_nans() if dtype.is_float() else series
    there = there.drop_nulls()
    if not len(there):
        return "every training row lacks it"
    distinct = there.n_unique()
    if distinct == 1 and len(there) == len(series):
        return f"constant (always {str(there[0])[:40]!r})"
    if dtype == pl.Boolean:
        return Boolean.fit(series, scale=scale)
    if dtype in (pl.Date, pl.Datetime):
        return Date.fit(series, scale=scale)
    if dtype.is_integer() and _counts_rows(there, distinct, series.name):
        return "an identifier (a different value in each row)"
    if dtype.is_numeric() or dtype in (pl.Duration, pl.Time):
        return Numeric.fit(series, scale=scale, steps=steps)
    text = there.cast(pl.String)
    if not words and _is_number(text):
        return Numeric.fit(series.cast(pl.String), scale=scale, steps=steps)
    if not words and distinct > 2 and format_of(text) is not None:
        return Date.fit(series.cast(pl.String), scale=scale)
    return _of_text(series.cast(pl.String), text, distinct, scale)


def holds_words(series: pl.Series) -> bool:
    """Whether a column of text holds something that is neither a number nor a date."""
    if series.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    there = series.drop_nulls().cast(pl.String)
    return not _is_number(there) and format_of(there) is None


def _is_number(there: pl.Series) -> bool:
    return not there.str.strip_chars().cast(pl.Float64, strict=False).null_count()


def _of_text(series: pl.Series, there: pl.Series, distinct: int, scale: str) -> Column | str:
    spaced = there.str.contains(r"\S\s+\S").mean()
    wordy = isinstance(spaced, float) and spaced > 0.5
    if distinct == len(there) > 10 and not wordy:
        return "an identifier (a different value in each row)"
    if (distinct > 0.5 * len(there) and len(there) > 10) or (distinct > MOST and wordy):
        found = Text.fit(series, scale=scale)
        return found if found.words or found.flag else "nearly every row differs, and no word occurs often enough to learn from"
    return Category.fit(series, scale=scale)


def _counts_rows(there: pl.Series, distinct: int, name: str) -> bool:
    """A whole number that differs in each row, and is named like an identifier or counts from 0 or 1."""
    if distinct < len(there) or len(there) < 3:
        return False
    low, high = int(there.min()), int(there.max())  # pyright: ignore[reportArgumentType]
    counts = low >= 0 and high <= 2 * len(there) and len(there) >= 20
    return counts or bool(_ID_NAME.search(name.strip()) or _ID_SUFFIX.search(name))
