"""Edges: a perfect prediction, zeros, equal examples, saturated probabilities, large and NaN inputs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.forms import even
from fallline.prove.points import place, scale
from fallline.prove.problems import Severity
from fallline.prove.report import Finding, found
from fallline.prove.spy import Spy
from fallline.prove.subject import NotChecked, Refused, Subject

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


def edges(case: Case) -> Iterator[Finding]:
    """Value and gradient are finite at the edges of the domain."""
    s = case.subject
    seen: set[str] = set()
    tried = 0
    for what, x, y, level in sorted(_edges(case), key=lambda edge: _RANK[edge[3]]):
        state = _state(s, x, y)
        if state is None:
            continue
        tried += 1
        name, told = state
        if name and name not in seen:
            seen.add(name)
            yield found(name, f"{what}: {told}", severity=None if level == "error" else level)
    if not tried:
        raise NotChecked("every edge was refused")


def _state(s: Subject, x: Tensor, y: Tensor) -> tuple[str, str] | None:
    """Name and text of what is wrong there; empty where all is well, None where the loss refuses."""
    try:
        value, gradient, _ = s.slope(x, y)
    except Refused:
        return None
    if not finite(value.detach()):
        return "nan-at-edge", f"the value is {float(value.detach())}"
    if gradient is not None and not finite(gradient):
        flat = int((~torch.isfinite(gradient)).flatten().nonzero()[0])
        told = f"the gradient at {place(gradient.shape, flat)} is {float(gradient.flatten()[flat])}"
        return "gradient-nan", f"the value is {shown(float(value.detach()))}, {told}"
    return "", ""


def _edges(case: Case) -> Iterator[tuple[str, Tensor, Tensor, Severity]]:
    s = case.subject
    x, y = s.x, s.y
    shaped = y.reshape(x.shape) if y.is_floating_point() and y.numel() == x.numel() and y.shape != x.shape else y
    if y.is_floating_point() and shaped.shape == x.shape and case.kind not in {"binary", "signed"}:
        yield "input equal to the target", shaped.to(x.dtype), y, "error"
    if case.domain in {"real", "nonnegative"} and case.kind != "distribution":
        level: Severity = "error" if case.domain == "real" else "note" if bool((x > 0).all()) else "warning"
        yield "an input of zeros", torch.zeros_like(x), y, level
        if s.batched and s.n > 1:
            one = x.clone()
            one[0] = 0
            yield "an example of zeros", one, y, level
    if s.batched and s.n > 1:
        yield "all predictions equal", x[:1].expand_as(x).clone(), y, "error"
        one = y[_counted(y) : _counted(y) + 1]
        yield "one target for all examples", x, one.expand_as(y).clone(), "error"
        alone = slice(_counted(y), _counted(y) + 1)
        yield "a batch of one example", x[alone], y[alone], "warning"
    if case.kind == "real" and not bool((y > 0).all()) and not bool((y < 0).all()):
        nought = y.clone()
        nought.view(-1)[0] = 0
        yield "a target of 0", x, nought, "error"
    if case.kind == "distribution":
        yield "targets of 0 and 1", x, _hot(y.argmax(1), y), "error"
    if case.kind == "binary" and case.domain == "probability":
        label = y.to(x.dtype).reshape(x.shape)
        yield "probabilities of exactly 0 and 1, all right", label, y, "error"
        yield "probabilities of exactly 0 and 1, all wrong", 1 - label, y, "error"
    if case.kind == "distribution" and case.domain == "simplex":
        hot = _hot(y.argmax(1), x)
        yield "probabilities and targets of exactly 0 and 1, all right", hot, hot.to(y.dtype), "error"
    if case.kind == "index" and case.domain == "simplex" and bool(((y >= 0) & (y < x.shape[1])).all()):
        yield "probabilities of exactly 0 and 1, all right", _hot(y, x), y, "error"
        yield "probabilities of exactly 0 and 1, all wrong", _hot((y + 1) % x.shape[1], x), y, "error"


def _counted(y: Tensor) -> int:
    """The first example that no label such as -100 leaves out."""
    there = (y.double().flatten(1).amin(1) if y.ndim > 1 else y.double()) > -100
    return int(there.nonzero()[0]) if bool(there.any()) else 0


def _hot(label: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter(1, label.long().unsqueeze(1), 1.0)


def large(case: Case) -> Iterator[Finding]:
    """Value and gradient are finite at large inputs."""
    s = case.subject
    if case.domain not in {"real", "nonnegative"}:
        raise NotChecked(f"the input is read as {case.domain}, which cannot be large")
    tried, steep = 0, _steep(case)
    for level in (100.0, 1e3, 1e4):
        for what, x in _stretched(case, level):
            for there, dtype in ((x, s.x.dtype), (x.float(), torch.float32)):
                y = s.y.to(dtype) if s.y.is_floating_point() else s.y
                try:
                    value, gradient, _ = s.slope(there, y)
                except Refused:
                    continue
                tried += 1
                told = _overflow(value.detach(), gradient)
                if told and not (steep and bool(torch.isinf(value))):
                    bad, severity = told
                    name = str(dtype).removeprefix("torch.")
                    yield found("large-input", f"{what} {level:g} in {name}: {bad}", severity=severity)
                    return
    if not tried:
        raise NotChecked("large inputs are refused")


def _steep(case: Case) -> bool:
    """Whether the loss itself, not its way of computing, leaves float32 at inputs of 100, as exp(x) does."""
    s = case.subject
    try:
        return s.wide and any(1e30 < s.number(x, s.y) < float("inf") for _, x in _stretched(case, 100.0))
    except Refused:
        return False


def _overflow(value: Tensor, gradient: Tensor | None) -> tuple[str, Severity] | None:
    if bool(torch.isnan(value).any()):
        return "the value is NaN", "error"
    if gradient is not None and bool(torch.isnan(gradient).any()):
        return f"the value is {float(value):.4g}, the gradient NaN", "warning"
    if not finite(value):
        return f"the value is {float(value):.4g}", "warning"
    return None


def _stretched(case: Case, level: float) -> Iterator[tuple[str, Tensor]]:
    s = case.subject
    signs = torch.where(s.like(s.x) > 0, 1.0, -1.0).to(s.x.dtype)
    if case.domain == "nonnegative":
        yield "inputs of", torch.full_like(s.x, level)
        return
    yield "inputs of +-", level * signs
    yield "inputs of the given signs and", level * torch.where(s.x >= 0, 1.0, -1.0).to(s.x.dtype)
    yield "inputs stretched to", s.x * (level / scale(s.x))


def saturated(case: Case) -> Iterator[Finding]:
    """Where a prediction is confidently wrong, there is a gradient to correct it."""
    s = case.subject
    if not s.graph:
        raise NotChecked("no gradient comes back")
    wrong = confidently_wrong(case)
    if wrong is None:
        raise NotChecked("only for scores or probabilities of classes and of labels 0/1, and scores of -1/+1")
    case.needs_target()
    chances = case.domain != "real"
    for level in (1.0,) if chances else (8.0, 18.0, 32.0):
        try:
            gradient = s.gradient(level * wrong, s.y).flatten(1) if s.batched and s.x.ndim > 1 else s.gradient(level * wrong, s.y)
        except Refused as refused:
            raise NotChecked("such scores are refused") from refused
        dead = ~gradient.bool().any(1) if gradient.ndim > 1 else gradient == 0
        if case.kind == "index" and s.batched:
            dead &= (s.y >= 0).reshape(s.n, -1).any(1)
        if bool(dead.any()) and _dead_alone(s, level * wrong, dead):
            rows = f"{int(dead.sum())} of {dead.numel()} examples"
            where = "probabilities of 0 and 1" if chances else f"scores of {level:g}"
            case.mark("saturated")
            told = f"with {where} on the wrong side the gradient of {rows} is exactly zero"
            yield found("saturated", told, severity="warning" if chances else None)
            return


def _dead_alone(s: Subject, x: Tensor, dead: Tensor) -> bool:
    """Whether the first of these examples has no gradient alone either: in a batch, a loss may take the hardest only."""
    if not s.batched or s.n < 2 or dead.shape != x.shape[:1]:
        return True
    i = int(dead.nonzero()[0])
    try:
        return not bool(s.gradient(x[i : i + 1], s.y[i : i + 1]).any())
    except Refused:
        return bool(dead.all())


def confidently_wrong(case: Case) -> Tensor | None:
    """Scores (or probabilities) of about 1 on the wrong side of every label; None where that cannot be told."""
    s = case.subject
    if case.domain == "probability" and case.kind == "binary":
        return 1 - s.y.to(s.x.dtype).reshape(s.x.shape)
    if case.kind == "index" and case.domain in {"real", "simplex"}:
        true = torch.where(s.y >= 0, s.y, 0)
        if case.domain == "simplex":
            return _hot((true + 1) % s.x.shape[1], s.x)
        return (_hot((true + 1) % s.x.shape[1], s.x) - _hot(true, s.x)) / 2
    if case.domain != "real":
        return None
    if case.kind == "distribution":
        return (_hot(s.y.argmin(1), s.x) - _hot(s.y.argmax(1), s.x)) / 2
    label = s.y.to(s.x.dtype).reshape(s.x.shape) if case.kind in {"binary", "signed"} else None
    if case.kind == "binary" and label is not None:
        return 1 - 2 * label
    if case.kind == "signed" and label is not None and even(s):
        return -label
    return None


def nan(case: Case) -> Iterator[Finding]:
    """NaN in the input shows in the value."""
    s = case.subject
    gradient = s.gradient(s.x, s.y) if s.graph else torch.zeros_like(s.x)
    places = gradient.abs().flatten().topk(min(3, gradient.numel())).indices.tolist()
    whole = torch.full_like(s.x, torch.nan)
    tried = 0
    for flat in [*places, None]:
        x = whole if flat is None else s.x.clone()
        if flat is not None:
            x.view(-1)[flat] = torch.nan
        try:
            value, _ = s.each(x, s.y)
        except Refused:
            continue
        tried += 1
        if finite(value.detach()):
            with Spy() as spy:
                s.raw(x, s.y)
            at = "everywhere" if flat is None else f"at input{place(x.shape, flat)}"
            severity = "error" if spy.mask else None
            told = f"NaN {at} gives the value {shown(float(value.detach().mean()))}"
            yield found("nan-hidden", f"{told}{'; ' + spy.mask if spy.mask else ''}", severity=severity)
            return
    if not tried:
        raise NotChecked("NaN is refused, which is as good")
