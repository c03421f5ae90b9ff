"""What a model says of rows: labels with probabilities, or values with an interval; as a table or a file."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fallline._core.errors import must
from fallline._core.files import told, write_text

WRITES = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Predictions:
    """Predictions for N rows.

    Args:
        label: classes (N,) for a classifier, whole numbers where the target held them and else names; the values (N,) for a regression.
        probability: (N, C) with rows that sum to 1, or None where the loss gives no probabilities.
        value: (N,) numbers in the target's units (regression) or scores of the second class; None for several classes.
        interval: (N, 2) for a regression: value plus the 5 % and 95 % quantile of the validation residuals; else None.
        classes: class names in the order of the columns of `probability`.
        target: name of what is predicted.
    """

    label: NDArray[Any]
    probability: NDArray[np.float64] | None = None
    value: NDArray[np.float64] | None = None
    interval: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    target: str = "target"
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)

    def columns(self) -> dict[str, list[Any]]:
        """Column name to values: the prediction first, then what is known of its certainty."""
        table: dict[str, list[Any]] = {self.target: self.label.tolist()}
        if self.probability is not None:
            for index, name in enumerate(self.classes):
                table[f"probability_{name}"] = self.probability[:, index].tolist()
        elif self.classes and self.value is not None:
            table["score"] = self.value.tolist()
        if self.interval is not None:
            table["low"], table["high"] = self.interval[:, 0].tolist(), self.interval[:, 1].tolist()
        return table

    def to_frame(self) -> Any:
        """A polars DataFrame with one row a prediction."""
        import polars as pl

        return pl.DataFrame(self.columns())

    def write(self, path: Path | str) -> Path:
        """Write a csv, parquet or json file, whole or not at all.

        Raises:
            FalllineError: another ending, or a place that cannot be written.
        """
        target = Path(path)
        must(target.suffix.lower() in WRITES, f"the file ends in one of {', '.join(WRITES)}", repr(target.name), "predictions.csv is usual")
        table = self.columns()
        if target.suffix.lower() == ".parquet":
            with told("write", target):
                self.to_frame().write_parquet(target)
            return target
        if target.suffix.lower() == ".json":
            rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            write_text(target, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
            return target
        import io

        text = io.StringIO()
        sheet = csv.writer(text, lineterminator="\n")
        sheet.writerow(table)
        sheet.writerows(zip(*table.values(), strict=True))
        write_text(target, text.getvalue())
        return target
