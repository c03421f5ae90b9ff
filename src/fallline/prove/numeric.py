"""Derivatives by differences beside autograd's, at several steps: a right derivative agrees at one of them, a wrong one at none."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fallline.prove.subject import Refused

_FINE = ((1e-6, 1e-5), (1e-5, 1e-5), (1e-7, 1e-4), (1e-4, 3e-5))
_COARSE = ((1e-2, 5e-2), (3e-3, 5e-2), (1e-3, 5e-2), (3e-2, 5e-2))


class Gap(NamedTuple):
    """A derivative by autograd and by differences, at the step that fits best."""

    autograd: float
    differences: float
    step: float
    agrees: bool


def compare(f: Callable[[Tensor], float], x: Tensor, v: Tensor, told: float, size: float, *, coarse: bool) -> Gap | None:
    """Whether `told`, the derivative of `f` at `x` along `v`, is what differences give; None where none can be taken.

    `size`: what the terms of `told` add up to without signs: the measure of a small difference.
    """
    best: tuple[float, Gap] | None = None
    eps = 1e-7 if coarse else 2.3e-16
    for step, tolerance in _COARSE if coarse else _FINE:
        try:
            up, down = f(x + step * v), f(x - step * v)
        except Refused:
            continue
        slope = (up - down) / (2 * step)
        if slope != slope or slope in (float("inf"), float("-inf")):  # noqa: PLR0124
            continue
        noise = 40 * eps * max(abs(up), abs(down), 1e-300) / step
        allowed = tolerance * (size + abs(slope)) + noise
        gap = abs(slope - told)
        if best is None or gap / (allowed + 1e-300) < best[0]:
            best = (gap / (allowed + 1e-300), Gap(told, slope, step, gap <= allowed))
        if gap <= allowed and noise <= max(abs(slope), abs(told)):
            break
    return best[1] if best else None


def along(gradient: Tensor, v: Tensor) -> tuple[float, float]:
    """The derivative along `v`, and the sum of its terms without signs."""
    terms = gradient.double() * v.double()
    return float(terms.sum()), float(terms.abs().sum())


def one_element(x: Tensor, flat: int, length: Tensor) -> Tensor:
    """The direction of one element."""
    v = torch.zeros_like(x).flatten()
    v[flat] = length
    return v.view_as(x)
