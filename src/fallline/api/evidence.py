"""What a report shows of a model on held-out rows: true against predicted classes as counts, or predicted beside true values."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline.training import Goal
from fallline.training.evaluate import outputs
from fallline.training.metrics import labels

if TYPE_CHECKING:
    from fallline.data import Data, Split

MOST_CLASSES = 200
MOST_ROWS = 5000


def evidence(model: nn.Module, data: "Data", goal: Goal, metrics: dict[str, Any]) -> dict[str, Any]:
    """What run.json's result holds beside the metrics.

    Args:
        model: trained, with the weights that were kept.
        data: rows; test rows where they were measured, else validation rows.
        goal: tells task, classes and what the output means.
        metrics: of the run, by split: only a split that was measured is shown.

    Returns:
        {"confusion": {"split", "labels", "counts"}}, rows true, columns predicted; or {"predictions": {"split", "rows", "true",
        "predicted"}} with at most 5,000 rows, evenly chosen; {} where nothing was measured or an output is not finite.
    """
    name = next((s for s in ("test", "validation") if metrics.get(s)), "")
    split: Split | None = getattr(data, name) if name else None
    if split is None or not len(split):
        return {}
    raw = outputs(model, split.x).cpu()
    if not bool(torch.isfinite(raw).all()):
        return {}
    seen, y = goal.predict(raw), split.y.cpu()
    if goal.task == "regression":
        seen = seen[:, 0] if seen.ndim == 2 else seen
        every = -(-len(y) // MOST_ROWS)
        true, predicted = ([float(f"{v:.6g}") for v in t[::every].tolist()] for t in (y, seen))
        return {"predictions": {"split": name, "rows": len(y), "true": true, "predicted": predicted}}
    n = len(goal.classes)
    if not 2 <= n <= MOST_CLASSES:
        return {}
    counts = torch.bincount(y * n + labels(goal, seen), minlength=n * n).view(n, n)
    return {"confusion": {"split": name, "labels": list(goal.classes), "counts": counts.tolist()}}
