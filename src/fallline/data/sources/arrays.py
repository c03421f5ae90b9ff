"""(X, y) as numpy arrays, torch tensors, lists or DataFrames: a table without column names, or pictures."""

from typing import Any

import numpy as np
import polars as pl
import torch

from fallline._core.errors import FalllineError
from fallline.data.raw import Raw
from fallline.data.sources.frames import is_frame, is_series, series_of, to_polars


def read_pair(x: Any, y: Any, name: str = "arrays") -> Raw:
    """Rows X (N, features) or pictures (N, H, W), (N, C, H, W) or (N, H, W, C), and labels y (N,).

    Raises:
        FalllineError: other shapes, X and y of differing lengths, or no numbers.
    """
    notes: list[str] = []
    if is_frame(x):
        raw = Raw(name, "table", to_polars(x))
    else:
        array = to_numpy(x, "X")
        if array.ndim in (3, 4) and array.dtype.kind in "iufb":
            raw = Raw(name, "pictures", as_pictures(array, notes))
        elif array.ndim == 2:
            raw = Raw(name, "table", as_table(array), plain=True)
        else:
            raise FalllineError(f"X must have 2 axes (rows, features), or 3 or 4 for pictures, but got shape {array.shape}.")
    raw.notes = notes
    raw.y = None if y is None else labels_of(y)
    if raw.y is not None and len(raw.y) != len(raw):
        raise FalllineError(f"X and y must have the same number of rows, but X has {len(raw)} and y has {len(raw.y)}.")
    if isinstance(raw.y, pl.Series) and raw.y.name and raw.y.name not in (raw.x.columns if raw.kind == "table" else ()):
        raw.target = raw.y.name
    return raw


def labels_of(y: Any) -> "pl.Series | np.ndarray":
    """Labels as a series or an array."""
    if is_frame(y):
        frame = to_polars(y)
        if frame.width != 1:
            raise FalllineError(f"y must be one column, but it has {frame.width}: {', '.join(frame.columns[:5])}.")
        return frame.to_series()
    if is_series(y):
        return series_of(y, str(y.name if y.name is not None else "y"))
    return to_numpy(y, "y")


def to_numpy(values: Any, what: str) -> np.ndarray:
    """Lists, tensors and arrays as an array of numbers, booleans, text or objects."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    if hasattr(values, "toarray") and hasattr(values, "tocsr"):
        raise FalllineError(f"{what} is a sparse matrix; use {what}.toarray() if it fits in memory.")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise FalllineError(f"{what} must have rows of one length, but they differ ({error}).") from error
    if array.dtype.kind == "c":
        raise FalllineError(f"{what} holds complex numbers; give real and imaginary part as columns of their own.")
    return array.astype(np.float32) if array.dtype == np.float16 else array


def as_table(array: np.ndarray) -> pl.DataFrame:
    """Columns x0, x1, ... of a two-dimensional array."""
    if array.shape[1] == 0:
        raise FalllineError(f"X must have at least one feature, but it has shape {array.shape} (0 feature(s)).")
    names = [f"x{i}" for i in range(array.shape[1])]
    if array.dtype.kind in "OUS":
        columns = [_column(name, array[:, i]) for i, name in enumerate(names)]
        return pl.DataFrame(columns)
    if array.dtype.kind not in "iufb":
        raise FalllineError(f"X must hold numbers, booleans or text, but it holds {array.dtype}.")
    return pl.DataFrame([pl.Series(name, np.ascontiguousarray(array[:, i])) for i, name in enumerate(names)])


def _column(name: str, values: np.ndarray) -> pl.Series:
    plain = [v.item() if isinstance(v, np.generic) else v for v in values.tolist()]
    plain = [None if v is None or (isinstance(v, float) and np.isnan(v)) else v for v in plain]
    if all(v is None or isinstance(v, bool | int | float) for v in plain):
        return pl.Series(name, plain, dtype=pl.Float64, strict=False)
    return pl.Series(
        name, [None if v is None else str(v, "utf-8", "replace") if isinstance(v, bytes) else str(v) for v in plain], dtype=pl.String
    )


def as_pictures(array: np.ndarray, notes: list[str]) -> np.ndarray:
    """(N, C, H, W) of finite numbers; channels last and a missing channel axis are put right, with a note.

    Raises:
        FalllineError: a value is NaN or infinite.
    """
    if array.ndim == 3:
        array = array[:, None]
        notes.append(f"pictures of shape {array.shape[2]} x {array.shape[3]} were given one channel")
    elif array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
        notes.append("the last axis of the pictures was taken for the channels")
    if array.dtype.kind == "f":
        refuse_gaps(array, "X", "pictures")
    elif array.dtype != np.uint8:
        array = array.astype(np.float32)
    return array


def refuse_gaps(array: np.ndarray, what: str, kind: str) -> None:
    """Refuse NaN and infinity, by row."""
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        raise FalllineError(
            f"{what} holds NaN or infinity in {int(bad.sum())} of {len(array)} {kind}, the first in row {int(bad.argmax())}; "
            "repair or remove them."
        )
