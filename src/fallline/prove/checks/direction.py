"""Which way the loss pushes: a step down it must move predictions towards their targets.

With one prediction for all examples, whatever differs between their gradients comes from the targets alone: −∂L/∂x must rise with y.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.forms import even
from fallline.prove.points import nearby
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused


def sign(case: Case) -> Iterator[Finding]:
    """A step down the loss moves predictions towards their targets."""
    s = case.subject
    if not s.graph:
        raise NotChecked("no gradient comes back")
    case.needs_target()
    if not s.batched or s.n < 3:
        raise NotChecked("fewer than three examples")
    if case.kind == "groups":
        yield from _gathers(case)
        return
    if case.marked("wrong-class"):
        raise NotChecked("labels are about other columns than their own")
    target = _as_numbers(case)
    if case.kind == "signed" and not even(s):
        raise NotChecked("labels -1/+1 whose sides cost differently: the input may be a distance, for which less is alike")
    found_any = [c for c in (_agreement(case, k, target) for k in range(min(6, s.n))) if c is not None]
    if not found_any:
        raise NotChecked("equal predictions give gradients that do not tell targets apart")
    if max(found_any) < -0.05:
        mean = sum(found_any) / len(found_any)
        told = f"with equal predictions, the step down the loss correlates {mean:.2f} with the targets"
        if case.separate is False and case.kind == "real":  # a ranking may rightly run the other way, as risk against survival time
            yield found("wrong-sign", told, severity="note", write="turn the sign, unless a higher score is to mean a lower target.")
        else:
            yield found("wrong-sign", told)


def _as_numbers(case: Case) -> Tensor:
    s = case.subject
    if case.kind == "index":
        there = (s.y >= 0) & (s.y < s.x.shape[1])
        hot = torch.zeros_like(s.x).scatter(1, torch.where(there, s.y, 0).long().unsqueeze(1), 1.0)
        return torch.where(there.unsqueeze(1), hot, hot.mean())
    if case.kind in {"real", "distribution", "signed"} or (case.kind == "binary" and case.domain != "nonnegative"):
        return s.y.double().reshape(s.x.shape)
    what = "0/1 labels and inputs that are never negative may be scores or distances" if case.kind == "binary" else "the form is unknown"
    raise NotChecked(f"{what}; perfect= tells which input is best")


def _agreement(case: Case, k: int, target: Tensor) -> float | None:
    """Correlation of the step down the loss with the targets, where every prediction is that of example `k`."""
    s = case.subject
    x = s.x[k : k + 1].expand_as(s.x).clone()
    for jitter in (0.0, 0.02):
        there = x if not jitter else x + jitter * (nearby(s, 1.0, case.domain) - s.x)
        try:
            step = -s.gradient(there, s.y).double()
        except Refused:
            continue
        if not finite(step):
            continue
        a, b = step - step.mean(0), (target - target.mean(0)).double()
        length = float(a.norm() * b.norm())
        if float(a.abs().max()) > 1e-9 * float(step.abs().max()) > 0 and length > 0:
            return float((a * b).sum()) / length
    return None


def _gathers(case: Case) -> Iterator[Finding]:
    """Embeddings gathered by class must cost less under their labels than under shuffled ones."""
    s = case.subject
    classes, where = torch.unique(s.y, return_inverse=True)
    if len(classes) < 2 or len(classes) == s.n:
        raise NotChecked("every label alike, or every label once")
    costs: list[tuple[float, float]] = []
    for _ in range(4):
        middles = s.like(s.x)[: len(classes)]
        x = middles[where] + 0.1 * s.like(s.x)
        try:
            costs.append((s.number(x, s.y), s.number(x, s.y[s.shuffle(s.n)])))
        except Refused:
            continue
    if not costs:
        raise NotChecked("gathered embeddings were refused")
    if all(right > wrong for right, wrong in costs):
        right, wrong = costs[0]
        yield found("wrong-sign", f"classes that lie together cost {shown(right)}, with shuffled labels only {shown(wrong)}")


def least(case: Case) -> Iterator[Finding]:
    """The loss is least at the prediction called perfect."""
    s = case.subject
    if case.perfect is None:
        raise NotChecked("perfect= was not given")
    best = case.perfect.to(s.own_x.dtype)
    try:
        at_best = s.number(best, s.own_y)
    except Refused as refused:
        yield found("not-least", f"the perfect input is refused: {refused}")
        return
    for size in (0.01, 0.1, 0.5, 1.0):
        for _ in range(4):
            noise = s.like(best) * size * best.abs().mean().clamp(min=0.1)
            try:
                value = s.number(best + noise, s.own_y)
            except Refused:
                continue
            if value < at_best - 1e-5 * (abs(at_best) + 1e-3):
                yield found("not-least", f"the loss is {shown(at_best)} at the perfect input and {shown(value)} a step of {size:g} away")
                return
    try:
        here = s.number(s.own_x, s.own_y)
    except Refused:
        return
    if here < at_best - 1e-5 * (abs(at_best) + 1e-3):
        yield found("not-least", f"the loss is {shown(at_best)} at the perfect input and {shown(here)} at the input given")


def value(case: Case) -> Iterator[Finding]:
    """The value is that of the reference."""
    s = case.subject
    if case.reference is None:
        raise NotChecked("reference= was not given")
    tolerance = 1e-4 if s.coarse else 1e-7
    points = [s.x] + [nearby(s, size, case.domain) for size in (0.05, 0.5)]
    compared = 0
    for x in points:
        try:
            told, _ = s.each(x, s.y)
            expected = torch.as_tensor(case.reference(x.clone(), s.y.clone())).detach().double()
        except Refused:
            continue
        told = told.detach().double()
        if expected.shape != told.shape:
            expected, told = expected.mean(), told.mean()
        compared += 1
        gap = (told - expected).abs() > tolerance * (expected.abs() + 1e-3)
        if bool(gap.any()):
            flat = int(gap.flatten().nonzero()[0])
            row = f" at example {flat}" if told.ndim else ""
            yield found("value-wrong", f"{float(told.flatten()[flat]):.8g}{row}; the reference gives {float(expected.flatten()[flat]):.8g}")
            return
    if not compared:
        raise NotChecked("no input was accepted")
