"""How hard predictions are pulled: the confidently wrong no less than the undecided, those on either side of a number, none for ever."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.checks.edges import confidently_wrong
from fallline.prove.points import scale
from fallline.prove.problems import Severity
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused

_WEAK = 1e-2


def pulled(case: Case) -> Iterator[Finding]:
    """A confidently wrong prediction is pulled back about as hard as an undecided one."""
    s = case.subject
    if not s.graph:
        raise NotChecked("no gradient comes back")
    if case.marked("saturated"):
        raise NotChecked("there is no gradient at all")
    if case.marked("wrong-class"):
        raise NotChecked("labels are about other columns than their own")
    case.needs_target()
    if case.kind == "real":
        yield from _numbers(case)
        return
    wrong = confidently_wrong(case) if case.domain == "real" else None
    if wrong is None:
        raise NotChecked("only for scores of classes and labels, and for numbers")
    idle = float(_lengths(case, 0.01 * s.x).median())
    if not 0 < idle < float("inf"):
        raise NotChecked("undecided scores have no gradient")
    for gap in (18.0, 32.0):
        sure = float(_lengths(case, wrong * (gap if case.kind in {"index", "distribution"} else gap / 2)).median())
        if sure < _WEAK * idle:
            apart = f"scores {gap:g} apart" if case.kind in {"index", "distribution"} else f"scores of {gap / 2:g}"
            told = f"with {apart} on the wrong side the gradient is {shown(sure / idle)} times that of undecided scores"
            yield found("saturates", told)
            return


def _lengths(case: Case, x: Tensor) -> Tensor:
    """The length of the gradient of each example whose label counts."""
    s = case.subject
    gradient = s.gradient(x, s.y).double()
    if not s.batched:
        return gradient.flatten().norm().reshape(1)
    lengths = gradient.reshape(s.n, -1).norm(dim=1)
    if case.kind == "index":
        counted = (s.y >= 0).reshape(s.n, -1).any(1)
        lengths = lengths[counted]
    return lengths if len(lengths) else lengths.new_zeros(1)


def _numbers(case: Case) -> Iterator[Finding]:
    s = case.subject
    if case.domain != "real" or s.x.numel() != s.y.numel() or case.separate is False or case.marked("mixes"):
        raise NotChecked("only for losses of single numbers")
    best = s.y.reshape(s.x.shape).to(s.x.dtype)
    size = torch.maximum(scale(s.x), scale(best))
    for far, severity in ((4.0, None), (40.0, "note")):
        over, under = (s.gradient(best + side * far * size, s.y) for side in (1, -1))
        if not finite(over, under):
            return
        if bool(over.any()) != bool(under.any()):
            side = "below" if bool(over.any()) else "above"
            yield found(
                "one-sided", f"predictions {shown(far * float(size))} {side} their targets have no gradient, those on the other side do"
            )
            return
        if not bool(over.any()) and severity:
            told = f"predictions {shown(far * float(size))} off their targets have no gradient: outliers are dropped"
            yield found("saturates", told, severity="note")
            return


def bounded(case: Case) -> Iterator[Finding]:
    """The loss does not fall for ever as predictions grow."""
    s = case.subject
    case.needs_target()
    if case.kind == "index" and case.domain in {"real", "simplex"}:
        yield from _minus_a_probability(case)
    if case.domain != "real":
        raise NotChecked(f"the input is read as {case.domain}, which cannot grow for ever")
    tried = 0
    for what, start, v in _ways(case):
        try:
            values = [s.number(start + level * v, s.y) for level in (0.0, 1e3, 1e4)]
        except Refused:
            continue
        tried += 1
        if all(abs(value) < float("inf") for value in values):
            near, there = values[1] - values[0], values[2] - values[0]
            if there < -1 and 8 < there / min(near, -1e-300) < 12:
                severity: Severity | None = "warning" if case.kind in {"signed", "real"} else None
                yield found("unbounded", f"{what}: {shown(values[1])} at inputs of 1000, {shown(values[2])} at 10000", severity=severity)
                return
    if not tried:
        raise NotChecked("only for scores of classes and labels, and for numbers")


def _ways(case: Case) -> Iterator[tuple[str, Tensor, Tensor]]:
    s = case.subject
    if case.kind == "real" and s.x.numel() == s.y.numel() and case.separate is not False:
        best = s.y.reshape(s.x.shape).to(s.x.dtype)
        yield "far above the targets the loss falls for ever", best, torch.ones_like(best)
        yield "far below the targets the loss falls for ever", best, -torch.ones_like(best)
        return
    wrong = confidently_wrong(case)
    if wrong is not None:
        yield "as right scores grow the loss falls for ever", torch.zeros_like(wrong), -wrong
        yield "as wrong scores grow the loss falls for ever", torch.zeros_like(wrong), wrong


def _minus_a_probability(case: Case) -> Iterator[Finding]:
    s = case.subject
    wrong = confidently_wrong(case)
    if wrong is None or bool((s.y < 0).any()):
        return
    right = -wrong if case.domain == "real" else torch.zeros_like(s.x).scatter(1, s.y.long().unsqueeze(1), 1.0)
    level = 60.0 if case.domain == "real" else 1.0
    try:
        sure, missed = s.number(level * right, s.y), s.number(level * wrong, s.y)
    except Refused:
        return
    if min(abs(sure + 1), abs(sure + s.y.numel())) < 1e-3 and abs(missed) < 1e-3:
        yield found("log-missing", f"sure right answers cost {shown(sure)}, sure wrong ones {shown(missed)}: minus the probability")
