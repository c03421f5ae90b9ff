"""First and second derivative against differences, off kinks: a kink at the user's own point is no fault, a wrong slope beside it is."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fallline.prove import numeric
from fallline.prove._check import Case, finite, shown
from fallline.prove.points import direction, place, scale, usable
from fallline.prove.report import Finding, found
from fallline.prove.spy import Spy
from fallline.prove.subject import NotChecked, Refused, brief

_ELEMENTS = 8


def gradient(case: Case) -> Iterator[Finding]:
    """The gradient is there, finite, and that of the value."""
    s = case.subject
    points = [s.x, *usable(s, case.domain)]
    try:
        grads = [s.slope(x, s.y)[1] for x in points]
    except Refused as refused:
        s.graph = False
        case.mark("gradient-unsound")
        yield found("raises", f"backward fails: {refused}")
        return
    if all(g is None or not bool(g.any()) for g in grads):
        case.mark("gradient-unsound")
        yield from _no_gradient(case, points, all(g is None for g in grads))
        return
    for x, g in zip(points, grads, strict=True):
        if g is not None and not finite(g):
            flat = int((~torch.isfinite(g)).flatten().nonzero()[0])
            case.mark("gradient-unsound")
            at, bad = place(g.shape, flat), float(g.flatten()[flat])
            yield found("gradient-nan", f"at input{at} = {shown(float(x.flatten()[flat]))} the gradient is {bad}; the value is finite")
            return
    off = points[1:] or points
    wrong = [gap for x, g in zip(off, grads[1:] or grads, strict=True) if (gap := _disagrees(case, x, g)) is not None]
    if len(wrong) >= min(2, len(off)):
        case.mark("gradient-unsound")
        where, gap = next(((w, g) for w, g in wrong if w), wrong[0])
        at = f"at input{where}" if where else "along a random direction"
        with Spy() as spy:
            s.raw(s.own_x, s.own_y)
        cut = f"; it is cut at {spy.cut}" if spy.cut else ""
        yield found("gradient-wrong", f"{at} autograd gives {gap.autograd:.6g}, differences {gap.differences:.6g} (step {gap.step:g}){cut}")


def _no_gradient(case: Case, points: list[Tensor], missing: bool) -> Iterator[Finding]:
    s = case.subject
    s.graph = False
    if case.marked("ignores-input"):
        raise NotChecked("the value does not move with the input")
    slopes = []
    for x in points:
        v = direction(s, x, case.domain)
        gap = numeric.compare(lambda p: s.number(p, s.y), x, v, 0.0, 0.0, coarse=s.coarse)
        if gap is not None and not gap.agrees:
            slopes.append(gap.differences)
    if not slopes:
        case.mark("only-jumps")
        yield found("step", "the gradient is zero at every point tried, while the value jumps between them")
        return
    with Spy() as spy:
        s.raw(s.own_x, s.own_y)
    told = f"differences give a slope of {shown(slopes[0])}, autograd gives {'none at all' if missing else 'exactly zero'}"
    if spy.numpy:
        yield found("numpy-in-graph", f"{told}; {spy.numpy}")
    elif missing or spy.cut:
        yield found("detached", f"{told}{'; ' + spy.cut if spy.cut else ''}")
    else:
        yield found("gradient-wrong", told)


def _disagrees(case: Case, x: Tensor, g: Tensor | None) -> tuple[str, numeric.Gap] | None:
    """Where autograd and differences part, or None; an element is named if one shows it."""
    s = case.subject
    g = torch.zeros_like(x) if g is None else g.detach()

    def f(p: Tensor) -> float:
        return s.number(p, s.y)

    first = None
    for _ in range(3):
        v = direction(s, x, case.domain)
        gap = numeric.compare(f, x, v, *numeric.along(g, v), coarse=s.coarse)
        if gap is not None and not gap.agrees:
            first = ("", gap)
            break
    if case.domain == "simplex":
        return first
    total = float(g.double().abs().max()) if s.coarse else 0.0
    order = torch.randperm(g.numel(), generator=s.generator)[: _ELEMENTS * (4 if first else 1)].tolist()
    length = scale(x) if case.domain in {"real", "log-probability"} else None
    for flat in order:
        at = x.flatten()[flat]
        room = length if length is not None else (at * (1 - at) if case.domain == "probability" else at)
        v = numeric.one_element(x, flat, room)
        slope, size = numeric.along(g, v)
        gap = numeric.compare(f, x, v, slope, size + total * float(room.abs()), coarse=s.coarse)
        if gap is not None and not gap.agrees:
            per = float(room) or 1.0
            return place(x.shape, flat), gap._replace(autograd=gap.autograd / per, differences=gap.differences / per)
    return first


def second(case: Case) -> Iterator[Finding]:
    """The derivative of the gradient is that of the gradient's own differences."""
    s = case.subject
    if not s.graph or case.marked("gradient-unsound"):
        raise NotChecked("the first derivative is not sound")
    if not s.wide or s.coarse:
        raise NotChecked("the loss computes in 32 bits: its second differences are noise")
    gaps, tried = [], 0
    for x in usable(s, case.domain):
        u, v = direction(s, x, case.domain), direction(s, x, case.domain)
        try:
            told, size = _curvature(case, x, u, v)
        except Refused as refused:
            if isinstance(refused.error, NotImplementedError) or "not implemented" in str(refused) or "once_differentiable" in str(refused):
                yield found("second-derivative-missing", str(refused))
            else:
                yield found("second-derivative-missing", str(refused), severity="warning")
            return
        gap = numeric.compare(_slope_along(case, u), x, v, told, size, coarse=False)
        tried += gap is not None
        if gap is not None and not gap.agrees and abs(gap.differences - told) > 1e-3 * max(abs(told), abs(gap.differences)):
            gaps.append(gap)
    if tried == 0:
        raise NotChecked("no point was found at which differences can be taken")
    if len(gaps) >= min(2, tried):
        gap = gaps[0]
        yield found("second-derivative-wrong", f"autograd gives {gap.autograd:.6g}, differences of the gradient give {gap.differences:.6g}")


def _slope_along(case: Case, u: Tensor) -> Callable[[Tensor], float]:
    def slope(x: Tensor) -> float:
        gradient = case.subject.gradient(x, case.subject.y)
        return float((gradient.double() * u.double()).sum())

    return slope


def _curvature(case: Case, x: Tensor, u: Tensor, v: Tensor) -> tuple[float, float]:
    s = case.subject
    _, g, leaf = s.slope(x, s.y, create_graph=True)
    if g is None or not g.requires_grad:
        return 0.0, 0.0
    try:
        (h,) = torch.autograd.grad((g * u).sum(), leaf, allow_unused=True)
    except Exception as error:
        if "does not require grad" in brief(error):
            return 0.0, 0.0
        raise Refused(error) from error
    return (0.0, 0.0) if h is None else numeric.along(h, v)
