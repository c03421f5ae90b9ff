"""What every source gives to `load`: rows as they stand in the source, before any decision is taken about them."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

Kind = Literal["table", "pictures", "tensors"]


@dataclass
class Raw:
    """Rows of one source.

    `kind` says what `x` is: a polars table of feature columns, an array of pictures (rows, channels, height, width), or an array of
    numbers that are ready for a model and are left alone. `y` are the labels as they stood, one a row, or None where there are none.
    """

    name: str
    kind: Kind
    x: Any
    y: "pl.Series | np.ndarray | None" = None
    target: str = "y"
    class_names: dict[Any, str] = field(default_factory=dict)
    """What to call a label, where the source knows better names than the labels themselves."""
    task: str | None = None
    """What the source is known to be for."""
    assigned: dict[str, np.ndarray] = field(default_factory=dict)
    """Rows of the splits that the source itself defines."""
    notes: list[str] = field(default_factory=list)
    recipe: str | None = None
    """What to hand to `load` to read this again; None for data in memory."""
    plain: bool = False
    """The columns come from an array: they have no names of their own, and every one is kept."""
    usual: bool = False
    """The target is that of a named set: its task is known, not guessed."""
    table: pl.DataFrame | None = None
    """What stands beside the rows when predictions are written: the whole table, or the file names."""

    def __len__(self) -> int:
        return self.x.height if self.kind == "table" else len(self.x)
