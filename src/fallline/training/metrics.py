"""What models are worth on some rows, for many members at once: counts and sums over the rows, from which every metric follows.

    accuracy = Σ_c TP_c / N                precision = mean_c TP_c / called_c        recall = mean_c TP_c / true_c
    F1 = mean_c 2 TP_c / (called_c + true_c)                                         ROC AUC = mean_c of c against the rest
    r² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)²         MAE = mean |y − ŷ|                        RMSE = √mean (y − ŷ)²

The means are over the classes that occur (the ROC AUC's: among the labels; the others': among labels or predictions), a quotient 0 / 0 is
0, and two classes give precision, recall and F1 of the second. These are torchmetrics' definitions, in double precision, but for one: r²
of a target of very small numbers is what the formula says.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fallline.training.areas import areas
from fallline.training.goal import Goal

CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "roc_auc")
REGRESSION = ("r2", "mae", "rmse")
_NARROW = frozenset({torch.float16, torch.bfloat16})
_SOFTMAX = frozenset({"logits", "scores", "logit_or_logits"})
_ELEMENTS = 1 << 22  # outputs that are looked at together


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
    return compute_each(goal, raw.unsqueeze(0), y, auc_rows=auc_rows)[0]


def compute_each(goal: Goal, raw: Tensor, y: Tensor, *, auc_rows: int | None = None) -> list[dict[str, float]]:
    """`compute` for several members: raw (R, N, outputs), y (N,) that they share or (R, N)."""
    members, rows = raw.shape[0], y.shape[-1]
    if rows == 0:
        return [{} for _ in range(members)]
    y = y.expand(members, rows)
    size = max(1, _ELEMENTS // max(1, raw[:1].numel()))
    out: list[dict[str, float]] = []
    for at in range(0, members, size):
        part = raw[at : at + size]
        tally = Tally(goal, len(part), rows, auc_rows)
        tally.add(part, y[at : at + size])
        out += tally.metrics()
    return out


def labels(goal: Goal, seen: Tensor) -> Tensor:
    """Class indices (N,) from what `Goal.predict` gives: the most likely class, the middle one of ordered ones, or a score's sign."""
    if goal.loss.output == "ordinal":
        above = 1 - seen.double().cumsum(1)[:, :-1]  # P(class > k)
        return (above > 0.5).sum(1)
    if seen.ndim == 2:
        return seen.argmax(dim=1)
    return (seen > (0.0 if goal.loss.output == "score" else 0.5)).long()


