"""What a loss demands of values, and what it says when they break it: the law, the first bad row, what to do instead."""

import warnings

import torch
from torch import Tensor

from fallline._core.errors import FalllineWarning, refuse

_ROUNDED = 1e-2
"""How far from 1 probabilities may sum: a bfloat16 is off by up to 0.004 of itself."""
_warned: set[str] = set()


def warn_once(key: str, text: str) -> None:
    """A FalllineWarning, the first time that `key` comes up in this process."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, FalllineWarning, stacklevel=4)


def at(target: Tensor, bad: Tensor) -> str:
    """The first bad value, its row (and its place within it, where rows are longer), and how many there are."""
    place = int(bad[0])
    value, where = f"{target.flatten()[place].item():g}", str(place)
    if target.ndim > 1:
        indices = [int(i) for i in torch.unravel_index(torch.tensor(place), target.shape)]
        where = f"{indices[0]}, at {indices}"
    return f"{value} in row {where} ({len(bad)} such)"


def weighable(weight: Tensor, where: str) -> None:
    """Refuse weights that are negative, infinite or NaN."""
    bad = torch.nonzero(~((weight >= 0) & (weight < torch.inf)).flatten())
    if len(bad):
        refuse("every sample_weight >= 0 and finite", at(weight, bad), where=where)


def within(x: Tensor, low: float, high: float) -> bool:
    """Whether every number lies between two, both of them allowed; NaN does not."""
    if not x.numel():
        return True
    least, most = torch.aminmax(x)
    return least.item() >= low and most.item() <= high


def in_range(
    target: Tensor, n_classes: int | None, where: str, *, otherwise: str = "give the model one output a class, or correct the labels"
) -> None:
    """Refuse class indices outside 0..n_classes-1; `otherwise` is the advice where no usual mistake is seen."""
    if not target.numel():
        return
    low, high = (int(v) for v in torch.aminmax(target))
    if low < 0 or (n_classes is not None and high >= n_classes):
        wrong = (target < 0) if n_classes is None else (target < 0) | (target >= n_classes)
        bad = torch.nonzero(wrong.flatten())
        top = "C - 1" if n_classes is None else str(n_classes - 1)
        span = f"labels from {low} to {high}: {at(target, bad)}"
        if low == 1 and high == n_classes:
            advice = "labels count from 0: write target - 1"
        elif low == -1 and high == 1 and n_classes in {None, 2} and bool((target != 0).all()):
            advice = "-1/+1 labels suit hinge; for this loss write (target + 1) // 2"
        elif low == -1 and n_classes is not None and high < n_classes:
            marks = "if -1 marks examples to leave out, write ignore_index=-1"
            advice = marks if high == n_classes - 1 else f"labels count from 0: write target + 1; or, {marks}"
        elif n_classes == 1:
            advice = "one output tells two classes by binary_cross_entropy(input.squeeze(1), target); cross_entropy takes one a class"
        else:
            advice = otherwise
        refuse(f"every label is one of 0..{top}", span, advice, where=where)


def signed(target: Tensor, where: str) -> None:
    """Refuse labels other than -1 and +1."""
    target = target.long() if target.dtype == torch.bool else target
    if bool((target.abs() == 1).all()):
        return
    bad = torch.nonzero((target.abs() != 1).flatten())
    if len(bad):
        zero_one = bool(((target == 0) | (target == 1)).all())
        advice = (
            "these are 0/1 labels: write 2 * target - 1 (`--signed-labels` maps 0 to -1 and 1 to +1), or use the loss binary_cross_entropy"
            if zero_one
            else "correct the labels"
        )
        refuse("every label is -1 or +1", at(target, bad), advice, where=where)


def zero_or_one(target: Tensor, where: str) -> None:
    """Refuse labels outside [0, 1], and whole numbers other than 0 and 1 with them."""
    if target.dtype == torch.bool or within(target, 0, 1):
        return
    bad = torch.nonzero((~((target >= 0) & (target <= 1))).flatten())
    if len(bad):
        minus = bool((target.abs() == 1).all())
        advice = (
            "these are -1/+1 labels: write (target + 1) / 2, or use the loss hinge"
            if minus
            else "for numbers use mse; for classes use cross_entropy"
        )
        refuse("every label is 0 or 1 (or a probability between)", at(target, bad), advice, where=where)


def above_minus_one(x: Tensor, what: str, where: str, advice: str) -> None:
    """Refuse values at or below -1, where log(1 + x) ends."""
    if not x.numel() or x.min().item() > -1:
        return
    bad = torch.nonzero((x <= -1).flatten())
    if len(bad):
        refuse(f"every {what} is above -1", at(x, bad), advice, where=where)


def nonnegative(x: Tensor, what: str, where: str, advice: str) -> None:
    """Refuse negative values."""
    if not x.numel() or x.min().item() >= 0:
        return
    bad = torch.nonzero((x < 0).flatten())
    if len(bad):
        refuse(f"every {what} is >= 0", at(x, bad), advice, where=where)


def looks_like_probabilities(rows: Tensor) -> bool:
    """Whether every row is >= 0 and sums to 1."""
    rows = rows.detach()
    if rows.shape[-1] < 2:
        return False
    few = rows.reshape(-1, rows.shape[-1])[:2] if rows.shape[-2:].numel() else rows  # two rows tell nearly always
    return all(not bool((part < 0).any()) and bool(((part.sum(-1) - 1).abs() < 1e-4).all()) for part in (few, rows))


def distribution(rows: Tensor, what: str, where: str) -> None:
    """Refuse rows that are not probabilities summing to 1."""
    if not rows.numel():
        return
    sums = rows.sum(-1)
    if rows.min().item() >= 0 and within(sums, 1 - _ROUNDED, 1 + _ROUNDED):
        return
    bad = torch.nonzero((~(rows >= 0)).flatten())
    if len(bad):
        refuse(f"every probability of the {what} is >= 0", at(rows, bad), where=where)
    bad = torch.nonzero(((sums - 1).abs() > _ROUNDED).flatten())
    if len(bad):
        refuse(f"every row of the {what} sums to 1", at(sums, bad), "divide each row by its sum", where=where)
