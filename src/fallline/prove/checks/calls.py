"""What a call gives back and what it leaves behind: result, dtype, in-place changes, randomness, state, global settings."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove import guard
from fallline.prove._check import Case, finite, shown
from fallline.prove.points import place
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused, Subject, at_dtype


def first_call(subject: Subject) -> tuple[list[Finding], str]:
    """The findings of the first call of all, and why nothing else can be checked ("" where it can)."""
    x, y = subject.own_x, subject.own_y
    try:
        result, _, _, _ = subject.raw(x, y)
    except Refused as refused:
        if "numpy" not in str(refused):
            return [found("raises", str(refused))], "the loss raises"
        try:
            result, _, _, _ = subject.raw(x, y, grad=False)
        except Refused:
            return [found("numpy-in-graph", str(refused))], "the loss raises"
        return [found("numpy-in-graph", f"with an input that requires gradients: {refused}")], "the loss cannot be differentiated"
    if not isinstance(result, Tensor):
        return [found("not-a-tensor", f"it returned {type(result).__name__}: {str(result)[:60]}")], "the loss returns no tensor"
    if result.is_complex() or not (result.is_floating_point() or result.dtype in (torch.int64, torch.int32, torch.bool)):
        return [found("not-a-tensor", f"it returned a tensor of {result.dtype}")], "the loss returns no real number"
    findings = _shape(subject, result)
    if any(finding.severity == "error" for finding in findings):
        return findings, "the loss is neither one number nor one an example"
    if not finite(result.detach()):
        bad = int((~torch.isfinite(result.detach())).flatten().nonzero()[0])
        at = f" at {place(result.shape, bad)}" if result.ndim else ""
        findings.append(found("not-finite", f"the value is {float(result.detach().flatten()[bad])}{at}"))
        return findings, "the value is not finite"
    return findings, ""


def _shape(subject: Subject, result: Tensor) -> list[Finding]:
    if result.ndim == 0:
        return []
    told = f"input {tuple(subject.own_x.shape)}, target {tuple(subject.own_y.shape)}: result {tuple(result.shape)}"
    if result.numel() == 1 and len(subject.own_x) != 1:
        return [found("shape", told, severity="warning", write="end with .mean() or .sum() over every axis, for a 0-dimensional result.")]
    if not subject.batched or result.shape[0] != len(subject.own_x):
        return [found("shape", told)]
    if len(subject.own_x) > 1:
        try:
            fewer, _ = subject.each(subject.own_x[1:], subject.own_y[1:])
            if fewer.ndim == 0 or fewer.shape[0] != len(subject.own_x) - 1:
                return [found("shape", f"{told}; its first axis does not follow the number of examples")]
        except Refused:
            pass
    if result.ndim >= 2 and subject.own_x.ndim == 1 and result.shape[0] == result.shape[1]:
        return [found("broadcast", told)]
    subject.reduction = "none"
    return []


def dtype(case: Case) -> Iterator[Finding]:
    """Results in the input's dtype."""
    s = case.subject
    for given in (torch.float32, torch.float64):
        x, y = at_dtype(s.x, s.y, given)
        try:
            result, _ = s.each(x, y)
        except Refused as refused:
            if given is torch.float64 and s.own_x.dtype != torch.float64:
                yield found("dtype", f"float64 input is refused ({refused}), so derivatives are proved only to the digits of 32 bits")
            continue
        if result.dtype != given:
            yield found("dtype", f"{_name(given)} input gives a {_name(result.dtype)} result")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def untouched(case: Case) -> Iterator[Finding]:
    """Arguments as they were after the call."""
    s = case.subject
    _, _, given, label = s.raw(s.own_x, s.own_y)
    if label.requires_grad:
        yield found("in-place-target", "the target requires a gradient after the call")
    for name, before, after in (("in-place-input", s.own_x, given.detach()), ("in-place-target", s.own_y, label)):
        if before.shape != after.shape or before.dtype != after.dtype:
            yield found(name, f"{tuple(before.shape)} of {before.dtype} before, {tuple(after.shape)} of {after.dtype} after")
        elif not guard.same(before, after):
            flat = int(((before != after) & ~((before != before) & (after != after))).flatten().nonzero()[0])  # noqa: PLR0124
            old, new = float(before.flatten()[flat]), float(after.flatten()[flat])
            yield found(name, f"element {place(before.shape, flat)} was {shown(old)} before the call and is {shown(new)} after it")


def repeats(case: Case) -> Iterator[Finding]:
    """Equal calls give equal values, and change nothing that the loss holds."""
    s = case.subject
    if s.random:
        raise NotChecked("random=True: every call begins at the same seed")
    fn = s.at(s.x.dtype)
    held = guard.Holdings(fn)
    values = []
    for seed in (1, 1, 2, 3):
        guard.seed_all(seed)
        values.append(s.number(s.x, s.y))
    changed = held.changed()
    held.restore()
    if changed and values[0] == values[1] and _only_in_training(case):
        changed = []
    if changed:
        yield found("stateful", f"a call changes {', '.join(changed[:3])}")
    if values[0] != values[1]:
        s.noisy = "equal calls give other values"
        if not changed:
            yield found("stateful", f"two equal calls after the same seed give {values[0]:.6g} and {values[1]:.6g}")
    elif values[2] != values[0] or values[3] != values[0]:
        s.noisy = "the loss draws random numbers"
        other = values[2] if values[2] != values[0] else values[3]
        yield found("random", f"{values[0]:.6g}, then {other:.6g} after another seed")


def _only_in_training(case: Case) -> bool:
    """Whether what the loss holds changes in training mode only, as a running mean that is logged does."""
    s = case.subject
    fn = s.at(s.x.dtype)
    if not isinstance(fn, torch.nn.Module) or not fn.training:
        return False
    fn.eval()
    held = guard.Holdings(fn)
    s.number(s.x, s.y)
    changed = held.changed()
    held.restore()
    fn.train()
    return not changed


def settings(case: Case) -> Iterator[Finding]:
    """Global settings and generators as they were after the call."""
    s = case.subject
    fn = s.at(s.own_x.dtype)
    for grad in (True, False):
        before = guard.settings()
        with torch.set_grad_enabled(grad):
            start = guard.settings()
            fn(s.own_x.clone().requires_grad_(grad) * 1, s.label())
            after = guard.settings()
        guard.restore_settings(before)
        for name, value in after.items():
            if value != start[name]:
                mode = "" if grad else ", called under torch.no_grad()"
                yield found("global-state", f"{name} was {start[name]} before the call and is {value} after it{mode}")
                return
    ends = []
    for seed in (11, 12):
        guard.seed_all(seed)
        fn(s.own_x.clone(), s.label())
        ends.append(guard.generators())
    if torch.equal(ends[0][0], ends[1][0]):
        yield found("global-state", "it seeds torch's global generator: every draw after it repeats")
    elif ends[0][3] == ends[1][3]:
        yield found("global-state", "it seeds Python's global generator")
    elif (ends[0][2][1] == ends[1][2][1]).all():
        yield found("global-state", "it seeds numpy's global generator")
