"""Jumps: along a straight line the value must change by what its gradient adds up to, however short the step.

Where the change over a step is most unlike the gradient's, the step is halved again and again: at a kink the change fades with it, at a
jump it stays.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.points import nearby, scale
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused

_STEPS = 32
_PLACES = 2


class _Point(NamedTuple):
    t: float
    value: float
    slope: float


def jumps(case: Case) -> Iterator[Finding]:
    """The value has no jump along lines through the data."""
    for name, why in _REASONS.items():
        if case.marked(name):
            raise NotChecked(why)
    tried = 0
    for what, x, v, start, stop in _lines(case):
        points = _walk(case, x, v, start, stop)
        if len(points) < _STEPS // 2:
            continue
        tried += 1
        jump = _jump(case, x, v, points)
        if jump is not None:
            a, b = jump
            between = case.kind == "groups" or case.separate is False or case.marked("mixes") or case.marked("jumps")
            step = (b.t - a.t) * float(v.abs().max())
            told = f"{what}: a step of {step:.1g} takes the value from {a.value:.6g} to {b.value:.6g}"
            yield found(
                "jump",
                f"{told}, of which its gradient explains {shown(abs(b.t - a.t) * abs(a.slope))}",
                severity="note" if between else None,
            )
            return
    if not tried:
        raise NotChecked("no line was found along which the loss is finite")


_REASONS = {
    "only-jumps": "the value does nothing but jump",
    "gradient-skipped": "left out with `gradient`: what goes straight through jumps on purpose",
    "whole-parts": "parts of the input are whole numbers",
}


def _lines(case: Case) -> Iterator[tuple[str, Tensor, Tensor, float, float]]:
    """A start, a direction, and how far to go both ways."""
    s = case.subject
    x, y = s.x, s.y
    if case.domain != "real":
        yield "between two inputs", x, nearby(s, 1.0, case.domain) - x, 0.0, 1.0
        yield "between two inputs", x, nearby(s, 1.0, case.domain) - x, 0.0, 1.0
        return
    if case.kind == "real" and y.numel() == x.numel():
        best = y.reshape(x.shape).to(x.dtype)
        size = torch.maximum(scale(x), scale(best))
        yield "from the targets off", best, size * s.like(x).sign(), 0.0, 4.0
    elif case.kind == "index":
        true = torch.where((y >= 0) & (y < x.shape[1]), y, 0).long().unsqueeze(1)
        hot, cold = (torch.zeros_like(x).scatter(1, column, 1.0) for column in (true, (true + 1) % x.shape[1]))
        yield "from right to wrong", x, scale(x) * (cold - hot), -4.0, 4.0
    else:
        yield "along a random line", x, scale(x) * s.like(x), -3.0, 3.0
    yield "along a random line", x, scale(x) * s.like(x), -3.0, 3.0


def _at(case: Case, x: Tensor, v: Tensor, t: float) -> _Point | None:
    try:
        value, gradient, _ = case.subject.slope(x + t * v, case.subject.y)
    except Refused:
        return None
    if not finite(value.detach()):
        return None
    slope = 0.0 if gradient is None else float((gradient.detach().double() * v.double()).sum())
    return _Point(t, float(value.detach().double()), slope if slope - slope == 0 else 0.0)


def _walk(case: Case, x: Tensor, v: Tensor, start: float, stop: float) -> list[_Point]:
    times = torch.linspace(start, stop, _STEPS + 1, dtype=torch.float64).tolist()
    return [point for t in times if (point := _at(case, x, v, t)) is not None]


def _unlike(a: _Point, b: _Point) -> float:
    """The change of the value that the gradient at both ends does not account for."""
    return abs(b.value - a.value - (b.t - a.t) * (a.slope + b.slope) / 2)


def _jump(case: Case, x: Tensor, v: Tensor, points: list[_Point]) -> tuple[_Point, _Point] | None:
    coarse = case.subject.coarse
    values = sorted(point.value for point in points)
    span = values[-1] - values[0]
    least = max((3e-3 if coarse else 1e-4) * span, (1e-5 if coarse else 1e-11) * max(abs(values[0]), abs(values[-1])))
    steps = list(itertools.pairwise(points))
    odd = [_unlike(a, b) for a, b in steps]
    padded = [odd[0], *odd, odd[-1]]
    sharp = [here - (padded[i] + padded[i + 2]) / 2 for i, here in enumerate(odd)]
    for i in sorted(range(len(odd)), key=lambda i: -sharp[i])[:_PLACES]:
        found_here = _halve(case, x, v, *steps[i], least, 12 if coarse else 34)
        if found_here is not None:
            return found_here
    return None


def _halve(case: Case, x: Tensor, v: Tensor, a: _Point, b: _Point, least: float, times: int) -> tuple[_Point, _Point] | None:
    """The ends of a step, halved `times` times, over which the value still changes by more than `least`; None where it does not."""
    for _ in range(times):
        if max(_unlike(a, b), abs(b.value - a.value)) < least:
            return None
        middle = _at(case, x, v, (a.t + b.t) / 2)
        if middle is None:
            return None
        a, b = (a, middle) if _unlike(a, middle) >= _unlike(middle, b) else (middle, b)
    explained = (b.t - a.t) * max(abs(a.slope), abs(b.slope))
    return (a, b) if abs(b.value - a.value) > least + 2 * explained else None
