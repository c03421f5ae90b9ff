"""Fixed rates, each trained from the same start: which descends most, what a longer training would change, and where the loss rises.

1. Rates at a constant ratio over the bracket that the ramps found train together for `steps` mini-batches; while the best one stands at
   the end of those tried, one more is tried outward.
2. Where the training that the rate is for is longer, the rates round the best one go on, to `longest` mini-batches at most.
3. Two more beside the best, and two between the last rate at which the loss falls and the first at which it does not: the edge.
4. The least loss is read off a parabola through the best rate and its neighbours, on log lr. Where even the longest trials are shorter than
   the training, the drift of the best rate is followed on:

       lr*(T) = lr*(n) · (T / n)^s        s = log(lr*(n) / lr*(n/4)) / log 4, held between −0.75 and 0

   With noise in the gradient, the best fixed rate falls about as log(T)/T on a quadratic; without it does not fall.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fallline.study.walks import Walks

LOWER, UPPER = 8.0, 2.6  # how far below and above the best rate others go on
FIRST = 0.6  # share of what may be spent that goes to the first trials
OUTWARD = 4  # rates that are tried beyond an end, at most
DRIFT = (-0.75, 0.0)


@dataclass
class Tried:
    """What the trials found.

    `start` is the loss on the rows held aside before any step; `ends` are losses by rate, after `steps` mini-batches for those that went on
    to the longest trial, `best` the best of these, after the first trial for the others.
    """

    start: float
    ends: dict[float, float]
    best: float
    suggested: float
    edge: float | None
    steps: int
    spent: int
    trust: float = 1.0
    doubt: str = ""


@dataclass
class _Table:
    """Losses on the rows held aside: rate -> number of mini-batches -> one for each order."""

    walks: Callable[[Sequence[int]], Walks]
    orders: Sequence[int]
    worst: bool
    looks: int
    left: float  # mini-batches that may still be spent
    shift: list[float]  # of each order: what its rows held aside begin with less than those of all
    found: dict[float, dict[int, list[float]]] = field(default_factory=dict)
    groups: list[tuple[list[float], Walks]] = field(default_factory=list)
    spent: int = 0

    def start(self, rates: Sequence[float], marks: Sequence[int]) -> None:
        """Train new rates from the start to the last mark."""
        new = [rate for rate in dict.fromkeys(rates) if rate not in self.found]
        if new and (not self.found or self.affords(len(new) * marks[-1])):
            self.groups.append((new, self.walks([order for _ in new for order in self.orders])))
            self.found.update({rate: {0: []} for rate in new})
            self._run(self.groups[-1], new, marks)

    def go_on(self, rates: Sequence[float], steps: int) -> None:
        """Train known rates on, until each has made so many mini-batches."""
        for group in self.groups:
            for done in {max(self.found[rate]) for rate in group[0]}:
                wanted = [rate for rate in group[0] if rate in rates and max(self.found[rate]) == done]
                if wanted and done < steps:
                    self._run(group, wanted, [steps])

    def affords(self, steps: int) -> bool:
        """Whether so many mini-batches of every order may still be made."""
        return steps * len(self.orders) <= self.left - self.spent

    def _run(self, group: tuple[list[float], Walks], wanted: Sequence[float], marks: Sequence[int]) -> None:
        known, walks = group
        done, count = max(self.found[wanted[0]]), len(self.orders)
        views = {mark: sorted({mark - i * (mark // 16) for i in range(self.looks)}) for mark in marks}
        places = sorted({view - done for some in views.values() for view in some if view > done})
        asked = [[rate] * (marks[-1] - done) if rate in wanted else [] for rate in known for _ in self.orders]
        legs = walks.run(asked, places)
        self.spent += sum(len(leg.losses) for leg in legs)
        for i, rate in enumerate(known):
            if rate in wanted:
                mine = legs[i * count : (i + 1) * count]
                for mark, some in views.items():
                    at = [places.index(view - done) for view in some if view > done]
                    self.found[rate][mark] = [_mean([leg.ends[k] for k in at]) + self.shift[j] for j, leg in enumerate(mine)]

    def ends(self, steps: int) -> dict[float, float]:
        """The loss of each rate that was measured after so many mini-batches, by rate."""
        known = sorted(rate for rate, marks in self.found.items() if steps in marks)
        return {rate: (max if self.worst else _mean)(self.found[rate][steps]) for rate in known}

    def each(self, steps: int, order: int) -> dict[float, float]:
        """The same for one order of the data."""
        return {rate: self.found[rate][steps][order] for rate in self.ends(steps)}


def try_rates(
    walks: Callable[[Sequence[int]], Walks],
    bracket: tuple[float, float],
    *,
    orders: Sequence[int],
    most: int,
    steps: int,
    longest: int,
    total: int,
    worst: bool,
    looks: int,
    budget: int | None = None,
) -> Tried:
    """Try fixed rates within a bracket, and round it.

    Args:
        walks: makes walks of these orders of the data.
        bracket: smallest and largest rate that are tried first.
        orders: orders of the data for each rate.
        most: rates that are tried first, at most.
        steps: mini-batches of the first trials.
        longest: mini-batches of the longest trials.
        total: mini-batches of the training that the rate is for.
        worst: judge a rate by the worst of its orders, not by their mean.
        looks: how often the loss is measured over the last steps; the mean counts, as noise moves the weights about.
        budget: mini-batches in all, at most, but for three first trials; without a limit unless given.
    """
    own = [leg.ends[0] for leg in walks(orders).run([[] for _ in orders], marks=[0])]
    start = _mean(own)
    table = _Table(walks, list(orders), worst, looks, math.inf if budget is None else budget, [start - each for each in own])
    if budget is not None:
        most = min(most, int(FIRST * budget / (len(table.orders) * steps)))
    quarter = [steps // 4] if steps == longest < total and steps >= 8 else []
    rates = candidates(*bracket, most)
    ratio = rates[1] / rates[0]
    table.start(rates, [*quarter, steps])
    _outward(table, ratio, steps, steps, quarter)
    before, early = steps // 4, bool(quarter)
    if longest > steps:
        best = lowest(table.ends(steps))
        further = [rate for rate in table.ends(steps) if best / LOWER <= rate <= best * UPPER]
        if table.affords(len(further) * (longest - steps)):
            table.go_on(further, longest)
            _outward(table, ratio, longest, steps, quarter)
            before, early = steps, True
        else:
            longest = steps
    now = table.ends(longest)
    table.start(beside(now), [*quarter, *([steps] if longest > steps else []), longest])
    last = table.ends(steps)
    table.start(_between(last, start), [*quarter, steps])
    now, last = table.ends(longest), table.ends(steps)
    place = vertex(now, start)
    suggested = place
    if longest < total and early:
        drift = math.log(place / vertex(table.ends(before), start)) / math.log(longest / before)
        suggested = place * (total / longest) ** float(np.clip(drift, *DRIFT))
    trust, doubt = _trust(table, longest, start)
    ends = dict(sorted({**last, **now}.items()))
    return Tried(start, ends, lowest(now), float(f"{suggested:.2g}"), _edge(last, start), longest, table.spent, trust, doubt)


def candidates(low: float, high: float, most: int) -> list[float]:
    """Rates at a constant ratio from low to high, at least a factor of 2 apart, rounded to two digits."""
    count = max(3, min(most, 1 + int(math.log(high / low, 2))))
    return list(dict.fromkeys(float(f"{rate:.2g}") for rate in np.geomspace(low, high, count)))


def lowest(ends: dict[float, float]) -> float:
    """The rate of the least loss, the smaller of two that are alike."""
    return min(ends, key=lambda rate: (ends[rate], rate))


def beside(ends: dict[float, float]) -> list[float]:
    """The two rates half-way (in ratio) between the best one and its neighbours."""
    rates = sorted(ends)
    best = rates.index(lowest(ends))
    near = [rates[i] for i in (best - 1, best + 1) if 0 <= i < len(rates)]
    return [float(f"{math.sqrt(rates[best] * other):.2g}") for other in near]


def vertex(ends: dict[float, float], start: float) -> float:
    """The rate at the lowest point of the parabola through the best rate and its neighbours, on log lr.

    The best rate itself where a neighbour is missing or did not descend at all.

    >>> round(vertex({0.1: 1.0, 1.0: 0.0, 10.0: 1.0}, 2.0), 3), vertex({0.1: 1.0, 1.0: 0.0, 10.0: 9.0}, 2.0)
    (1.0, 1.0)
    """
    rates = sorted(ends)
    at = rates.index(lowest(ends))
    if at in (0, len(rates) - 1):
        return rates[at]
    a, b, c = (ends[rate] for rate in rates[at - 1 : at + 2])
    if not max(a, c) < start:
        return rates[at]
    x, y, z = (math.log(rate) for rate in rates[at - 1 : at + 2])
    top = (y - x) ** 2 * (b - c) - (y - z) ** 2 * (b - a)
    bottom = (y - x) * (b - c) - (y - z) * (b - a)
    return math.exp(y - top / (2 * bottom)) if bottom else rates[at]


def _outward(table: _Table, ratio: float, steps: int, first: int, quarter: Sequence[int]) -> None:
    """One rate more beyond the end at which the best one stands, until it stands at none."""
    for _ in range(OUTWARD):
        ends = table.ends(steps)
        rates, best = sorted(ends), lowest(ends)
        if best not in (rates[0], rates[-1]) or not math.isfinite(ends[best]):
            return
        more = best * ratio if best == rates[-1] else best / ratio
        known = [rate for rate in table.found if 0.8 < rate / more < 1.25]
        if known:
            if all(rate in ends for rate in known) or not table.affords(len(known) * steps):
                return
            table.go_on(known, steps)
        elif table.affords(steps):
            table.start([float(f"{more:.2g}")], sorted({*quarter, first, steps}))
        else:
            return


def _between(ends: dict[float, float], start: float) -> list[float]:
    """Two rates between the largest at which the loss fell and the next, at which it did not."""
    sides = _sides(ends, start)
    if sides is None or sides[1] < 1.3 * sides[0]:
        return []
    return [float(f"{rate:.3g}") for rate in np.geomspace(*sides, 4)[1:-1]]


def _edge(ends: dict[float, float], start: float) -> float | None:
    """Half-way (in ratio) between the largest rate at which the loss fell and the next, at which it did not."""
    sides = _sides(ends, start)
    return None if sides is None else float(f"{math.sqrt(sides[0] * sides[1]):.3g}")


def _sides(ends: dict[float, float], start: float) -> tuple[float, float] | None:
    rates, best = sorted(ends), lowest(ends)
    for low, high in itertools.pairwise(rates):
        if high > best and not ends[high] < start:
            return low, high
    return None


def _trust(table: _Table, steps: int, start: float) -> tuple[float, str]:
    """How well the orders of the data agree on the best rate."""
    places = [vertex(table.each(steps, i), start) for i in range(len(table.orders))]
    if max(places) > 4 * min(places):
        return 0.7, "orders of the data disagree on the best rate"
    return 1.0, ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
