"""The backward pass itself: it follows the factor on the loss, repeats, and is right for the target and for the loss's own parameters."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fallline.prove import guard, numeric
from fallline.prove._check import Case, shown
from fallline.prove.points import direction, usable
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused


def backward(case: Case) -> Iterator[Finding]:
    """Twice the loss has twice the gradient, a second backward gives the same one, and target and parameters get theirs."""
    s = case.subject
    if not s.graph or case.marked("gradient-unsound"):
        raise NotChecked("the first derivative is not sound")
    point = next(usable(s, case.domain, (0.05, 0.3)), s.x)
    yield from _factor(case, point)
    yield from _again(case, point)
    if s.y.is_floating_point() and not s.targetless:
        yield from _of_the_target(case)
    if isinstance(s.fn, nn.Module):
        yield from _of_parameters(case)


def _value(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    value, leaf = case.subject.each(x, case.subject.y, grad=True)
    return value.mean(), leaf


def _factor(case: Case, x: Tensor) -> Iterator[Finding]:
    once, (value, leaf) = case.subject.gradient(x, case.subject.y), _value(case, x)
    try:
        (scaled,) = torch.autograd.grad(value * 8.0, leaf)
    except Exception as error:
        raise Refused(error) from error
    size = float(once.abs().max())
    if float((scaled - 8 * once).abs().max()) > 1e-3 * 8 * size:
        ratio = float((scaled * once).sum() / (once * once).sum())
        yield found(
            "gradient-wrong", f"8 times the loss has {shown(ratio)} times the gradient: the backward leaves out what comes from above"
        )


def _again(case: Case, x: Tensor) -> Iterator[Finding]:
    value, leaf = _value(case, x)
    try:
        first = torch.autograd.grad(value, leaf, retain_graph=True)[0].clone()
        second = torch.autograd.grad(value, leaf)[0]
    except Exception:  # a backward that refuses to run twice says so
        return
    if float((first - second).abs().max()) > 1e-6 * float(first.abs().max()):
        flat = int((first - second).abs().argmax())
        one, two = float(first.flatten()[flat]), float(second.flatten()[flat])
        told = f"a first backward gives {shown(one)}, a second over the same graph {shown(two)}"
        yield found("gradient-wrong", told)


def _of_the_target(case: Case) -> Iterator[Finding]:
    s = case.subject
    wrong: list[numeric.Gap] = []
    tried = 0
    for x in usable(s, case.domain, (0.05, 0.3)):
        label = s.y.detach().clone().requires_grad_()
        before = guard.settings()
        try:
            result = s.at(x.dtype)(x.clone(), label.clone())
            value = result.mean()
            gradient = torch.autograd.grad(value, label, allow_unused=True)[0] if value.requires_grad else None
        except Exception:
            return
        finally:
            guard.restore_settings(before)
        if gradient is None:
            return
        domain = {"binary": "probability", "distribution": "simplex"}.get(case.kind, "real")
        v = direction(s, s.y, domain) * (s.y != 0)  # a target of 0 may be a mark
        gap = numeric.compare(lambda y, x=x: s.number(x, y), s.y, v, *numeric.along(gradient, v), coarse=s.coarse)
        tried += gap is not None
        if gap is not None and not gap.agrees:
            wrong.append(gap)
    if wrong and len(wrong) == tried:
        told = f"by the target autograd gives {wrong[0].autograd:.6g}, differences {wrong[0].differences:.6g}"
        write = "return the target's own gradient from backward, or detach the target in the forward."
        yield found("gradient-wrong", told, severity="warning", write=write)


def _of_parameters(case: Case) -> Iterator[Finding]:
    s = case.subject
    fn = s.at(s.x.dtype)
    if fn is s.fn or not isinstance(fn, nn.Module):
        return
    for name, parameter in list(fn.named_parameters())[:8]:
        if not parameter.requires_grad or not parameter.numel():
            continue
        wrong: list[tuple[bool, numeric.Gap]] = []
        tried = 0
        for x in usable(s, case.domain, (0.05, 0.3)):
            value, _ = _value(case, x)
            gradient = torch.autograd.grad(value, parameter, allow_unused=True)[0] if value.requires_grad else None
            v = s.like(parameter.detach())
            told = numeric.along(gradient, v) if gradient is not None else (0.0, 0.0)
            gap = numeric.compare(
                _by_parameter(case, x, parameter, v), torch.zeros(()).double(), torch.ones(()).double(), *told, coarse=s.coarse
            )
            tried += gap is not None
            if gap is not None and not gap.agrees:
                wrong.append((gradient is None, gap))
        if wrong and len(wrong) == tried:
            missing, gap = wrong[0]
            has = "none" if missing else f"{gap.autograd:.6g}"
            told_all = f"by the loss's own parameter {name} autograd gives {has}, differences {gap.differences:.6g}"
            write = "remove the .detach() or the wrong backward between parameter and result; make what is not learnt a buffer."
            yield found("gradient-wrong", told_all, severity="warning" if missing else None, write=write)
            return


def _by_parameter(case: Case, x: Tensor, parameter: Tensor, v: Tensor) -> Callable[[Tensor], float]:
    def value(step: Tensor) -> float:
        kept = parameter.data
        parameter.data = kept + float(step) * v.to(kept.dtype)
        try:
            return case.subject.number(x, case.subject.y)
        finally:
            parameter.data = kept

    return value
