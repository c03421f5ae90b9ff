"""What fastai and Lightning suggest from one ramp of 100 mini-batches, written from their documentation and the discussions of it.

Both: the rate grows by a constant factor; the loss is smoothed by a moving average over 0.98 of the past, corrected for its start; the ramp
ends where the smoothed loss exceeds four times its least.

- fastai, `valley` (Howard et al., fastai 2.3 and later; the rule is by ESRI): a tenth of the points at the start and five at the end are
  left out; the longest strictly decreasing subsequence of the rest is the valley, taken to span as many points as it has members; half way
  through its second third lies the suggestion. Rates from 1e-7 to 10.
- Lightning, `Tuner.lr_find`: ten points at the start and one at the end are left out; the suggestion is where the slope is steepest. Until
  2.5.2 the slope a point (that is, on log lr), since 2.5.3 the slope on lr itself. Rates from 1e-8 to 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

POINTS, KEPT, TOO_MUCH = 100, 0.98, 4.0


class Peer(NamedTuple):
    name: str
    low: float
    high: float
    rule: Callable[[np.ndarray, np.ndarray], float | None]


def suggest(peer: Peer, step: Callable[[float], float], span: tuple[float, float] | None) -> float | None:
    """The peer's suggestion from one ramp over its own range, or over `span`."""
    low, high = span or (peer.low, peer.high)
    rates, smooth, average = [], [], 0.0
    for i, lr in enumerate(np.geomspace(low, high, POINTS)):
        loss = step(float(lr))
        average = KEPT * average + (1 - KEPT) * loss
        rates.append(float(lr))
        smooth.append(average / (1 - KEPT ** (i + 1)))
        if not math.isfinite(loss) or smooth[-1] > TOO_MUCH * min(smooth):
            break
    return peer.rule(np.array(rates), np.array(smooth))


def valley(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The middle of the second third of the longest decreasing subsequence."""
    rates, losses = rates[POINTS // 10 : -5], losses[POINTS // 10 : -5]
    finite = np.isfinite(losses)
    if not finite.all():
        first = int(np.argmin(finite))
        rates, losses = rates[:first], losses[:first]
    if not len(losses):
        return None
    length = np.ones(len(losses), dtype=int)  # of the longest decreasing subsequence that ends at each point
    for i in range(1, len(losses)):
        higher = losses[:i] > losses[i]
        if higher.any():
            length[i] = 1 + length[:i][higher].max()
    end = int(np.argmax(length))
    third = length[end] / 3
    return float(rates[max(0, end - length[end]) + int(third) + int(third / 2)])


def steepest(rates: np.ndarray, losses: np.ndarray, *, on_log: bool) -> float | None:
    """Where the loss falls most steeply, a point or a unit of lr."""
    rates, losses = rates[10:-1], losses[10:-1]
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    if len(losses) < 2:
        return None
    slope = np.gradient(losses) if on_log else np.gradient(losses, rates)
    return float(rates[int(np.argmin(slope))])


PEERS = (
    Peer("fastai valley", 1e-7, 10.0, valley),
    Peer("Lightning until 2.5.2", 1e-8, 1.0, lambda rates, losses: steepest(rates, losses, on_log=True)),
    Peer("Lightning since 2.5.3", 1e-8, 1.0, lambda rates, losses: steepest(rates, losses, on_log=False)),
)
