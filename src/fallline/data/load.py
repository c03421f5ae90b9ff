"""Data of any kind, made ready to train on: read, judged, split, prepared. Every decision is said in a note."""

import dataclasses
import os
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fallline._core.errors import FalllineError, lookup
from fallline.data.columns.choose import holds_words
from fallline.data.dataset import Data, Split
from fallline.data.pipeline import Pipeline
from fallline.data.raw import Raw
from fallline.data.sources.find import read_source
from fallline.data.split import split_rows
from fallline.data.summary import summarise
from fallline.data.tables import Table
from fallline.data.task import Goal, find_goal

SCALES = {"zscore": "mean 0, deviation 1", "minmax": "0 to 1", "none": "as they are"}


def load(
    source: Any,
    target: str | None = None,
    *,
    seed: int = 0,
    task: str | None = None,
    scale: Literal["zscore", "minmax", "none"] = "zscore",
    validation: float = 0.15,
    test: float = 0.15,
    folder: "str | os.PathLike[str] | None" = None,
) -> Data:
    """Read a source, find the task, split the rows, and fit the preprocessing on the training rows only.

    Args:
        source: a named set (digits, breast_cancer, diabetes, iris, wine, fashion_mnist, california_housing, titanic); the path of a CSV,
            Parquet or npz file, or of a folder of pictures with one sub-folder a class; a pandas or polars DataFrame; a pair (X, y) of
            arrays, tensors or lists, X of shape (rows, features) or pictures (rows, channels, height, width); a DataLoader; a dictionary
            of splits of these; or `Data`, which is given back as it is.
        target: the column to predict, for tables.
        seed: which rows go where.
        task: "regression", "binary" or "multiclass"; found from the target where it is not given.
        scale: of numbers and pictures: "zscore", "minmax" or "none".
        validation: share of the rows that judge during training.
        test: share of the rows that are used once, at the end; a set's own test rows are kept instead.
        folder: where the files of named sets are; else the environment variable FALLLINE_DATA tells.

    Returns:
        Data: x float32 of shape (rows, features) or (rows, channels, height, width); y float32 in its own units, or int64 class indices.

    Raises:
        FalllineError: the source cannot be read or learnt from; the sentence says why and what to do.

    >>> data = load("diabetes")
    >>> data.task, data.train.x.shape
    ('regression', torch.Size([310, 10]))
    """
    if isinstance(source, Data):
        return source
    lookup("scale", scale, SCALES)
    raw = read_source(source, target, folder)
    if len(raw) < 2:
        raise FalllineError(f"{raw.name} has {len(raw)} row(s); at least 2 are needed to learn anything (n_samples = {len(raw)}).")
    if raw.y is None:
        raise FalllineError(f"{raw.name} has no labels; give (X, y).")
    if raw.kind == "table":
        _refuse_infinite(raw.x)
    goal = find_goal(raw.y, raw.target, task=task or raw.task, names=raw.class_names, said=task is not None, known=raw.usual)
    labels = goal.y.numpy() if goal.classes else None
    parts = split_rows(len(raw), labels, seed=seed, validation=validation, test=test, assigned=raw.assigned)
    notes = [goal.note, *raw.notes, *_rare(goal, parts)]
    if raw.kind == "tensors":
        pipeline, taken, splits = None, None, _tensor_splits(raw, goal, parts)
    else:
        taken = _rows(raw, parts["train"])
        words = {series.name for series in raw.x if holds_words(series)} if raw.kind == "table" else ()
        fitted = Pipeline.fit(taken, scale=scale, plain=raw.plain, words=words)
        pipeline = dataclasses.replace(fitted, target=raw.target, task=goal.task, classes=goal.classes, raw_labels=goal.raw_labels)
        splits = {
            name: Split(pipeline.transform(taken if name == "train" else _rows(raw, rows)), goal.y[torch.from_numpy(rows)])
            for name, rows in parts.items()
        }
        notes += _prepared(pipeline, scale)
    shape = tuple(splits["train"].x.shape[1:])
    recipe = raw.recipe
    given = {"target": raw.target, "seed": seed, "task": goal.task, "scale": scale, "validation": validation, "test": test}
    said = f"rows: {len(splits['train'])} to train, {len(splits['validation'])} to validate, {len(splits['test'])} to test (seed {seed})"
    names = pipeline.feature_names if pipeline is not None else tuple(f"x{i}" for i in range(shape[0])) if len(shape) == 1 else ()
    return Data(
        name=raw.name,
        **splits,
        task=goal.task,  # pyright: ignore[reportArgumentType]
        classes=goal.classes,
        raw_labels=goal.raw_labels,
        input_shape=shape,
        feature_names=names,
        target=raw.target,
        pipeline=pipeline,
        notes=[*notes[:1], said, *notes[1:]],
        summary=summarise(splits, task=goal.task, target=raw.target, classes=goal.classes, shape=shape, pipeline=pipeline, rows=taken),
        source={} if recipe is None else {"source": recipe, **given, "folder": None if folder is None else str(folder)},
    )


