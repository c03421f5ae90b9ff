"""What kind of target and of prediction was given, as far as the numbers and the loss itself tell.

target: "index" classes against scores, "groups" classes against embeddings, "grades" other classes, "binary" 0/1, "signed" -1/+1,
"distribution" rows that sum to 1, "real" numbers of the input's shape, "none" no target, "unknown".
domain: "probability" numbers in [0, 1], "simplex" rows of those that sum to 1, "log-probability", "nonnegative", "real".
"""

import torch
from torch import Tensor

from fallline.prove.columns import own_columns
from fallline.prove.subject import Refused, Subject

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def domain_of(x: Tensor) -> str:
    """Where the numbers of a prediction lie."""
    if x.numel() == 0:
        return "real"
    rows = x.double()
    if bool(((rows >= 0) & (rows <= 1)).all()):
        axis = 1 if rows.ndim > 1 else 0
        summed = rows.ndim > 1 and rows.shape[1] > 1 and bool(((rows.sum(axis) - 1).abs() < 1e-2).all())
        return "simplex" if summed else "probability"
    if rows.ndim > 1 and rows.shape[1] > 1 and bool((rows <= 0).all()) and bool((rows.logsumexp(1).abs() < 1e-2).all()):
        return "log-probability"
    return "nonnegative" if bool((rows >= 0).all()) else "real"


def target_of(subject: Subject) -> str:
    """What kind of target it is; asks the loss where the shapes leave it open."""
    x, y = subject.x, subject.y
    if subject.targetless:
        return "none"
    values = torch.unique(y.double()) if y.numel() <= 100_000 else torch.unique(y.flatten()[:100_000].double())
    counted = set(values.tolist()) if len(values) <= 2 else {None}
    alike = x.shape == y.shape or x.squeeze().shape == y.squeeze().shape
    if y.dtype in _WHOLE and x.ndim >= 2 and y.shape == x.shape[:1] + x.shape[2:] and x.shape[1] > 1:
        return _of_classes(subject)
    if alike and counted <= {0.0, 1.0}:
        return "binary"
    if alike and counted <= {-1.0, 1.0}:
        return "signed"
    if alike and y.is_floating_point():
        simplex = y.ndim > 1 and y.shape[1] > 1 and bool((y >= 0).all()) and bool(((y.double().sum(1) - 1).abs() < 1e-2).all())
        return "distribution" if simplex else "real"
    return "unknown"


def _of_classes(subject: Subject) -> str:
    """Scores of classes, embeddings with labels, or neither: by what the loss does when classes change their names."""
    x, y = subject.x, subject.y
    if not subject.differentiable or subject.noisy:
        return "index"
    try:
        base = subject.number(x, y)
        fits = bool((y < x.shape[1]).all())
        order = torch.randperm(x.shape[1], generator=subject.generator).to(x.device)
        order = order.roll(1) if bool((order == torch.arange(len(order), device=x.device)).all()) else order
        there = y >= 0
        renamed = torch.where(there, _name(order, y), y) if fits else y
        if fits and x.ndim == 2:
            alone = [_alone(subject, x, k, renamed) for k in range(2)]
            if all(alone) and _alone(subject, x, 0, y.max() + 3 - y if bool(there.all()) else renamed):
                return "groups"
        if not fits:
            return "groups" if _close(subject.number(x, y + 1), base) else "grades"
        moved = torch.empty_like(x)
        moved[:, order] = x  # the column of class c goes to where c is now called
        same = _close(subject.number(moved, renamed), base)
        return "index" if same or _each_class_has_its_column(subject) or (fits and own_columns(subject)) else "grades"
    except Refused:
        return "index" if bool((y < x.shape[1]).all()) else "grades"


def _each_class_has_its_column(subject: Subject) -> bool:
    """Whether, at equal scores, the gradient singles out the column of the label: as with class weights, where columns are not alike."""
    x, y = subject.x, subject.y
    if x.ndim > 2:
        return False
    step = -subject.gradient(torch.zeros_like(x), y)
    counted = (y >= 0).nonzero().flatten()
    step, own = step[counted], y[counted].long().unsqueeze(1)
    there = step.gather(1, own)
    over, under = (step.scatter(1, own, fill) for fill in (-torch.inf, torch.inf))
    return bool((there > over.amax(1, keepdim=True)).all()) or bool((there < under.amin(1, keepdim=True)).all())


def even(subject: Subject) -> bool:
    """Whether both sides cost alike, L(−x, −y) = L(x, y), as with labels -1/+1 and scores, but not with distances."""
    try:
        return _close(subject.number(subject.x, subject.y), subject.number(-subject.x, -subject.y))
    except Refused:
        return False


def _name(order: Tensor, y: Tensor) -> Tensor:
    return order[y.clamp(min=0).long()].to(y.dtype)


def _alone(subject: Subject, x: Tensor, draw: int, renamed: Tensor) -> bool:
    """Whether other names for the classes leave the value as it is, also at another input."""
    there = x if draw == 0 else x + subject.like(x) * x.std().clamp(min=0.1)
    try:
        return _close(subject.number(there, renamed), subject.number(there, subject.y))
    except Refused:
        return False


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * (abs(a) + abs(b)) + 1e-9
