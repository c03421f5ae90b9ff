"""Loss and metrics of a model on the rows of one split, without touching the model's mode or weights."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline.models.initial import seeded
from fallline.training.goal import Goal
from fallline.training.metrics import compute
from fallline.training.reading import rows_to_learn

if TYPE_CHECKING:
    from fallline.data import Split

_ROWS = 4096
_ELEMENTS = 1 << 24


def outputs(model: nn.Module, x: Tensor, *, rows: int = _ROWS) -> Tensor:
    """The model's outputs (N, outputs) or (N,) for x (N, ...), in evaluation mode and in blocks; the mode is put back."""
    rows = min(rows, rows_at_once(x))
    modes = [(module, module.training) for module in model.modules()]
    device = next((p.device for p in model.parameters()), x.device)
    model.eval()
    try:
        with torch.inference_mode():
            blocks = [model(block.to(device)) for block in x.split(rows)]
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(blocks) if blocks else x.new_zeros((0,))


def rows_at_once(x: Tensor) -> int:
    """Rows of x (N, ...) that are judged together, at most."""
    return max(1, min(_ROWS, _ELEMENTS // max(1, x[:1].numel())))


def evaluate(model: nn.Module, split: "Split", goal: Goal, target: Tensor | None = None) -> dict[str, float]:
    """`loss` and the metrics of the task on one split.

    Args:
        model: any module of the right output width.
        split: x (N, ...) and y (N,); an empty split gives {}.
        goal: loss and target form.
        target: `goal.targets(split.y)` where it is at hand already.

    Returns:
        name to value, regression metrics in the target's own units; the loss is the mean over rows, penalties left out.
    """
    if len(split) == 0:
        return {}
    raw = outputs(model, split.x)
    return {"loss": mean_loss(raw, goal.targets(split.y) if target is None else target, goal), **compute(goal, raw, split.y)}


def mean_loss(raw: Tensor, target: Tensor, goal: Goal) -> float:
    """The mean loss over all rows of `raw` (N, outputs).

    A loss between embeddings is the mean over all terms within groups of `goal.together` rows, drawn by a fixed seed: as in training, its
    size depends on how many rows are compared with one another. What such a loss draws (mining) it draws by a fixed seed too.
    """
    raw, target = goal.squeeze(raw), target.to(raw.device)
    with torch.inference_mode():
        if not goal.together:
            return float(goal.loss.quick(raw, target))
    with torch.inference_mode(), seeded(0):
        if goal.together >= len(raw):
            return float(goal.loss.quick(raw, target))
        order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0)).to(raw.device)
        sums = [goal.loss.sum_and_count(raw[rows], target[rows]) for rows in order.split(goal.together)]
        count = float(sum(float(n) for _, n in sums))
        return sum(float(total) for total, _ in sums) / count if count else 0.0


def learn_reading(model: nn.Module, train: "Split", goal: Goal) -> tuple[Tensor, Tensor] | None:
    """Have `goal.reading` learn from training rows how the outputs are read; their outputs and classes, or None where nothing is learnt."""
    if not goal.learns or goal.reading is None:
        return None
    chosen = rows_to_learn(train.y)
    raw, y = outputs(model, train.x[chosen]), train.y[chosen]
    if bool(torch.isfinite(raw).all()):
        goal.reading.learn(raw, y)
    return raw, y