class Tally:
    """Counts and sums over rows that come in pieces.

    Args:
        goal: tells task, classes and what the output means.
        members: how many there are.
        rows: that will come, in all pieces together.
        auc_rows: the ROC AUC is taken over this many of the last rows; None takes all.
    """

    def __init__(self, goal: Goal, members: int, rows: int, auc_rows: int | None = None) -> None:
        self.goal, self.rows, self.seen = goal, rows, 0
        self.from_row = 0 if auc_rows is None else max(0, rows - auc_rows)
        self.finite = torch.ones(members, dtype=torch.bool)
        self.kept: list[tuple[Tensor, Tensor]] = []
        wide = 6 if goal.task == "regression" else 3 * len(goal.classes)
        self.sums = torch.zeros((members, wide), dtype=torch.float64 if goal.task == "regression" else torch.int64)

    def take(self, chosen: Tensor) -> None:
        """Keep only the members `chosen` (indices)."""
        self.finite, self.sums = self.finite[chosen], self.sums[chosen]
        self.kept = [(scores[chosen], y[chosen]) for scores, y in self.kept]

    def add(self, raw: Tensor, y: Tensor) -> None:
        """The next rows: outputs (R, N, outputs) or (R, N), and targets (R, N)."""
        raw, y = raw.detach().cpu(), y.cpu()
        raw = raw.float() if raw.dtype in _NARROW else raw
        raw = raw if raw.ndim == 3 else raw.unsqueeze(-1)
        if not bool(torch.isfinite(raw.sum())):  # a finite sum has finite terms
            fine = torch.isfinite(raw).flatten(1).all(1)
            self.finite &= fine
            raw = torch.where(fine[:, None, None], raw, 0)
        goal, (members, rows, width) = self.goal, raw.shape
        skip = max(0, self.from_row - self.seen)  # rows that the ROC AUC does not look at
        self.seen += rows
        if goal.reading is None and goal.scale is None and goal.loss.output in _SOFTMAX and width > 1:
            wide = raw.permute(2, 0, 1).contiguous()  # a softmax along a short last axis takes many times longer than one across
            self._count(wide.max(0).indices, y)
            self._keep(torch.softmax(wide[..., skip:], 0).permute(1, 0, 2), y[:, skip:])
            return
        seen = goal.predict(raw.reshape(members * rows, width))
        if goal.task == "regression":
            self._regression((seen[:, 0] if seen.ndim == 2 else seen).view(members, rows).double(), y.double())
            return
        self._count(labels(goal, seen).view(members, rows), y)
        scores = seen.view(members, rows, -1).transpose(1, 2)
        self._keep(scores[..., skip:], y[:, skip:])

    def _regression(self, seen: Tensor, y: Tensor) -> None:
        if self.seen == y.shape[1]:
            self.sums[:, 0] = y[:, 0]
        error, away = seen - y, y - self.sums[:, :1]
        found = (error.abs(), error.square(), away, away.square(), (away != 0).double())
        self.sums[:, 1:6] += torch.stack([each.sum(1) for each in found], 1)

    def _count(self, called: Tensor, y: Tensor) -> None:
        members, classes = len(y), len(self.goal.classes)
        places = torch.arange(members).unsqueeze(1) * classes
        true = y + places
        of_each = (true[called == y], (called + places).flatten(), true.flatten())
        self.sums += torch.cat([torch.bincount(each, minlength=members * classes).view(members, -1) for each in of_each], 1)

    def _keep(self, scores: Tensor, y: Tensor) -> None:
        if y.shape[1]:
            self.kept.append((scores[:, 1:2] if self.goal.task == "binary" and scores.shape[1] > 1 else scores, y))

    def columns(self) -> dict[str, Tensor]:
        """Metric to the values of the members, (R,) in double precision."""
        found = self._of_sums() if self.goal.task == "regression" else self._of_counts()
        return {name: torch.where(self.finite, value, math.nan) for name, value in found.items()}

    def metrics(self) -> list[dict[str, float]]:
        """The metrics of each member."""
        found = self.columns()
        return [dict(zip(found, values, strict=True)) for values in zip(*(value.tolist() for value in found.values()), strict=True)]

    def _of_sums(self) -> dict[str, Tensor]:
        _, absolute, squares, away, spread, varies = self.sums.unbind(1)
        total = spread - away.square() / self.seen
        return {
            "r2": torch.where(varies > 0, 1 - squares / total, math.nan),
            "mae": absolute / self.seen,
            "rmse": (squares / self.seen).sqrt(),
        }

    def _of_counts(self) -> dict[str, Tensor]:
        right, called, true = self.sums.double().chunk(3, 1)
        present: Any = called + true > 0
        accuracy = right.sum(1) / self.seen
        if self.goal.task == "binary":
            right, called, true, present = right[:, 1:], called[:, 1:], true[:, 1:], torch.ones(())
        mean = {
            name: (each * present).sum(1) / (present.sum(1) if present.ndim else 1.0)
            for name, each in (
                ("precision", right / called.clamp_min(1)),
                ("recall", right / true.clamp_min(1)),
                ("f1", 2 * right / (called + true).clamp_min(1)),
            )
        }
        return {"accuracy": accuracy, **mean, "roc_auc": self._areas()}

    def _areas(self) -> Tensor:
        y = torch.cat([each for _, each in self.kept], 1)
        scores = torch.cat([each for each, _ in self.kept], 2)
        found = areas(scores, 1 - y if self.goal.task == "binary" else y)
        return found.nanmean(1)
