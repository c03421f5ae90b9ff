"""What is to be learnt: a number, one of two classes, or one of several. Found from the labels, said in a note, overridden by `task=`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fallline._core.errors import FalllineError, lookup

TASKS = {"regression": "a number", "binary": "one of two classes", "multiclass": "one of several classes"}
_FEW = 20
_OVERRIDE = "say task='{0}' (--task {0}) if that is wrong"


@dataclass(frozen=True)
class Goal:
    """The task, the labels as tensors, and what the labels mean."""

    task: str
    y: Tensor
    classes: tuple[str, ...]
    raw_labels: tuple[Any, ...]
    note: str


def find_goal(
    y: "pl.Series | np.ndarray",
    target: str,
    *,
    task: str | None,
    names: Mapping[Any, str] | None = None,
    said: bool = True,
    known: bool = False,
) -> Goal:
    """Judge the labels, refuse what cannot be learnt, and encode the rest.

    Args:
        y: labels of all rows, as they stood in the source, shape (rows,).
        target: what the labels are called.
        task: "regression", "binary", "multiclass", or None to find out.
        names: better names for labels, by label.
        said: whether the user named the task.
        known: whether the target is the usual one of a named set, of which nothing has to be guessed.

    Raises:
        FalllineError: missing, infinite or constant labels; a text target with more classes than half the rows; a task that does not
            fit the labels.
    """
    if task is not None:
        lookup("task", task, TASKS)
    series = as_series(y, target)
    _refuse_gaps(series, target)
    kinds = series.unique().sort()
    if len(kinds) < 2:
        raise FalllineError(f"the target '{target}' is constant (always {_show(kinds[0])}): there is nothing to learn.")
    number = series.dtype.is_numeric()
    if series.dtype.is_temporal():
        raise FalllineError(f"the target '{target}' holds {series.dtype}; turn it into a number or into classes first.")
    found = _number_task(series, kinds) if number else ("binary" if len(kinds) == 2 else "multiclass")
    chosen = task or found
    if chosen == "regression":
        return _regression(
            series,
            target,
            kinds,
            why=_why(said and task is not None and not known, known or task is not None, "distinct numbers", len(kinds)),
        )
    _refuse_classes(series, target, kinds, chosen)
    raw = tuple(_plain(v) for v in kinds.to_list())
    index = {value: i for i, value in enumerate(kinds.to_list())}
    labels = torch.tensor([index[v] for v in series.to_list()], dtype=torch.int64) if not number else _by_number(series, kinds)
    classes = tuple(str((names or {}).get(v, _show(v) if not isinstance(v, str) else v)) for v in raw)
    other = "regression" if number else ("multiclass" if chosen == "binary" else "")
    hint = f"; {_OVERRIDE.format(other)}" if other and task is None else ""
    listed = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    why = _why(
        said and task is not None and not known,
        known or task is not None,
        f"distinct {'whole numbers' if number else 'labels'}",
        len(kinds),
    )
    note = f"the task is {chosen}: `{target}` is {TASKS[chosen]} ({listed}){why}"
    return Goal(chosen, labels, classes, raw, f"{note}{hint}" if "because" in why else note)


def _why(said: bool, known: bool, kinds: str, count: int) -> str:
    """Why the task is what it is, as the end of a sentence; "" where the set is known."""
    return ", as you said" if said else "" if known else f", because it holds {count} {kinds}"


def as_series(y: "pl.Series | np.ndarray", target: str) -> pl.Series:
    """Labels as a series of numbers, booleans or text."""
    if isinstance(y, np.ndarray):
        y = _of_array(y, target)
    if y.dtype in (pl.Categorical, pl.Enum):
        y = y.cast(pl.String)
    if y.dtype == pl.String:
        bare = y.str.strip_chars()  # "yes" and "yes " are one class, as in the columns
        return bare.replace("", None) if (bare == "").any() else bare
    if isinstance(y.dtype, pl.Decimal):
        return y.cast(pl.Float64)
    if y.dtype in (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary):
        raise FalllineError(f"the target '{target}' must hold one number or one label a row, but it holds {y.dtype}.")
    return y


def _of_array(y: np.ndarray, target: str) -> pl.Series:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise FalllineError(
            f"the target '{target}' must hold one value a row, but it has shape {y.shape}; for one-hot rows, take argmax first."
        )
    if y.dtype.kind == "O":
        values = [v.item() if isinstance(v, np.generic) else v for v in y.tolist()]
        values = [None if v is None or (isinstance(v, float) and np.isnan(v)) else v for v in values]
        if all(v is None or isinstance(v, bool | int | float) for v in values):
            return pl.Series(target, values, strict=False)
        return pl.Series(target, [None if v is None else str(v) for v in values], dtype=pl.String)
    if y.dtype.kind == "f":
        return pl.Series(target, y.astype(np.float64))
    if y.dtype.kind in "US":
        return pl.Series(target, [str(v, "utf-8", "replace") if isinstance(v, bytes) else str(v) for v in y.tolist()], dtype=pl.String)
    if y.dtype.kind not in "iub":
        raise FalllineError(f"the target '{target}' must hold numbers or labels, but it holds {y.dtype}.")
    return pl.Series(target, y)


def encode(y: "pl.Series | np.ndarray", target: str, task: str, raw_labels: tuple[Any, ...]) -> Tensor:
    """Labels of a new source by what the model knows: float32 for regression, int64 class indices otherwise.

    Raises:
        FalllineError: a label that the model does not know, or a missing or infinite one.
    """
    series = as_series(y, target)
    _refuse_gaps(series, target)
    if task == "regression":
        if not series.dtype.is_numeric():
            raise FalllineError(f"the target '{target}' must hold numbers, but it holds {series.dtype}.")
        return torch.from_numpy(series.cast(pl.Float64).to_numpy().astype(np.float32))
    index: dict[Any, int] = {}
    for i, label in enumerate(raw_labels):
        index[label] = i
        index.setdefault(_show(label), i)
    found = [index.get(v, index.get(_show(v), -1)) for v in series.to_list()]
    if -1 in found:
        row = found.index(-1)
        known = ", ".join(_show(v) for v in raw_labels[:20])
        raise FalllineError(
            f"the target '{target}' holds {_show(series[row])} in row {row}, which is none of the model's classes ({known})."
        )
    return torch.tensor(found, dtype=torch.int64)


def _number_task(series: pl.Series, kinds: pl.Series) -> str:
    values, n, k = kinds.cast(pl.Float64).to_numpy(), len(series), len(kinds)
    if not (values == np.round(values)).all():
        return "regression"
    if k == 2:
        return "binary"
    dense = values[-1] - values[0] + 1 == k
    if k <= (_FEW if series.dtype.is_integer() else 10) and n >= (2 if dense else 5) * k:
        return "multiclass"
    if dense and values[0] in (0, 1) and series.dtype.is_integer() and n >= 10 * k and k <= 1000:
        counts = series.value_counts()["count"]
        if int(counts.min()) >= 0.2 * int(counts.max()):  # pyright: ignore[reportArgumentType]
            return "multiclass"
    return "regression"


def _regression(series: pl.Series, target: str, kinds: pl.Series, *, why: str) -> Goal:
    if not series.dtype.is_numeric():
        shown = ", ".join(_show(v) for v in kinds.head(3).to_list())
        raise FalllineError(f"task='regression' needs a target of numbers, but '{target}' holds labels ({shown}); leave `task` out.")
    exact = series.cast(pl.Float64).to_numpy()
    with np.errstate(over="ignore"):
        y = torch.from_numpy(exact.astype(np.float32))
    if torch.isinf(y).any():
        raise FalllineError(
            f"the target '{target}' holds values beyond the range of float32 (about 3.4e38); divide it by a constant first."
        )
    if bool((y == y[0]).all()):
        raise FalllineError(f"the target '{target}' is constant in float32 precision; subtract its mean first.")
    whole = bool((exact == np.round(exact)).all())
    hint = f"; {_OVERRIDE.format('multiclass')}" if whole else ", fractions among them"
    why = f"{why}{hint}" if "because" in why else why
    return Goal("regression", y, (), (), f"the task is regression: `{target}` is a number{why}")


def gaps(series: pl.Series) -> pl.Series:
    """Where a label is missing: empty or NaN."""
    return series.is_null() | series.is_nan().fill_null(True) if series.dtype.is_float() else series.is_null()


def _refuse_gaps(series: pl.Series, target: str) -> None:
    n = len(series)
    missing = gaps(series)
    count = int(missing.sum())
    if n and count == n:
        raise FalllineError(f"the target '{target}' is missing in all {n} rows.")
    if count:
        raise FalllineError(
            f"the target '{target}' is missing (empty or NaN) in {count} of {n} rows, the first is row {int(missing.arg_true()[0])}; "
            "leave these rows out, or fill them in."
        )
    if series.dtype.is_float():
        infinite = series.is_infinite()
        if infinite.any():
            row = int(infinite.arg_true()[0])
            raise FalllineError(
                f"the target '{target}' is infinite in {int(infinite.sum())} of {n} rows, the first is row {row}; correct or remove them."
            )


def _refuse_classes(series: pl.Series, target: str, kinds: pl.Series, task: str) -> None:
    n, k = len(series), len(kinds)
    if series.dtype.is_float():
        fractions = (series != series.round(0)).arg_true()
        if len(fractions):
            row = int(fractions[0])
            raise FalllineError(
                f"task='{task}' needs class labels, but '{target}' holds fractions ({series[row]:g} in row {row}); use task='regression'."
            )
    if task == "binary" and k != 2:
        shown = ", ".join(_show(v) for v in kinds.head(6))
        raise FalllineError(f"task='binary' needs 2 classes, but '{target}' holds {k} ({shown}); use task='multiclass'.")
    if k > 0.5 * n and k > 2 and (n >= 12 or k == n):
        more = "is it an identifier? Choose another target" + (", or use task='regression'" if series.dtype.is_numeric() else "")
        raise FalllineError(f"the target '{target}' holds {k} classes in {n} rows, more than half the rows: {more}.")


def _by_number(series: pl.Series, kinds: pl.Series) -> Tensor:
    return torch.from_numpy(np.searchsorted(kinds.cast(pl.Float64).to_numpy(), series.cast(pl.Float64).to_numpy()).astype(np.int64))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _show(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)
