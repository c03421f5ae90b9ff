"""What the data is, in plain numbers: for the record and the report."""

from typing import Any

import numpy as np
import polars as pl
import torch

from fallline.data.dataset import Split
from fallline.data.pipeline import Pipeline
from fallline.data.tables import Table

_MOST_COLUMNS, _TOP = 200, 5


def summarise(
    splits: dict[str, Split],
    *,
    task: str,
    target: str,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    pipeline: Pipeline | None,
    rows: Any,
) -> dict[str, Any]:
    """JSON-able description; `rows` are the training rows as they stood in the source."""
    found: dict[str, Any] = {
        "task": task,
        "target": target,
        "rows": {name: len(split) for name, split in splits.items()},
        "input_shape": list(shape),
        "features": int(np.prod(shape)),
    }
    if classes:
        found["class_counts"] = {
            name: dict(zip(classes, torch.bincount(split.y, minlength=len(classes)).tolist(), strict=True))
            for name, split in splits.items()
        }
    else:
        y = splits["train"].y.double()
        marks = torch.quantile(y[: 2**23], torch.tensor([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], dtype=torch.float64)).tolist()
        found["target_quantiles"] = dict(zip(("min", "5 %", "25 %", "50 %", "75 %", "95 %", "max"), marks, strict=True))
    if pipeline is not None and isinstance(pipeline.prepare, Table):
        found["columns"] = [_column(rows[name], pipeline.prepare) for name in rows.columns[:_MOST_COLUMNS]]
        missing = {name: int(count) for name in rows.columns if (count := _missing(rows[name]))}
        found["missing"] = missing
        if rows.width > _MOST_COLUMNS:
            found["columns_not_listed"] = rows.width - _MOST_COLUMNS
    elif pipeline is not None:
        found["pictures"] = {"channels": shape[0], "height": shape[1], "width": shape[2], "center": pipeline.prepare.to_json()["center"]}
    return found


def _missing(series: pl.Series) -> int:
    return series.null_count() + (int(series.is_nan().sum()) if series.dtype.is_float() else 0)


def _column(series: pl.Series, table: Table) -> dict[str, Any]:
    said = next((column.say() for column in table.columns if column.name == series.name), None)
    kind = said if said is not None else f"left out: {table.left_out.get(series.name, 'not used')}"
    there = (series.drop_nans() if series.dtype.is_float() else series).drop_nulls()
    values = ""
    if len(there) and there.dtype.is_numeric():
        values = f"{_show(there.min())} to {_show(there.max())}, median {_show(there.median())}"
    elif len(there) and there.dtype.is_temporal():
        values = f"{there.min()} to {there.max()}"
    elif len(there):
        counts = there.cast(pl.String).alias("value").value_counts().sort(["count", "value"], descending=[True, False]).head(_TOP)
        values = ", ".join(f"{str(v)[:30]} ({n})" for v, n in counts.iter_rows())
    return {
        "name": series.name,
        "kind": kind,
        "missing": _missing(series),
        "distinct": there.n_unique() if len(there) else 0,
        "values": values,
    }


def _show(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
