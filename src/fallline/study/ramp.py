"""The range test, made trustworthy: ramps find where the loss falls and where it breaks, then fixed rates show which really descends.

    lrᵢ = low · (high / low)^(i / (n − 1))        one mini-batch at each rate, from the same start

1. Ramps, several orders of the data at once: the rate grows by a constant factor at every mini-batch. From each loss that of the untrained
   model on the same mini-batch is taken away, which removes most of the noise between mini-batches. The curve is the median over the orders
   of what is left, smoothed (a moving average over 0.9 of the past, corrected for its start); its slope is taken on log lr. It tells where
   descent begins, where it is steepest, and where the loss is back above its beginning. A ramp ends early when the loss explodes; one that
   never rose goes on beyond `high`, and ramps that rose from the first rate on begin anew far below `low`.
2. Trials (`fallline.study.trials`): between these two, a few fixed rates each train from the same start, and the loss on rows that the test
   holds aside is measured. A ramp alone cannot tell which rate is best: it looks at each once, after all the smaller ones have done their
   work, and the best rate of a long training is smaller than that of a short one.

Three numbers come out: useful (from, to), suggested, edge; and how far they can be trusted.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3. https://arxiv.org/abs/1506.01186
Departs from the source: exponential instead of linear growth; several orders; the suggestion comes from the trials.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fallline._core.errors import must
from fallline.study.trials import Tried, try_rates
from fallline.study.walks import OneByOne, Walk, Walks

KEEP = 0.9  # share of the past in the moving average
QUIET = 10  # first mini-batches of a ramp, at rates too small to matter: they measure the noise between batches
FURTHER = 1e4  # how far a ramp goes on where the loss never rose, and how far below it begins anew where it rose at once
FALLEN = 0.1  # share of the whole fall of a ramp at which descent has begun


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
        losses: smoothed loss at each of them, median over the ramps; as many as `lrs`; NaN beyond the end of the ramps.
        band: lowest and highest of the ramps at each rate.
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
    band: tuple[list[float], list[float]] = field(repr=False, default=((), ()))  # pyright: ignore[reportAssignmentType]

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


class Ramp(NamedTuple):
    """What one order of the data showed; places are indices of rates."""

    smooth: list[float]
    began: int | None  # the first rate at which a tenth of the fall was done
    edge: int | None  # the rate from which on the loss is above its beginning
    quiet: float  # deviation of the loss between mini-batches


class Curve(NamedTuple):
    """What all ramps showed together."""

    lrs: list[float]
    median: list[float]
    band: tuple[list[float], list[float]]
    ramps: list[Ramp]
    began: float | None
    steepest: float | None
    edge: float | None
    noise: float
    spent: int

    @property
    def agreed(self) -> bool:
        """Whether the orders of the data agree, to a factor of 3, on where the loss rises."""
        edges = [self.lrs[ramp.edge] for ramp in self.ramps if ramp.edge is not None]
        return not edges or (len(edges) == len(self.ramps) and max(edges) <= 3 * min(edges))


def range_test(
    begin: Callable[[int], Walk],
    *,
    low: float,
    high: float,
    default: float,
    points: int = 100,
    ramps: int = 3,
    trials: int = 8,
    orders: int = 2,
    steps: int = 100,
    total: int | None = None,
    longest: int | None = None,
    worst: bool = False,
    looks: int = 1,
    budget: int | None = None,
    together: Callable[[Sequence[int]], Walks] | None = None,
) -> LRResult:
    """Find the useful range of learning rates.

    Args:
        begin: gives a training that starts at the common beginning; its argument numbers the order of the data.
        low: smallest rate.
        high: largest rate.
        default: rate to fall back to.
        points: mini-batches of one ramp from low to high.
        ramps: orders of the data that are tried.
        trials: fixed rates that are tried first, at most.
        orders: orders of the data for each trial.
        steps: mini-batches of a first trial.
        total: mini-batches of the training that the rate is for; as many as `steps` unless given.
        longest: mini-batches of the longest trial; beyond, what the best rate does with longer trials is followed on.
        worst: judge a rate by the worst of its orders, not by their mean.
        looks: how often a trial is measured over its last steps; the mean counts.
        budget: mini-batches in all, at most; what cannot be afforded is not tried. It must do for a ramp beside its walk at 0 and three
            trials, which are always made. Without a limit unless given.
        together: makes the walks of these orders, to be advanced at once; one by one from `begin` unless given.

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
    >>> found.found, 0.1 < found.suggested < 1, 0.8 < found.edge < 1.3
    (True, True, True)
    """
    must(0 < low < high < math.inf, "0 < low < high", (low, high), where="the range of learning rates")
    total = max(1, total or steps)
    longest = max(1, min(total, longest or steps))
    hold = longest > steps
    walks = together or (lambda orders: OneByOne(begin, orders, hold=hold))
    lrs = np.geomspace(low, high, points).tolist()
    start = walks([0]).run([[]], marks=[0])[0].ends[0]
    if not math.isfinite(start):
        return _nothing(default, lrs, "the loss is not finite before the first step", start)
    curve = ramp_up(walks, low, high, points, ramps, budget)
    first = curve.began if curve.began is not None else (low if curve.edge is None else curve.edge / 1e3)
    last = curve.edge if curve.edge is not None else curve.lrs[-1]
    tried = try_rates(
        walks,
        (first / 3, max(last, first * 3)),
        orders=range(ramps, ramps + orders),
        most=trials,
        steps=min(steps, longest),
        longest=longest,
        total=total,
        worst=worst,
        looks=looks,
        budget=None if budget is None else budget - curve.spent,
    )
    return _judge(tried, curve, default, total)


def ramp_up(walks: Callable[[Sequence[int]], Walks], low: float, high: float, points: int, ramps: int, budget: int | None = None) -> Curve:
    """Ramps from low to high, further up where the loss never rose, and from far below where it rose at once.

    Anew only where half of the budget is left after it.
    """
    ratio, spent = (high / low) ** (1 / (points - 1)), 0
    more = math.ceil(math.log(FURTHER) / math.log(ratio))
    lrs, still, seen, tries = [], [], [], 3
    for left in reversed(range(tries)):
        lrs = [low * ratio**i for i in range(points + more)]
        legs = walks(range(ramps)).run([lrs] * ramps, stop=functools.partial(_over, points=points))
        still, taken = _still(walks, [len(leg.losses) for leg in legs])
        spent += taken + sum(len(leg.losses) for leg in legs)
        seen = [_read(leg.losses, rest) for leg, rest in zip(legs, still, strict=True)]
        began, edge = (_middle([getattr(ramp, name) for ramp in seen]) for name in ("began", "edge"))
        if not left or began is not None or edge is None or edge > 2 * QUIET:
            break
        again = math.ceil(math.log(FURTHER) / math.log(ratio)) + 3 * QUIET
        if budget is not None and spent + ramps * (2 * again + QUIET) > budget / 2:
            break
        low /= FURTHER
        points, more = math.ceil(math.log(FURTHER) / math.log(ratio)) + 3 * QUIET, 0
    reached = max(min(points, len(lrs)), *(len(ramp.smooth) for ramp in seen))
    table = np.full((ramps, reached), np.inf)  # a ramp that ended stands above all that went on
    for row, ramp in zip(table, seen, strict=True):
        row[: len(ramp.smooth)] = ramp.smooth
    lrs = lrs[:reached]
    level = np.mean([np.mean(rest) for rest in still])
    middle, below, above = (how(table, axis=0) + level for how in (np.median, np.min, np.max))
    known = np.isfinite(middle)
    began, edge = (_middle([getattr(ramp, name) for ramp in seen]) for name in ("began", "edge"))
    return Curve(
        lrs,
        _gaps(middle, known),
        (_gaps(below, known), _gaps(above, known)),
        seen,
        None if began is None else lrs[began],
        steepest(lrs, _gaps(middle, known)),
        None if edge is None else float(f"{lrs[min(edge, reached - 1)]:.3g}"),
        float(np.median([ramp.quiet for ramp in seen])),
        spent,
    )


def _gaps(curve: np.ndarray, known: np.ndarray) -> list[float]:
    """The curve, with the one NaN of `math` where it is not known, so that two results of the same numbers are equal."""
    return [value if there else math.nan for value, there in zip(curve.tolist(), known.tolist(), strict=True)]


def _still(walks: Callable[[Sequence[int]], Walks], lengths: list[int]) -> tuple[list[list[float]], int]:
    """The loss of the untrained model on the rows of each ramp, and the mini-batches spent; a constant is not followed to its end."""
    first = [leg.losses for leg in walks(range(len(lengths))).run([[0.0] * min(QUIET, n) for n in lengths])]
    if all(np.ptp(losses) <= 1e-6 * abs(losses[0]) for losses in first):
        return [losses[:1] * n for losses, n in zip(first, lengths, strict=True)], sum(map(len, first))
    legs = walks(range(len(lengths))).run([[0.0] * n for n in lengths])
    return [leg.losses for leg in legs], sum(map(len, first)) + sum(lengths)


def steepest(lrs: Sequence[float], curve: Sequence[float]) -> float | None:
    """The rate at which a curve falls most steeply on log lr; None where it never falls.

    >>> round(steepest([0.001, 0.01, 0.1, 1.0], [5.0, 4.9, 3.0, 2.5]), 3)
    0.1
    """
    finite = np.isfinite(curve)
    if finite.sum() < 3:
        return None
    rates, values = np.asarray(lrs)[finite], np.asarray(curve)[finite]
    slope = np.gradient(values, np.log(rates))
    return float(rates[slope.argmin()]) if slope.min() < 0 else None


def _judge(tried: Tried, curve: Curve, default: float, total: int) -> LRResult:
    """The three numbers, and how far they can be trusted."""
    spent, start = curve.spent + tried.spent, tried.start
    rates, ends = list(tried.ends), list(tried.ends.values())
    trials = list(zip(rates, ends, strict=True))
    best = rates.index(tried.best)
    fall = start - ends[best]
    if not fall > _least_fall(start, curve.noise):
        rose = any(end > start for end in ends) and not any(end < start for end in ends)
        why = "it rose at every rate that moved it" if rose else "it stayed where it was at every rate that was tried"
        return _nothing(default, curve.lrs, why, start, spent, curve, trials)
    good = [end <= start - 0.5 * fall for end in ends]
    left = right = best
    while left > 0 and good[left - 1]:
        left -= 1
    while right + 1 < len(rates) and good[right + 1]:
        right += 1
    suggested = tried.suggested
    useful = (min(rates[left], suggested), max(rates[right], suggested))
    edge = tried.edge
    if edge is None and curve.edge is not None:
        edge = max(curve.edge, rates[-1])  # at the largest trial the loss still fell
    confidence, doubts = 1.0, []
    for share, doubt, text in (
        (0.5, best in (0, len(rates) - 1) and len(rates) > 1, "the best rate stood at the end of those that were tried"),
        (0.7, not curve.agreed, "orders of the data disagree on where the loss rises"),
        (0.7, left == right, "the neighbouring rates do much worse"),
        (0.5, fall < curve.noise, "the fall is smaller than the noise between mini-batches"),
        (tried.trust, tried.trust < 1, tried.doubt),
    ):
        if doubt:
            confidence *= share
            doubts.append(text)
    reason = f"training at {rates[best]:.3g} took the loss from {start:.4g} to {ends[best]:.4g}"
    if suggested < 0.99 * rates[best] and tried.steps < total:
        reason += f" in {tried.steps} mini-batches, and the best rate falls as training grows longer"
    if doubts:
        reason += f", but {' and '.join(doubts)}"
    return LRResult(suggested, useful, edge, confidence, reason, True, curve.lrs, curve.median, trials, start, spent, curve.band)


def _least_fall(start: float, noise: float) -> float:
    """What a fall must exceed: a thousandth of the loss; where mini-batches differ by less (a large constant is in it), that."""
    return min(1e-3 * abs(start), max(noise, 1e-5 * abs(start))) if noise > 0 else 1e-3 * abs(start)


def _over(losses: list[float], points: int) -> bool:
    """Whether a ramp has exploded; beyond `points` mini-batches, whether its smoothed loss is above its beginning."""
    if len(losses) <= QUIET + 1:
        return False
    smooth, begin, spread = _smooth(losses), float(np.mean(losses[:QUIET])), float(np.std(losses[:QUIET]))
    if len(losses) > points and smooth[-1] > begin + spread / 2:
        return True
    return smooth[-1] > begin + (begin - min(smooth)) + 10 * spread + 0.1 * abs(begin)


def _smooth(losses: Sequence[float]) -> list[float]:
    """The moving average over 0.9 of the past, corrected for its start."""
    out, average = [], 0.0
    for i, loss in enumerate(losses, 1):
        average = KEEP * average + (1 - KEEP) * loss
        out.append(average / (1 - KEEP**i))
    return out


def _read(losses: list[float], still: list[float]) -> Ramp:
    """Where descent begins and where it ends on one ramp; `still` is the loss of the untrained model on the same mini-batches."""
    ended = bool(losses) and not math.isfinite(losses[-1])
    raw = losses[:-1] if ended else losses
    smooth = _smooth([loss - rest for loss, rest in zip(raw, still, strict=False)])
    spread = float(np.std(still))
    if len(smooth) <= QUIET:
        return Ramp(smooth, None, len(smooth) if ended else None, spread)
    bottom = int(np.argmin(smooth))
    fall = -smooth[bottom]
    above = [i for i in range(bottom) if smooth[i] > -FALLEN * fall]  # the last of them: what noise did before is no descent
    began = (above[-1] + 1 if above else 0) if fall > 0 else None
    rise = 0.1 * spread + 1e-6 * abs(still[0])
    edge = next((i for i in range(bottom, len(smooth)) if smooth[i] > rise), None)
    if edge is None and ended:
        edge = len(smooth)
    return Ramp(smooth, began, edge, spread)


def _middle(places: list[int | None]) -> int | None:
    """The middle place; None (never) counts as the latest."""
    middle = sorted(math.inf if place is None else place for place in places)[len(places) // 2]
    return None if middle == math.inf else int(middle)


def _nothing(
    default: float,
    lrs: list[float],
    why: str,
    start: float,
    spent: int = 0,
    curve: Curve | None = None,
    trials: list[tuple[float, float]] | None = None,
) -> LRResult:
    losses = curve.median if curve else [math.nan] * len(lrs)
    band = curve.band if curve else (losses, losses)
    return LRResult(default, (default, default), None, 0.0, why, False, lrs, losses, trials or [], start, spent, band)
