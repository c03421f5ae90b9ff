"""The learning rate of each optimizer, found on the same budget for all: whole trainings with a seed that is not compared later.

1. A first look: five rates over the optimizer's usual range, evenly apart in ratio; or the rates that the user listed.
2. While the best stands at the edge of what was tried, one more rate outward, three at most.
3. Two rates beside the best at half the ratio, then two at a quarter; left out where the user listed the rates.

A trial is judged by the loss on validation rows at the weights that are kept; one that diverged is worse than any other. Where the best
rate still stands at the edge, that is said, and the optimizer is not ranked: it may be under-tuned. A single rate is taken as it is.

A search asks for rates and is sent their losses, so that the searches of all cells go on together, as one population a round.
"""

from collections.abc import Generator
from typing import NamedTuple

from fallline.study.plan import GROW, Plan, rounded

Search = Generator[list[float], dict[float, float], "Tuned"]


class Tuned(NamedTuple):
    """The outcome of a search.

    `lr` is None where the search was stopped before its end; `at_edge`: the best rate is the smallest or largest of several that were
    tried; `trials` are (rate, validation loss), by rate, infinity where the training diverged.
    """

    lr: float | None
    at_edge: bool
    trials: list[tuple[float, float]]


def search(plan: Plan, optimizer: str) -> Search:
    """Look for the learning rate of an optimizer: yields rates to try, is sent the loss of each (infinity: it diverged)."""
    rates = plan.rates[optimizer]
    if not plan.trials(optimizer):
        return Tuned(rates[0], False, [])
    tried: dict[float, float] = {}
    tried |= yield list(rates)
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
    for _ in range(GROW):
        side = _edge(tried)
        if side is None:
            break
        outward = rounded(min(tried) / ratio if side == "low" else max(tried) * ratio)
        if outward in tried:  # rates so near to one another that three digits do not tell them apart
            break
        tried |= yield [outward]
    if plan.auto[optimizer]:
        for power in (1 / 2, 1 / 4):
            best = best_rate(tried)
            beside = [rounded(best * ratio**sign) for sign in (-power, power)]
            new = [rate for rate in beside if rate not in tried]
            if new:
                tried |= yield new
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
