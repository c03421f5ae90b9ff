"""From the columns of a table to the numbers of a model: each column by its kind, learnt from the training rows."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fallline._core.errors import FalllineError, nearest
from fallline.data.columns.choose import KINDS, Column, choose

_STAIRS = 32
"""Tables with more columns of numbers than this have no staircases: they would have too many features."""


@dataclass(frozen=True)
class Table:
    """Prepared columns, and those left out with the reason."""

    columns: list[Column]
    left_out: dict[str, str]
    plain: bool

    @classmethod
    def fit(cls, frame: pl.DataFrame, *, scale: str, plain: bool = False, words: Collection[str] = ()) -> Self:
        """Choose and fit each column; those named in `words` are text, even where all training rows could be numbers or dates.

        Raises:
            FalllineError: no column is left to learn from, or a value is infinite.
        """
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        steps = sum(dtype.is_numeric() for dtype in frame.dtypes) <= _STAIRS
        for series in frame:
            found = choose(series, scale=scale, plain=plain, steps=steps, words=series.name in words)
            if isinstance(found, str):
                left_out[series.name] = found
            else:
                columns.append(found)
        if not any(column.features for column in columns):
            why = (
                "; ".join(f"`{name}`: {reason}" for name, reason in list(left_out.items())[:6]) or "the table has no column but the target"
            )
            raise FalllineError(f"no column is left to learn from ({why}).")
        return cls(columns, left_out, plain)

    @property
    def features(self) -> list[str]:
        """Names of the model's inputs."""
        return [name for column in self.columns for name in column.features]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (len(self.features),)

    def transform(self, frame: pl.DataFrame) -> Tensor:
        """float32 of shape (rows, features)."""
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        if missing:
            close = sorted(
                {c for name in missing for c in nearest(name, [k for k in frame.columns if k not in {m.name for m in self.columns}])}
            )
            hint = f"; did you mean its column{'s' if len(close) > 1 else ''} {', '.join(map(repr, close))}?" if close else ""
            named = ", ".join(repr(name) for name in missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise FalllineError(f"the data lacks {named}, which the model was trained on{hint or ''}{'' if hint else '.'}")
        out = np.empty((frame.height, len(self.features)), np.float32)
        at = 0
        for column in self.columns:
            width = len(column.features)
            out[:, at : at + width] = column.encode(frame[column.name])
            at += width
        return torch.from_numpy(out)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `from_json`."""
        columns = [{"kind": column.kind, **dataclasses.asdict(column)} for column in self.columns]
        return {"kind": "table", "plain": self.plain, "columns": columns, "left_out": self.left_out}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        columns = [KINDS[column["kind"]](**{k: v for k, v in column.items() if k != "kind"}) for column in content["columns"]]
        return cls(columns, dict(content["left_out"]), bool(content["plain"]))
