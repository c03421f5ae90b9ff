"""Which reader a source wants: a name, a path, a DataFrame, a pair, a DataLoader, or splits of these."""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError, nearest
from fallline.data.raw import Raw
from fallline.data.sources.arrays import read_pair
from fallline.data.sources.bundled import NAMES, read_bundled
from fallline.data.sources.california_housing import read_california_housing
from fallline.data.sources.csv_ import read_csv
from fallline.data.sources.fashion_mnist import read_fashion_mnist
from fallline.data.sources.folder import read_folder
from fallline.data.sources.frames import is_frame, to_polars
from fallline.data.sources.loader import is_loader, read_loader
from fallline.data.sources.npz import read_npz
from fallline.data.sources.parquet import read_parquet
from fallline.data.sources.titanic import read_titanic

FROM_FOLDER = {"fashion_mnist": read_fashion_mnist, "california_housing": read_california_housing, "titanic": read_titanic}
NAMED = (*NAMES, *FROM_FOLDER)
_PARTS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def read_source(
    source: Any, target: str | None, folder: "str | os.PathLike[str] | None", *, labelled: bool = True, words: Collection[str] = ()
) -> Raw:
    """The rows of any source that `fallline.data.load` takes.

    Args:
        source: see `fallline.data.load`.
        target: column that holds the labels, for tables.
        folder: where the files of named sets are.
        labelled: labels are needed; without it, they are read where they are.
        words: columns of a CSV file that stay text as it is written.

    Raises:
        FalllineError: the source cannot be read, or it lacks labels.
    """
    if isinstance(source, str | os.PathLike):
        if str(source) not in NAMED:
            return _take_target(_read_path(Path(source), words), target, labelled)
        named = _named(str(source), folder)
        return dataclasses.replace(_take_target(named, target, labelled), usual=target in (None, named.target))
    if is_frame(source):
        return _take_target(Raw("DataFrame", "table", to_polars(source)), target, labelled)
    if is_loader(source):
        return read_loader(source)
    if isinstance(source, dict):
        return _read_parts(source, target, labelled)
    if isinstance(source, tuple) and len(source) == 2:
        return read_pair(*source)
    if not labelled:
        return read_pair(source, None)
    raise FalllineError(
        f"data must be the name of a set, a path, a DataFrame, a pair (X, y), a DataLoader or a dictionary of splits, "
        f"but got {type(source).__name__}; "
        f"named sets: {', '.join(NAMED)}."
    )


def _named(name: str, folder: "str | os.PathLike[str] | None") -> Raw:
    return FROM_FOLDER[name](folder) if name in FROM_FOLDER else read_bundled(name)


def _read_path(path: Path, words: Collection[str]) -> Raw:
    path = path.expanduser()
    if not path.exists():
        close = nearest(str(path), NAMED) if path.suffix == "" and len(path.parts) == 1 else _beside(path)
        hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
        more = f" Named sets: {', '.join(NAMED)}." if path.suffix == "" else ""
        raise FalllineError(f"there is no file, folder or named set '{path}'{hint}{more}")
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise FalllineError(f"'{path}' is neither a file nor a folder.")
    if path.stat().st_size == 0:
        raise FalllineError(f"'{path}' is empty.")
    ending, recipe = path.suffix.lower(), str(path.resolve())
    if ending in {".csv", ".tsv", ".txt", ".tab", ".data"}:
        table, notes = read_csv(path, words=words)
        return Raw(path.stem, "table", table, notes=notes, recipe=recipe)
    if ending in {".parquet", ".pq"}:
        return Raw(path.stem, "table", read_parquet(path), recipe=recipe)
    if ending == ".npz":
        parts = read_npz(path)
        raw = read_pair(*parts["all"], name=path.stem) if "all" in parts else _read_parts(parts, None, labelled=True)
        raw.name, raw.recipe = path.stem, recipe
        return raw
    raise FalllineError(f"fallline reads .csv, .tsv, .parquet and .npz files, and folders of pictures, but got '{path}'.")


def _beside(path: Path) -> list[str]:
    try:
        return [str(path.with_name(name)) for name in nearest(path.name, [p.name for p in path.parent.iterdir()], most=1, alike=0.75)]
    except OSError:
        return []


