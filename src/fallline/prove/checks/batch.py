"""Batches: the order of the examples, their number, one against another, and none at all."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove._check import Case, finite, shown
from fallline.prove.points import usable
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked, Refused, brief


def order(case: Case) -> Iterator[Finding]:
    """The order of the examples does not matter."""
    s = case.subject
    if not s.batched or s.n < 2:
        raise NotChecked("one example only")
    for _ in range(3):
        shuffled = s.shuffle(s.n)
        for x in (s.x, *usable(s, case.domain, (0.3,))):
            here, _ = s.each(x, s.y)
            there, _ = s.each(x[shuffled], s.y[shuffled])
            here = (here[shuffled] if here.ndim else here).detach().double()
            gap = float((here - there.detach().double()).abs().max())
            rough = 1e-4 if s.coarse else 1e-8
            if gap > rough * (float(here.abs().max()) + 1e-3):
                yield found("order", f"{shown(float(here.mean()))} becomes {shown(float(there.detach().mean()))} in another order")
                return


def size(case: Case) -> Iterator[Finding]:
    """The loss of a batch is the mean over its examples (or what `reduction` says)."""
    s = case.subject
    if not s.batched or s.n < 4:
        raise NotChecked("fewer than four examples")
    if s.reduction == "none":
        yield from _each_alone(case)
        return
    if case.separate is False:
        raise NotChecked("separate=False: the loss compares examples with each other")
    ratios = _ratios(case)
    if ratios and max(ratios) - min(ratios) < 1e-4 * max(map(abs, ratios)):
        yield from _judge(case, ratios[0])
        return
    if _weighted_mean(case):
        return
    case.mark("mixes")
    yield from _mixes(case)


def _each_alone(case: Case) -> Iterator[Finding]:
    s = case.subject
    whole, _ = s.each(s.x, s.y)
    for i in range(s.n):
        try:
            one, _ = s.each(s.x[i : i + 1], s.y[i : i + 1])
        except Refused as refused:
            raise NotChecked("a single example is refused") from refused
        if bool(torch.isfinite(one).all()) and case.moved(float(one.detach().mean()), float(whole[i].detach().mean())):
            case.mark("mixes")
            if case.separate is not False:
                told = f"example {i} costs {shown(float(whole[i].detach().mean()))} in the batch, alone {shown(float(one.detach().mean()))}"
                yield from _wrong_axis(case) or [found("between-examples", told)]
            return


def _ratios(case: Case) -> list[float]:
    """Loss of four examples over the sum of those of each two of them, for several fours: 1/2 for a mean, 1 for a sum."""
    s = case.subject
    ratios = []
    for x in (s.x, *usable(s, case.domain, (0.3, 1.0))):
        for _ in range(3):
            rows = torch.randperm(s.n, generator=s.generator)[:4].to(s.x.device)
            try:
                parts = [s.number(x[r], s.y[r]) for r in (rows, rows[:2], rows[2:])]
            except Refused:
                return []
            if not all(abs(p) < float("inf") for p in parts):
                return []
            if abs(parts[1] + parts[2]) > 1e-6 * (abs(parts[1]) + abs(parts[2])) and abs(parts[1] + parts[2]) > 1e-12:
                ratios.append(parts[0] / (parts[1] + parts[2]))
    return ratios if len(ratios) >= 3 else []


def _judge(case: Case, ratio: float) -> Iterator[Finding]:
    if abs(ratio - 0.5) < 1e-3:
        if case.reduction == "sum":
            yield found("batch-size", "it is a mean over the examples, though reduction is 'sum'", severity="warning")
    elif abs(ratio - 1) < 1e-3:
        if case.reduction == "mean":
            yield found("batch-size", "four examples cost the sum of what two and two cost, though reduction is 'mean'")
        elif case.reduction != "sum":
            yield found("batch-size", "it is a sum over the examples (or one divided by a fixed number)", severity="warning")
    else:
        yield found("batch-size", f"four examples cost {shown(ratio)} times what two and two cost together; 0.5 is a mean, 1 a sum")


def _weighted_mean(case: Case) -> bool:
    """Whether the batch is a weighted mean of its examples alone, as with class weights or an ignored label."""
    s = case.subject
    try:
        alone = [s.number(s.x[i : i + 1], s.y[i : i + 1]) for i in range(s.n)]
    except Refused:
        return False
    return any(_fits(case, first, alone) for first in range(min(4, s.n)) if abs(alone[first]) < float("inf"))


def _fits(case: Case, first: int, alone: list[float]) -> bool:
    """Whether the weights that pairs with example `first` show give the loss of the batch; not if that example weighs nothing itself."""
    s = case.subject
    try:
        weights = [1.0 if i == first else _weight(case, i, first, alone) for i in range(s.n)]
    except (Refused, ZeroDivisionError):
        return False
    total = sum(w * a for w, a in zip(weights, alone, strict=True) if w)
    if min(weights) < -1e-9 or sum(weights) <= 0:
        return False
    if abs(total / sum(weights) - case.base) > 1e-5 * (abs(case.base) + 1e-6):
        return False
    return all(_of_these(case, rows, weights, alone) for rows in ([i for i in range(s.n) if i != first], *_thirds(case)))


def _thirds(case: Case) -> list[list[int]]:
    order = torch.randperm(case.subject.n, generator=case.subject.generator).tolist()
    return [order[start::3] for start in range(3) if len(order[start::3]) > 1]


def _of_these(case: Case, rows: list[int], weights: list[float], alone: list[float]) -> bool:
    """Whether the same weights give the loss of these examples too: a maximum is the mean of the whole batch by accident only."""
    s = case.subject
    value, weight = s.number(s.x[rows], s.y[rows]), sum(weights[i] for i in rows)
    if weight <= 0:
        return value in (0.0, float("inf")) or value != value  # noqa: PLR0124
    expected = sum(weights[i] * alone[i] for i in rows if weights[i]) / weight
    return abs(value - expected) <= 1e-4 * (abs(value) + 1e-6)


def _weight(case: Case, i: int, first: int, alone: list[float]) -> float:
    """What example i weighs, the first weighing 1: from the loss of the two together."""
    s = case.subject
    rows = [first, i]
    both = s.number(s.x[rows], s.y[rows])
    if alone[i] != alone[i] or both == alone[first]:
        return 0.0
    return (both - alone[first]) / (alone[i] - both)


def _mixes(case: Case) -> Iterator[Finding]:
    s = case.subject
    wrong = _wrong_axis(case)
    if wrong:
        yield from wrong
        return
    twice = s.number(torch.cat([s.x, s.x]), torch.cat([s.y, s.y]))
    told = f"every example given twice costs {shown(twice)} in place of {shown(case.base)}"
    alone = case.kind in {"real", "binary", "signed"} and s.x.ndim == 1
    doubled = abs(twice - case.base) > 0.4 * abs(case.base)
    if doubled and alone and case.reduction != "sum":
        yield found("batch-size", told)
    else:
        yield found("between-examples", told if case.moved(twice, case.base) else "the loss of a batch is no mean over its examples")


def _wrong_axis(case: Case) -> list[Finding]:
    """Softmax or length over the examples: a constant added to (or a factor on) one column of all examples changes nothing."""
    s = case.subject
    if s.x.ndim < 2 or case.kind not in {"index", "real", "distribution", "binary", "signed"} or s.x.shape[1] < 2:
        return []
    columns = s.like(s.x[:1]).abs() + 0.5
    rows = s.like(s.x[:, :1]).abs() + 0.5
    told = {
        "a constant added to one output of all examples": (s.x + columns, s.x + rows),
        "a factor on one output of all examples": (s.x * columns, s.x * rows),
    }
    for what, (by_column, by_row) in told.items():
        try:
            column, row = s.number(by_column, s.y), s.number(by_row, s.y)
        except Refused:
            continue
        if not case.moved(column, case.base) and case.moved(row, case.base):
            return [
                found("wrong-axis", f"{what} changes nothing; one on all outputs of an example does ({shown(case.base)} to {shown(row)})")
            ]
    return []


def empty(case: Case) -> Iterator[Finding]:
    """A batch of no examples costs 0."""
    s = case.subject
    if not s.batched:
        raise NotChecked("input and target have no axis of examples in common")
    try:
        result, leaf = s.each(s.own_x[:0], s.own_y[:0], grad=True)
        if result.requires_grad and result.ndim == 0:
            torch.autograd.grad(result, leaf, allow_unused=True)
    except Exception as error:
        told = str(error) if isinstance(error, Refused) else brief(error)
        yield found("empty-batch", f"a batch of 0 examples raises {told}", severity="warning")
        return
    if not finite(result.detach()):
        yield found("empty-batch", f"a batch of 0 examples gives {float(result.detach().flatten()[0])}")


def ignored(case: Case) -> Iterator[Finding]:
    """A batch of ignored labels only costs 0."""
    s = case.subject
    index = getattr(case.subject.fn, "ignore_index", -100)
    if case.kind != "index" or s.y.dtype != torch.int64 or not isinstance(index, int) or s.n < 2:
        raise NotChecked("the target is no class index")
    one, every = s.y.clone(), torch.full_like(s.y, index)
    one[0] = index
    try:
        some, rest = s.total(s.x, one), s.total(s.x[1:], s.y[1:])
        if case.moved(float(some), float(rest)):
            raise NotChecked("the loss ignores no label")
        value: Tensor = s.total(s.x, every)
    except Refused as refused:
        raise NotChecked("the loss ignores no label") from refused
    if not finite(value):
        yield found("all-ignored", f"a batch of labels {index} only gives {float(value)}")