def _rows(raw: Raw, rows: np.ndarray) -> "pl.DataFrame | np.ndarray":
    if raw.kind == "table":
        frame: pl.DataFrame = raw.x
        return frame[rows]
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return raw.x[rows[0] : rows[-1] + 1]
    return raw.x[rows]


def _refuse_infinite(frame: pl.DataFrame) -> None:
    """Refuse infinity in a column of numbers, by column and by row of the source."""
    for series in frame:
        if series.dtype.is_float() and (infinite := series.is_infinite().fill_null(False)).any():
            row = int(infinite.arg_true()[0])
            raise FalllineError(
                f"column '{series.name}' holds {int(infinite.sum())} infinite value(s), the first ({series[row]}) in row {row} "
                "(counted from 0); replace it by a number, or leave it empty if it is missing."
            )


def _tensor_splits(raw: Raw, goal: Goal, parts: dict[str, np.ndarray]) -> dict[str, Split]:
    x: Tensor = torch.from_numpy(raw.x)
    return {name: Split(x[torch.from_numpy(rows)], goal.y[torch.from_numpy(rows)]) for name, rows in parts.items()}


def _rare(goal: Goal, parts: dict[str, np.ndarray]) -> list[str]:
    if not goal.classes:
        return []
    notes = []
    counts = torch.bincount(goal.y, minlength=len(goal.classes))
    alone = [goal.classes[i] for i in (counts < 2).nonzero().flatten().tolist()]
    if alone:
        notes.append(f"classes with a single row, which can only be trained on or tested on, not both: {', '.join(alone[:10])}")
    trained = torch.bincount(goal.y[torch.from_numpy(parts["train"])], minlength=len(goal.classes))
    unseen = [goal.classes[i] for i in (trained == 0).nonzero().flatten().tolist()]
    if unseen:
        notes.append(f"classes without a training row, which cannot be learnt: {', '.join(unseen[:10])}")
    return notes


MOST_COLUMNS = 5  # that have a note of their own


def _prepared(pipeline: Pipeline, scale: str) -> list[str]:
    if not isinstance(pipeline.prepare, Table):
        return [f"pictures are scaled channel by channel: {SCALES[scale]} over the training pictures"]
    notes = [f"left out `{name}`: {why}" for name, why in pipeline.prepare.left_out.items()]
    prepared = [f"`{column.name}` is prepared as {said}" for column in pipeline.prepare.columns if (said := column.say()) != "number"]
    notes += prepared if len(prepared) <= MOST_COLUMNS + 1 else prepared[:MOST_COLUMNS]
    if len(prepared) > MOST_COLUMNS + 1:
        notes.append(f"and {len(prepared) - MOST_COLUMNS} more columns that are not plain numbers (see the report)")
    notes.append(
        f"numbers are scaled to {SCALES[scale]} over the training rows" if scale != "none" else "numbers are left unscaled, as you said"
    )
    return notes
