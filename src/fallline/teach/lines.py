"""A picture as plain numbers: its lines, their names and roles; and a function of one number as a value and a slope."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

POINTS = 401


class Line(NamedTuple):
    """One curve; `role`: "value", "slope", "second" and "second slope" (of a further function), "faint" (a contour), "path"."""

    name: str
    x: list[float]
    y: list[float]
    role: str


class Curves(NamedTuple):
    """A picture: its title, what the axes are, its lines; `square` where both axes have one scale."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    square: bool = False


def line(name: str, x: Tensor, y: Tensor, role: str) -> Line:
    """A curve from tensors (N,)."""
    return Line(name, x.tolist(), y.detach().tolist(), role)


def pair(shown: str, function: Callable[[Tensor], Tensor], low: float, high: float, *, second: bool = False) -> list[Line]:
    """Value and derivative of a function that gives one number for each number, from low to high; `shown` follows "value" and "slope"."""
    x = torch.linspace(low, high, POINTS, dtype=torch.float64)
    with torch.enable_grad():
        at = x.clone().requires_grad_()
        height = function(at)
        rise = torch.autograd.grad(height.sum(), at)[0]
    roles = ("second", "second slope") if second else ("value", "slope")
    return [line(f"value{shown}", x, height, roles[0]), line(f"slope{shown}", x, rise, roles[1])]
