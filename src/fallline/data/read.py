"""New rows through a saved pipeline, for prediction: the target is not needed, more columns do no harm, missing ones are named."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline.data.columns.category import Category
from fallline.data.columns.choose import Column
from fallline.data.columns.date import Date
from fallline.data.columns.text import Text
from fallline.data.pictures import Pictures
from fallline.data.pipeline import Pipeline
from fallline.data.raw import Raw
from fallline.data.sources.find import NAMED, read_source
from fallline.data.sources.folder import ENDINGS, read_folder, read_pictures
from fallline.data.tables import Table
from fallline.data.task import as_series, encode, gaps


def read(
    source: Any, pipeline: Pipeline, *, folder: "str | os.PathLike[str] | None" = None
) -> tuple[Tensor, Tensor | None, pl.DataFrame | None]:
    """The rows of a source as a model wants them.

    Args:
        source: what `fallline.data.load` takes, or X alone, or the path of one picture.
        pipeline: the preprocessing that belongs to the model.
        folder: where the files of named sets are.

    Returns:
        x, float32 of shape (rows, features) or (rows, channels, height, width); y of shape (rows,) where every row has the target, else
        None; the table as it stood, identifiers and target included, where there is one (file names for pictures), else None.

    Raises:
        FalllineError: the source cannot be read, lacks a column, or holds another kind of thing than the training rows.

    >>> from fallline.data import load
    >>> data = load("iris")
    >>> x, y, table = read("iris", data.pipeline)
    >>> x.shape, y.shape, table.columns[-1]
    (torch.Size([150, 4]), torch.Size([150]), 'species')
    """
    raw = _read(source, pipeline, folder)
    if isinstance(pipeline.prepare, Table) and raw.kind == "pictures":
        raise FalllineError(f"the model was trained on a table, but {raw.name} holds pictures.")
    x: Any = raw.x
    if isinstance(pipeline.prepare, Pictures) and raw.kind == "table":
        x = _unflatten(raw, pipeline.prepare)
    elif isinstance(pipeline.prepare, Table):
        x = _by_position(raw, pipeline.prepare)
    y = None
    if raw.y is not None and len(raw.y) and pipeline.task and not gaps(as_series(raw.y, raw.target)).any():
        y = encode(raw.y, raw.target, pipeline.task, pipeline.raw_labels)
    table = raw.table
    if table is None and raw.kind == "table" and not raw.plain:
        table = raw.x if raw.y is None else raw.x.with_columns(pl.Series(raw.target, raw.y))
    return pipeline.transform(x), y, table


def _read(source: Any, pipeline: Pipeline, folder: "str | os.PathLike[str] | None") -> Raw:
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is not None and isinstance(pipeline.prepare, Pictures) and str(source) not in NAMED:
        if path.is_dir():
            raw = read_folder(path, pipeline.prepare.size)
            known = raw.y is not None and set(raw.y) <= set(pipeline.raw_labels)
            raw.y = raw.y if known else None
            return raw
        if path.is_file() and path.suffix.lower() in ENDINGS:
            return Raw(path.name, "pictures", read_pictures([path], pipeline.prepare.size, []), table=pl.DataFrame({"file": [path.name]}))
    words = [c.name for c in pipeline.prepare.columns if _from_text(c)] if isinstance(pipeline.prepare, Table) else []
    return read_source(source, pipeline.target or None, folder, labelled=False, words=words)


def _from_text(column: Column) -> bool:
    """Whether the column was text in training: codes such as 01 and dates with the month first must not be guessed anew."""
    return isinstance(column, Category | Text) or (isinstance(column, Date) and bool(column.format))


def _by_position(raw: Raw, prepare: Table) -> pl.DataFrame:
    """Columns of an array have the names that the pipeline gave them, by position."""
    frame: pl.DataFrame = raw.x if raw.kind == "table" else pl.DataFrame(raw.x, schema=[f"x{i}" for i in range(raw.x.shape[1])])
    wanted = [*[c.name for c in prepare.columns], *prepare.left_out]
    if prepare.plain and not set(wanted) <= set(frame.columns):
        if frame.width != len(wanted):
            raise FalllineError(f"the model was trained on {len(wanted)} features, but the data has {frame.width}.")
        return frame.rename(dict(zip(frame.columns, sorted(wanted, key=lambda name: int(name[1:])), strict=True)))
    if raw.plain and prepare.plain and frame.width != len(wanted):
        raise FalllineError(f"the model was trained on {len(wanted)} features, but the data has {frame.width}.")
    if raw.plain and not prepare.plain:
        raise FalllineError(
            f"the model was trained on named columns ({', '.join(wanted[:6])}{', ...' if len(wanted) > 6 else ''}); "
            "give a DataFrame or a file that has them."
        )
    return frame


def _unflatten(raw: Raw, prepare: Pictures) -> np.ndarray:
    frame: pl.DataFrame = raw.x
    if not raw.plain or frame.width != int(np.prod(prepare.size)):
        size = " x ".join(map(str, prepare.size))
        raise FalllineError(f"the model was trained on pictures of {size}, but {raw.name} is a table of {frame.width} columns.")
    return frame.to_numpy().astype(np.float32).reshape(-1, *prepare.size)
