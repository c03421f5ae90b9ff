"""What a model is worth on some rows: torchmetrics' functions over all outputs at once, in the target's own units."""

import math
import warnings

import torch
from torch import Tensor

from fallline.training.goal import Goal

CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "roc_auc")
REGRESSION = ("r2", "mae", "rmse")


def names(task: str) -> tuple[str, ...]:
    """The metrics of a task, the one to look at first in front."""
    return REGRESSION if task == "regression" else CLASSIFICATION


def main_metric(task: str) -> str:
    """The metric to look at first: "accuracy" or "r2"."""
    return names(task)[0]


def compute(goal: Goal, raw: Tensor, y: Tensor, *, auc_rows: int | None = None) -> dict[str, float]:
    """All metrics of the task.

    Args:
        goal: tells task, classes and what the output means.
        raw: the model's outputs, shape (N, outputs) or (N,).
        y: the target as `Data` holds it, shape (N,): class indices, or numbers in their own units.
        auc_rows: the ROC AUC is taken over this many of the last rows; None takes all.

    Returns:
        name to value; NaN where a metric is not defined (one class only, a constant target, an output that is not finite).
    """
    if len(y) == 0:
        return {}
    if not bool(torch.isfinite(raw).all()):
        return dict.fromkeys(names(goal.task), math.nan)
    seen = goal.predict(raw.detach().cpu())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _regression(seen, y.cpu()) if goal.task == "regression" else _classification(goal, seen, y.cpu(), auc_rows or len(y))


def compute_each(goal: Goal, raw: Tensor, y: Tensor, *, auc_rows: int | None = None) -> list[dict[str, float]]:
    """`compute` for several members: raw (R, N, outputs), y (N,) that they share or (R, N)."""
    shared = y.ndim == 1
    return [compute(goal, each, y if shared else y[i], auc_rows=auc_rows) for i, each in enumerate(raw)]


def labels(goal: Goal, seen: Tensor) -> Tensor:
    """Class indices (N,) from what `Goal.predict` gives: the most likely class, the middle one of ordered ones, or a score's sign."""
    if goal.loss.output == "ordinal":
        above = 1 - seen.double().cumsum(1)[:, :-1]  # P(class > k)
        return (above > 0.5).sum(1)
    if seen.ndim == 2:
        return seen.argmax(dim=1)
    return (seen > (0.0 if goal.loss.output == "score" else 0.5)).long()


def _regression(seen: Tensor, y: Tensor) -> dict[str, float]:
    from torchmetrics.functional import regression as tm

    seen, y = (seen[:, 0] if seen.ndim == 2 else seen).double(), y.double()
    varies = len(y) > 1 and bool((y != y[0]).any())
    return {
        "r2": float(tm.r2_score(seen, y)) if varies else math.nan,
        "mae": float(tm.mean_absolute_error(seen, y)),
        "rmse": float(tm.mean_squared_error(seen, y, squared=False)),
    }


def _classification(goal: Goal, seen: Tensor, y: Tensor, last: int) -> dict[str, float]:
    from torchmetrics.functional import classification as tm

    called = labels(goal, seen)
    count = len(goal.classes)
    y_last = y[-last:]
    several = bool((y_last != y_last[0]).any())
    if goal.task == "binary":
        score = seen[:, 1] if seen.ndim == 2 else seen
        return {
            "accuracy": float(tm.binary_accuracy(called, y, validate_args=False)),
            "precision": float(tm.binary_precision(called, y, validate_args=False)),
            "recall": float(tm.binary_recall(called, y, validate_args=False)),
            "f1": float(tm.binary_f1_score(called, y, validate_args=False)),
            "roc_auc": float(tm.binary_auroc(_ranks(score[-last:]), y_last, validate_args=False)) if several else math.nan,
        }
    return {
        "accuracy": float(tm.multiclass_accuracy(called, y, count, average="micro", validate_args=False)),
        "precision": float(tm.multiclass_precision(called, y, count, average="macro", validate_args=False)),
        "recall": float(tm.multiclass_recall(called, y, count, average="macro", validate_args=False)),
        "f1": float(tm.multiclass_f1_score(called, y, count, average="macro", validate_args=False)),
        "roc_auc": _one_against_rest(_unit(seen[-last:]), y_last, count) if several else math.nan,
    }


def _one_against_rest(seen: Tensor, y: Tensor, count: int) -> float:
    """The mean ROC AUC over the classes that `y` has: torchmetrics would count a class without rows as 0."""
    from torchmetrics.functional import classification as tm

    each = tm.multiclass_auroc(seen, y, count, average="none", validate_args=False)
    return float(each[torch.bincount(y, minlength=count) > 0].mean())


def _ranks(score: Tensor) -> Tensor:
    """Scores as ranks in [0, 1], ties kept: torchmetrics would squash scores outside [0, 1], and so make ties of its own."""
    values, place = torch.unique(score, return_inverse=True)
    return place.double() / max(len(values) - 1, 1)


def _unit(seen: Tensor) -> Tensor:
    """Class scores within [0, 1], in an order that no rounding changes."""
    return seen if bool(((seen >= 0) & (seen <= 1)).all()) else torch.stack([_ranks(column) for column in seen.unbind(1)], dim=1)
