"""What the value depends on: every part of the input, the target, and which target stands beside which prediction."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove import guard
from fallline.prove._check import Case, shown
from fallline.prove.points import nearby, scale, usable
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused, Subject


def depends_on_input(case: Case) -> Iterator[Finding]:
    """The value moves with the input."""
    s = case.subject
    tried = [s.number(x, s.y) for x in usable(s, case.domain, (0.05, 0.3, 1.0, 3.0))]
    tried += [value for value in (_value(s, s.x.flip(0), s.y), _value(s, -s.x, s.y)) if value is not None]
    if not tried:
        raise NotChecked("no other input was accepted")
    if not any(case.moved(value, case.base) for value in tried):
        case.mark("ignores-input")
        yield found("ignores-input", f"the value stays {shown(case.base)} at {len(tried)} other inputs")


def depends_on_target(case: Case) -> Iterator[Finding]:
    """The value moves with the target."""
    s = case.subject
    if case.kind == "none":
        raise NotChecked("there is no target")
    points = [s.x, *usable(s, case.domain, (0.3, 1.0))]
    tried = 0
    for y in _other_targets(case):
        if guard.same(y, s.y):
            continue
        for x in points:
            value, here = _value(s, x, y), _value(s, x, s.y)
            if value is None or here is None:
                continue
            tried += 1
            if case.moved(value, here):
                return
    if not tried:
        raise NotChecked("no other target was accepted")
    case.mark("ignores-target")
    yield found("ignores-target", f"the value stays the same under {tried} other targets")


def _other_targets(case: Case) -> Iterator[Tensor]:
    s = case.subject
    y = s.y
    if s.n > 1:
        yield from (y[s.shuffle(s.n)] for _ in range(3))
    present = torch.unique(y)
    if len(present) > 1:
        yield present[(torch.searchsorted(present, y) + 1) % len(present)]
    if case.kind == "binary":
        yield (1 - y.long()).to(y.dtype)
    elif case.kind == "signed":
        yield -y
    elif case.kind == "index":
        yield torch.where(y >= 0, (y + 1) % s.x.shape[1], y)
    elif case.kind == "real":
        yield y + scale(y) * s.like(y)
        yield y * 1.5


def depends_on_every_part(case: Case) -> Iterator[Finding]:
    """Every example and every output moves the value."""
    s = case.subject
    if not s.batched or s.n < 2:
        raise NotChecked("one example only")
    if case.marked("ignores-input"):
        raise NotChecked("the value does not depend on the input")
    rows = [i for i in range(s.n) if not _row_counts(case, i)]
    mining = case.kind == "groups" or case.separate is False
    if rows and (not mining or len(rows) * 2 > s.n):
        yield found("ignores-part", f"{len(rows)} of {s.n} examples never move the value; the first is example {rows[0]}")
        return
    columns = [c for c in _columns(case) if not _column_counts(case, c)]
    if columns:
        yield found("ignores-part", f"output {columns[0]} of an example never moves the value ({len(columns)} such)", severity="warning")


def _row_counts(case: Case, i: int) -> bool:
    s = case.subject
    for x in (s.x, nearby(s, 1.0, case.domain)):
        here = _value(s, x, s.y)
        if here is None:
            continue
        for other in _others(case, x):
            changed = x.clone()
            changed[i] = other[i]
            value = _value(s, changed, s.y)
            if value is not None and case.moved(value, here):
                return True
        for j in range(s.n):  # with the target too: an ignored label keeps its own row out
            if j != i:
                pair, label = x.clone(), s.y.clone()
                pair[i], label[i] = x[j], s.y[j]
                value = _value(s, pair, label)
                if value is not None and case.moved(value, here):
                    return True
    return False


def _others(case: Case, x: Tensor) -> Iterator[Tensor]:
    """Other inputs to take one example from: near, far, and so far that even a maximum or a sorted loss sees it."""
    yield from (nearby(case.subject, size, case.domain) for size in (0.3, 1.0, 3.0))
    yield x.flip(0)
    if case.domain in {"real", "nonnegative"}:
        yield x * 30
        yield nearby(case.subject, 30.0, "real") if case.domain == "real" else x * 300


def _columns(case: Case) -> list[int]:
    s = case.subject
    if s.x.ndim < 2:
        return []
    width = s.x[0].numel()
    if case.kind in {"index", "grades", "unknown"}:
        present = torch.unique(s.y[s.y >= 0]).long().tolist() if case.kind == "index" and s.x.ndim == 2 else []
        return [c for c in present if c < width][:24]
    return torch.randperm(width, generator=s.generator)[:24].sort().values.tolist()


def _column_counts(case: Case, c: int) -> bool:
    s = case.subject
    for size in (0.3, 1.0, 3.0):
        other = nearby(s, size, case.domain)
        changed = s.x.clone().flatten(1)
        changed[:, c] = other.flatten(1)[:, c]
        value = _value(s, changed.view_as(s.x), s.y)
        if value is None or case.moved(value, case.base):
            return True
    return False


def pairing(case: Case) -> Iterator[Finding]:
    """Each prediction is compared with its own target."""
    s = case.subject
    case.needs_target()
    yield from _other_shape(case)
    if not s.batched or s.n < 3:
        raise NotChecked("fewer than three examples")
    if case.marked("ignores-input"):
        raise NotChecked("the value does not depend on the input")
    if len(torch.unique(s.y.double().flatten(1).cpu() if s.y.ndim > 1 else s.y.cpu(), dim=0)) < 2:
        raise NotChecked("all targets are equal")
    for x in (s.x, *usable(s, case.domain, (0.3, 1.0))):
        here = s.number(x, s.y)
        for _ in range(3):
            value = _value(s, x, s.y[s.shuffle(s.n)])
            if value is None:
                raise NotChecked("shuffled targets were refused")
            if case.moved(value, here):
                return
    crossed = _all_pairs(case)
    if crossed:
        case.mark("broadcast")
        yield found("broadcast", f"shuffling the targets changes nothing; {crossed}")
    else:
        between = case.separate is False  # as a distance between two sets is
        told = "shuffling the targets against the inputs does not change the value"
        yield found("pairing-lost", told, severity="note" if between else None)


def _all_pairs(case: Case) -> str:
    s = case.subject
    m = min(s.n, 5)
    whole = _value(s, s.x[:m], s.y[:m])
    cells = [_value(s, s.x[i : i + 1], s.y[j : j + 1]) for i in range(m) for j in range(m)]
    if whole is None or any(cell is None for cell in cells):
        return ""
    mean = sum(cell for cell in cells if cell is not None) / m**2
    return f"{m} examples cost {shown(whole)}, the mean over all {m}x{m} pairs" if not case.moved(whole, mean) else ""


def _other_shape(case: Case) -> Iterator[Finding]:
    """Targets of shape (N, 1) against (N,)."""
    s = case.subject
    x, y = s.x, s.y
    if x.shape != y.shape and x.squeeze().shape == y.squeeze().shape and s.n > 1 and y.is_floating_point():
        value = _value(s, x, y.reshape(x.shape))
        if value is not None and case.moved(value, case.base):
            told = f"input {tuple(x.shape)} against target {tuple(y.shape)} costs {shown(case.base)}"
            case.mark("broadcast")
            yield found("broadcast", f"{told}; with equal shapes {shown(value)}")
    elif x.ndim == 1 and x.shape == y.shape and s.n > 1 and case.separate is not False:
        value = _value(s, x, y[:, None])
        if value is not None and case.moved(value, case.base):
            yield found(
                "silent-broadcast", f"a target ({s.n}, 1) against an input ({s.n},) costs {shown(value)} in place of {shown(case.base)}"
            )


def _value(s: Subject, x: Tensor, y: Tensor) -> float | None:
    try:
        value = s.number(x, y)
    except Refused:
        return None
    return value if value == value else None  # noqa: PLR0124
