"""Distances between every two of many points, right where the usual formulas are not.

    squared   D_ij = |x_i − y_j|²          euclidean   D_ij = |x_i − y_j|          cosine   D_ij = 1 − x_i · y_j / (|x_i| |y_j|)

- Points that coincide are at distance 0, exactly, and give a gradient of 0 (a root's slope there is infinite).
- All points are shifted by their mean first and float32 is multiplied in float64, so that a large common offset costs no digits.
- A zero vector has no direction: its cosine with anything counts as 0, with a gradient of 0.
- 16-bit points are computed in float32. Every step is a torch operation, so second derivatives, `torch.func` and `torch.compile` work.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fallline._core.errors import must

_NARROW = (torch.float16, torch.bfloat16)


def squared_euclidean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Squared distances (N, M) between the rows of `x` (N, D) and of `y` (M, D), or of `x` itself.

    >>> squared_euclidean(torch.tensor([[1000.0, 0.0], [1003.0, 4.0]]))
    tensor([[ 0., 25.],
            [25.,  0.]])
    """
    return squares_and_roots(x, y)[0]


def centre(y: Tensor) -> Tensor:
    """The mean of the rows, without a graph and without what is not finite.

    >>> centre(torch.tensor([[1.0], [3.0]]))
    tensor([2.])
    """
    y = y.detach()
    return torch.where(torch.isfinite(y), y, 0).sum(0) / max(y.shape[0], 1)


def resolved(dimension: int) -> float:
    """Squared distances below this part of the squared lengths are rounding: float32 points so near are the same point.

    >>> resolved(128)
    1e-14
    """
    return 1e-14 * max(dimension / 512, 1) ** 0.5


def euclidean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Distances (N, M) between the rows of `x` (N, D) and of `y` (M, D), or of `x` itself.

    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> euclidean(x).sum().backward()
    >>> x.grad
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    """
    return squares_and_roots(x, y)[1]


def squares_and_roots(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Squared distances and distances; the root is taken before rounding to float32, where the squares of 1e20 and 1e-24 are lost.

    >>> squares_and_roots(torch.tensor([[0.0], [1e-24]]))[1][0]
    tensor([0.0000e+00, 1.0000e-24])
    """
    x, y = _rows(x, y)
    squares, exact = _squares(x, y)
    roots = root(squares)
    if exact is not None:
        return squares, _valued(roots, exact)
    return squares.to(x.dtype), roots.to(x.dtype)


def cosine_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """One minus the cosine (N, M) between the rows of `x` (N, D) and of `y` (M, D), or of `x` itself; 1 for a zero vector.

    >>> cosine_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]]))
    tensor([[0., 1., 2., 1.]])
    """
    x, y = _rows(x, y)
    with torch.autocast(x.device.type, enabled=False):
        return 1 - unit(x) @ unit(y).T


def unit(x: Tensor) -> Tensor:
    """`x` with every vector of the last axis at length 1; zero vectors stay, with a gradient of 0.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    x = _wide(x)
    largest = x.detach().abs().amax(-1, keepdim=True) if x.shape[-1] else x.detach().sum(-1, keepdim=True)
    nothing = largest == 0
    scaled = torch.where(nothing, 0, x / torch.where(nothing, 1, largest))  # no square overflows or vanishes
    return scaled / root((scaled * scaled).sum(-1, keepdim=True), at_zero=1.0)


def length(x: Tensor) -> Tensor:
    """Length of every vector of the last axis, whatever its scale; zero vectors have a gradient of 0, and one that is not finite is NaN.

    >>> length(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([5.0000e+30, 0.0000e+00])
    """
    x = _wide(x)
    if not x.shape[-1]:
        return x.sum(-1)
    largest = x.detach().abs().amax(-1, keepdim=True)
    scaled = x / torch.where(largest == 0, 1, largest)
    return largest.squeeze(-1) * root((scaled * scaled).sum(-1))


def root(squares: Tensor, at_zero: float = 0.0) -> Tensor:
    """Square roots, with a gradient of 0 where the square is 0.

    >>> root(torch.tensor([4.0, 0.0]))
    tensor([2., 0.])
    """
    nothing = squares == 0
    return torch.where(nothing, at_zero, torch.sqrt(torch.where(nothing, 1, squares)))


DISTANCES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "euclidean": euclidean,
    "squared": squared_euclidean,
    "cosine": cosine_distance,
}


def _squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Squared distances (in float64 where there is one), and the distances where they are known better than by a root of these."""
    fine = _finer(x)
    middle = centre(y).to(fine)
    u, v = x.to(fine) - middle, y.to(fine) - middle
    lengths = (u * u).sum(-1)[:, None] + (v * v).sum(-1)
    found = lengths - 2 * (u @ v.T)
    if fine != x.dtype:
        return torch.where(found < resolved(x.shape[-1]) * lengths, 0, found), None  # of an infinite length nothing is rounding
    # Nothing wider to multiply in: the value of each pair is that of its own differences, only the slope is that of the products.
    exact = torch.cdist(x.detach(), y.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    return _valued(found, exact.square()).clamp(min=0), exact


def _valued(found: Tensor, exact: Tensor) -> Tensor:
    """`exact`, with the derivatives of `found`; 0 without any where it is 0."""
    return torch.where(exact == 0, 0, found + (exact - found).detach())


def _rows(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    must(x.ndim == 2 and x.is_floating_point(), "x is points (N, D) of floating point", f"{tuple(x.shape)} of {x.dtype}")
    if y is None:
        return _wide(x), _wide(x)
    must(y.ndim == 2 and y.shape[1] == x.shape[1], f"y is points (M, {x.shape[1]})", tuple(y.shape))
    return _wide(x), _wide(y).to(_wide(x).dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _NARROW else x


def _finer(x: Tensor) -> torch.dtype:
    return x.dtype if x.device.type == "mps" else torch.float64
