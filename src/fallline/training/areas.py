"""The area under the ROC curve of many scores at once, ties counted half, by sorting whole numbers.

    AUC = (U₌ + U₋) / (2 n₁ n₀)        U₌ = #{negative ≤ positive},  U₋ = #{negative < positive}

A score that is not negative has the order of its own bits, so one more bit can say whose score it is: sorted with the negatives first
among equals the places of the positives sum to U₌, with the positives first to U₋. Other scores are replaced by their ranks. Both sums
are exact, whatever the ties; sorting numbers takes a fifth of the time of finding their order.

Source: Mann & Whitney, "On a test of whether one of two random variables is stochastically larger than the other", Annals of
Mathematical Statistics 18, 1947; Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982.
"""

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 16  # rows whose places sum to less than 2³²
_BITS = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}


def areas(scores: Tensor, y: Tensor) -> Tensor:
    """The area of each class against the rest.

    Args:
        scores: finite, (R, C, N).
        y: class indices, (R, N); a row of a class that `scores` lacks is one of the rest everywhere.

    Returns:
        (R, C) in double precision; NaN for a class without rows, or without others.

    >>> areas(torch.tensor([[[0.1, 0.4, 0.4, 0.8]]]), torch.tensor([[1, 1, 0, 0]]))
    tensor([[0.8750]], dtype=torch.float64)
    """
    keys = _keys(np.ascontiguousarray(scores.detach().cpu().numpy()))
    rows = scores.shape[2]
    mine = y.cpu().numpy()[:, None, :] == np.arange(scores.shape[1])[:, None]
    positive = mine.sum(2, dtype=np.float64)
    upto = _places(keys | mine)  # of the positives, the negatives first among equals
    below = (rows - 1) * rows / 2 - _places(keys | ~mine)  # and the positives first
    with np.errstate(invalid="ignore"):
        area = (upto + below - positive * (positive - 1)) / (2.0 * positive * (rows - positive))
    return torch.from_numpy(area)


def _places(keys: np.ndarray) -> np.ndarray:
    """The sum of the places that odd numbers have in order."""
    keys.sort(axis=2)
    keys &= keys.dtype.type(1)
    small = keys.shape[2] < _SMALL
    return np.einsum("rcn,n->rc", keys, np.arange(keys.shape[2], dtype=keys.dtype if small else np.float64)).astype(np.float64)


def _keys(scores: np.ndarray) -> np.ndarray:
    """Even whole numbers in the order of the scores, equal where they are."""
    scores = scores + scores.dtype.type(0)  # -0 becomes 0
    if not (scores < 0).any():
        return scores.view(_BITS[scores.dtype]) << 1
    order = np.argsort(scores, axis=2)
    ordered = np.take_along_axis(scores, order, 2)
    ranks = np.zeros(scores.shape, np.uint32)
    np.cumsum(ordered[..., 1:] != ordered[..., :-1], axis=2, out=ranks[..., 1:])
    out = np.empty_like(ranks)
    np.put_along_axis(out, order, ranks, 2)
    return out << 1
