"""Which column of the scores belongs to a label: the one that the others may change places around without any effect on the cost."""

import torch
from torch import Tensor

from fallline.prove.subject import Refused, Subject

_LABELS, _COLUMNS = 12, 32


def own_columns(subject: Subject) -> dict[int, int]:
    """The column of each label (of the first 12), or nothing where some label has none: as with grades or embeddings."""
    x, y = subject.x, subject.y
    classes = x.shape[1] if x.ndim > 1 else 0
    if classes < 3:
        return {}
    there = x + 0.1 * subject.like(x)
    found: dict[int, int] = {}
    for label in range(min(classes, _LABELS)):
        try:
            column = _own_column(subject, there, torch.full_like(y, label), label)
        except Refused:
            return {}
        if column is None:
            return {}
        found[label] = column
    return found


def _own_column(subject: Subject, x: Tensor, y: Tensor, label: int) -> int | None:
    classes = x.shape[1]
    here = subject.number(x, y)
    near = [label, label - 1, label + 1, *range(min(classes, _COLUMNS))]
    for column in dict.fromkeys(c for c in near if 0 <= c < classes):
        others = [c for c in range(classes) if c != column]
        if not _same(here, subject.number(_moved(x, others, others[1:] + others[:1]), y)):
            continue
        pair = [column, others[0]]
        return None if _same(here, subject.number(_moved(x, pair, pair[::-1]), y)) else column
    return None


def _moved(x: Tensor, to: list[int], source: list[int]) -> Tensor:
    """The scores of the columns `source` in the columns `to`."""
    moved = x.clone()
    moved[:, to] = x[:, source]
    return moved


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * (abs(a) + abs(b)) + 1e-9
