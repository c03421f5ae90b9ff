"""Digits: the same value in 32 bits, an ordinary value in 16, and labels that keep theirs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.points import scale
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused, at_dtype


def single(case: Case) -> Iterator[Finding]:
    """float32 gives the value of float64."""
    s = case.subject
    if not s.wide:
        raise NotChecked("float64 is refused")
    if s.coarse and s.graph and (told := _staircase(case)):
        yield found("precision", told)
        return
    x, y = at_dtype(*at_dtype(s.x, s.y, torch.float32), torch.float64)
    try:
        narrow, exact = s.number(*at_dtype(x, y, torch.float32)), s.number(x, y)
    except Refused as refused:
        raise NotChecked(f"float32 is refused ({refused})") from refused
    size = abs(exact) + float((s.gradient(x, y).double() * x.double()).abs().sum())
    if abs(narrow - exact) > 1e-4 * size + 1e-6:
        yield found("precision", f"float32 gives {narrow:.8g}, float64 {exact:.8g} at the same numbers")


def _staircase(case: Case) -> str:
    """Whether steps in the fifth digit of the input move the value by something else than the gradient says: it is narrowed inside."""
    s = case.subject
    here, gradient = s.number(s.x, s.y), s.gradient(s.x, s.y).double()
    odd, told = 0, ""
    for _ in range(8):
        step = 3e-5 * s.x * s.like(s.x).sign()
        expected, moved = float((gradient * step.double()).sum()), s.number(s.x + step, s.y) - here
        if abs(expected) > 3e-7 * abs(here) and abs(moved - expected) > 0.3 * abs(expected) + 3e-7 * abs(here):
            odd += 1
            told = f"a change in the fifth digit of the input moves the value by {shown(moved)} in place of {shown(expected)}"
    return told if odd >= 5 else ""


def half(case: Case) -> Iterator[Finding]:
    """float16 and bfloat16 give a finite value where the true one is an ordinary number."""
    s = case.subject
    tried, refusal = 0, ""
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        for level in (0.0, 20.0, 300.0):
            if level and case.domain not in {"real", "nonnegative"}:
                continue
            x, y = _narrow(case, level, dtype)
            try:
                value, gradient, _ = s.slope(x, y)
                truth, slope, _ = s.slope(x.double(), y.double() if y.is_floating_point() else y)
            except Refused as refused:
                refusal = str(refused)
                continue
            tried += 1
            if not finite(truth.detach()) or float(truth.detach().abs().max()) > 1e6:
                continue
            at = f"inputs of about {level:g}" if level else "the input given"
            if not finite(value.detach()):
                told = f"{at} in {name} give {float(value.detach().mean())}, truly {shown(float(truth.detach().mean()))}"
            elif gradient is not None and slope is not None and float(slope.abs().max()) < 6e4 and not finite(gradient):
                told = f"{at} in {name} give a gradient that is not finite"
            else:
                continue
            yield found("half-precision", told)
            return
    if not tried:
        raise NotChecked(f"16-bit input is refused ({refusal})")


def _narrow(case: Case, level: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    s = case.subject
    x = s.x * (level / scale(s.x)) if level else s.x
    return x.to(dtype), s.y.to(dtype) if s.y.is_floating_point() else s.y


def labels(case: Case) -> Iterator[Finding]:
    """Labels keep every digit."""
    if case.kind == "index" and case.subject.x.ndim == 2:
        yield from _many_classes(case)
    elif case.kind == "groups":
        yield from _many_groups(case)
    elif case.kind == "real":
        yield from _digits(case)
    else:
        raise NotChecked("only for class indices and numbers")


def _many_classes(case: Case) -> Iterator[Finding]:
    s = case.subject
    tried = 0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        costs = {}
        for label in (256, 257, 2048, 2049):
            x = torch.zeros(2, 2100, dtype=dtype, device=s.x.device)
            x[:, label] = 8.0
            try:
                costs[label] = s.number(x, torch.full((2,), label, dtype=torch.int64, device=s.x.device))
            except Refused:
                break
        if len(costs) < 4:
            continue
        tried += 1
        for low, high in ((256, 257), (2048, 2049)):
            if abs(costs[low] - costs[high]) > 1e-2 * (abs(costs[low]) + abs(costs[high]) + 1e-3):
                name = str(dtype).removeprefix("torch.")
                yield found(
                    "label-cast", f"{name} scores sure of class {low} cost {shown(costs[low])}, of class {high} {shown(costs[high])}"
                )
                return
    if not tried:
        raise NotChecked("2100 classes are refused")


def _many_groups(case: Case) -> Iterator[Finding]:
    s = case.subject
    if not s.y.dtype == torch.int64:
        raise NotChecked("the labels are not int64")
    try:
        for start in (256, 2048, 2**24):
            value = s.number(s.x, s.y - s.y.min() + start)
            if case.moved(value, case.base):
                told = f"labels from {start} on cost {shown(value)}, the same groups by small labels {shown(case.base)}"
                yield found("label-cast", told)
                return
    except Refused as refused:
        raise NotChecked("large labels are refused") from refused


def _digits(case: Case) -> Iterator[Finding]:
    """Whether a change in the fifth digit of the targets moves the value at all, where one in the second does."""
    s = case.subject
    if not s.wide or s.coarse:
        raise NotChecked("the loss computes in 32 bits")
    case.needs_target()
    if case.separate is False or case.marked("mixes"):
        raise NotChecked("a loss between examples may need no more of the targets than their order")
    noise = s.like(s.y)
    try:
        here = s.number(s.x, s.y)
        fine = [s.number(s.x, s.y * (1 + step * noise)) for step in (1e-6, 3e-6, 1e-5)]
        broad = [s.number(s.x, s.y * (1 + step * noise)) for step in (0.05, 0.3, 1.0)]
    except Refused as refused:
        raise NotChecked("moved targets are refused") from refused
    if all(value == here for value in broad):
        raise NotChecked("the targets given do not move the value")
    if sum(value == here for value in fine) >= 2:
        yield found("label-cast", "a change in the fifth digit of the targets leaves the value exactly as it is")