def _take_target(raw: Raw, target: str | None, labelled: bool) -> Raw:
    """The target column taken out of a table."""
    if raw.kind != "table" or raw.y is not None:
        if target is not None and target != raw.target and labelled:
            columns = f", and its columns are {', '.join(raw.x.columns[:12])}" if raw.kind == "table" else ""
            if raw.kind == "table" and target in raw.x.columns:
                return _swap(raw, target)
            raise FalllineError(f"{raw.name} has no column '{target}': its target is '{raw.target}'{columns}.")
        if raw.y is None and labelled:
            raise FalllineError(f"'{raw.name}' has no labels: put the pictures of each class in a sub-folder with its name, or give y.")
        return raw
    frame: pl.DataFrame = raw.x
    name = target or (raw.target if raw.target in frame.columns and raw.recipe in FROM_FOLDER else None)
    if labelled and frame.height < 2:
        raise FalllineError(f"{raw.name} has {frame.height} row(s); at least 2 are needed to learn anything.")
    if name is None:
        if not labelled:
            raw.table = frame
            return raw
        raise FalllineError(
            f"which column of {raw.name} is to be predicted? Give target= (--target); the columns are {', '.join(frame.columns[:30])}."
        )
    if name not in frame.columns:
        if not labelled:
            raw.table = frame
            return raw
        close = nearest(name, frame.columns) or [c for c in frame.columns if c.lower() == name.lower()]
        by_lower = {c.lower(): c for c in frame.columns}
        close = [by_lower[c] for c in nearest(name, by_lower)] or close
        hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
        raise FalllineError(f"{raw.name} has no column '{name}'; {hint}The columns are {', '.join(frame.columns[:30])}.")
    usual = name == raw.target
    names, task = (raw.class_names, raw.task) if usual else ({}, None)
    return dataclasses.replace(raw, x=frame.drop(name), y=frame[name], target=name, class_names=names, task=task, table=frame)


def _swap(raw: Raw, target: str) -> Raw:
    """Another column of a named set as the target; its usual target becomes a feature."""
    labels = pl.Series(raw.target, raw.y)
    frame = raw.x.with_columns(labels)
    return Raw(raw.name, "table", frame.drop(target), frame[target], target, notes=raw.notes, recipe=raw.recipe)


def _read_parts(source: dict[str, Any], target: str | None, labelled: bool) -> Raw:
    """Splits that the user made."""
    unknown = [key for key in source if str(key).lower() not in _PARTS]
    if unknown or not any(_PARTS[str(key).lower()] == "train" for key in source):
        raise FalllineError(f"a dictionary of splits must have 'train', and may have 'validation' and 'test', but got {list(source)}.")
    raws = {
        _PARTS[str(key).lower()]: read_source(value, target, None, labelled=labelled) for key, value in source.items() if value is not None
    }
    first = raws["train"]
    for name, raw in raws.items():
        if raw.kind != first.kind or (raw.kind == "table" and set(raw.x.columns) != set(first.x.columns)):
            differ = sorted(set(raw.x.columns) ^ set(first.x.columns))[:6] if raw.kind == first.kind == "table" else []
            raise FalllineError(
                f"split '{name}' must have the same columns as 'train'{f', but they differ in {differ}' if differ else ''}."
            )
        if raw.kind != "table" and raw.x.shape[1:] != first.x.shape[1:]:
            raise FalllineError(
                f"split '{name}' must have rows of shape {first.x.shape[1:]}, as 'train' has, but they have {raw.x.shape[1:]}."
            )
        if raw.y is None:
            raise FalllineError(f"split '{name}' has no labels; give (X, y).")
    ends = np.cumsum([len(raw) for raw in raws.values()])
    assigned = {name: np.arange(end - len(raw), end) for (name, raw), end in zip(raws.items(), ends, strict=True)}
    if first.kind == "table":
        x: Any = pl.concat([raw.x.select(first.x.columns) for raw in raws.values()], how="vertical_relaxed")
    else:
        x = np.concatenate([raw.x for raw in raws.values()])
    from fallline.data.task import as_series

    labels = [as_series(raw.y, first.target).alias(first.target).to_frame() for raw in raws.values() if raw.y is not None]
    y = pl.concat(labels, how="vertical_relaxed").to_series()
    return Raw("splits", first.kind, x, y, first.target, first.class_names, first.task, assigned, first.notes, plain=first.plain)
