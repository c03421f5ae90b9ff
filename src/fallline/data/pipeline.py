"""The preprocessing that belongs to a model: fitted on the training rows only, saved as JSON, applied alike to every later row."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import polars as pl
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline.data.pictures import Pictures
from fallline.data.tables import Table

FORMAT, VERSION = "fallline-pipeline", 1


@dataclass(frozen=True)
class Pipeline:
    """From rows as they stand in a source to what a model takes, and what the labels mean.

    >>> frame = pl.DataFrame({"age": [20.0, None, 40.0], "city": ["Oslo", "Rome", "Oslo"]})
    >>> pipeline = Pipeline.fit(frame)
    >>> pipeline.feature_names
    ('age', 'age is missing', 'city=Oslo', 'city=Rome')
    >>> again = Pipeline.from_json(pipeline.to_json())
    >>> again.transform(frame).equal(pipeline.transform(frame))
    True
    """

    prepare: Table | Pictures
    target: str = ""
    task: str = ""
    classes: tuple[str, ...] = ()
    raw_labels: tuple[Any, ...] = field(default=())

    @classmethod
    def fit(cls, rows: "pl.DataFrame | np.ndarray", *, scale: str = "zscore", plain: bool = False, words: Collection[str] = ()) -> Self:
        """Learn from training rows: a table, or pictures (N, C, H, W).

        Args:
            rows: training rows without the target.
            scale: "zscore" (mean 0, deviation 1), "minmax" (0 to 1) or "none", for numbers and pictures.
            plain: the table comes from an array; every column is kept.
            words: columns that are text, even where all training rows could be numbers or dates.

        Raises:
            FalllineError: nothing is left to learn from, or a value is infinite.
        """
        if isinstance(rows, pl.DataFrame):
            return cls(Table.fit(rows, scale=scale, plain=plain, words=words))
        return cls(Pictures.fit(rows, scale=scale))

    def transform(self, rows: "pl.DataFrame | np.ndarray") -> Tensor:
        """float32 of shape (rows, features), or (rows, channels, height, width).

        Raises:
            FalllineError: a column is missing or holds another kind of thing than in the training rows.
        """
        if isinstance(self.prepare, Table):
            if not isinstance(rows, pl.DataFrame):
                raise FalllineError("the model was trained on a table, but these are pictures.")
            return self.prepare.transform(rows)
        if isinstance(rows, pl.DataFrame):
            raise FalllineError("the model was trained on pictures, but this is a table.")
        return self.prepare.transform(rows)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's inputs; empty for pictures."""
        return tuple(self.prepare.features)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row as the model takes it."""
        return self.prepare.shape

    def to_json(self) -> dict[str, Any]:
        """Plain data: dictionaries, lists, text and numbers."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "target": self.target,
            "task": self.task,
            "classes": list(self.classes),
            "raw_labels": list(self.raw_labels),
            "prepare": self.prepare.to_json(),
        }
        return json.loads(json.dumps(content))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What `to_json` wrote.

        Raises:
            FalllineError: it is not a pipeline of this version.
        """
        try:
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise FalllineError(
                    f"this preprocessing is {content['format']!r} version {content['version']!r}, not {FORMAT!r} version {VERSION}."
                )
            kinds: dict[str, Any] = {"table": Table, "pictures": Pictures}
            prepare = kinds[content["prepare"]["kind"]].from_json(content["prepare"])
            return cls(prepare, content["target"], content["task"], _tuple(content["classes"]), _tuple(content["raw_labels"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FalllineError):
                raise
            raise FalllineError(f"the preprocessing is damaged: {type(error).__name__} {error}.") from error


def _tuple(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(values)
