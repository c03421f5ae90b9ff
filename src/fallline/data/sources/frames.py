"""pandas and polars DataFrames. pandas is never imported, and pyarrow is not needed."""

from typing import Any

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError


def is_frame(source: Any) -> bool:
    """Whether it is a DataFrame of pandas or polars."""
    return isinstance(source, pl.DataFrame | pl.LazyFrame) or (_home(source) == "pandas" and type(source).__name__ == "DataFrame")


def is_series(source: Any) -> bool:
    """Whether it is a Series of pandas or polars."""
    return isinstance(source, pl.Series) or (_home(source) == "pandas" and hasattr(source, "to_numpy"))


def to_polars(frame: Any) -> pl.DataFrame:
    """The same table in polars.

    Raises:
        FalllineError: two columns have one name.
    """
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        odd = [series for series in frame if series.dtype == pl.Object]
        words = [pl.Series(s.name, [None if v is None else str(v) for v in s.to_list()], dtype=pl.String) for s in odd]
        return frame.with_columns(words) if odd else frame
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise FalllineError(f"the DataFrame has more than one column called {twice[0]!r}; rename or drop one.")
    return pl.DataFrame([series_of(frame.iloc[:, i], name) for i, name in enumerate(names)])


def series_of(series: Any, name: str) -> pl.Series:
    """A column of pandas (or polars) as a polars Series."""
    if isinstance(series, pl.Series):
        return series.alias(name)
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iufb":
        return pl.Series(name, series.to_numpy().astype(np.float32) if dtype == np.float16 else series.to_numpy())
    if isinstance(dtype, np.dtype) and dtype.kind in "mM":
        return pl.Series(name, series.to_numpy().astype(f"{dtype.kind}8[us]"))
    if getattr(dtype, "tz", None) is not None:
        return pl.Series(name, series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("M8[us]"))
    missing = series.isna().to_numpy()
    values = [None if gone else _plain(value) for value, gone in zip(series.astype(object).tolist(), missing, strict=True)]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} or kinds <= {str} or kinds <= {int} or kinds <= {int, float}:
        return pl.Series(name, values, strict=False)
    if len(kinds) == 1 and next(iter(kinds)).__module__ in {"datetime", "decimal"}:
        return pl.Series(name, values)
    return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.to_pydatetime() if type(value).__name__ == "Timestamp" else value


def _home(source: Any) -> str:
    return type(source).__module__.partition(".")[0]
