"""The learning rate of each optimizer, found on the same budget for all: whole trainings with a seed that is not compared later.

1. A first look: five rates over the optimizer's usual range, evenly apart in ratio.
2. While the best stands at the edge of what was tried, one more rate outward, three at most.
3. Two rates beside the best at half the ratio, then two at a quarter.

A trial is judged by the loss on validation rows at the weights that are kept; one that diverged is worse than any other. Where the best
rate still stands at the edge, that is said: the optimizer may be under-tuned. Rates that the user listed are tried as they are.
"""

import math
from typing import NamedTuple

from fallline.study.members import Workshop
from fallline.study.plan import GROW, BatchSize, Plan, rounded


class Tuned(NamedTuple):
    """The outcome of a search.

    `lr` is None where the search was stopped before its end; `at_edge`: the best rate is the smallest or largest of several that were
    tried; `trials` are (rate, validation loss), by rate, infinity where the training diverged.
    """

    lr: float | None
    at_edge: bool
    trials: list[tuple[float, float]]


def tune_lr(shop: Workshop, plan: Plan, optimizer: str, batch: BatchSize) -> Tuned:
    """Find the learning rate of one optimizer at one batch size."""
    rates = plan.rates[optimizer]
    if not plan.trials(optimizer):
        return Tuned(rates[0], False, [])
    tried: dict[float, float] = {}

    def attempt(rate: float) -> bool:
        if rate not in tried:
            member = shop.member(optimizer, batch, rate, plan.search_seed, search=True)
            if member is None:
                return False
            loss = member.value("loss")
            tried[rate] = loss if math.isfinite(loss) else math.inf
        return True

    if not all(attempt(rate) for rate in rates):
        return Tuned(None, False, sorted(tried.items()))
    if plan.auto[optimizer]:
        ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
        for _ in range(GROW):
            side = _edge(tried)
            if side is None:
                break
            if not attempt(rounded(min(tried) / ratio if side == "low" else max(tried) * ratio)):
                return Tuned(None, False, sorted(tried.items()))
        for power in (1 / 2, 1 / 4):
            best = best_rate(tried)
            if not all(attempt(rounded(best * ratio**sign)) for sign in (-power, power)):
                return Tuned(None, False, sorted(tried.items()))
    return Tuned(best_rate(tried), _edge(tried) is not None, sorted(tried.items()))


def best_rate(tried: dict[float, float]) -> float:
    """The rate of the lowest loss; the smaller rate of two that are alike.

    >>> best_rate({0.1: 0.5, 0.01: 0.3, 1.0: float("inf")})
    0.01
    """
    return min(sorted(tried), key=lambda rate: tried[rate])


def _edge(tried: dict[float, float]) -> str | None:
    """On which side the best rate stands at the end of all that were tried."""
    best = best_rate(tried)
    if len(tried) < 2:
        return None
    return "low" if best == min(tried) else "high" if best == max(tried) else None
