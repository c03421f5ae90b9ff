"""Every triplet of a batch, listed: the torch form whose gradients the sorted sums must have."""

import torch

from fallline.losses.embedding import _triplet_fast


def distances(x, others, kind):
    if kind == "cosine":
        return 1 - torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(others).T
    squares = (x[:, None] - others[None]).square().sum(-1)
    return squares if kind == "squared" else torch.where(squares == 0, 0, torch.where(squares == 0, 1, squares).sqrt())


def triplets(x, y, *, margin=0.2, distance="euclidean", mining="all", squared=False, reference=None, keep=None):
    """Terms (N, M, M) and which of them count."""
    others, columns = (x, y) if reference is None else (torch.cat([x, reference[0]]), torch.cat([y, reference[1]]))
    d = distances(x, others, distance)
    same, other = y[:, None] == columns, y[:, None] != columns
    same = same & (torch.arange(len(columns)) != torch.arange(len(x))[:, None])
    if keep is not None:
        all_kept = torch.cat([keep, keep.new_ones(len(columns) - len(x))])
        same, other = (part & keep[:, None] & all_kept for part in (same, other))
    near, far = d[:, :, None], d[:, None, :]
    counts = same[:, :, None] & other[:, None, :]
    if mining == "all_semi_hard":
        counts = counts & (near < far) & (far < near + margin)
    elif mining == "batch_hard":
        hard = counts & (near == torch.where(same, d, -1).amax(1)[:, None, None])
        counts = _first(hard & (far == torch.where(other, d, torch.inf).amin(1)[:, None, None]))
    elif mining == "semi_hard":
        beyond = torch.where(counts & (far > near), far, torch.inf).amin(-1, keepdim=True)
        farthest = torch.where(counts, far, -torch.inf).amax(-1, keepdim=True)
        counts = _first(counts & (far == torch.where(beyond < torch.inf, beyond, farthest)), axis=-1)
    over = (margin + near - far).relu()
    return over.square() if squared else over, counts


def _first(found, axis=None):
    """Only the first of equal ones, in each row or each anchor."""
    flat = found.flatten(1) if axis is None else found
    return (flat & (flat.cumsum(-1) == 1)).reshape(found.shape)


def loss(x, y, *, average="all", weight=None, **options):
    terms, counts = triplets(x, y, keep=None if weight is None else weight != 0, **options)
    counted = counts & (terms > 0) if average == "active" else counts
    weight = torch.ones(len(x), dtype=x.dtype) if weight is None else weight
    total = (weight * torch.where(counts, terms, 0).sum((1, 2))).sum()
    return total / (weight * counted.sum((1, 2))).sum().clamp(min=1)


def use(engine, monkeypatch):
    """Send every batch, however small, through one of the two engines."""
    if engine == "numba":
        monkeypatch.setattr(_triplet_fast, "SMALL", 0)
    else:
        monkeypatch.setattr(_triplet_fast, "serves", lambda *_: False)
