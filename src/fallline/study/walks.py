"""Trainings from one common start, several of them advanced together: what the range test and its trials walk with.

`OneByOne` is the form for any module and any loss: each walk in turn. A form that trains all walks in one program has the same method.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

Stop = Callable[[list[float]], bool]


class Walk(NamedTuple):
    """A training from the common start: `step(lr)` trains on the next mini-batch and returns its loss before the step;
    `measure()` is the loss on the rows held aside.
    """

    step: Callable[[float], float]
    measure: Callable[[], float]


class Leg(NamedTuple):
    """What one walk met: the loss of each mini-batch, up to and with the one that ended it; the loss on the rows held aside at each mark
    (infinite at marks that it did not reach).
    """

    losses: list[float]
    ends: list[float]


class Walks(Protocol):
    """Trainings that start alike and may differ in the order of their rows and in their rates."""

    def run(self, rates: Sequence[Sequence[float]], marks: Sequence[int] = (), stop: Stop | None = None) -> list[Leg]:
        """Advance every walk; a second call goes on where the first one ended.

        Args:
            rates: for each walk the learning rate of each of its next mini-batches; an empty list leaves the walk where it is.
            marks: numbers of steps, in rising order, after which the loss on the rows held aside is measured; 0 is before the first one.
            stop: ends a walk when it says so of the losses so far; a loss that is not finite ends it in any case.

        Returns:
            one leg for each walk; an ended walk stays ended.
        """
        ...


class OneByOne:
    """Walks that are trained one after another.

    Args:
        begin: gives a training that starts at the common beginning; its argument numbers the order of the data.
        orders: the order of the data of each walk.
        hold: keep each walk for a second run; else it is given up after its first one, so that one copy of the model lives at a time.

    >>> from fallline.study.walks import OneByOne, Walk
    >>> places = [4.0]
    >>> walk = Walk(lambda lr: places.append(places[-1] * (1 - lr)) or places[-2], lambda: places[-1])
    >>> OneByOne(lambda order: walk, [0], hold=False).run([[0.5, 0.5]], marks=[0, 2])
    [Leg(losses=[4.0, 2.0], ends=[4.0, 1.0])]
    """

    def __init__(self, begin: Callable[[int], Walk], orders: Sequence[int], *, hold: bool) -> None:
        self._begin, self._orders, self._hold = begin, list(orders), hold
        self._walks: list[Walk | None] = [None] * len(self._orders)

    def run(self, rates: Sequence[Sequence[float]], marks: Sequence[int] = (), stop: Stop | None = None) -> list[Leg]:
        """See `Walks.run`."""
        legs = []
        for place, own in enumerate(rates):
            walk = self._walks[place] or self._begin(self._orders[place])
            if self._hold:
                self._walks[place] = walk
            legs.append(_advance(walk, own, marks, stop))
        return legs


def _advance(walk: Walk, rates: Sequence[float], marks: Sequence[int], stop: Stop | None) -> Leg:
    losses: list[float] = []
    ends = [walk.measure()] if 0 in marks else []
    for taken, rate in enumerate(rates, 1):
        losses.append(walk.step(rate))
        if not math.isfinite(losses[-1]) or (stop is not None and stop(losses)):
            break
        if taken in marks:
            ends.append(walk.measure())
    return Leg(losses, [end if math.isfinite(end) else math.inf for end in ends] + [math.inf] * (len(marks) - len(ends)))
