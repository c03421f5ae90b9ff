"""What `load` gives: three splits of ready tensors, and all that is needed to explain, repeat and reuse them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from fallline.data.pipeline import Pipeline

Task = Literal["regression", "binary", "multiclass"]
Label = float | str | int | bool


@dataclass(frozen=True)
class Split:
    """Rows that are used for one purpose.

    `x` is float32 of shape (rows, features) or (rows, channels, height, width); `y` is of shape (rows,): float32 in the target's own
    units for regression, int64 class indices otherwise.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Tensor]:
        """`x, y = data.train`."""
        return iter((self.x, self.y))


@dataclass
class Data:
    """Training, validation and test rows of one task.

    `classes[i]` is the name of label i, `raw_labels[i]` the value that stood for it in the source; both are empty for regression.
    `pipeline` is the preprocessing, fitted on the training rows only; it is None for data that came as ready tensors. `notes` hold
    every decision that was taken, in sentences. `source` are the arguments for `fallline.data.load` that give the same data again
    (empty where the data lives in memory only).

    >>> from fallline.data import load
    >>> data = load("iris")
    >>> data.task, data.classes, len(data.train), len(data.validation), len(data.test)
    ('multiclass', ('setosa', 'versicolor', 'virginica'), 106, 22, 22)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    task: Task
    classes: tuple[str, ...]
    raw_labels: tuple[Label, ...]
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...]
    target: str
    pipeline: Pipeline | None = None
    notes: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the tensors of all splits: equal exactly when every number is."""
        return fingerprint(self.train, self.validation, self.test)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        goal = f"{self.task}, {len(self.classes)} classes" if self.classes else self.task
        rows = f"{len(self.train)} / {len(self.validation)} / {len(self.test)} rows"
        return f"Data({self.name!r}: {rows} to train / validate / test, input {shape}, {goal}, target {self.target!r})"


def fingerprint(*splits: Split) -> str:
    """SHA-256 (hex) over the shapes, types and values of the splits' tensors."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.x, split.y):
            whole = tensor.detach().cpu().contiguous()
            digest.update(f"{whole.dtype}{tuple(whole.shape)}".encode())
            digest.update(whole.numpy().data if whole.numel() else b"")
    return digest.hexdigest()
