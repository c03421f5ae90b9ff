"""The range test, made trustworthy: ramps find where the loss falls and where it breaks, then fixed rates show which really descends.

    lrᵢ = low · (high / low)^(i / (n − 1))        one mini-batch at each rate, from the same start

1. Ramps: the rate grows by a constant factor at every mini-batch. The smoothed loss (a moving average over 0.9 of the past, corrected for
   its start) tells where descent begins and where the loss is back above its beginning: the edge. Several orders of the data are tried
   and the middle one counts; a ramp ends early when the loss explodes.
2. Trials: between these two, a few fixed rates each train for a number of mini-batches from the same start, and the loss on rows that the
   test holds aside is measured; more rates beside the best one follow, twice. The rate whose loss ends lowest is suggested; those that
   achieve at least half of its descent are useful.
   A ramp alone cannot tell this: it looks at each rate once, after all the smaller ones have done their work.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3. https://arxiv.org/abs/1506.01186
Departs from the source: exponential instead of linear growth; the suggestion comes from the trials.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fallline._core.errors import must

KEEP = 0.9  # share of the past in the moving average
QUIET = 10  # first mini-batches of a ramp, at rates too small to matter: they measure the noise between batches


class Walk(NamedTuple):
    """A training from the common start: `step(lr)` trains on the next mini-batch and returns its loss before the step;
    `measure()` is the loss on the rows held aside.
    """

    step: Callable[[float], float]
    measure: Callable[[], float]


@dataclass(frozen=True)
class LRResult:
    """What the range test found.

    Attributes:
        suggested: the rate to use; the optimizer's default where nothing was found.
        useful: lowest and highest rate that reach at least half of the best descent.
        edge: the rate from which on the loss rises, or None where it never did within the range.
        confidence: 0 (nothing was found) to 1.
        reason: why, in words.
        found: whether any rate made the loss fall.
        lrs: rates of the ramp.
        losses: smoothed loss at each of them, mean over the ramps; as many as `lrs`.
        trials: (rate, loss on the rows held aside after training at that fixed rate), by rate.
        start: loss on the rows held aside before any step.
        steps: mini-batches spent on all ramps and trials.
    """

    suggested: float
    useful: tuple[float, float]
    edge: float | None
    confidence: float
    reason: str
    found: bool
    lrs: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    trials: list[tuple[float, float]] = field(repr=False)
    start: float = math.nan
    steps: int = 0

    def text(self) -> str:
        """The result for a terminal."""
        if not self.found:
            return f"no learning rate made the loss fall: {self.reason}; the optimizer's default {self.suggested:.3g} is used."
        word = "high" if self.confidence >= 0.75 else "moderate" if self.confidence >= 0.4 else "low"
        edge = f"the loss rises from {self.edge:.3g} on" if self.edge is not None else "the loss never rose within the range"
        return (
            f"learning rate {self.suggested:.3g} (useful: {self.useful[0]:.3g} to {self.useful[1]:.3g}; {edge}); "
            f"confidence {word} ({self.confidence:.2f}): {self.reason}."
        )


class _Ramp(NamedTuple):
    smooth: list[float]
    began: int | None  # index of the first rate at which a tenth of the fall was done
    edge: int | None  # index of the rate from which on the loss is above its beginning
    quiet: float  # deviation of the loss between mini-batches


def range_test(
    begin: Callable[[int], Walk],
    *,
    low: float,
    high: float,
    default: float,
    points: int = 100,
    ramps: int = 3,
    trials: int = 7,
    orders: int = 2,
    steps: int = 100,
) -> LRResult:
    """Find the useful range of learning rates.

    Args:
        begin: gives a training that starts at the common beginning; its argument numbers the order of the data.
        low: smallest rate.
        high: largest rate.
        default: rate to fall back to.
        points: mini-batches of one ramp.
        ramps: orders of the data that are tried.
        trials: fixed rates that are tried first, at most.
        orders: orders of the data for each trial; the worst end counts.
        steps: mini-batches of a trial.

    Raises:
        FalllineError: the range is empty or not positive.

    >>> def begin(order):  # a bowl of curvature 2 (the rate must stay below 1), from x = 1
    ...     x = [1.0]
    ...     def step(lr):
    ...         before = x[0] ** 2
    ...         x[0] -= lr * 2 * x[0]
    ...         return before
    ...     return Walk(step, lambda: x[0] ** 2)
    >>> found = range_test(begin, low=1e-4, high=10.0, default=0.01)
    >>> found.found, 0.1 < found.suggested < 1, found.edge < 4
    (True, True, True)
    """
    must(0 < low < high < math.inf, "0 < low < high", (low, high), where="the range of learning rates")
    lrs = np.geomspace(low, high, points).tolist()
    start = begin(0).measure()
    spent = 0
    if not math.isfinite(start):
        return _nothing(default, lrs, "the loss is not finite before the first step", start, spent)
    seen = []
    for order in range(ramps):
        seen.append(_ramp(begin(order).step, lrs))
        spent += len(seen[-1].smooth)
    losses = _mean(seen, points)
    began = _middle([ramp.began for ramp in seen])
    edge_at = _middle([ramp.edge for ramp in seen])
    edge = None if edge_at is None else lrs[edge_at]
    first = lrs[began] if began is not None else (low if edge is None else min(edge, high) / 1e3)
    last = edge if edge is not None else high
    tried: dict[float, float] = {}
    for rates in (_candidates(max(first / 3, low / 10), max(last, first * 3), trials), None, None):
        for rate in rates or _beside(tried):
            after = []
            for order in range(orders):
                walk = begin(ramps + order)
                spent += _train(walk.step, rate, steps)
                after.append(walk.measure())
            tried[rate] = max(after) if all(map(math.isfinite, after)) else math.inf
    return _judge(dict(sorted(tried.items())), start, seen, lrs, losses, edge, default, spent)


def _judge(
    tried: dict[float, float],
    start: float,
    seen: list[_Ramp],
    lrs: list[float],
    losses: list[float],
    edge: float | None,
    default: float,
    spent: int,
) -> LRResult:
    """Suggest the rate that descended most, and say how far it can be trusted."""
    rates, ends = list(tried), list(tried.values())
    best = min(range(len(rates)), key=lambda i: ends[i])
    fall = start - ends[best]
    trials = list(zip(rates, ends, strict=True))
    noise = float(np.median([ramp.quiet for ramp in seen]))
    if not fall > 1e-3 * abs(start) + 1e-12:
        return _nothing(default, lrs, "it stayed where it was at every rate that was tried", start, spent, losses, trials)
    good = [end <= start - 0.5 * fall for end in ends]
    left = best
    while left > 0 and good[left - 1]:
        left -= 1
    right = best
    while right + 1 < len(rates) and good[right + 1]:
        right += 1
    broken = [rate for rate, end in tried.items() if rate > rates[right] and not end < start]
    edge = min([*broken[:1], *([] if edge is None else [edge])], default=None)
    confidence, doubts = 1.0, []
    if best in (0, len(rates) - 1) and len(rates) > 1:
        confidence *= 0.5
        doubts.append("the best rate stood at the end of those that were tried")
    edges = [lrs[ramp.edge] for ramp in seen if ramp.edge is not None]
    if 0 < len(edges) < len(seen) or (edges and max(edges) > 3 * min(edges)):
        confidence *= 0.7
        doubts.append("orders of the data disagree on where the loss rises")
    if left == right:
        confidence *= 0.7
        doubts.append("the neighbouring rates do much worse")
    if fall < noise:
        confidence *= 0.5
        doubts.append("the fall is smaller than the noise between mini-batches")
    reason = f"training at this rate took the loss from {start:.4g} to {ends[best]:.4g}"
    if doubts:
        reason += f", but {' and '.join(doubts)}"
    return LRResult(rates[best], (rates[left], rates[right]), edge, confidence, reason, True, lrs, losses, trials, start, spent)


def _ramp(step: Callable[[float], float], lrs: list[float]) -> _Ramp:
    raw: list[float] = []
    smooth: list[float] = []
    average = 0.0
    for i, lr in enumerate(lrs):
        loss = step(lr)
        if not math.isfinite(loss):
            break
        raw.append(loss)
        average = KEEP * average + (1 - KEEP) * loss
        smooth.append(average / (1 - KEEP ** (i + 1)))
        if i > QUIET:
            begin = float(np.mean(raw[:QUIET]))
            spread = float(np.std(raw[:QUIET]))
            if smooth[-1] > begin + (begin - min(smooth)) + 10 * spread + 0.1 * abs(begin):
                break
    quiet = raw[:QUIET]
    begin, spread = (float(np.mean(quiet)), float(np.std(quiet))) if quiet else (math.nan, 0.0)
    if len(smooth) <= QUIET:
        return _Ramp(smooth, None, len(smooth) if len(smooth) < len(lrs) else None, spread)
    bottom = int(np.argmin(smooth))
    fall = begin - smooth[bottom]
    began = next((i for i in range(bottom + 1) if smooth[i] <= begin - 0.1 * fall), None) if fall > 0 else None
    above = [value > begin + spread / 2 for value in smooth]
    edge = next((i for i in range(bottom, len(smooth)) if above[i]), None)
    if edge is None and len(smooth) < len(lrs):
        edge = len(smooth)
    return _Ramp(smooth, began, edge, spread)


def _train(step: Callable[[float], float], rate: float, steps: int) -> int:
    """Train at a fixed rate; stop where the loss is lost. Returns the mini-batches spent."""
    for i in range(steps):
        if not math.isfinite(step(rate)):
            return i + 1
    return steps


def _candidates(low: float, high: float, most: int) -> list[float]:
    """Rates at a constant ratio from low to high, at least a factor of 2 apart, rounded to two digits."""
    count = max(3, min(most, 1 + int(math.log(high / low, 2))))
    rates = [float(f"{rate:.2g}") for rate in np.geomspace(low, high, count)]
    return list(dict.fromkeys(rates))


def _beside(tried: dict[float, float]) -> list[float]:
    """The two rates half-way (in ratio) between the best one so far and its neighbours."""
    rates = sorted(tried)
    best = min(range(len(rates)), key=lambda i: tried[rates[i]])
    near = [rates[i] for i in (best - 1, best + 1) if 0 <= i < len(rates)]
    halves = [float(f"{math.sqrt(rates[best] * other):.2g}") for other in near]
    return [rate for rate in halves if rate not in tried]


def _middle(places: list[int | None]) -> int | None:
    """The middle place; None (never) counts as the latest."""
    middle = sorted(math.inf if place is None else place for place in places)[len(places) // 2]
    return None if middle == math.inf else int(middle)


def _mean(seen: list[_Ramp], points: int) -> list[float]:
    """The mean of the ramps at each rate that any of them reached; NaN beyond."""
    table = np.full((len(seen), points), np.nan)
    for row, ramp in zip(table, seen, strict=True):
        row[: len(ramp.smooth)] = ramp.smooth
    known = np.isfinite(table).any(axis=0)
    out = np.full(points, np.nan)
    out[known] = np.nanmean(table[:, known], axis=0)
    return out.tolist()


def _nothing(
    default: float,
    lrs: list[float],
    why: str,
    start: float,
    spent: int,
    losses: list[float] | None = None,
    trials: list[tuple[float, float]] | None = None,
) -> LRResult:
    return LRResult(default, (default, default), None, 0.0, why, False, lrs, losses or [math.nan] * len(lrs), trials or [], start, spent)
